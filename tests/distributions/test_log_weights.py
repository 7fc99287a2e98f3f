"""Attention weights: densities against torch's, by quadrature and moments; KL; draws and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, Gamma, MultivariateNormal, Weibull, kl_divergence

from ppl_text.distributions.log_weights import (
    DirichletLogWeights,
    GammaLogWeights,
    LogisticNormalLogWeights,
    LogWeights,
    WeibullLogWeights,
    draw_dirichlet,
    draw_gamma,
    draw_logistic_normal,
    draw_weibull,
)

STEPS, POSITIONS = 3, 4
LENGTHS = torch.tensor([3, 2, 1])
COUNTED = torch.tensor([[True, True, True, True], [True, False, True, True], [False, False, True, False]])


def dirichlet_density(value: Tensor, concentration: Tensor) -> Tensor:
    return Dirichlet(concentration).log_prob(value.exp()) + value.sum(-1)


def ratios(mean: Tensor, scale: Tensor) -> MultivariateNormal:
    """The Gaussian of l_1 - l_n, …, l_{n-1} - l_n."""
    against_last = torch.cat([torch.eye(len(mean) - 1).double(), -torch.ones(len(mean) - 1, 1).double()], 1)
    return MultivariateNormal(against_last @ mean, against_last @ scale.square().diag() @ against_last.T)


def logistic_normal_density(value: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    if len(mean) == 1:
        return torch.zeros_like(value[..., 0])
    return ratios(mean, scale).log_prob(value[..., :-1] - value[..., -1:])


def weibull(log_mean: Tensor, shape: Tensor) -> Weibull:
    return Weibull(log_mean.exp() / (1 + 1 / shape).lgamma().exp(), shape)


def in_logarithms(law: Distribution, value: Tensor) -> Tensor:
    return (law.log_prob(value.exp()) + value).sum(-1)


class Case(NamedTuple):
    """A class, its draw of one step, whether its parameters are positive, and torch's density of one step."""

    law: Callable[..., LogWeights]
    draw: Callable[..., Tensor]
    positive: tuple[bool, ...]
    density: Callable[..., Tensor]

    @property
    def normalised(self) -> bool:
        """Whether the weights sum to 1."""
        return self.law in (DirichletLogWeights, LogisticNormalLogWeights)

    def parameters(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        torch.manual_seed(seed)
        drawn = [torch.randn(3, STEPS, POSITIONS, dtype=dtype) for _ in self.positive]
        values = [0.4 + x.exp() if positive else x for x, positive in zip(drawn, self.positive, strict=True)]
        return [x.requires_grad_() for x in values]

    def make(self, parameters: list[Tensor], counted: Tensor = COUNTED, lengths: Tensor = LENGTHS) -> Any:
        return self.law(*parameters, counted, lengths)


CASES = {
    "dirichlet": Case(DirichletLogWeights, draw_dirichlet, (True,), dirichlet_density),
    "logistic-normal": Case(LogisticNormalLogWeights, draw_logistic_normal, (False, True), logistic_normal_density),
    "weibull": Case(WeibullLogWeights, draw_weibull, (False, True), lambda v, *p: in_logarithms(weibull(*p), v)),
    "gamma": Case(GammaLogWeights, draw_gamma, (True, False), lambda v, a, b: in_logarithms(Gamma(a, b.exp()), v)),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def wild(parameters: list[Tensor]) -> list[Tensor]:
    """The parameters, with no numbers where nothing counts."""
    cells = (torch.arange(STEPS) < LENGTHS[:, None]).unsqueeze(-1) & COUNTED.unsqueeze(-2)
    return [torch.where(cells, x, torch.nan) for x in parameters]


@each
def test_density_is_torchs_on_what_counts_and_nothing_else_has_a_say(case: Case) -> None:
    parameters = case.parameters()
    law = case.make(wild(parameters)).expand(torch.Size((5, 3)))
    value = law.rsample()
    assert value.shape == (5, 3, STEPS, POSITIONS)
    assert not value[:, ~law.cells].any()
    found = law.log_prob(torch.where(law.cells, value, 7.0))
    for row, length in enumerate(LENGTHS):
        own = COUNTED[row]
        steps = [case.density(value[:, row, t, own], *(x[row, t, own] for x in parameters)) for t in range(int(length))]
        torch.testing.assert_close(found[:, row], torch.stack(steps).sum(0))
    gradients = torch.autograd.grad((found + value.sum((-1, -2))).sum(), parameters)
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert not gradient[~law.cells].any()


@each
def test_more_steps_and_positions_change_no_density_and_no_draw_takes_them(case: Case) -> None:
    parameters = case.parameters()
    law = case.make(parameters)
    value = law.rsample()

    def widened(x: Tensor, filler: float) -> Tensor:
        return torch.nn.functional.pad(x, (1, 2, 0, 2), value=filler)

    counted = torch.nn.functional.pad(COUNTED, (1, 2))
    wide = case.make([widened(x, -1e30) for x in parameters], counted)
    torch.testing.assert_close(wide.log_prob(widened(value, 3.0)), law.log_prob(value))
    drawn = wide.rsample()
    assert not drawn[..., STEPS:, :].any()
    assert not drawn[..., [0, -2, -1]].any()


@each
def test_densities_of_log_ratios_or_of_each_entry_integrate_to_one(case: Case) -> None:
    n = 2 if case.normalised else 1
    parameters = [x[:1, :1, :n] for x in case.parameters(3)]
    grid = torch.linspace(-80.0, 80.0, 40_001, dtype=torch.float64)
    logsigmoid = torch.nn.functional.logsigmoid
    points = torch.stack([logsigmoid(grid), logsigmoid(-grid)], -1) if case.normalised else grid.unsqueeze(-1)
    law = case.make(parameters, torch.ones(1, n, dtype=torch.bool), torch.tensor([1]))
    density = law.log_prob(points.view(-1, 1, 1, n)).exp()
    torch.testing.assert_close(torch.trapezoid(density[:, 0], grid), torch.tensor(1.0).double(), rtol=0, atol=1e-6)


@each
def test_leading_axes_equal_the_loop(case: Case) -> None:
    parameters = [torch.stack([x, x.flip(0)]) for x in case.parameters()]
    law = case.make(parameters)
    assert (law.batch_shape, law.event_shape) == ((2, 3), (STEPS, POSITIONS))
    value = law.rsample()
    for k in range(2):
        torch.testing.assert_close(law.log_prob(value)[k], case.make([x[k] for x in parameters]).log_prob(value[k]))
    assert law.rsample(torch.Size((7,))).shape == (7, 2, 3, STEPS, POSITIONS)


@each
def test_one_step_is_drawn_as_a_path_of_one_step(case: Case) -> None:
    parameters = [x[:, :1] for x in case.parameters()]
    law = case.make(parameters, lengths=torch.ones(3, dtype=torch.int64))
    torch.manual_seed(4)
    path = law.rsample()
    torch.manual_seed(4)
    torch.testing.assert_close(case.draw(*(x[:, 0] for x in parameters), COUNTED), path[:, 0])


@each
def test_a_text_without_a_position_has_density_one_and_no_gradient(case: Case) -> None:
    parameters = case.parameters(dtype=torch.float32)
    counted = COUNTED & torch.tensor([[True], [False], [True]])
    law = case.make(parameters, counted)
    value = law.rsample()
    total = value.sum((-1, -2)) + law.log_prob(value)
    if case.law is not GammaLogWeights:
        total = total + kl_divergence(law, PRIORS[case.law](counted))
    assert total[1] == 0
    for gradient in torch.autograd.grad(total.sum(), parameters):
        assert gradient.isfinite().all()
        assert not gradient[1].any()


def constant(value: float, like: Tensor = COUNTED) -> Tensor:
    return torch.full((len(like), STEPS, POSITIONS), value, dtype=torch.float64)


PRIORS: dict[Any, Callable[[Tensor], LogWeights]] = {
    DirichletLogWeights: lambda c: DirichletLogWeights(constant(0.4), c, LENGTHS),
    LogisticNormalLogWeights: lambda c: LogisticNormalLogWeights(constant(0.0), constant(1.7), c, LENGTHS),
    WeibullLogWeights: lambda c: GammaLogWeights(constant(0.8), constant(0.3), c, LENGTHS),
}
"""What each posterior has a KL to in closed form."""


def oracle_kl(case: Case, row: list[Tensor]) -> Tensor:
    """KL of one step to the prior: by torch, or by quadrature of its densities."""
    if case.law is DirichletLogWeights:
        return kl_divergence(Dirichlet(row[0]), Dirichlet(torch.full_like(row[0], 0.4)))
    if case.law is LogisticNormalLogWeights:
        prior = torch.zeros_like(row[0]), torch.full_like(row[1], 1.7)
        return kl_divergence(ratios(*row), ratios(*prior)) if len(row[0]) > 1 else torch.tensor(0.0).double()
    grid = torch.linspace(-100.0, 16.0, 30_001, dtype=torch.float64).unsqueeze(-1)
    q, p = weibull(*row), Gamma(torch.tensor(0.8).double(), torch.tensor(0.3).double().exp())
    log_q = q.log_prob(grid.exp()) + grid
    integrand = torch.where(log_q > -700, log_q.exp() * (log_q - p.log_prob(grid.exp()) - grid), 0.0)
    return torch.trapezoid(integrand, grid, dim=0).sum()


posteriors = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.law in PRIORS], ids=lambda c: c.law.__name__
)


