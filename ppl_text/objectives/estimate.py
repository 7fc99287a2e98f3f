"""From the scores of K particles to the loss of a batch: sentence weights, β, side losses, chunks of particles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from ..core.batch import Batch
from ..core.errors import UnknownNameError
from ..core.protocols import Estimate
from .bounds import (
    Bound,
    Reading,
    Scores,
    closed_form_scores,
    describe_coverage,
    effective_share,
    monte_carlo_scores,
    total_kl,
)
from .terms import Program, trace_terms

T = TypeVar("T")

Beta = float | Tensor | Mapping[str, float | Tensor]
"""One for all latent sites, or by name of latent site or side loss, or by a pattern of names (:func:`beta_of`)."""

Scorer = Callable[[nn.Module, nn.Module, Batch, int], Scores]
"""``(model, guide, batch, K) -> Scores``: runs both programs on K particles."""


def score_by_monte_carlo(model: Program, guide: Program, batch: Batch, particles: int) -> Scores:
    """K particles with ln q - ln p of each site."""
    return monte_carlo_scores(trace_terms(model, guide, batch, particles))


def score_in_closed_form(model: Program, guide: Program, batch: Batch, particles: int) -> Scores:
    """K particles with the KL of each site in closed form where one is known."""
    return closed_form_scores(trace_terms(model, guide, batch, particles))


@dataclass(frozen=True)
class BoundObjective:
    """Train on a bound by reparametrised gradients.

    loss = -Σ_b w_b [target_b - Σ_sites (β_site - 1) KL_site,b] / Σ_b w_b + Σ_losses β_loss · side loss, in nats per
    sentence: β stands outside the logarithm, so no log-weight is ever scaled; β = 1 leaves the bound. One number is the
    β of all sites, and side losses then have 1; by name or pattern (:func:`beta_of`), what is not named has 1.
    ``chunk``: at most that many particles in memory at once, see :func:`in_chunks`.
    """

    name: str
    particles: int
    bound: Bound
    score: Scorer = score_by_monte_carlo
    chunk: int | None = None

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """Run both programs and estimate; see :class:`~ppl_text.core.protocols.Estimate`."""
        scores = in_chunks(self.score, self.chunk)(model, guide, batch, self.particles)
        return assemble(self.bound(scores), scores, batch, beta)

    def remarks(self, model: nn.Module, guide: nn.Module, batch: Batch) -> list[str]:
        """Return what a user should know of this objective on these two programs, a line each; often nothing."""
        if self.score is not score_in_closed_form:
            return []
        devices = [batch.tokens.device] if batch.tokens.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            return describe_coverage(trace_terms(model, guide, batch))


def in_chunks(score: Scorer, chunk: int | None) -> Scorer:
    """Return a scorer with the same values and gradients that holds the activations of ``chunk`` particles only.

    Each chunk is run forward without keeping its activations, and once more on the way back, with the same random
    numbers (``torch.utils.checkpoint``): memory for time. The guide reads the sentences once for each chunk.
    """

    def chunked(model: nn.Module, guide: nn.Module, batch: Batch, particles: int) -> Scores:
        if chunk is None or chunk >= particles:
            return score(model, guide, batch, particles)
        sizes = [min(chunk, particles - start) for start in range(0, particles, chunk)]
        parts = [_recomputed(score, model, guide, batch, size) for size in sizes]
        kl = {name: torch.cat([part.kl[name] for part in parts]) for name in parts[0].kl}
        side = {name: _over_particles([part.side[name] for part in parts], sizes) for name in parts[0].side}
        return Scores(torch.cat([part.log_likelihood for part in parts]), kl, side)

    return chunked


def _over_particles(values: list[Tensor], sizes: list[int]) -> Tensor:
    """Return the mean over all particles of side losses that come in chunks: scalars, (B,) or (k, B)."""
    means = [value.mean(0) if value.dim() > 1 else value for value in values]
    return torch.stack([mean * size for mean, size in zip(means, sizes, strict=True)]).sum(0) / sum(sizes)


def _recomputed(score: Scorer, model: nn.Module, guide: nn.Module, batch: Batch, size: int) -> Scores:
    if not torch.is_grad_enabled():
        return score(model, guide, batch, size)

    def run(tokens: Tensor) -> Scores:  # a tensor argument tells checkpoint the device whose random state to keep
        return score(model, guide, batch, size)

    # Without the early stop, which leaves Pyro's handlers by an exception.
    with set_checkpoint_early_stop(False):
        scores: Scores = checkpoint(run, batch.tokens, use_reentrant=False)
    return scores


def beta_of(name: str, beta: Mapping[str, T]) -> T | None:
    """Return the β of a latent site or side loss: that of its name, else of the first pattern that it matches.

    In a pattern ``*`` stands for any characters, ``?`` for one. None where nothing names it.

    Example::

        >>> beta = {"z_*": 0.0, "z_1": 1.0, "*": 0.5}
        >>> [beta_of(name, beta) for name in ("z_1", "z_2", "bag_of_words")]
        [1.0, 0.0, 0.5]
    """
    if name in beta:
        return beta[name]
    return next((value for pattern, value in beta.items() if fnmatchcase(name, pattern)), None)


def assemble(reading: Reading, scores: Scores, batch: Batch, beta: Beta) -> Estimate:
    """Weigh the sentences, apply β outside the logarithm, add the side losses with theirs.

    Raises :class:`UnknownNameError` for a β by a name or pattern of neither a latent site nor a side loss.
    """
    by_name = beta if isinstance(beta, Mapping) else {}
    weighed = reading.kl if reading.weighed is None else reading.weighed
    _refuse_unknown(by_name, weighed, scores.side)
    target = _with_beta(reading.target, weighed, beta)
    share = batch.shares
    loss = -(share * target).sum()
    for name, value in scores.side.items():
        mean = (share * value.expand(scores.log_likelihood.shape).mean(0)).sum()
        own = beta_of(name, by_name)
        loss = loss + (mean if own is None else own * mean)
    weights = reading.log_weights
    ess = None if weights is None or len(weights) == 1 else effective_share(weights.detach())
    log_likelihood = scores.log_likelihood.mean(0).detach()
    return Estimate(loss, reading.bound.detach(), log_likelihood, total_kl(reading).detach(), ess)


def unmatched(beta: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names and patterns of a β that none of ``names``, latent sites and side losses, matches."""
    there = list(names)
    return [own for own in beta if own not in there and not any(fnmatchcase(name, own) for name in there)]


def _refuse_unknown(beta: Iterable[str], sites: Iterable[str], side: Iterable[str]) -> None:
    known = [*sites, *side]
    for name in unmatched(beta, known):
        kinds = {"latent sites": sites, "side losses": side}
        there = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in kinds.items())
        raise UnknownNameError("latent site or side loss in β", name, known, f"Of these, {there}")


def _with_beta(target: Tensor, weighed: Mapping[str, Tensor], beta: Beta) -> Tensor:
    """target + Σ_sites (1 - β_site) weighed_site, (B,)."""
    if isinstance(beta, Mapping):
        for name, value in weighed.items():
            own = beta_of(name, beta)
            if own is not None:
                target = target + (1.0 - own) * value
    elif isinstance(beta, Tensor) or beta != 1.0:
        target = target + (1.0 - beta) * sum(weighed.values(), start=torch.zeros_like(target))
    return target


def is_one(beta: Beta) -> bool:
    """Return whether β is the plain number 1, known without asking a device."""
    return not isinstance(beta, Tensor | Mapping) and beta == 1.0
