"""Model and guides run under Pyro's own SMCFilter, whose evidence is that of ``fivo``."""

from __future__ import annotations

import functools

import pytest
import torch
from pyro.infer import SMCFilter
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.objectives import build

from .programs import STATE_SPACE_GUIDES, state_space, within, word_batch

WORD = [3, 5, 5, 4]


class Evidence(SMCFilter):
    """Keeps what the filter throws away: it subtracts the maximum from its log-weights and normalises them.

    Each call multiplies the estimate of p(w) by Σ_n W_n w_n with W the normalised weights before it, so the constant
    that the filter took off is added again: it is what the first particle's weight has lost.
    """

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.log_evidence, self.resampled = 0.0, 0

    def _update_weights(self, model_trace, guide_trace) -> None:
        before = self.state._log_weights.clone()
        super()._update_weights(model_trace, guide_trace)
        after = self.state._log_weights
        taken = before[0] + first_increment(model_trace) - first_increment(guide_trace) - after[0]
        self.log_evidence += float(after.logsumexp(-1) + taken - before.logsumexp(-1))

    def _importance_resample(self, probs: Tensor) -> None:
        self.resampled += 1
        super()._importance_resample(probs)


class Stepping:
    """A program under the names that SMCFilter asks for."""

    def __init__(self, program: nn.Module) -> None:
        self.init, self.step = program.smc_init, program.smc_step


def first_increment(trace) -> Tensor:
    """ln of the density of all sites at the first particle."""
    sites = [s for s in trace.nodes.values() if s["type"] == "sample" and type(s["fn"]).__name__ != "_Subsample"]
    return sum(site["fn"].log_prob(site["value"])[0].sum() for site in sites)


@torch.no_grad()
def evidence(model: nn.Module, guide: nn.Module, batch: Batch, particles: int, **options) -> tuple[float, int]:
    run = Evidence(Stepping(model), Stepping(guide), num_particles=particles, max_plate_nesting=1, **options)
    run.init(batch)
    for t in range(batch.steps):
        run.step(batch, t)
    return run.log_evidence, run.resampled


@functools.cache
@torch.no_grad()
def high_sample(name: str) -> tuple[Tensor, float]:
    """ln p(w) by 256,000 paths of the prior of ``state_space(guide=name)``, and its relative standard error."""
    model, _ = state_space(guide=name)
    torch.manual_seed(0)
    bound = build("iwae:4000")(model, STATE_SPACE_GUIDES["prior"](model), word_batch([WORD] * 64)).bound
    total = bound.logsumexp(0) - torch.log(torch.tensor(64.0))
    return total, float((bound - total).exp().std()) / 8


@pytest.mark.parametrize("threshold", [0.5, 1.0])
@pytest.mark.parametrize("name", ["diag", "mean-field", "prior"])
def test_stock_evidence_is_unbiased_and_distributed_as_ours(name: str, threshold: float) -> None:
    model, guide = state_space(guide=name)
    if name != "prior":
        with torch.no_grad():
            guide.kernel.conditioner.layers[-1].bias[2:] += 1.0  # a wide proposal, so that weights have a variance
    batch, runs, particles = word_batch([WORD]), 40, 100
    truth, error = high_sample(name)
    torch.manual_seed(1)
    found = [evidence(model, guide, batch, particles, ess_threshold=threshold) for _ in range(runs)]
    stock = torch.tensor([value for value, _ in found])
    ratio = (stock - truth).exp()
    assert error < 0.02
    assert abs(float(ratio.mean()) - 1) < 5 * (float(ratio.var()) / runs + error**2) ** 0.5
    assert float(ratio.std()) / runs**0.5 < 0.1
    if threshold == 1.0 or name == "prior":
        assert sum(count for _, count in found) > runs
    torch.manual_seed(2)
    with torch.no_grad():
        ours = build(f"fivo:{particles}:systematic:{threshold}")(model, guide, word_batch([WORD] * 1000)).bound
    assert within((ours - truth).exp(), 1.0, errors=5 + 1000**0.5 * error / float((ours - truth).exp().std()))
    both = (stock.var() / runs + ours.var() / 1000).sqrt()
    assert abs(float(stock.mean() - ours.mean())) < 5 * float(both)
    assert 0.5 < float(stock.std() / ours.std()) < 2.0


def test_a_single_particle_is_the_elbo_draw_for_draw() -> None:
    model, guide = state_space()
    with torch.no_grad():
        torch.manual_seed(3)
        stock, _ = evidence(model, guide, word_batch([WORD]), 1)
        torch.manual_seed(3)
        ours = build("fivo:1")(model, guide, word_batch([WORD])).bound
    assert stock == pytest.approx(float(ours), rel=1e-5)


def test_the_empirical_state_is_the_last_one() -> None:
    model, guide = state_space()
    batch = word_batch([WORD])
    with torch.no_grad():
        run = SMCFilter(Stepping(model), Stepping(guide), num_particles=50, max_plate_nesting=1)
        run.init(batch)
        torch.testing.assert_close(run.state["h"], model.initial.expand(50, 1, 2))
        for t in range(batch.steps):
            run.step(batch, t)
    assert run.get_empirical()["h"].sample((7,)).shape == (7, 1, 2)
