"""Step-wise bounds: the Kalman likelihood, a hidden Markov model by enumeration, and the gradient of the draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.distributions.chains import FlowChain
from ppl_text.distributions.side import record_side_loss
from ppl_text.objectives import build
from ppl_text.objectives.sequential import Ancestors, Resampling, multinomial, particle_filter, single, systematic

from .linear_gaussian import (
    Chain,
    LinearGuide,
    LinearModel,
    Proposal,
    exact_posterior,
    kalman,
    one_step,
    packed,
    transition,
)
from .programs import chain_batch, gradients, plain_batch, state_space, within, word_batch

CHAIN = Chain()
TRUTH = kalman(CHAIN).log_likelihood
LONG = CHAIN._replace(y=3.0 * np.sin(np.arange(1.0, 13.0)))
GUIDES = {
    "wrong": lambda: LinearGuide(CHAIN, shift=0.2, stretch=1.3),
    "exact posterior": lambda: LinearGuide(CHAIN),
    "one step": lambda: LinearGuide(CHAIN, one_step),
    "prior": lambda: LinearGuide(CHAIN, transition),
}
FIVO = (
    "fivo:1",
    "fivo:2",
    "fivo:5",
    "fivo:5:systematic:1",
    "fivo:2:multinomial:1",
    "fivo:5:multinomial",
    "fivo:2:0.9:score",
)
STEPWISE = ("stepwise:1", "stepwise:2", "stepwise:5")


@torch.no_grad()
def filtered(spec: str, guide: nn.Module, rows: int, chain: Chain = CHAIN) -> Tensor:
    """Bounds of that many runs."""
    torch.manual_seed(1)
    bound: Tensor = build(spec)(LinearModel(chain), guide, chain_batch(rows, len(chain.y))).bound
    return bound


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
@pytest.mark.parametrize("spec", [*STEPWISE, *FIVO])
def test_the_estimate_of_the_likelihood_is_unbiased_whatever_the_guide(spec: str, guide) -> None:
    bound = filtered(spec, guide(), 20_000)
    ratio = (bound - TRUTH).exp()
    assert within(ratio, 1.0)
    assert float(ratio.std()) / 20_000**0.5 < 0.03  # a bias of a seventh would show, of a twentieth mostly
    assert float(bound.mean()) < TRUTH + 1e-9


EXACT = {
    "one particle": (CHAIN, exact_posterior, ["stepwise:1", "fivo:1"]),
    "never resampled": (CHAIN, exact_posterior, ["fivo:5:1e-9", "fivo:3:multinomial:1e-9"]),
    "one token": (CHAIN._replace(y=CHAIN.y[:1]), exact_posterior, ["stepwise:5", "fivo:5", "fivo:5:multinomial:1"]),
    "one token, one step": (CHAIN._replace(y=CHAIN.y[:1]), one_step, ["stepwise:5", "fivo:5"]),
}


@pytest.mark.parametrize(("chain", "proposal", "specs"), EXACT.values(), ids=EXACT)
def test_no_variance_where_theory_knows_none(chain: Chain, proposal: Proposal, specs: list[str]) -> None:
    for spec in specs:
        bound = filtered(spec, LinearGuide(chain, proposal), 30, chain)
        torch.testing.assert_close(bound, torch.full_like(bound, kalman(chain).log_likelihood), rtol=0, atol=1e-9)


def test_the_exact_posterior_is_not_exact_under_resampling() -> None:
    """The smoother's weights of one step still vary with the state: only their product over all steps is constant."""
    for spec in ("stepwise:5", "fivo:5:multinomial:1"):
        bound = filtered(spec, LinearGuide(CHAIN), 2000)
        assert float(bound.mean()) < TRUTH - 5 * float(bound.std()) / 2000**0.5


@pytest.mark.parametrize("family", ["stepwise:{}", "fivo:{}", "fivo:{}:multinomial:1"])
def test_the_bound_rises_with_the_number_of_particles_and_stays_below(family: str) -> None:
    """With the prior as proposal. (Near the smoother, which sees what is to come, resampling by one step costs.)"""
    values = [filtered(family.format(n), GUIDES["prior"](), 4000) for n in (1, 2, 5, 20)]
    for low, high in pairwise(values):
        error = float((low.var() + high.var()).sqrt()) / 4000**0.5
        assert float(high.mean() - low.mean()) > 4 * error
    for value in values:
        assert float(value.mean()) < TRUTH