@posteriors
def test_kl_is_that_of_an_independent_computation_summed_over_what_counts(case: Case) -> None:
    parameters = case.parameters(5)
    found = kl_divergence(case.make(wild(parameters)), PRIORS[case.law](COUNTED))
    for row, length in enumerate(LENGTHS):
        steps = [oracle_kl(case, [x[row, t, COUNTED[row]].detach() for x in parameters]) for t in range(int(length))]
        torch.testing.assert_close(found[row], torch.stack(steps).sum(), rtol=1e-5, atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found.sum(), parameters))


@posteriors
def test_kl_is_what_draws_say_in_the_mean(case: Case) -> None:
    count = 20_000
    q, p = case.make([x.detach() for x in case.parameters(6)]), PRIORS[case.law](COUNTED)
    value = q.rsample(torch.Size((count,)))
    sampled = q.log_prob(value) - p.log_prob(value)
    error = sampled.std(0) / count**0.5
    assert ((sampled.mean(0) - kl_divergence(q, p)).abs() <= 5 * error + 1e-9).all()


def test_dirichlet_and_logistic_normal_have_no_closed_form_between_them() -> None:
    q = CASES["logistic-normal"].make(CASES["logistic-normal"].parameters())
    for pair in ((q, PRIORS[DirichletLogWeights](COUNTED)), (PRIORS[DirichletLogWeights](COUNTED), q)):
        with pytest.raises(NotImplementedError):
            kl_divergence(*pair)


