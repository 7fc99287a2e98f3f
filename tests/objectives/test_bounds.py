"""Identities of the bounds: enumeration, closed-form KL, β, side losses, weights."""

from __future__ import annotations

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.distributions.side import record_side_loss
from ppl_text.objectives import build
from ppl_text.objectives.bounds import Scores, effective_share, log_power_mean, renyi
from ppl_text.objectives.estimate import Beta

from .programs import Discrete, Program, gradients, plain_batch, state_space, word_batch

SPECS = (
    *("elbo", "elbo:3", "elbo-analytic", "elbo-analytic:3", "iwae:4", "renyi:0.5:4", "renyi:3:2", "renyi:-1:3"),
    *("stl", "stl:3", "iwae:5/2", "free-bits:1", "free-bits:1:batch:2"),
)


@pytest.mark.parametrize("spec", SPECS)
def test_without_latents_every_bound_is_the_log_likelihood(spec: str) -> None:
    logits = torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64)
    observed = torch.tensor([0, 1, 2, 2])
    model = Program(
        lambda batch, values: pyro.sample("tokens", dist.Categorical(logits=values["logits"]), obs=observed),
        logits=logits,
    )
    estimate = build(spec)(model, Program(lambda batch, values: None), plain_batch(4))
    expected = logits.log_softmax(-1)[observed]
    torch.testing.assert_close(estimate.bound, expected)
    torch.testing.assert_close(estimate.log_likelihood, expected)
    torch.testing.assert_close(estimate.kl, torch.zeros(4, dtype=torch.float64))
    found = gradients(estimate.loss, model)["0.values.logits"]
    torch.testing.assert_close(found, logits.softmax(-1) - torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("spec", ["elbo", "elbo:5", "iwae:5", "renyi:0.5:5", "renyi:-1:5"])
def test_the_enumerated_posterior_gives_the_enumerated_evidence(spec: str) -> None:
    toy = Discrete(torch.tensor([0, 1, 2]))
    with torch.no_grad():
        estimate = build(spec)(toy.model(), toy.guide(toy.posterior), plain_batch(3))
    torch.testing.assert_close(estimate.bound, toy.log_evidence)


def test_weights_are_unbiased_and_the_elbo_is_the_enumerated_expectation() -> None:
    toy, k = Discrete(torch.tensor([0, 1, 2])), 40_000
    guess = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).expand(3, 3)
    weight = toy.prior * toy.emission[:, toy.observed].T / guess
    torch.manual_seed(0)
    with torch.no_grad():
        iwae = build(f"iwae:{k}")(toy.model(), toy.guide(guess), plain_batch(3)).bound
        elbo = build(f"elbo:{k}")(toy.model(), toy.guide(guess), plain_batch(3)).bound
    evidence = toy.log_evidence.exp()
    error = ((guess * weight**2).sum(-1) - evidence**2).sqrt() / k**0.5
    assert ((iwae.exp() - evidence).abs() < 5 * error).all()
    expected = (guess * weight.log()).sum(-1)
    spread = ((guess * weight.log() ** 2).sum(-1) - expected**2).sqrt() / k**0.5
    assert ((elbo - expected).abs() < 5 * spread).all()
    assert (expected < toy.log_evidence).all()


def test_a_site_without_reparametrisation_is_refused_only_under_gradients() -> None:
    toy = Discrete(torch.tensor([0]))
    for spec in ("elbo", "iwae:2"):
        with pytest.raises(UserError, match="guide site 'z': Categorical has no reparametrised sampler") as caught:
            build(spec)(toy.model(), toy.guide(toy.posterior), plain_batch(1))
        assert "--objective vimco:K or pyro:Trace_ELBO" in str(caught.value)


def repeated(rows: int) -> Batch:
    return word_batch([[3, 4, 5]] * rows)