@pytest.mark.parametrize("proposal", [transition, one_step], ids=["prior", "one step"])
def test_on_a_longer_chain_resampling_beats_importance_sampling(proposal: Proposal) -> None:
    truth = kalman(LONG).log_likelihood
    for n in (4, 16):
        fivo, iwae = (filtered(f"{name}:{n}", LinearGuide(LONG, proposal), 1500, LONG) for name in ("fivo", "iwae"))
        error = float((fivo.var() + iwae.var()).sqrt()) / 1500**0.5
        assert float(fivo.mean() - iwae.mean()) > 5 * error
        assert float(iwae.mean()) < float(fivo.mean()) < truth


def test_never_resampled_it_is_iwae_on_the_same_draws_gradients_included(monkeypatch) -> None:
    """Densities of the steps add up to that of the whole path."""
    drawn, randn = [], torch.randn
    for guide_name in ("diag", "tril", "shared", "mean-field", "prior"):
        model, guide = state_space(guide=guide_name)
        drawn.clear()
        torch.manual_seed(0)
        monkeypatch.setattr(torch, "randn", lambda *a, **k: drawn.append(randn(*a, **k)) or drawn[-1])
        stepped = build("fivo:4:1e-9")(model, guide, word_batch(), beta=0.3)
        monkeypatch.setattr(torch, "randn", lambda *a, **k: torch.stack(drawn, dim=-2))
        whole = build("iwae:4")(model, guide, word_batch(), beta=0.3)
        monkeypatch.setattr(torch, "randn", randn)
        for name in ("loss", "bound", "log_likelihood", "kl"):
            torch.testing.assert_close(getattr(stepped, name), getattr(whole, name), msg=lambda m, n=name: n + m)
        wanted = gradients(whole.loss, model, guide)
        for name, value in gradients(stepped.loss, model, guide).items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-7, atol=1e-9)


class HiddenMarkov(nn.Module):
    """s_0 = 0, s_t ~ Cat(rows of A), w_t ~ Cat(rows of E) over the ids 2, 3, 4."""

    A = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.5, 0.4], [0.5, 0.1, 0.4]], dtype=torch.float64)
    E = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.2, 0.5], [0.6, 0.2, 0.2]], dtype=torch.float64)

    def evidence(self, tokens: list[int]) -> float:
        """p(w_1 … w_n) by the sum over all paths."""
        total = 0.0
        for path in itertools.product(range(3), repeat=len(tokens)):
            pairs = pairwise((0, *path))
            steps = [float(self.A[a, b] * self.E[b, w - 2]) for (a, b), w in zip(pairs, tokens, strict=True)]
            total += math.prod(steps)
        return total

    def smc_init(self, state: dict[str, Tensor], batch: Batch) -> None:
        with pyro.plate("sentences", batch.size, dim=-1):
            state["s"] = pyro.sample("s_0", dist.Delta(torch.tensor(0.0))).long()

    def smc_step(self, state: dict[str, Tensor], batch: Batch, t: int, started: None) -> None:
        with pyro.plate("sentences", batch.size, dim=-1), poutine.mask(mask=batch.lengths > t):
            state["s"] = pyro.sample(f"s_{t + 1}", dist.Categorical(self.A[state["s"]]))
            pyro.sample(f"w_{t + 1}", dist.Categorical(self.E[state["s"]]), obs=(batch.tokens[:, t] - 2).clamp(min=0))