EVERY = torch.ones(1, 3, dtype=torch.bool)
ONE = torch.tensor([1])


def near(sampled: Tensor, expected: Tensor) -> None:
    """Hold the mean over the first axis to 5 standard errors."""
    assert ((sampled.mean(0) - expected).abs() < 5 * sampled.std(0) / len(sampled) ** 0.5).all()


def test_draws_have_the_logarithmic_moments_of_their_laws() -> None:
    torch.manual_seed(7)
    count = torch.Size((40_000,))
    concentration = torch.tensor([[[0.03, 0.6, 2.5]]]).double()
    total, own = concentration.sum().digamma(), concentration[0, 0]
    drawn = DirichletLogWeights(concentration, EVERY, ONE).rsample(count)[:, 0, 0]
    near(drawn, own.digamma() - total)
    near((drawn - drawn[:, :1])[:, 1:].square(), _second_moments(own))
    gamma = GammaLogWeights(concentration, torch.full_like(concentration, 0.7), EVERY, ONE).rsample(count)[:, 0, 0]
    near(gamma, own.digamma() - 0.7)
    near((gamma - own.digamma() + 0.7).square(), torch.special.polygamma(1, own))
    log_mean, shape = torch.tensor([[[-2.0, 0.5, 1.0]]]).double(), torch.tensor([[[0.8, 1.0, 6.0]]]).double()
    drawn = WeibullLogWeights(log_mean, shape, EVERY, ONE).rsample(count)[:, 0, 0]
    near(drawn.exp(), log_mean[0, 0].exp())
    near(drawn, weibull(log_mean[0, 0], shape[0, 0]).scale.log() - 0.5772156649 / shape[0, 0])
    drawn = LogisticNormalLogWeights(log_mean, shape, EVERY, ONE).rsample(count)[:, 0, 0]
    law = ratios(log_mean[0, 0], shape[0, 0])
    against_last = drawn[:, :2] - drawn[:, 2:]
    near(against_last, law.mean)
    centred = against_last - law.mean
    near(centred.unsqueeze(-1) * centred.unsqueeze(-2), law.covariance_matrix)


def _second_moments(concentration: Tensor) -> Tensor:
    """E[(l_i - l_1)²] of a Dirichlet for i > 1: of two independent log-Gammas."""
    mean, variance = concentration.digamma(), torch.special.polygamma(1, concentration)
    return ((mean - mean[0]).square() + variance + variance[0])[1:]


def test_means_are_those_of_the_weights() -> None:
    torch.manual_seed(8)
    for name, case in CASES.items():
        law = case.make([x.detach() for x in case.parameters(8)])
        if name == "logistic-normal":  # those of the logits' means, as of a draw without noise
            still = LogisticNormalLogWeights(law.location, 1e-12 * law.scale, COUNTED, LENGTHS)
            torch.testing.assert_close(law.mean, still.rsample(), rtol=0, atol=1e-9)
        else:
            drawn = law.rsample(torch.Size((20_000,))).exp()
            assert ((drawn.mean(0) - law.mean.exp()).abs() <= 5 * drawn.std(0) / 20_000**0.5 + 1e-9).all()
        assert not law.mean[~law.cells].any()