def test_analytic_kl_equals_the_elbo_in_expectation_with_less_variance() -> None:
    model, guide = state_space("tril")
    with torch.no_grad():
        torch.manual_seed(0)
        sampled = build("elbo")(model, guide, repeated(4000))
        analytic = build("elbo-analytic")(model, guide, repeated(4000))
    for a, b in ((sampled.bound, analytic.bound), (sampled.kl, analytic.kl)):
        error = ((a.var() + b.var()) / 4000).sqrt()
        assert abs(float(a.mean() - b.mean())) < 5 * float(error)
        assert float(b.var()) < 0.9 * float(a.var())


def test_analytic_gradients_agree_with_the_elbo_in_expectation() -> None:
    model, guide = state_space("tril")
    torch.manual_seed(0)
    runs = {
        s: [gradients(build(s)(model, guide, repeated(150)).loss, model, guide) for _ in range(10)]
        for s in ("elbo", "elbo-analytic")
    }
    for name in runs["elbo"][0]:
        a, b = (torch.stack([run[name] for run in runs[s]]) for s in ("elbo", "elbo-analytic"))
        error = ((a.var(0) + b.var(0)) / 10).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 6 * error + 1e-12).all(), name


def test_analytic_kl_falls_back_to_monte_carlo_where_no_closed_form_exists() -> None:
    model, guide = state_space("nvp")
    estimates = []
    for spec in ("elbo:3", "elbo-analytic:3"):
        torch.manual_seed(0)
        estimates.append(build(spec)(model, guide, word_batch()))
    torch.testing.assert_close(estimates[0].bound, estimates[1].bound)
    torch.testing.assert_close(estimates[0].kl, estimates[1].kl)


LOC, SCALE = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.7, 1.5, 0.4]).double()
X = torch.tensor([0.3, -0.2, 1.0]).double()


def two_sites(mask: Tensor | None = None) -> tuple[Program, Program]:
    """z ~ N(0, 1), u ~ N(z, 1), x ~ N(z + u, 1); q(z) = N(m, s), q(u) = N(0.5, 2)."""

    def model(batch: Batch, values: nn.ParameterDict) -> None:
        with poutine.mask(mask=True if mask is None else mask):
            z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0))
        u = pyro.sample("u", dist.Normal(z, 1.0))
        pyro.sample("tokens", dist.Normal(z + u, 1.0), obs=X)

    def guide(batch: Batch, values: nn.ParameterDict) -> None:
        with poutine.mask(mask=True if mask is None else mask):
            pyro.sample("z", dist.Normal(values["loc"], values["scale"]))
        pyro.sample("u", dist.Normal(torch.full((3,), 0.5).double(), 2.0))

    return Program(model), Program(guide, loc=LOC, scale=SCALE)