class HiddenGuide(nn.Module):
    """Cat ∝ √A[s] E[·, w]^(1/2), moved by noise of its own: an auxiliary site, drawn once as the look-ahead guide's."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def smc_init(self, state: dict[str, Tensor], batch: Batch) -> Tensor:
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("s_0", dist.Delta(torch.tensor(0.0)))
            zeros = torch.zeros(batch.steps, 3, dtype=torch.float64)
            u = dist.Normal(zeros, 1.0).to_event(2).mask(False)
            return pyro.sample("ahead", u, infer={"is_auxiliary": True})

    def smc_step(self, state: dict[str, Tensor], batch: Batch, t: int, ahead: Tensor) -> None:
        model = HiddenMarkov
        with pyro.plate("sentences", batch.size, dim=-1), poutine.mask(mask=batch.lengths > t):
            seen = model.E.T[(batch.tokens[:, t] - 2).clamp(min=0)]
            logits = 0.5 * (model.A[state["s"]].log() + seen.log()) + self.noise * ahead[..., t, :]
            pyro.sample(f"s_{t + 1}", dist.Categorical(logits=logits))


@pytest.mark.parametrize("noise", [0.0, 0.7], ids=["plain", "auxiliary noise"])
@pytest.mark.parametrize("spec", [*STEPWISE, *FIVO])
def test_a_hidden_markov_model_by_enumeration(spec: str, noise: float) -> None:
    model, rows = HiddenMarkov(), 8000
    strings = [[3, 4, 3, 2], [4, 2]]
    words = [string[:-1] for string in strings for _ in range(rows)]
    torch.manual_seed(2)
    with torch.no_grad():
        bound = build(spec)(model, HiddenGuide(noise), word_batch(words, steps=4)).bound
    for string, part in zip(strings, bound.split(rows), strict=True):
        ratio = part.exp() / model.evidence(string)
        assert within(ratio, 1.0), string
        assert float(ratio.std()) / rows**0.5 < 0.025
        assert float(part.mean()) < math.log(model.evidence(string))


SCHEMES = {"multinomial": multinomial, "systematic": systematic, "single": single}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


@every_scheme
def test_every_particle_has_as_many_children_as_its_weight_says(scheme: Ancestors) -> None:
    rows = 20_000
    weights = torch.tensor([0.0, 0.3, 0.15, 0.0, 0.55], dtype=torch.float64).unsqueeze(-1).expand(5, rows)
    torch.manual_seed(0)
    ancestors = scheme(weights)
    assert ancestors.shape == (5, rows)
    children = torch.stack([(ancestors == k).sum(0) for k in range(5)], dim=-1).double()
    assert within(children, 5 * weights[:, 0])
    assert int(children[:, [0, 3]].sum()) == 0  # a particle of no weight has none
    if scheme is systematic:
        assert ((children - 5 * weights[:, 0]).abs() < 1).all()
    if scheme is single:
        assert (children.amax(-1) == 5).all()


@every_scheme
def test_a_point_on_an_edge_picks_a_particle_that_has_weight(scheme: Ancestors, monkeypatch) -> None:
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    weights = torch.tensor([[0.0, 0.5], [0.5, 0.0], [0.0, 0.0], [0.5, 0.5]]).double()
    assert (weights.gather(0, scheme(weights)) > 0).all()


@every_scheme
def test_weights_that_are_not_finite_still_give_valid_ancestors(scheme: Ancestors) -> None:
    ancestors = scheme(torch.full((4, 3), float("nan")))
    assert ((ancestors >= 0) & (ancestors < 4)).all()


def steps_by_hand(c: Tensor, table: Tensor, noise: Tensor, chain: Chain) -> Iterator[Tensor]:
    """A filter of N particles in plain algebra, told its ancestors by ``send``: ln w_t (N,) of each step."""
    count = noise.shape[1]
    h = torch.tensor(chain.start).expand(count, 2)
    a, q = torch.tensor(chain.A), torch.tensor(chain.Q)
    for t, step in enumerate(table):
        mean = h @ step[:4].view(2, 2).T + step[4:6]
        factor = torch.stack([torch.stack([step[6], step[6] * 0]), torch.stack([step[8], step[7]])])
        new = mean + noise[t] @ factor.T
        p = MultivariateNormal(h @ a.T, q).log_prob(new) + Normal(new @ c, chain.r).log_prob(torch.tensor(chain.y[t]))
        ancestors = yield p - MultivariateNormal(mean, scale_tril=factor).log_prob(new)
        h = new[ancestors]


Draws = tuple[tuple[int, ...], ...]
"""Ancestors of all particles at every resampling."""


def replay_by_hand(run: Iterator[Tensor], draws: Draws, *, once: bool) -> tuple[Tensor, Tensor]:
    """Bound and ln P(draws) of one row that is resampled after every step; ``once``: one draw serves all particles."""
    log_weight = next(run)
    bound, chance = log_weight.logsumexp(0) - math.log(2), torch.zeros(()).double()
    for ancestors in draws:
        chance = chance + sum(log_weight.log_softmax(0)[k] for k in (ancestors[:1] if once else ancestors))
        log_weight = run.send(list(ancestors))
        bound = bound + log_weight.logsumexp(0) - math.log(2)
    return bound, chance


SHORT = CHAIN._replace(y=CHAIN.y[:3])


def enumerated(spec: str, rows: int, monkeypatch, chain: Chain) -> tuple[dict, dict, dict]:
    """E[∇ loss] over all draws of ancestors at fixed noise; the true ∇ E[loss], and that without the draws' part.

    Two particles; a point 0 picks the first, a point just below 1 the second.
    """
    model, guide = LinearModel(chain), LinearGuide(chain, shift=0.3, stretch=1.2)
    steps, once = len(chain.y), spec.startswith("stepwise")
    ancestors = [(0, 0), (1, 1)] if once else list(itertools.product((0, 1), repeat=2))
    draws: list[Draws] = list(itertools.product(ancestors, repeat=steps - 1))
    torch.manual_seed(4)
    noise = torch.stack([torch.randn(2, rows, 2, dtype=torch.float64) for _ in range(steps)])
    by_row = [
        [replay_by_hand(steps_by_hand(model.c, guide.table, noise[:, :, b], chain), d, once=once) for d in draws]
        for b in range(rows)
    ]
    expected = sum((chance.exp() * bound for row in by_row for bound, chance in row), torch.zeros(())) / rows
    plain = sum((chance.exp().detach() * bound for row in by_row for bound, chance in row), torch.zeros(())) / rows
    assert sum(chance.exp().item() for _, chance in by_row[0]) == pytest.approx(1.0)
    found: dict[str, Tensor] = {}
    for choice in itertools.product(range(len(draws)), repeat=rows):
        points = iter(
            torch.tensor([[0.0 if draws[j][t][k] == 0 else 1 - 1e-12 for j in choice] for k in range(2)]).double()
            for t in range(steps - 1)
        )
        monkeypatch.setattr(torch, "rand_like", lambda like, points=points: next(points)[: len(like)])
        torch.manual_seed(4)
        estimate = build(spec)(model, guide, chain_batch(rows, steps))
        bounds = torch.stack([by_row[b][j][0] for b, j in enumerate(choice)])
        torch.testing.assert_close(estimate.bound, bounds.detach())
        assert estimate.loss.item() == pytest.approx(-bounds.mean().item())
        chance = math.prod(by_row[b][j][1].exp().item() for b, j in enumerate(choice))
        for name, value in gradients(estimate.loss, model, guide).items():
            found[name] = found.get(name, torch.zeros_like(value)) + chance * value
    return found, gradients(-expected, model, guide), gradients(-plain, model, guide)


ENUMERATED = {
    "stepwise": ("stepwise:2{}", 1, SHORT),
    "stepwise, two rows": ("stepwise:2{}", 2, SHORT),
    "fivo": ("fivo:2:multinomial:1{}", 1, SHORT),
    "fivo, two rows": ("fivo:2:multinomial:1{}", 2, CHAIN._replace(y=CHAIN.y[:2])),
}


@pytest.mark.parametrize(("spec", "rows", "chain"), ENUMERATED.values(), ids=ENUMERATED)
def test_the_score_makes_the_gradient_unbiased(spec: str, rows: int, chain: Chain, monkeypatch) -> None:
    """The expectation over the ancestors is a finite sum. The baseline from the other rows leaves it alone."""
    found, true, biased = enumerated(spec.format(":score"), rows, monkeypatch, chain)
    for name, value in found.items():
        torch.testing.assert_close(value, true[name], rtol=1e-8, atol=1e-10)
        assert float((true[name] - biased[name]).norm()) > 0.02 * float(true[name].norm())


@pytest.mark.parametrize(("spec", "rows", "chain"), ENUMERATED.values(), ids=ENUMERATED)
def test_without_the_score_the_gradient_passes_the_draws_by(spec: str, rows: int, chain: Chain, monkeypatch) -> None:
    found, _, biased = enumerated(spec.format(""), rows, monkeypatch, chain)
    for name, value in found.items():
        torch.testing.assert_close(value, biased[name], rtol=1e-8, atol=1e-10)


SEQUENTIAL = ("stepwise:3", "stepwise:3:score", "fivo:3", "fivo:3:multinomial:1", "fivo:1")


def steady(shape: torch.Size, **kind: object) -> Tensor:
    """The same noise for the first rows, whatever comes after them."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij"))
    return torch.sin((grid * torch.arange(1.0, 1 + len(shape)).view(-1, *[1] * len(shape)) * 1.7).sum(0) + 1.0)