def test_gradients_of_dirichlet_draws_are_in_the_mean_those_of_the_mean_weights() -> None:
    """∂E[w_i]/∂α_j for concentrations on both sides of 1; for ln Gamma, ∂E[l]/∂α = ψ'(α)."""
    torch.manual_seed(9)
    count = 40_000
    own = torch.tensor([0.2, 0.9, 3.0], dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(lambda a: a / a.sum(), own)
    for i in range(3):
        leaves = own.expand(count, -1).clone().requires_grad_()
        drawn = draw_dirichlet(leaves, EVERY)
        (gradient,) = torch.autograd.grad(drawn[:, i].exp().sum(), leaves)
        near(gradient, expected[i])
    leaves = own.expand(count, -1).clone().requires_grad_()
    drawn = draw_gamma(leaves, torch.zeros_like(leaves), EVERY)
    near(torch.autograd.grad(drawn.sum(), leaves)[0], torch.special.polygamma(1, own))


@pytest.mark.parametrize("name", ["logistic-normal", "weibull"])
def test_gradients_of_draws_with_the_same_noise_are_finite_differences(name: str) -> None:
    case = CASES[name]

    def drawn(*parameters: Tensor) -> Tensor:
        torch.manual_seed(10)
        return case.make(list(parameters)).rsample()

    assert torch.autograd.gradcheck(drawn, case.parameters())


@each
def test_densities_have_the_gradients_of_finite_differences(case: Case) -> None:
    parameters = case.parameters(11)
    value = case.make(parameters).sample()
    if case.normalised:  # other values have no density
        value = value.detach()
    else:
        value.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, *p: case.make(list(p)).log_prob(v), (value, *parameters))


EXTREME = {
    "dirichlet": [(1e-3,), (1e4,)],
    "logistic-normal": [(0.0, 1e-3), (0.0, 40.0)],
    "weibull": [(-8.0, 0.1), (3.0, 1e3)],
    "gamma": [(1e-3, -8.0), (1e4, 8.0)],
}


@each
@pytest.mark.parametrize("which", [0, 1])
def test_extreme_laws_have_finite_values_and_gradients_in_float32(case: Case, which: int) -> None:
    torch.manual_seed(12)
    values = next(EXTREME[name][which] for name, other in CASES.items() if other is case)
    parameters = [torch.full((3, STEPS, POSITIONS), x, requires_grad=True) for x in values]
    law = case.make(parameters).expand(torch.Size((200, 3)))
    value = law.rsample()
    found = law.log_prob(value)
    assert found.dtype is torch.float32
    assert value.isfinite().all()
    assert found.isfinite().all()
    if case.law in PRIORS:
        found = found + kl_divergence(law, PRIORS[case.law](COUNTED))
    for gradient in torch.autograd.grad(found.sum() + value.sum(), parameters):
        assert gradient.isfinite().all()
    if case.normalised:
        total = value.masked_fill(~law.cells, -torch.inf).logsumexp(-1)[:, law.mask]
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-5)


def test_small_concentrations_have_logarithms_where_weights_are_zero() -> None:
    torch.manual_seed(13)
    value = draw_dirichlet(torch.full((1000, 4), 0.01), torch.ones(4, dtype=torch.bool))
    assert (value.exp() == 0).float().mean() > 0.2
    assert len(value.unique()) > 3000


def test_a_sharp_dirichlet_loses_no_digits_in_float32() -> None:
    """Σ ln Γ has terms of 10⁵ nats, whose float32 is off by hundredths; the density has tens."""
    torch.manual_seed(14)
    concentration = 1e4 * (torch.rand(1, 1, 30) + 0.5)
    counted = torch.ones(1, 30, dtype=torch.bool)
    law = DirichletLogWeights(concentration, counted, ONE)
    exact = DirichletLogWeights(concentration.double(), counted, ONE)
    value = law.sample()
    torch.testing.assert_close(law.log_prob(value).double(), exact.log_prob(value.double()), rtol=1e-6, atol=0)
    other, exact_other = (type(law)(x, counted, ONE) for x in (concentration * 1.001, concentration.double() * 1.001))
    torch.testing.assert_close(
        kl_divergence(law, other).double(), kl_divergence(exact, exact_other), rtol=1e-2, atol=1e-4
    )


def test_low_precision_parameters_are_lifted() -> None:
    case = CASES["dirichlet"]
    law = case.make([x.detach().bfloat16() for x in case.parameters()])
    assert law.rsample().dtype is torch.float32
    assert law.log_prob(law.rsample()).dtype is torch.float32