def by_hand(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """ln p(x | z, u), and ln q - ln p of z and of u, (K, B), from the same random numbers."""
    shape = (3,) if k == 1 else (k, 3)
    z = LOC + SCALE * torch.normal(torch.zeros(shape).double(), torch.ones(shape).double())
    u = 0.5 + 2 * torch.normal(torch.zeros(shape).double(), torch.ones(shape).double())
    kl_z = Normal(LOC, SCALE).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    kl_u = Normal(torch.full_like(u, 0.5), 2.0).log_prob(u) - Normal(z, 1.0).log_prob(u)  # ln 2 in double precision
    likelihood = Normal(z + u, 1.0).log_prob(X)
    return tuple(t.reshape(k, 3) for t in (likelihood, kl_z, kl_u))


BETAS = {
    "none": (1.0, 1.0, 1.0),
    "scalar": (0.3, 0.3, 0.3),
    "zero": (0.0, 0.0, 0.0),
    "above one": (4.0, 4.0, 4.0),
    "tensor": (torch.tensor(0.3).double(), 0.3, 0.3),
    "by site": ({"z": 0.2, "u": torch.tensor(0.7).double()}, 0.2, 0.7),
    "one site only": ({"u": 0.5}, 1.0, 0.5),
}


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0]], ids=["equal", "weighted"])
@pytest.mark.parametrize(("beta", "beta_z", "beta_u"), BETAS.values(), ids=BETAS)
@pytest.mark.parametrize("spec", ["elbo", "elbo:4", "iwae:4", "renyi:0.5:4", "renyi:-1:4"])
def test_beta_weighs_the_kl_outside_the_logarithm(spec: str, beta, beta_z, beta_u, weights) -> None:
    objective = build(spec)
    batch = Batch(**{**vars(plain_batch(3)), "weights": torch.tensor(weights or [1.0] * 3).double()})
    torch.manual_seed(3)
    estimate = objective(*two_sites(), batch, beta=beta)
    torch.manual_seed(3)
    likelihood, kl_z, kl_u = by_hand(objective.particles)
    log_weight = likelihood - kl_z - kl_u
    order = 0.0 if spec.startswith("iwae") else float(spec.split(":")[1]) if spec.startswith("renyi") else 1.0
    if order == 1.0:
        target = log_weight.mean(0)
    else:
        target = (1 - order) ** -1 * ((1 - order) * log_weight).exp().mean(0).log()
    bound = target if order >= 0 else log_weight.exp().mean(0).log()
    tempered = target - (beta_z - 1) * kl_z.mean(0) - (beta_u - 1) * kl_u.mean(0)
    share = batch.weights / batch.weights.sum()
    torch.testing.assert_close(estimate.loss.detach(), -(share * tempered).sum())
    torch.testing.assert_close(estimate.bound, bound)
    torch.testing.assert_close(estimate.kl, (kl_z + kl_u).mean(0))
    torch.testing.assert_close(estimate.log_likelihood, likelihood.mean(0))


def test_analytic_kl_uses_registered_divergences_given_the_drawn_parents() -> None:
    torch.manual_seed(3)
    estimate = build("elbo-analytic:4")(*two_sites(), plain_batch(3), beta={"z": 0.25})
    torch.manual_seed(3)
    z = LOC + SCALE * torch.normal(torch.zeros(4, 3).double(), torch.ones(4, 3).double())
    kl_z = kl_divergence(Normal(LOC, SCALE), Normal(torch.zeros(3).double(), 1.0))
    kl_u = kl_divergence(Normal(torch.tensor(0.5).double(), torch.tensor(2.0).double()), Normal(z, 1.0)).mean(0)
    torch.testing.assert_close(estimate.kl, kl_z + kl_u)
    torch.testing.assert_close(estimate.bound, estimate.log_likelihood - kl_z - kl_u)
    torch.testing.assert_close(estimate.loss.detach(), -(estimate.log_likelihood - 0.25 * kl_z - kl_u).mean())


@pytest.mark.parametrize("spec", ["elbo", "elbo-analytic"])
def test_a_masked_latent_counts_where_the_mask_lets_it(spec: str) -> None:
    mask = torch.tensor([True, False, True])
    torch.manual_seed(3)
    estimate = build(spec)(*two_sites(mask), plain_batch(3), beta={"u": 0.0})
    torch.manual_seed(3)
    likelihood, kl_z, _ = by_hand(1)
    torch.testing.assert_close(estimate.loss.detach(), -(likelihood[0] - kl_z[0] * mask).mean())


def test_beta_for_a_site_that_does_not_exist_is_refused() -> None:
    message = r"latent site or side loss in β 'Z'; known: u, z\. Of these, latent sites: z, u; side losses: none"
    with pytest.raises(UnknownNameError, match=message):
        build("elbo")(*two_sites(), plain_batch(3), beta={"Z": 0.5})


BETAS = {
    "none": (1.0, 1.0, (1.0, 1.0)),
    "of all sites": (0.5, 0.5, (1.0, 1.0)),
    "of one loss": ({"commitment": torch.tensor(0.25)}, 1.0, (0.25, 1.0)),
    "of a loss and a site": ({"u": 0.5, "bag_of_words": 3.0}, {"u": 0.5}, (1.0, 3.0)),
}
"""β with side losses, the same without them, and what it makes of the two losses."""