@pytest.fixture
def steady_noise(monkeypatch) -> None:
    monkeypatch.setattr(torch, "randn", steady)
    monkeypatch.setattr(torch, "rand_like", lambda like: steady(like.shape).abs() * 0.999)


@pytest.mark.parametrize("guide_name", ["diag", "shared"])
@pytest.mark.parametrize("spec", [s for s in SEQUENTIAL if "score" not in s])
def test_filler_rows_and_padding_change_nothing(spec: str, guide_name: str, steady_noise: None) -> None:
    model, guide = state_space(guide=guide_name)
    words = [[3, 4], [5], [3, 3, 5, 4]]
    alone = build(spec)(model, guide, word_batch(words))
    filled = word_batch([*words, [], [5, 5]], weights=[1.0, 1.0, 1.0, 0.0, 0.0], steps=8)
    found = build(spec)(model, guide, filled)
    torch.testing.assert_close(found.loss, alone.loss)
    for name in ("bound", "kl", "log_likelihood", "ess"):
        if getattr(alone, name) is not None:
            torch.testing.assert_close(getattr(found, name)[:3], getattr(alone, name))
    wanted = gradients(alone.loss, model, guide)
    for name, value in gradients(found.loss, model, guide).items():
        torch.testing.assert_close(value, wanted[name])


