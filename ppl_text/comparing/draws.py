"""What draws of a guide say of the sentences, whatever the objective: log-terms, k̂, KL, active units, information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.latents import LatentSpec, of_sentence
from ..evaluation.information import (
    DrawMoments,
    MutualInformation,
    active_units,
    mutual_information,
    unit_variances,
)
from ..evaluation.likelihood import AT_ONCE, measuring
from ..evaluation.scores import Draws, draw
from ..evaluation.sentences import CommonSentences, stream_seed
from ..evaluation.storytelling import is_conditional
from ..objectives.bounds import effective_share
from ..plots.inference_data import pareto_k
from .candidates import Candidate


def draw_terms(
    model: nn.Module,
    guide: nn.Module,
    sentences: CommonSentences,
    latents: Sequence[LatentSpec],
    *,
    draws: int,
    seed: int,
) -> tuple[Draws, dict[str, DrawMoments]]:
    """Draw S = ``draws`` latents per sentence from the guide, in chunks.

    Returns:
        Log-terms (S, N), float64 on the CPU, without the values drawn; and moments of the values, by site, of the sites
        in ``latents`` with real values.
    """
    real = [spec for spec in latents if spec.support == "real"]
    terms, moments = [], []
    with measuring(seed, model, guide):
        for batch in sentences:
            chunks, sums = [], {spec.name: _Sums(spec) for spec in real}
            size = max(1, AT_ONCE // batch.size)
            for start in range(0, draws, size):
                drawn = draw(model, guide, batch, min(size, draws - start))
                chunks.append(_kept(drawn))
                for name, of_site in sums.items():
                    of_site.add(drawn.values[name], batch, len(drawn.log_likelihood))
            terms.append(_joined(chunks, axis=0))
            moments.append({name: of_site.moments() for name, of_site in sums.items()})
    return _joined(terms, axis=1), {s.name: _under_each_other([of_batch[s.name] for of_batch in moments]) for s in real}


def _kept(drawn: Draws) -> Draws:
    """Keep the log-terms in float64 on the CPU, and no values."""

    def kept(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {site: term.double().cpu() for site, term in terms.items()}

    return Draws(drawn.log_likelihood.double().cpu(), kept(drawn.log_p), kept(drawn.log_q), {}, {})


def _joined(parts: Sequence[Draws], axis: int) -> Draws:
    """Join the log-terms of chunks of draws (axis 0) or of batches of sentences (axis 1)."""

    def joined(terms: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {site: torch.cat([part[site] for part in terms], axis) for site in terms[0]}

    log_likelihood = torch.cat([part.log_likelihood for part in parts], axis)
    log_p, log_q = joined([part.log_p for part in parts]), joined([part.log_q for part in parts])
    return Draws(log_likelihood, log_p, log_q, {}, {})


class _Sums:
    """Running sums of one site's values and of their squares, (B, [steps,] units) float64, over the draws."""

    def __init__(self, spec: LatentSpec) -> None:
        self._spec, self._draws = spec, 0
        self._first: Tensor | float = 0.0
        self._second: Tensor | float = 0.0

    def add(self, value: Tensor, batch: Batch, particles: int) -> None:
        """Add K values of each sentence."""
        spec, value = self._spec, value.double().cpu()
        value = value.expand(particles, batch.size, *value.shape[value.dim() - len(spec.axes) :])
        if spec.step_place is not None:
            value = value.movedim(2 + spec.step_place, 2)
        # All event axes but the step axis in one.
        value = value.reshape(*value.shape[: 2 if spec.step_place is None else 3], -1)
        self._draws += particles
        self._first = self._first + value.sum(0)
        self._second = self._second + value.square().sum(0)

    def moments(self) -> DrawMoments:
        """Return mean and unbiased variance over all draws so far."""
        mean = torch.as_tensor(self._first) / self._draws
        spread = torch.as_tensor(self._second) - self._draws * mean.square()
        return DrawMoments(mean, (spread / (self._draws - 1)).clamp(min=0), self._draws)


def _under_each_other(parts: Sequence[DrawMoments]) -> DrawMoments:
    """Join the moments of batches; those with a step axis are padded to the longest."""

    def stacked(values: list[Tensor]) -> Tensor:
        if values[0].dim() == 2:
            return torch.cat(values)
        steps = max(value.shape[1] for value in values)
        return torch.cat([nn.functional.pad(value, (0, 0, 0, steps - value.shape[1])) for value in values])

    return DrawMoments(stacked([p.mean for p in parts]), stacked([p.variance for p in parts]), parts[0].draws)


class SiteUse(NamedTuple):
    """How much one latent site is used.

    Attributes:
        kl: KL(q ‖ p), nats per sentence, by Monte Carlo.
        active_units: latent dimensions in use; None where the site is not real.
        units: of how many.
    """

    kl: float
    active_units: int | None
    units: int | None


class DrawFigures(NamedTuple):
    """What is a property of model and guide, whatever the objective.

    Attributes:
        terms: of S draws, (S, N).
        khat: (N,) Pareto k̂ of their importance weights.
        sites: each latent site by name.
        information: I_q(x; z) of the latents of whole sentences; of all, where there are none such.
    """

    terms: Draws
    khat: NDArray[Any]
    sites: dict[str, SiteUse]
    information: MutualInformation

    @property
    def together(self) -> SiteUse:
        """All sites together."""
        real = [site for site in self.sites.values() if site.units is not None]
        return SiteUse(
            sum((site.kl for site in self.sites.values()), start=0.0),
            sum(site.active_units or 0 for site in real) if real else None,
            sum(site.units or 0 for site in real) if real else None,
        )

    def ess_by_sentence(self, particles: int) -> Tensor:
        """Return ESS/K of each sentence under K = ``particles``, (N,): the mean over groups of the draws."""
        weights = self.terms.scores.log_weights
        groups = len(weights) // particles
        columns = weights[: groups * particles].T.reshape(-1, groups, particles)
        return effective_share(columns.movedim(-1, 0)).mean(-1)


def measure_guide(candidate: Candidate, sentences: CommonSentences, *, draws: int, seed: int) -> DrawFigures:
    """Draw S = ``draws`` latents per sentence and read what they say."""
    model, guide, latents = candidate.model, candidate.guide, candidate.latents
    where = stream_seed(seed, candidate.guide_name, "draws")
    terms, moments = draw_terms(model, guide, sentences, latents, draws=draws, seed=where)
    with measuring(stream_seed(seed, candidate.guide_name, "information"), model, guide):
        information = mutual_information(
            guide, sentences, of_sentence(latents) or latents, conditional=is_conditional(model)
        )
    scores = terms.scores
    return DrawFigures(
        terms,
        pareto_k(scores.log_weights.T.contiguous().numpy()),
        {spec.name: _use(spec, scores.mean_kl[spec.name], moments.get(spec.name), sentences) for spec in latents},
        information,
    )


def _use(spec: LatentSpec, kl: Tensor, moments: DrawMoments | None, sentences: CommonSentences) -> SiteUse:
    """Say how much a site is used, given its KL (N,) and the moments of its values where they are real."""
    divergence = float(sentences.share @ kl)
    if moments is None:
        return SiteUse(divergence, None, None)
    variances = unit_variances(moments, sentences.weights, spec.own_steps(sentences.tokens, sentences.tokens))
    return SiteUse(divergence, active_units(variances), len(variances))
