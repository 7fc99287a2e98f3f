"""The chain as one distribution, against loops over time and closed forms of linear-Gaussian chains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ppl_text.distributions.bijections import DiagonalAffine
from ppl_text.distributions.chains import FlowChain, FlowStep, standard_normal_log_density
from ppl_text.distributions.transforms import ConditionalFlow, FlowFamily, conditional_flow

from .flow_cases import AFFINE, CASES, FlowCase, affine_by_hand, conditional, mlp

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_affine_case = pytest.mark.parametrize("case", AFFINE.values(), ids=AFFINE)
B, T, C = 3, 4, 2
LENGTHS = torch.tensor([4, 1, 3])


def chain(
    flow: ConditionalFlow, *, lengths: Tensor = LENGTHS, steps: int = T, context: Tensor | None = None
) -> FlowChain:
    initial = torch.linspace(-0.5, 0.5, flow.family.dim, dtype=torch.float64)
    return FlowChain(flow, initial, lengths, steps, context)


def contexts(*lead: int) -> Tensor:
    return torch.randn(*lead, T, C, dtype=torch.float64)


def reading(case: FlowCase) -> ConditionalFlow:
    return conditional(case, case.dims[-1], context_dim=C)


def gradients(value: Tensor, flow: ConditionalFlow) -> list[Tensor]:
    found = torch.autograd.grad(value, list(flow.parameters()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, flow.parameters(), strict=True)]


def step_gaussian(flow: ConditionalFlow, state: Tensor, context: Tensor | None) -> MultivariateNormal:
    """p(h_t | h_{t-1}, c_t) from the network's weights and plain matrices."""
    mean, matrix = affine_by_hand(flow.family, mlp(flow, state, context))
    return MultivariateNormal(mean, scale_tril=(matrix * matrix.diagonal().sign()).tril())


@every_affine_case
@pytest.mark.parametrize("with_context", [True, False])
def test_log_prob_equals_a_loop_of_gaussians(case: FlowCase, with_context: bool) -> None:
    flow = conditional(case, 3, context_dim=C if with_context else 0)
    context = contexts(B) if with_context else None
    density = chain(flow, context=context)
    value = torch.randn(B, T, 3, dtype=torch.float64)
    found = density.log_prob(value)
    for b in range(B):
        state, expected = density.initial, torch.zeros((), dtype=torch.float64)
        for t in range(int(LENGTHS[b])):
            gaussian = step_gaussian(flow, state, None if context is None else context[b, t])
            expected = expected + gaussian.log_prob(value[b, t])
            state = value[b, t]
        torch.testing.assert_close(found[b], expected)


@every_case
def test_rsample_is_the_loop_that_feeds_the_state_back(case: FlowCase) -> None:
    flow, context = reading(case), contexts(B)
    density = chain(flow, context=context)
    torch.manual_seed(3)
    path = density.rsample()
    torch.manual_seed(3)
    noise = torch.randn(B, T, flow.family.dim, dtype=torch.float64)
    for b in range(B):
        state = density.initial
        for t in range(T):
            state = flow.condition(state, context[b, t])(noise[b, t])
            torch.testing.assert_close(path[b, t], state)