@pytest.mark.parametrize("spec", SEQUENTIAL)
def test_beta_by_site_goes_by_the_name_without_its_step(spec: str) -> None:
    model, guide = state_space()
    batch = word_batch(weights=[1.0, 2.0, 0.0, 1.0])
    share = batch.weights / 4.0
    for beta in ({"h": 0.5}, 0.5, torch.tensor(0.5).double()):
        torch.manual_seed(0)
        estimate = build(spec)(model, guide, batch, beta=beta)
        expected = -(share * (estimate.bound + 0.5 * estimate.kl)).sum()
        torch.testing.assert_close(estimate.loss.detach(), expected)
    with pytest.raises(UnknownNameError, match="latent site or side loss in β 'h_1'"):
        build(spec)(model, guide, batch, beta={"h_1": 0.5})


def test_likelihood_and_kl_are_those_of_the_chosen_paths() -> None:
    """With one particle the bound is the likelihood less the KL; with more it lies above."""
    model, guide = state_space()
    one, many = (build(spec)(model, guide, word_batch([[3, 4, 5]] * 400)) for spec in ("fivo:1", "fivo:8"))
    torch.testing.assert_close(one.bound, one.log_likelihood - one.kl)
    assert one.ess is None
    assert (many.bound > many.log_likelihood - many.kl).double().mean() > 0.95


def test_the_effective_sample_size_is_the_mean_over_the_steps_of_the_word(monkeypatch) -> None:
    torch.manual_seed(4)
    chain = SHORT
    noise = torch.stack([torch.randn(2, 1, 2, dtype=torch.float64) for _ in range(3)])
    model, guide = LinearModel(chain), LinearGuide(chain, shift=0.3)
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)  # everyone descends from the first
    torch.manual_seed(4)
    estimate = build("fivo:2:multinomial:1")(model, guide, chain_batch(1, 3))
    run = steps_by_hand(model.c, guide.table, noise[:, :, 0], chain)
    weights = [next(run), run.send([0, 0]), run.send([0, 0])]
    shares = [(w.exp().sum() ** 2 / w.exp().square().sum()).item() / 2 for w in weights]
    assert float(estimate.ess) == pytest.approx(sum(shares) / 3)
    assert 0.5 < float(estimate.ess) <= 1.0


def test_resampling_waits_for_its_threshold() -> None:
    """Between ESS / N = 0.5 and 1 lies the difference of two runs on the same noise."""
    calls = []

    def counting(weights: Tensor) -> Tensor:
        calls.append(1.0 / (len(weights) * weights.square().sum(0)))
        return torch.zeros_like(weights, dtype=torch.long)

    model, guide = LinearModel(LONG), LinearGuide(LONG, transition)
    kept = {}
    for threshold in (1e-9, 0.5, 1.0):
        calls.clear()
        torch.manual_seed(0)
        kept[threshold] = particle_filter(model, guide, chain_batch(50, 12), 4, Resampling(counting, threshold))
        if threshold == 0.5:
            shares = torch.stack(calls)
            assert 0.1 < float((shares < 0.5).double().mean()) < 0.9
    assert not torch.allclose(kept[1e-9].bound, kept[0.5].bound)
    assert not torch.allclose(kept[1.0].bound, kept[0.5].bound)


