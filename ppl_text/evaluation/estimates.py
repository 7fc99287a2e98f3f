"""Bounds of an objective by repeated estimates, sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.protocols import Objective
from .likelihood import measuring
from .scores import room_for
from .sentences import CommonSentences, tile

AT_ONCE = 4096
"""Particles times sentences that are drawn at once, where a model of them has room."""

Report = Callable[[], object]
"""Called after each batch."""


class BoundEstimate(NamedTuple):
    """A bound at β = 1 of N sentences by R independent repeats of a K-particle estimator; float64 on the CPU.

    Attributes:
        by_sentence: (N,) mean over the repeats, nats per sentence.
        variance: (N,) of that mean, by Monte Carlo.
        ess: (N,) effective sample size / K of the estimator's own weights, or None.
        draws: K·R.
    """

    by_sentence: Tensor
    variance: Tensor
    ess: Tensor | None
    draws: int

    def mean(self, share: Tensor) -> float:
        """Σ_n share_n bound_n."""
        return float(share @ self.by_sentence)

    def standard_error(self, share: Tensor) -> float:
        """Return the Monte-Carlo standard error of that mean: of the latents' draws, the sentences being given."""
        return float((share.square() @ self.variance).sqrt())


def repeats_of(draws: int, particles: int) -> int:
    """R = max(2, draws // K): the same number of draws for every K, and enough for a standard error."""
    return max(2, draws // particles)


def estimate_bounds(
    objective: Objective,
    model: nn.Module,
    guide: nn.Module,
    sentences: CommonSentences,
    *,
    draws: int,
    seed: int,
    report: Report = lambda: None,
) -> BoundEstimate:
    """Estimate the bound of every sentence R = :func:`repeats_of` times.

    Repeats are rows of a batch, as many at once as :data:`AT_ONCE` and the model allow; where it does not allow all
    sentences of a batch, these are divided. The global random state and the programs' modes stay as they are.
    """
    repeats = repeats_of(draws, objective.particles)
    columns = []
    with measuring(seed, model, guide):
        for batch in sentences:
            rows = max(1, room_for(model) // (batch.steps * objective.particles))
            for part in torch.arange(batch.size, device=batch.tokens.device).split(rows):
                columns.append(_repeat(objective, model, guide, batch.take(part), repeats, rows))
            report()
    bounds = torch.cat([bound for bound, _ in columns], dim=1)
    ess = [e for _, e in columns if e is not None]
    return BoundEstimate(
        bounds.mean(0), bounds.var(0) / repeats, torch.cat(ess) if ess else None, repeats * objective.particles
    )


def _repeat(
    objective: Objective, model: nn.Module, guide: nn.Module, batch: Batch, repeats: int, rows: int
) -> tuple[Tensor, Tensor | None]:
    """Return bounds (R, B), and ESS/K (B,) if the objective has one; at most ``rows`` rows or one repeat at once."""
    at_once = max(1, min(AT_ONCE // objective.particles, rows) // batch.size)
    bounds, ess = [], []
    for start in range(0, repeats, at_once):
        number = min(at_once, repeats - start)
        estimate = objective(model, guide, tile(batch, number))
        bounds.append(estimate.bound.double().view(number, batch.size))
        if estimate.ess is not None:
            ess.append(estimate.ess.double().view(number, batch.size))
    return torch.cat(bounds).cpu(), torch.cat(ess).mean(0).cpu() if ess else None
