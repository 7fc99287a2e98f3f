"""Bounds of an objective by repeated estimates, and log-terms of a guide's draws, sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.latents import LatentSpec
from ..core.protocols import Objective
from .likelihood import measuring
from .representation import DrawMoments
from .scores import Draws, draw, room_for
from .sentences import CommonSentences, tile

AT_ONCE = 4096
"""Particles times sentences that are drawn at once, where a model of them has room."""

Report = Callable[[], object]


class BoundEstimate(NamedTuple):
    """A bound at β = 1 of N sentences by R independent repeats of a K-particle estimator.

    ``by_sentence`` (N,): mean over the repeats, nats per sentence; ``variance`` (N,): of that mean, by Monte Carlo;
    ``ess`` (N,): effective sample size / K of the estimator's own weights, or None; ``draws``: K·R. All float64 on
    the CPU.
    """

    by_sentence: Tensor
    variance: Tensor
    ess: Tensor | None
    draws: int

    def mean(self, share: Tensor) -> float:
        """Σ_n share_n bound_n."""
        return float(share @ self.by_sentence)

    def standard_error(self, share: Tensor) -> float:
        """Monte-Carlo standard error of that mean: of the draws of the latents, the sentences being given."""
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
    """Estimate the bound of every sentence R = :func:`repeats_of` times; ``report()`` is called after each batch.

    Repeats are rows of a batch, as many at once as :data:`AT_ONCE` and the model allow; where it does not allow all
    sentences of a batch, these are divided.
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
    """Bounds (R, B), and ESS/K (B,) where the objective has one; at most ``rows`` rows at once, or one repeat."""
    at_once = max(1, min(AT_ONCE // objective.particles, rows) // batch.size)
    bounds, ess = [], []
    for start in range(0, repeats, at_once):
        number = min(at_once, repeats - start)
        estimate = objective(model, guide, tile(batch, number))
        bounds.append(estimate.bound.double().view(number, batch.size))
        if estimate.ess is not None:
            ess.append(estimate.ess.double().view(number, batch.size))
    return torch.cat(bounds).cpu(), torch.cat(ess).mean(0).cpu() if ess else None


class DrawnTerms(NamedTuple):
    """Log-terms of S i.i.d. draws of a guide for each of N sentences, in nats, float64 on the CPU.

    ``log_likelihood`` (N, S); ``log_p`` and ``log_q`` by site, (N, S); ``moments`` of the sites' values by site.
    """

    log_likelihood: Tensor
    log_p: dict[str, Tensor]
    log_q: dict[str, Tensor]
    moments: dict[str, DrawMoments]

    @property
    def log_weights(self) -> Tensor:
        """ln w = ln p(x | z) + Σ_sites (ln p - ln q), (N, S)."""
        return self.log_likelihood + sum((self.log_p[site] - self.log_q[site] for site in self.log_q), start=0.0)

    @property
    def kl(self) -> Tensor:
        """KL(q ‖ p) of all sites by Monte Carlo, (N,)."""
        zero = torch.zeros_like(self.log_likelihood)
        return sum((self.log_q[site] - self.log_p[site] for site in self.log_q), start=zero).mean(-1)


def draw_terms(
    model: nn.Module,
    guide: nn.Module,
    sentences: CommonSentences,
    latents: tuple[LatentSpec, ...],
    *,
    draws: int,
    seed: int,
    report: Report = lambda: None,
) -> DrawnTerms:
    """Draw S = ``draws`` latents per sentence from the guide, in chunks; keep log-terms and moments only.

    ``moments`` are of the sites with real values in ``latents``; ``report()`` is called after each batch.
    """
    real = [spec for spec in latents if spec.support == "real"]
    parts = []
    with measuring(seed, model, guide):
        for batch in sentences:
            parts.append(_draw(model, guide, batch, real, draws))
            report()
    return _joined(parts)


def _draw(model: nn.Module, guide: nn.Module, batch: Batch, real: list[LatentSpec], draws: int) -> DrawnTerms:
    chunk = max(1, AT_ONCE // batch.size)
    sizes = [min(chunk, draws - start) for start in range(0, draws, chunk)]
    kept: list[DrawnTerms] = []
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for size in sizes:
        drawn = draw(model, guide, batch, size)
        kept.append(_log_terms(drawn))
        for spec in real:
            values = _values(drawn.values[spec.name], spec, batch, size)
            first, second = sums.get(spec.name, (0.0, 0.0))
            sums[spec.name] = (first + values.sum(0), second + values.square().sum(0))
    moments = {name: _moments(first, second, draws) for name, (first, second) in sums.items()}
    sites = kept[0].log_q
    return DrawnTerms(
        torch.cat([part.log_likelihood for part in kept], -1),
        {site: torch.cat([part.log_p[site] for part in kept], -1) for site in sites},
        {site: torch.cat([part.log_q[site] for part in kept], -1) for site in sites},
        moments,
    )


def _log_terms(drawn: Draws) -> DrawnTerms:
    """The terms of one chunk, (B, K)."""

    def column(values: Tensor) -> Tensor:
        return values.double().T.cpu()

    log_p = {name: column(values) for name, values in drawn.log_p.items()}
    log_q = {name: column(values) for name, values in drawn.log_q.items()}
    return DrawnTerms(column(drawn.log_likelihood), log_p, log_q, {})


def _values(value: Tensor, spec: LatentSpec, batch: Batch, particles: int) -> Tensor:
    """Values of a site as (K, B, [steps,] units) float64: the axes beside the one that runs along the text in one."""
    value = value.double().cpu()
    event = value.shape[value.dim() - len(spec.axes) :]
    value = value.expand(particles, batch.size, *event)
    if spec.step_place is None:
        return value.reshape(particles, batch.size, -1)
    place = 2 + spec.step_place
    return value.movedim(place, 2).reshape(particles, batch.size, value.shape[place], -1)


def _moments(first: Tensor, second: Tensor, draws: int) -> DrawMoments:
    mean = first / draws
    return DrawMoments(mean, ((second - draws * mean.square()) / (draws - 1)).clamp(min=0), draws)


def _joined(parts: list[DrawnTerms]) -> DrawnTerms:
    """The batches under each other; sites with a T axis padded to the longest."""
    first = parts[0]
    return DrawnTerms(
        torch.cat([part.log_likelihood for part in parts]),
        {site: torch.cat([part.log_p[site] for part in parts]) for site in first.log_p},
        {site: torch.cat([part.log_q[site] for part in parts]) for site in first.log_q},
        {site: _joined_moments([part.moments[site] for part in parts]) for site in first.moments},
    )


def _joined_moments(parts: list[DrawMoments]) -> DrawMoments:
    def stacked(values: list[Tensor]) -> Tensor:
        steps = max(value.shape[1] for value in values)
        if values[0].dim() == 2:
            return torch.cat(values)
        pad = torch.nn.functional.pad
        return torch.cat([pad(value, (0, 0, 0, steps - value.shape[1])) for value in values])

    return DrawMoments(stacked([p.mean for p in parts]), stacked([p.variance for p in parts]), parts[0].draws)
