"""Bounds whose particles are chosen anew at every step: Algorithm 1 (``stepwise``) and FIVO.

Both draw the latent path step by step with N particles, weigh each step, and resample. The mean weights between
two resamplings multiply to an unbiased estimate of p(tokens), whatever the guide, so by Jensen's inequality the mean
of its logarithm is a lower bound of ln p(tokens).

Sources: Schmidt and Hofmann 2018, Algorithm 1 and appendix A; Maddison et al. 2017 (FIVO).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.protocols import Estimate
from .bounds import Reading, Scores, effective_share, log_mean_exp, monte_carlo_scores
from .estimate import Beta, assemble
from .terms import Program, collect_terms, particle_plate

Ancestors = Callable[[Tensor], Tensor]
"""Normalised weights (N, B) to the particle (N, B) that each particle of the next step descends from."""


def multinomial(weights: Tensor) -> Tensor:
    """Draw each ancestor by itself."""
    return _pick(weights, torch.rand_like(weights))


def systematic(weights: Tensor) -> Tensor:
    """Draw one u ~ U(0, 1) for all: the points (n + u) / N of the cumulated weights; less noise, still unbiased."""
    count = weights.shape[0]
    steps = torch.arange(count, dtype=weights.dtype, device=weights.device).unsqueeze(-1)
    return _pick(weights, (steps + torch.rand_like(weights[:1])) / count)


def single(weights: Tensor) -> Tensor:
    """Draw one ancestor for all by its weight: what Algorithm 1 carries to the next step."""
    return _pick(weights, torch.rand_like(weights[:1])).expand_as(weights)


def _pick(weights: Tensor, points: Tensor) -> Tensor:
    """Return the particles in whose share of [0, 1) the points (n, B) fall; weights that are not finite do no harm."""
    edges = weights.cumsum(0).t().contiguous()
    return torch.searchsorted(edges, points.t().contiguous(), right=True).clamp_(max=weights.shape[0] - 1).t()


@dataclass(frozen=True)
class Resampling:
    """When and how: where the effective sample size falls below ``threshold`` N (1: always), by ``ancestors``.

    ``score``: whether the gradient also runs through the draw, by the score function (REINFORCE): unbiased at threshold
    1; below it the jump of the decision to resample is left out. Without it, as in both papers, the gradient is biased
    and of much less variance.
    """

    ancestors: Ancestors
    threshold: float = 0.5
    score: bool = False

    @property
    def shared(self) -> bool:
        """Whether all particles go on from one state: then what sentences that have ended carry does not matter."""
        return self.ancestors is single and self.threshold >= 1


class Filtered(NamedTuple):
    """What a particle filter says of a batch: (B,), nats per sentence.

    ``bound``: ln of the estimate of p(tokens); ``surrogate``: the same value, plus a term of value 0 whose gradient is
    that of the draws, where asked for; ``log_likelihood`` and ``kl``: sums over the steps of the particles' means;
    ``side``: auxiliary losses, mean over the particles and sum over the steps, (B,) or scalar; ``ess``: effective
    sample size / N before resampling, mean over the steps of the sentence.
    """

    bound: Tensor
    surrogate: Tensor
    log_likelihood: Tensor
    kl: dict[str, Tensor]
    side: dict[str, Tensor]
    ess: Tensor


@dataclass(frozen=True)
class SequentialObjective:
    """``stepwise:K`` and ``fivo:N``: train on the logarithm of a particle filter's estimate of p(tokens).

    Model and guide must offer ``smc_init(state, batch)`` and ``smc_step(state, batch, t, started)`` in the style of
    ``pyro.infer.SMCFilter``: Pyro programs that keep what they sample in ``state`` (guides only read it);
    ``started`` is what their ``smc_init`` returned. Sites are named ``NAME_t``; β and KL go by ``NAME``.
    """

    name: str
    particles: int
    resampling: Resampling

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Estimate`; the KL is that of the steps, along the chosen paths."""
        require_steps(self.name, model, guide)
        found = particle_filter(model, guide, batch, self.particles, self.resampling)
        scores = Scores(found.log_likelihood.unsqueeze(0), {k: v.unsqueeze(0) for k, v in found.kl.items()}, found.side)
        estimate = assemble(Reading(found.surrogate, found.bound, found.kl), scores, batch, beta)
        return estimate._replace(ess=found.ess if self.particles > 1 else None)


def require_steps(name: str, model: Any, guide: Any) -> None:
    """Raise :class:`UserError` that says which methods the programs lack."""
    lacking = [
        f"{role} {type(program).__name__} lacks {method}()"
        for role, program in (("the model", model), ("the guide", guide))
        for method in ("smc_init", "smc_step")
        if not callable(getattr(program, method, None))
    ]
    if lacking:
        raise UserError(
            f"objective '{name}' draws the latents step by step: {'; '.join(lacking)}. Use an objective for whole "
            "sequences (elbo, iwae:K, dreg:K), or give the class smc_init(state, batch) and smc_step(state, batch, t, "
            "started) in the style of pyro.infer.SMCFilter"
        )


def particle_filter(model: Any, guide: Any, batch: Batch, particles: int, resampling: Resampling) -> Filtered:
    """Run N particles over the steps of a batch; sentences that have ended are left alone.

    The estimate of ln p(tokens) is the sum, over the stretches between resamplings, of ln of the mean weight.
    """
    state: dict[str, Tensor] = {}
    tally = _Tally(particles, batch, resampling)
    by_guide, by_model, first = _run(guide.smc_init, model.smc_init, state, batch, particles)
    tally.add(first)
    for t in range(batch.steps):
        _, _, step = _run(guide.smc_step, model.smc_step, state, batch, particles, (t, by_guide), (t, by_model))
        tally.add(step, alive=batch.lengths > t)
        if particles > 1 and t + 1 < batch.steps:
            ancestors = tally.resample(batch.lengths > t + 1)
            _choose(state, ancestors[:1] if resampling.shared else ancestors, particles)
    return tally.result()


