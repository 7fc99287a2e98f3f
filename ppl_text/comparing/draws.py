"""What draws of a guide say of the sentences, whatever the objective: log-terms, KL, active units, information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.latents import LatentSpec
from ..evaluation.likelihood import measuring
from ..evaluation.representation import (
    DrawMoments,
    MutualInformation,
    active_units,
    mutual_information,
    unit_variances,
)
from ..evaluation.scores import Draws, draw
from ..evaluation.sentences import CommonSentences, stream_seed
from ..objectives.bounds import effective_share
from ..plots.inference_data import pareto_k
from .candidates import Candidate
from .estimators import AT_ONCE, Report


class DrawnTerms(NamedTuple):
    """Log-terms of S i.i.d. draws of a guide for each of N sentences, in nats, float64 on the CPU.

    Attributes:
        log_likelihood: (N, S) ln p(tokens | latents).
        log_p: by latent site, (N, S).
        log_q: by latent site, (N, S).
        moments: of the values of each real site.
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
    latents: Sequence[LatentSpec],
    *,
    draws: int,
    seed: int,
    report: Report = lambda: None,
) -> DrawnTerms:
    """Draw S = ``draws`` latents per sentence from the guide, in chunks; keep log-terms and moments only.

    ``moments`` are of the sites with real values in ``latents``.
    """
    real = [spec for spec in latents if spec.support == "real"]
    parts = []
    with measuring(seed, model, guide):
        for batch in sentences:
            parts.append(_draw(model, guide, batch, real, draws))
            report()
    moments = {spec.name: _under_each_other([part.moments[spec.name] for part in parts]) for spec in real}
    return _joined(parts, moments, axis=0)


def _draw(model: nn.Module, guide: nn.Module, batch: Batch, real: Sequence[LatentSpec], draws: int) -> DrawnTerms:
    """Draw for one batch."""
    chunk = max(1, AT_ONCE // batch.size)
    kept: list[DrawnTerms] = []
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = draw(model, guide, batch, size)
        kept.append(_log_terms(drawn))
        for spec in real:
            values = _values(drawn.values[spec.name], spec, batch, size)
            first, second = sums.get(spec.name, (0.0, 0.0))
            sums[spec.name] = (first + values.sum(0), second + values.square().sum(0))
    moments = {name: _moments(first, second, draws) for name, (first, second) in sums.items()}
    return _joined(kept, moments, axis=-1)


def _log_terms(drawn: Draws) -> DrawnTerms:
    """Turn the terms of one chunk (K, B) into (B, K)."""

    def columns(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values.double().T.cpu() for name, values in terms.items()}

    return DrawnTerms(drawn.log_likelihood.double().T.cpu(), columns(drawn.log_p), columns(drawn.log_q), {})


def _joined(parts: Sequence[DrawnTerms], moments: dict[str, DrawMoments], axis: int) -> DrawnTerms:
    """Put batches under each other (axis 0), or chunks of draws beside each other (axis -1)."""

    def joined(terms: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {site: torch.cat([part[site] for part in terms], axis) for site in terms[0]}

    return DrawnTerms(
        torch.cat([part.log_likelihood for part in parts], axis),
        joined([part.log_p for part in parts]),
        joined([part.log_q for part in parts]),
        moments,
    )


def _values(value: Tensor, spec: LatentSpec, batch: Batch, particles: int) -> Tensor:
    """Return a site's values as (K, B, [steps,] units) float64: all event axes but the step axis in one."""
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


def _under_each_other(parts: Sequence[DrawMoments]) -> DrawMoments:
    """Join the moments of batches; those with a step axis are padded to the longest."""

    def stacked(values: list[Tensor]) -> Tensor:
        if values[0].dim() == 2:
            return torch.cat(values)
        steps = max(value.shape[1] for value in values)
        return torch.cat([nn.functional.pad(value, (0, 0, 0, steps - value.shape[1])) for value in values])

    return DrawMoments(stacked([p.mean for p in parts]), stacked([p.variance for p in parts]), parts[0].draws)


class DrawFigures(NamedTuple):
    """What is a property of model and guide, whatever the objective.

    Attributes:
        terms: of S draws.
        khat: (N,) Pareto k̂ of their importance weights.
        kl: KL(q ‖ p), nats per sentence.
        active: latent dimensions in use; None where no site is real.
        units: of how many.
        information: I_q(x; z).
    """

    terms: DrawnTerms
    khat: NDArray[Any]
    kl: float
    active: int | None
    units: int | None
    information: MutualInformation

    def ess_by_sentence(self, particles: int) -> Tensor:
        """Return ESS/K of each sentence under K = ``particles``, (N,): the mean over groups of the draws."""
        weights = self.terms.log_weights
        groups = weights.shape[1] // particles
        columns = weights[:, : groups * particles].reshape(len(weights), groups, particles)
        return effective_share(columns.movedim(-1, 0)).mean(-1)


def measure_guide(
    candidate: Candidate, sentences: CommonSentences, *, draws: int, seed: int, report: Report = lambda: None
) -> DrawFigures:
    """Draw S = ``draws`` latents per sentence and read what they say."""
    model, guide, latents = candidate.model, candidate.guide, candidate.latents
    where = stream_seed(seed, candidate.guide_name, "draws")
    terms = draw_terms(model, guide, sentences, latents, draws=draws, seed=where, report=report)
    variances = [
        unit_variances(terms.moments[spec.name], sentences.weights, sentences.tokens if spec.step_axis else None)
        for spec in latents
        if spec.name in terms.moments
    ]
    with measuring(stream_seed(seed, candidate.guide_name, "information"), model, guide):
        information = mutual_information(guide, sentences, latents)
    return DrawFigures(
        terms,
        pareto_k(terms.log_weights.numpy()),
        float(sentences.share @ terms.kl),
        sum(map(active_units, variances)) if variances else None,
        sum(map(len, variances)) if variances else None,
        information,
    )