@every_case
def test_cached_log_prob_equals_the_recomputed_one_in_value_and_gradient(case: FlowCase) -> None:
    flow, context = reading(case), contexts(B)
    density = chain(flow, context=context)
    torch.manual_seed(4)
    path = density.rsample()
    # The path itself depends on the parameters: both routes must give the total derivative.
    cached = density.log_prob(path)
    recomputed = chain(flow, context=context).log_prob(path)
    torch.testing.assert_close(cached, recomputed, rtol=1e-8, atol=1e-8)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for a, b in zip(
        gradients((weight * cached).sum(), flow), gradients((weight * recomputed).sum(), flow), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@every_case
def test_a_path_drawn_without_gradient_is_still_scored_with_one(case: FlowCase) -> None:
    flow, context = reading(case), contexts(B)
    density = chain(flow, context=context)
    path = density.sample()
    found = gradients(density.log_prob(path).sum(), flow)
    expected = gradients(chain(flow, context=context).log_prob(path.clone()).sum(), flow)
    assert any(bool(g.abs().max() > 0) for g in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@every_case
def test_padding_changes_no_number_and_no_gradient(case: FlowCase) -> None:
    flow, context = reading(case), contexts(B)
    value = torch.randn(B, T, flow.family.dim, dtype=torch.float64)
    padded = chain(flow, context=context).log_prob(value)
    total = [torch.zeros_like(p) for p in flow.parameters()]
    for b in range(B):
        n = int(LENGTHS[b])
        alone = chain(flow, lengths=LENGTHS[b : b + 1], steps=n, context=context[b : b + 1, :n])
        one = alone.log_prob(value[b : b + 1, :n])
        torch.testing.assert_close(padded[b : b + 1], one)
        total = [a + g for a, g in zip(total, gradients(one.sum(), flow), strict=True)]
    for a, b in zip(gradients(padded.sum(), flow), total, strict=True):
        torch.testing.assert_close(a, b)


@every_case
def test_huge_padded_states_and_contexts_leave_gradients_finite(case: FlowCase) -> None:
    flow, context = reading(case), contexts(B)
    value = torch.randn(B, T, flow.family.dim, dtype=torch.float64)
    clean = gradients(chain(flow, context=context).log_prob(value).sum(), flow)
    beyond = (torch.arange(T) >= LENGTHS[:, None])[..., None]
    soiled = chain(flow, context=context.masked_fill(beyond, 1e30)).log_prob(value.masked_fill(beyond, 1e200))
    assert torch.isfinite(soiled).all()
    for a, b in zip(gradients(soiled.sum(), flow), clean, strict=True):
        torch.testing.assert_close(a, b)


@every_case
def test_particles_in_front_equal_the_loop_over_particles(case: FlowCase) -> None:
    flow, context = reading(case), contexts(B)
    value = torch.randn(5, B, T, flow.family.dim, dtype=torch.float64)
    one = chain(flow, context=context)
    expected = torch.stack([one.log_prob(v) for v in value])
    expanded = one.expand((5, B))
    leading = chain(flow, lengths=LENGTHS.expand(5, B), context=context.expand(5, B, T, C))
    assert expanded.batch_shape == leading.batch_shape == (5, B)
    for density in (one, expanded, leading):
        torch.testing.assert_close(density.log_prob(value), expected)
    for path in (expanded.rsample(), leading.rsample(), one.rsample((5,))):
        assert path.shape == (5, B, T, flow.family.dim)
        assert not torch.allclose(path[0], path[1])


@every_case
def test_particles_with_contexts_of_their_own(case: FlowCase) -> None:
    flow, context = reading(case), contexts(5, B)
    value = torch.randn(5, B, T, flow.family.dim, dtype=torch.float64)
    density = chain(flow, context=context)
    assert density.batch_shape == (5, B)
    expected = torch.stack([chain(flow, context=c).log_prob(v) for c, v in zip(context, value, strict=True)])
    torch.testing.assert_close(density.log_prob(value), expected)
    torch.testing.assert_close(density.log_prob(path := density.rsample()), density.log_prob(path.clone()))


@every_case
def test_push_forward_and_pull_back_are_inverse(case: FlowCase) -> None:
    density = chain(reading(case), context=contexts(B))
    noise = torch.randn(2, B, T, density.event_shape[-1], dtype=torch.float64)
    path, _ = density.push_forward(noise)
    back, ladj = density.pull_back(path)
    torch.testing.assert_close(back, noise, rtol=0, atol=1e-6)
    expected = (standard_normal_log_density(noise) - ladj) * density.mask
    torch.testing.assert_close(density.log_prob(path), expected.sum(-1), rtol=1e-7, atol=1e-7)


def test_without_feedback_the_chain_is_independent_normals() -> None:
    torch.manual_seed(0)
    flow = conditional_flow("diag", 2, state_dim=0, context_dim=C, hidden=(4,)).double()
    context = contexts(B)
    density = chain(flow, context=context)
    loc, scale = torch.empty(B, T, 2).double(), torch.empty(B, T, 2).double()
    for b in range(B):
        for t in range(T):
            mean, matrix = affine_by_hand(flow.family, mlp(flow, density.initial, context[b, t]).detach())
            loc[b, t], scale[b, t] = mean, matrix.diagonal()
    value = torch.randn(6, B, T, 2, dtype=torch.float64)
    expected = (Normal(loc, scale).log_prob(value).sum(-1) * density.mask).sum(-1)
    torch.testing.assert_close(density.log_prob(value), expected)
    torch.manual_seed(9)
    path = density.expand((6, B)).rsample()
    torch.manual_seed(9)
    torch.testing.assert_close(path, loc + scale * torch.randn(6, B, T, 2, dtype=torch.float64))


class LinearStep:
    """h_t = a h_{t-1} + c_t + s ξ_t, as a kernel: the chain's moments are known in closed form."""

    feedback = True

    class _Family(FlowFamily):
        dim, param_dim, affine = 1, 2, True

        def forward(self, params: Tensor) -> DiagonalAffine:
            return DiagonalAffine(*params.chunk(2, dim=-1))

    def __init__(self, factor: float, scale: float) -> None:
        self.family, self.factor, self.scale = self._Family(), factor, scale

    def project(self, context: Tensor | None = None) -> Tensor:
        assert context is not None
        return context

    def params(self, state: Tensor, projected: Tensor) -> Tensor:
        loc = self.factor * state + projected
        return torch.cat([loc, torch.full_like(loc, self.scale)], dim=-1)


def test_sampled_moments_of_a_linear_chain_match_the_closed_form() -> None:
    factor, scale, n = 0.8, 0.5, 20_000
    drift = torch.tensor([[[1.0], [-0.5], [0.3]]], dtype=torch.float64)
    density = FlowChain(LinearStep(factor, scale), torch.tensor([2.0]).double(), torch.tensor([3]), 3, drift)
    torch.manual_seed(0)
    path = density.expand((n, 1)).rsample()[:, 0, :, 0]
    mean, variance, means, variances = 2.0, 0.0, [], []
    for t in range(3):
        mean, variance = factor * mean + float(drift[0, t, 0]), factor**2 * variance + scale**2
        means.append(mean)
        variances.append(variance)
    expected = torch.tensor(variances).double()
    assert ((path.mean(0) - torch.tensor(means)).abs() < 5 * (expected / n).sqrt()).all()
    assert ((path.var(0) - expected).abs() < 5 * expected * (2 / n) ** 0.5).all()
    covariance = torch.cov(path.T)[0, 2]
    assert abs(float(covariance) - factor**2 * variances[0]) < 5 * (variances[0] * variances[2] * 2 / n) ** 0.5


def test_a_context_of_another_length_is_refused() -> None:
    flow = reading(CASES["diag"])
    with pytest.raises(ValueError, match="the context has 4 steps, the chain 5"):
        chain(flow, steps=5, context=contexts(B))


def test_validation_refuses_values_outside_the_support() -> None:
    flow = reading(CASES["diag"])
    density = FlowChain(flow, torch.zeros(3).double(), LENGTHS, T, contexts(B), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        density.log_prob(torch.full((B, T, 3), float("nan"), dtype=torch.float64))


@every_affine_case
def test_a_step_is_the_gaussian_of_its_map(case: FlowCase) -> None:
    flow, context = conditional(case, 3, context_dim=C), contexts(B)
    density, state = chain(flow, context=context), torch.randn(B, 3, dtype=torch.float64)
    value = torch.randn(B, 3, dtype=torch.float64)
    for t in range(T):
        found = density.at(t, state).log_prob(value)
        for b in range(B):
            torch.testing.assert_close(found[b], step_gaussian(flow, state[b], context[b, t]).log_prob(value[b]))


@every_case
def test_a_step_is_white_noise_over_the_jacobian_of_its_map(case: FlowCase) -> None:
    flow, context = reading(case), contexts(B)
    density, state = chain(flow, context=context), torch.randn(B, case.dims[-1], dtype=torch.float64)
    torch.manual_seed(5)
    value = density.at(2, state).rsample()
    torch.manual_seed(5)
    noise = torch.randn(B, case.dims[-1], dtype=torch.float64)
    found = density.at(2, state).log_prob(value)
    for b in range(B):
        step = flow.condition(state[b], context[b, 2])
        torch.testing.assert_close(value[b], step(noise[b]))
        jacobian = torch.autograd.functional.jacobian(step, noise[b])
        expected = Normal(0.0, 1.0).log_prob(noise[b]).sum() - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(found[b], expected, rtol=1e-7, atol=1e-7)


@every_case
@pytest.mark.parametrize("with_context", [True, False])
def test_the_steps_add_up_to_the_chain_gradients_included(case: FlowCase, with_context: bool) -> None:
    flow = reading(case) if with_context else conditional(case, case.dims[-1])
    context = contexts(B) if with_context else None
    path = torch.randn(5, B, T, flow.family.dim, dtype=torch.float64)
    whole = chain(flow, context=context).log_prob(path)
    density = chain(flow, context=context)
    state, total = density.initial.expand(5, B, -1), torch.zeros(5, B, dtype=torch.float64)
    for t in range(T):
        step = density.at(t, state)
        assert (step.batch_shape, step.event_shape) == ((5, B), (flow.family.dim,))
        total = total + torch.where(t < LENGTHS, step.log_prob(path[:, :, t]), 0.0)
        state = path[:, :, t]
    torch.testing.assert_close(total, whole)
    for a, b in zip(gradients(total.sum(), flow), gradients(whole.sum(), flow), strict=True):
        torch.testing.assert_close(a, b)


@every_case
def test_a_step_without_particles_broadcasts_over_the_states(case: FlowCase) -> None:
    density = chain(reading(case), context=contexts(B))
    states = torch.randn(5, B, case.dims[-1], dtype=torch.float64)
    value = torch.randn(5, B, case.dims[-1], dtype=torch.float64)
    found = density.at(1, states).log_prob(value)
    one_by_one = [density.at(1, s).log_prob(v) for s, v in zip(states, value, strict=True)]
    torch.testing.assert_close(found, torch.stack(one_by_one))


@every_case
def test_the_density_of_a_drawn_step_equals_the_recomputed_one(case: FlowCase) -> None:
    """In value and total derivative; under ``no_grad`` as well, and drawn there it is still scored with a gradient."""
    flow, state = reading(case), torch.randn(B, case.dims[-1], dtype=torch.float64)
    density = chain(flow, context=contexts(B))
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for expanded in (False, True):
        step = density.at(0, state)
        step = step.expand(torch.Size((4, B))) if expanded else step
        value = step.rsample()
        assert value.shape == ((4, B) if expanded else (B,)) + step.event_shape
        cached, again = step.log_prob(value), density.at(0, state).log_prob(value)
        torch.testing.assert_close(cached, again, rtol=1e-8, atol=1e-8)
        assert cached.shape == step.batch_shape
        both = [gradients((weight * x).sum(), flow) for x in (cached, again)]
        for a, b in zip(*both, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    step = density.at(0, state)
    drawn = step.sample()
    assert not drawn.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(step.log_prob(drawn), density.at(0, state).log_prob(drawn.clone()))
    found = gradients(step.log_prob(drawn).sum(), flow)
    for a, b in zip(found, gradients(density.at(0, state).log_prob(drawn.clone()).sum(), flow), strict=True):
        torch.testing.assert_close(a, b)
    assert any(bool(g.abs().max() > 0) for g in found)


def test_another_value_than_the_drawn_one_is_not_taken_from_the_cache() -> None:
    flow = reading(CASES["tril"])
    step = chain(flow, context=contexts(B)).at(0, torch.zeros(B, 3).double())
    value = step.rsample()
    torch.testing.assert_close(step.log_prob(value), step.log_prob(value.clone()))
    assert not torch.allclose(step.log_prob(value + 1.0), step.log_prob(value))
    assert not torch.allclose(step.rsample((2,))[0], value)


def test_draws_of_a_step_have_its_moments() -> None:
    flow, n = conditional(CASES["tril"], 3, context_dim=C), 20_000
    context, state = contexts(B), torch.randn(B, 3, dtype=torch.float64)
    torch.manual_seed(0)
    draws = chain(flow, context=context).at(1, state).expand(torch.Size((n, B))).sample()
    for b in range(B):
        gaussian = step_gaussian(flow, state[b], context[b, 1])
        error = gaussian.variance.sqrt() / n**0.5
        assert ((draws[:, b].mean(0) - gaussian.mean).abs() < 5 * error).all()
        scale = (gaussian.variance.unsqueeze(0) * gaussian.variance.unsqueeze(1)).sqrt()
        assert ((torch.cov(draws[:, b].T) - gaussian.covariance_matrix).abs() < 6.5 * scale / n**0.5).all()


def test_a_step_validates_its_values() -> None:
    flow = reading(CASES["diag"]).condition(torch.zeros(3).double(), torch.zeros(C).double())
    step = FlowStep(flow, torch.Size((B, 3)), torch.zeros(1).double(), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        step.log_prob(torch.full((B, 3), float("nan"), dtype=torch.float64))


def test_a_step_without_feedback_takes_no_notice_of_the_state() -> None:
    torch.manual_seed(0)
    flow = conditional_flow("diag", 2, state_dim=0, context_dim=C, hidden=(4,)).double()
    density = chain(flow, context=contexts(B))
    value = torch.randn(6, B, 2, dtype=torch.float64)
    one, other = (density.at(1, torch.randn(6, B, 2).double()) for _ in range(2))
    torch.testing.assert_close(one.log_prob(value), other.log_prob(value))
    assert one.rsample().shape == (6, B, 2)