class OnlyStep(nn.Module):
    def forward(self, batch: Batch) -> None:
        raise AssertionError("never run")

    def smc_step(self, *arguments: object) -> None:
        raise AssertionError("never run")


LACKING = {
    "model": (OnlyStep, lambda: state_space()[1], ["the model OnlyStep lacks smc_init()"]),
    "guide": (lambda: state_space()[0], OnlyStep, ["the guide OnlyStep lacks smc_init()"]),
    "both": (
        lambda: nn.Linear(1, 1),
        OnlyStep,
        ["the model Linear lacks smc_init(); the model Linear lacks smc_step(); the guide OnlyStep lacks smc_init()"],
    ),
}


@pytest.mark.parametrize(("model", "guide", "messages"), LACKING.values(), ids=LACKING)
@pytest.mark.parametrize("spec", ["stepwise:2", "fivo:4"])
def test_programs_without_steps_are_told_what_they_lack(spec: str, model, guide, messages: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build(spec)(model(), guide(), word_batch())
    for message in [f"objective '{spec}' draws the latents step by step", *messages, "Use an objective for whole"]:
        assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert str(caught.value).count("lacks") == messages[0].count("lacks")


@pytest.mark.parametrize("spec", ["fivo:1", "fivo:4", "stepwise:4"])
def test_side_losses_of_the_steps_are_averaged_over_particles_and_summed_over_steps(spec: str) -> None:
    class Loaded(LinearGuide):
        def smc_step(self, state: dict[str, Tensor], batch: Batch, t: int, chain: FlowChain) -> None:
            super().smc_step(state, batch, t, chain)
            record_side_loss("constant", torch.tensor(float(t)).double())
            record_side_loss(f"by_row_{t}", torch.arange(float(batch.size)).double() * self.table[t, 4])
            record_side_loss("by_particle", 10.0 * state["h"][..., 0])

    losses = []
    for kind in (LinearGuide, Loaded):
        torch.manual_seed(0)
        losses.append(build(spec)(LinearModel(CHAIN), guide := kind(CHAIN, transition), chain_batch(3, 4)))
    drawn = []
    model = LinearModel(CHAIN)
    plain = model.smc_step
    model.smc_step = lambda state, *rest: (drawn.append(state["h"]), plain(state, *rest))[1]
    torch.manual_seed(0)
    build(spec)(model, LinearGuide(CHAIN, transition), chain_batch(3, 4))
    by_particle = sum(10.0 * h[..., 0].mean() for h in drawn)
    expected = 6.0 + guide.table[:, 4].sum() + by_particle
    torch.testing.assert_close(losses[1].loss - losses[0].loss, expected)
    torch.testing.assert_close(losses[1].bound, losses[0].bound)


def test_the_words_are_read_once_however_many_steps_and_particles_there_are() -> None:
    model, guide = state_space()
    calls = []
    guide.reader.register_forward_hook(lambda module, inputs, output: calls.append(1))
    build("fivo:4")(model, guide, word_batch())
    assert calls == [1]


def test_programs_that_take_the_observations_elsewhere_need_the_steps_of_the_batch() -> None:
    """A batch of one token runs one step only, whatever the program knows: T is the batch's."""
    with torch.no_grad():
        short = build("fivo:1")(LinearModel(CHAIN), LinearGuide(CHAIN, one_step), plain_batch(5)).bound
    first = kalman(CHAIN._replace(y=CHAIN.y[:1])).log_likelihood
    torch.testing.assert_close(short, torch.full((5,), first, dtype=torch.float64))
    assert packed(CHAIN.A, np.zeros(2), CHAIN.Q).shape == (9,)


class Forgetful(LinearModel):
    """Keeps something in the state that is not by particle and sentence."""

    def smc_init(self, state: dict[str, Tensor], batch: Batch) -> object:
        started = super().smc_init(state, batch)
        state["clock"] = torch.zeros(3)
        return started


def test_a_state_without_particles_and_sentences_is_named() -> None:
    batch = chain_batch(2, 4)
    with pytest.raises(UserError, match=r"state\['clock'\] has shape \(3,\); .*, sentences\), here \(4, 2\)"):
        build("fivo:4")(Forgetful(CHAIN), LinearGuide(CHAIN), batch)