@pytest.mark.parametrize(("beta", "of_sites", "shares"), BETAS.values(), ids=BETAS)
@pytest.mark.parametrize("spec", SPECS)
def test_side_losses_change_the_loss_by_their_beta_and_never_a_bound(
    spec: str, beta: Beta, of_sites: Beta, shares: tuple[float, float]
) -> None:
    objective = build(spec)
    row_wise = torch.tensor([1.0, 10.0, 100.0]).double()
    weights = torch.tensor([1.0, 3.0, 0.0]).double()
    batch = Batch(**{**vars(plain_batch(3)), "weights": weights})

    def with_side(program: Program, name: str, value: Tensor) -> Program:
        inner = program.run

        def run(batch: Batch, values: nn.ParameterDict) -> None:
            inner(batch, values)
            record_side_loss(name, value)

        program.run = run
        return program

    model, guide = two_sites()
    torch.manual_seed(3)
    plain = objective(model, guide, batch, of_sites)
    with_side(model, "commitment", row_wise)
    with_side(guide, "bag_of_words", torch.tensor(7.0).double())
    torch.manual_seed(3)
    loaded = objective(model, guide, batch, beta)
    expected = shares[0] * (1 + 30) / 4 + shares[1] * 7
    torch.testing.assert_close(loaded.loss - plain.loss, torch.tensor(expected).double())
    for name in ("bound", "kl", "log_likelihood"):
        torch.testing.assert_close(getattr(loaded, name), getattr(plain, name))