def _choose(state: dict[str, Tensor], ancestors: Tensor, particles: int) -> None:
    """Replace what each particle holds by what its ancestor holds; ``ancestors`` (N, B), or (1, B): one for all.

    One for all leaves states (1, B, …): the next step's networks run once for all particles.
    """
    for name, value in state.items():
        if value.shape[:1] not in ((1,), (particles,)) or value.shape[1:2] != ancestors.shape[1:]:
            raise UserError(
                f"state['{name}'] has shape {tuple(value.shape)}; what smc_init and smc_step keep in the state "
                f"must begin with the axes (particles, sentences), here {(particles, ancestors.shape[1])}"
            )
        if value.shape[0] > 1:
            index = ancestors.view(*ancestors.shape, *(1,) * (value.dim() - 2))
            state[name] = value.gather(0, index.expand(-1, -1, *value.shape[2:]))


def _run(
    guide: Program,
    model: Program,
    state: dict[str, Tensor],
    batch: Batch,
    particles: int,
    to_guide: tuple[Any, ...] = (),
    to_model: tuple[Any, ...] = (),
) -> tuple[Any, Any, Scores]:
    """Run one step of the guide, then of the model on what it drew; return what both returned, and the scores."""
    with particle_plate(particles):
        guide_trace = poutine.trace(guide).get_trace(state, batch, *to_guide)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(state, batch, *to_model)
    scores = monte_carlo_scores(collect_terms(guide_trace, model_trace, particles, batch))
    return guide_trace.nodes["_RETURN"]["value"], model_trace.nodes["_RETURN"]["value"], scores


class _Tally:
    """Running sums of a particle filter."""

    def __init__(self, particles: int, batch: Batch, resampling: Resampling) -> None:
        self.particles, self.batch, self.resampling = particles, batch, resampling
        self.log_weights = torch.zeros(particles, batch.size, device=batch.tokens.device)
        """(N, B) since the last resampling."""
        self.closed: list[Tensor] = []
        """(B,) ln of the mean weight of each stretch that has ended; 0 where it goes on."""
        self.draws: list[Tensor] = []
        """(B,) ln of the probability of each draw of ancestors; 0 where there was none."""
        self.steps: list[Scores] = []
        self.ess: list[Tensor] = []

    def add(self, step: Scores, alive: Tensor | None = None) -> None:
        """Weigh the particles; (N, B)."""
        self.log_weights = self.log_weights + step.log_weights
        self.steps.append(step)
        if alive is not None:
            self.ess.append(torch.where(alive, effective_share(self.log_weights.detach()), 0.0))

    def resample(self, going_on: Tensor) -> Tensor:
        """Ancestors (N, B); each particle itself for sentences that keep their particles or have ended."""
        rule, log_weights = self.resampling, self.log_weights
        with torch.no_grad():
            weights = log_weights.softmax(0)
            chosen = rule.ancestors(weights)
            poor = going_on & (effective_share(log_weights) < rule.threshold) if rule.threshold < 1 else going_on
            stay = torch.arange(self.particles, device=weights.device).unsqueeze(-1)
            ancestors = torch.where(poor, chosen, stay)
        self.closed.append(torch.where(poor, log_mean_exp(log_weights), 0.0))
        if rule.score:
            picked = log_weights.log_softmax(0).gather(0, ancestors)
            log_draw = picked[0] if rule.ancestors is single else picked.sum(0)
            self.draws.append(torch.where(poor, log_draw, 0.0))
        self.log_weights = torch.where(poor, torch.zeros_like(log_weights), log_weights)
        return ancestors

    def result(self) -> Filtered:
        """Close the last stretch and sum up."""
        parts = [*self.closed, log_mean_exp(self.log_weights)]
        bound = torch.stack(parts).sum(0)
        zero = torch.zeros_like(bound)
        kl = _sums(((name.rpartition("_")[0], value) for step in self.steps for name, value in step.kl.items()), zero)
        side = _sums(((name, value) for step in self.steps for name, value in step.side.items()), zero)
        log_likelihood = torch.stack([step.log_likelihood.mean(0) for step in self.steps]).sum(0)
        ess = torch.stack(self.ess).sum(0) / self.batch.lengths
        return Filtered(bound, bound + self._score(parts), log_likelihood, kl, side, ess)

    def _score(self, parts: list[Tensor]) -> Tensor:
        """Σ_t ln P(draw_t) · (what the bound gains after t), with value 0; (B,)."""
        if not self.draws:
            return torch.zeros_like(parts[0])
        # The bound's part after each draw; minus the mean over the other sentences, a control variate.
        gains = torch.stack(parts[1:]).detach().flip(0).cumsum(0).flip(0)
        others = (gains.sum(-1, keepdim=True) - gains) / max(gains.shape[-1] - 1, 1)
        surrogate = (torch.stack(self.draws) * (gains - others)).sum(0)
        return surrogate - surrogate.detach()


def _sums(terms: Iterable[tuple[str, Tensor]], zero: Tensor) -> dict[str, Tensor]:
    """Sum by name of the means over the particles; values are scalars, (B,) or (N, B)."""
    found: dict[str, Tensor] = {}
    for name, value in terms:
        found[name] = found.get(name, zero) + (value.mean(0) if value.dim() > 1 else value)
    return found


STEPWISE = Resampling(single, threshold=1.0)
"""Algorithm 1: one state is carried on after every step."""

SCHEMES: dict[str, Ancestors] = {"systematic": systematic, "multinomial": multinomial}
"""Names of FIVO's ways to draw ancestors."""