def test_side_losses_by_particle_are_averaged_and_trained() -> None:
    model, guide = two_sites()

    def run(batch: Batch, values: nn.ParameterDict) -> None:
        z = pyro.sample("z", dist.Normal(values["loc"], values["scale"]))
        pyro.sample("u", dist.Normal(torch.full((3,), 0.5).double(), 2.0))
        record_side_loss("pull", 1e3 * z)

    guide.run = run
    torch.manual_seed(3)
    estimate = build("elbo:4")(model, guide, plain_batch(3))
    torch.manual_seed(3)
    z = LOC + SCALE * torch.normal(torch.zeros(4, 3).double(), torch.ones(4, 3).double())
    assert estimate.loss.item() == pytest.approx(1e3 * float(z.mean()) - float(estimate.bound.mean()))
    found = gradients(estimate.loss, guide)["0.values.loc"]
    torch.testing.assert_close(found, torch.full((3,), 1e3 / 3).double(), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    "spec",
    [
        "elbo",
        "elbo-analytic",
        "iwae:3",
        "renyi:-1:3",
        "vr-max:3",
        "stl:2",
        "dreg:3",
        "free-bits:1",
        "free-bits:1:batch",
    ],
)
def test_filler_rows_change_nothing_gradients_included(spec: str) -> None:
    model, guide = state_space()
    objective = build(spec)
    words = [[3, 4], [5], [3, 3, 5, 4]]

    def fixed_noise(batch: Batch) -> dict[str, Tensor]:
        """The same noise for the first rows, whatever comes after them."""
        kept, torch.randn = torch.randn, lambda shape, **kind: steady(shape, **kind)
        try:
            return objective(model, guide, batch)
        finally:
            torch.randn = kept

    def steady(shape: torch.Size, **kind) -> Tensor:
        grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")).sum(0)
        return torch.sin(3.0 * grid + 1.0)

    alone = fixed_noise(word_batch(words))
    filled = fixed_noise(word_batch([*words, [], [5, 5]], weights=[1.0, 1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(filled.loss, alone.loss)
    torch.testing.assert_close(filled.bound[:3], alone.bound)
    wanted = gradients(alone.loss, model, guide)
    for name, value in gradients(filled.loss, model, guide).items():
        torch.testing.assert_close(value, wanted[name])


def test_weights_are_relative() -> None:
    model, guide = state_space()
    losses = []
    for weights in ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]):
        torch.manual_seed(0)
        estimate = build("elbo")(model, guide, word_batch(weights=weights))
        losses.append(estimate.loss)
        expected = -(torch.tensor([0.1, 0.2, 0.3, 0.4]).double() * estimate.bound).sum()
        torch.testing.assert_close(estimate.loss.detach(), expected)
    torch.testing.assert_close(losses[0], losses[1])


def scores(log_weights: Tensor) -> Scores:
    return Scores(log_weights, {}, {})


@pytest.mark.parametrize(("alpha", "of"), [(-torch.inf, "amax"), (torch.inf, "amin")])
def test_the_limits_of_the_order_are_one_particle_in_value_and_gradient(alpha: float, of: str) -> None:
    torch.manual_seed(0)
    log_weights = (3 * torch.randn(5, 20).double()).requires_grad_()
    reading = renyi(alpha)(scores(log_weights))
    extreme = getattr(log_weights, of)(0)
    torch.testing.assert_close(reading.target, extreme, rtol=0, atol=0)
    (found,) = torch.autograd.grad(reading.target.sum(), log_weights)
    assert torch.equal(found, (log_weights == extreme).double())
    iwae = log_weights.exp().mean(0).log()
    torch.testing.assert_close(reading.bound, iwae if alpha < 0 else extreme)
    for order, sign in ((-2e3, 1), (2e3, -1)):
        if alpha * order > 0:
            near = renyi(order)(scores(log_weights)).target
            assert (sign * (extreme - near) > -1e-9).all()
            torch.testing.assert_close(near, extreme, rtol=0, atol=2e-3)


def test_the_largest_particle_alone_is_trained() -> None:
    model, guide = two_sites()
    torch.manual_seed(3)
    estimate = build("vr-max:4")(model, guide, plain_batch(3))
    torch.manual_seed(3)
    log_weights = build("elbo:4").score(model, guide, plain_batch(3), 4).log_weights
    best = log_weights.gather(0, log_weights.argmax(0, keepdim=True))
    torch.testing.assert_close(estimate.loss, -best.mean())
    torch.testing.assert_close(estimate.bound, log_weights.exp().mean(0).log().detach())
    wanted = gradients(-best.mean(), guide)
    for name, value in gradients(estimate.loss, guide).items():
        torch.testing.assert_close(value, wanted[name])


def rounding_of(log_weights: Tensor) -> float:
    """Error of a bound of any order in float32: it is the extreme log-weight and the distance from there.

    The first is rounded to eps of its size; the second, at most the spread of the K log-weights, goes through four
    elementary functions and a sum of K terms, which is made in halves.
    """
    size, spread = float(log_weights.abs().max()), float((log_weights.amax(0) - log_weights.amin(0)).max())
    return torch.finfo(torch.float32).eps * (size + spread * (4 + math.log2(len(log_weights))))


@pytest.mark.parametrize("alpha", [-5.0, 0.0, 0.5, 0.9, 0.999, 0.99999, 1.00001, 1.001, 1.5, 6.0])
@pytest.mark.parametrize("particles", [1, 2, 64, 4000])
def test_every_order_is_exact_in_single_precision(alpha: float, particles: int) -> None:
    """Against double precision by the plain formula, ill-conditioned near order 1 as that is even there."""
    torch.manual_seed(0)
    log_weights = (-60 + 3 * torch.randn(particles, 300)).requires_grad_()
    exact = log_weights.detach().double().requires_grad_()
    plain = ((1 - alpha) * exact).logsumexp(0) - torch.log(torch.tensor(particles).double())
    target, plain = renyi(alpha)(scores(log_weights)).target, plain / (1 - alpha)
    assert target.dtype == torch.float32
    torch.testing.assert_close(target.double(), plain, rtol=0, atol=rounding_of(log_weights.detach()))
    (found,) = torch.autograd.grad(target.sum(), log_weights)
    (wanted,) = torch.autograd.grad(plain.sum(), exact)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-6)


def test_close_to_order_one_it_is_the_elbo_less_the_variance() -> None:
    """ln[(1/K) Σ w^ε] / ε = mean + ε/2 variance + O(ε²)."""
    torch.manual_seed(0)
    log_weights = -60 + torch.randn(8, 100)
    for alpha in (0.999, 1.001):
        target = renyi(alpha)(scores(log_weights)).target
        exact = log_weights.double()
        expected = exact.mean(0) + 0.5 * (1 - alpha) * exact.var(0, unbiased=False)
        # O(ε²) is ε²/6 of the third cumulant, of order 1.
        torch.testing.assert_close(target.double(), expected, rtol=0, atol=rounding_of(log_weights) + 1e-6)
        assert ((target > log_weights.mean(0)) == (alpha < 1)).float().mean() > 0.95


def test_a_particle_without_weight_leaves_a_finite_bound_and_gradient() -> None:
    log_weights = torch.tensor([[-1.0, -torch.inf], [-torch.inf, -torch.inf]]).double().requires_grad_()
    for alpha in (0.0, 0.5, -2.0, 0.999):
        target = renyi(alpha)(scores(log_weights)).target
        expected = -1.0 - torch.log(torch.tensor(2.0).double()) / (1 - alpha)
        torch.testing.assert_close(target[0], expected)
        assert target[1] == -torch.inf
        (found,) = torch.autograd.grad(target[0], log_weights)
        torch.testing.assert_close(found[:, 0], torch.tensor([1.0, 0.0]).double())
    assert log_power_mean(log_weights, -1.0)[0] == -torch.inf


def test_the_effective_share_by_hand() -> None:
    weights = torch.tensor([[1.0, 3.0, 1.0], [1.0, 1.0, 0.0]]).double()
    found = effective_share(weights.log() + 500.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 16 / 20, 0.5]).double())


@pytest.mark.parametrize("spec", ["elbo:4", "iwae:4", "renyi:0.5:4", "vr-max:4", "stl:4", "dreg:4", "iwae:4/3"])
def test_the_estimate_reports_the_effective_sample_size_of_its_weights(spec: str) -> None:
    model, guide = state_space()
    torch.manual_seed(3)
    found = build(spec)(model, guide, word_batch()).ess
    if "/" not in spec:
        torch.manual_seed(3)
        weights = build("elbo:4").score(model, guide, word_batch(), 4).log_weights.exp()
        torch.testing.assert_close(found, (weights.sum(0) ** 2 / weights.square().sum(0) / 4).detach())
    assert ((found > 0) & (found <= 1)).all()
    alone = re.sub(r"4(/3)?$", "1", spec)
    assert build(alone)(model, guide, word_batch()).ess is None


REMARKS = {
    "elbo-analytic": ("diag", "tril", ["KL of site 'h': in closed form"]),
    "elbo-analytic:3/2": ("shared", "tril", ["KL of site 'h': in closed form"]),
    "elbo-analytic:2": (
        "diag",
        "nvp",
        ["KL of site 'h': no closed form of KL(FlowChain ‖ FlowChain) for these two, so by Monte Carlo"],
    ),
    "elbo": ("diag", "nvp", []),
    "stl": ("diag", "tril", []),
}


@pytest.mark.parametrize(("spec", "case"), REMARKS.items(), ids=REMARKS)
def test_remarks_say_how_each_kl_is_computed(spec: str, case: tuple[str, str, list[str]]) -> None:
    guide, transition, lines = case
    assert build(spec).remarks(*state_space(transition, guide), word_batch()) == lines


def test_remarks_leave_the_random_numbers_alone() -> None:
    model, guide = state_space()
    state = torch.get_rng_state()
    build("elbo-analytic").remarks(model, guide, word_batch())
    assert torch.equal(torch.get_rng_state(), state)


def test_remarks_go_by_site() -> None:
    lines = build("elbo-analytic").remarks(*two_sites(torch.tensor([True, False, True])), plain_batch(3))
    assert [line.partition(":")[0] for line in lines] == ["KL of site 'z'", "KL of site 'u'"]
    assert lines[1].endswith("in closed form")
    assert lines[0].endswith("by Monte Carlo")
