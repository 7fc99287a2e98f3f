"""What a comparison hands to ArviZ: draws from the posterior of some texts, and lengths of texts written from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.batch import Batch, device_of
from ..core.latents import Latents, LatentSpec
from ..core.printing import percent
from ..evaluation.generation import ANCESTRAL, write
from ..evaluation.likelihood import AT_ONCE, measuring
from ..evaluation.scores import Draws, draw
from ..evaluation.sentences import CommonSentences, chosen_rows, stream_seed, subset, tile
from ..evaluation.standard_errors import is_unreliable
from ..evaluation.storytelling import feeds_back, has_steps, storyteller
from ..plots.inference_data import OK, Inference, Posterior, Predicted, evidence_draws, khat_shares
from .candidates import Candidate
from .draws import DrawFigures

PAIRS = 2**20
"""Draws x sentences in a file at most: 8 MiB for each log-term."""

VALUES = 2**22
"""Numbers in the draws of the latents of a file at most: 16 MiB."""

SENTENCES, PICKS = 8, 250
"""Texts whose posterior is drawn at most, and draws of each."""

OVERSAMPLING = 4
"""Draws of the guide for each draw that is picked: with fewer, many picks are the same draw."""

WRITTEN, TEXTS = 64, 16
"""Texts from whose posterior others are written, and how many from each."""


def inference_of(candidate: Candidate, figures: DrawFigures, sentences: CommonSentences, seed: int) -> Inference:
    """Return what ArviZ is given of a guide, in a size that is bounded: :data:`PAIRS`, :data:`VALUES`.

    Args:
        candidate: model and guide.
        figures: what was measured of its draws.
        sentences: on which.
        seed: of the comparison; the random numbers are derived from it.
    """
    kept = chosen_rows(len(sentences.texts), max(1, PAIRS // len(figures.terms.log_likelihood)))
    sentences, terms = subset(sentences, kept), _of_rows(figures.terms, kept)
    found = Inference(terms, figures.khat[kept.numpy()], sentences.texts, sentences.weights.numpy())
    left_out = _left_out(candidate, found)
    where = stream_seed(seed, candidate.guide_name, "posterior")
    if "log_likelihood" not in left_out:
        found = found._replace(log_evidence=evidence_draws(terms.scores.log_weights.numpy(), where))
    trusted = torch.from_numpy(found.khat <= OK)
    with measuring(where, candidate.model, candidate.guide):
        if "posterior" not in left_out:
            found = found._replace(posterior=_posterior(candidate, sentences, trusted, len(terms.log_likelihood)))
        if "posterior_predictive" not in left_out:
            found = found._replace(predicted=_predicted(candidate, sentences, trusted))
    return found._replace(left_out=left_out)


def _of_rows(terms: Draws, kept: Tensor) -> Draws:
    def of(by_site: dict[str, Tensor]) -> dict[str, Tensor]:
        return {site: term[:, kept] for site, term in by_site.items()}

    return Draws(terms.log_likelihood[:, kept], of(terms.log_p), of(terms.log_q), {}, {})


def _left_out(candidate: Candidate, found: Inference) -> dict[str, str]:
    """Say by group why there is none; nothing of those that there are."""
    drawn = ("posterior", "posterior_predictive", "observed_data")
    if not found.terms.log_q:
        exact = "nothing is latent: log_weight in guide_draws is ln p(text) itself, and loo has nothing to estimate"
        return dict.fromkeys(("log_likelihood", *drawn), exact)
    reasons = {}
    bad = khat_shares(found.khat, found.weights).bad
    if is_unreliable(bad):
        reasons["log_likelihood"] = (
            f"k > 0.7 on {percent(bad)} of the texts, where a few draws carry all the weight: there is no estimate of "
            "ln p(text) that loo could be made of; take more draws (--draws) or another guide"
        )
    if not (found.khat <= OK).any():
        reasons |= dict.fromkeys(drawn, "k > 0.7 on every text: draws of this guide give no picture of the posterior")
    model: Any = candidate.model
    if feeds_back(model) and not callable(getattr(storyteller(model, candidate.guide), "decoder", None)):
        reasons |= dict.fromkeys(drawn[1:], "the model writes no text")
    return reasons


def _posterior(candidate: Candidate, sentences: CommonSentences, trusted: Tensor, draws: int) -> Posterior:
    """Draw from p(latents | text) for texts of middle length, of those with k̂ ≤ 0.7."""
    lengths = sentences.tokens.long()
    entries = sum(math.prod(_sizes(spec, int(lengths.max()))) for spec in candidate.latents)
    picks = max(1, min(draws, PICKS, VALUES // entries))
    number = max(1, min(SENTENCES, VALUES // (picks * entries)))
    by_length = lengths.argsort(stable=True)
    by_length = by_length[trusted[by_length]]
    middle = by_length[max(0, (len(by_length) - number) // 2) :][:number]
    chosen = torch.zeros(len(lengths), dtype=torch.bool).index_fill(0, middle, True)
    parts = [values for _, values in _resampled(candidate, subset(sentences, chosen), picks * OVERSAMPLING, picks)]
    shortest = int(lengths[chosen].min())
    joined = {
        spec.name: torch.cat(_trimmed([values[spec.name] for values in parts], spec, shortest), dim=1).numpy()
        for spec in candidate.latents
    }
    axes = {spec.name: spec.axes for spec in candidate.latents}
    return Posterior(chosen.nonzero().squeeze(-1).numpy(), axes, joined, picks * OVERSAMPLING)


def _sizes(spec: LatentSpec, longest: int) -> list[int]:
    return [spec.sizes.get(axis, longest) for axis in spec.axes]


def _trimmed(parts: list[Tensor], spec: LatentSpec, shortest: int) -> list[Tensor]:
    """Cut the step axis of values (R, B, *event) to what all texts have, so that none is padding."""
    if spec.step_place is None:
        return parts
    axis = 2 + spec.step_place
    own = spec.own_steps(shortest)
    steps = min(value.shape[axis] for value in parts) if own is None else own
    return [value.narrow(axis, 0, steps) for value in parts]


def _predicted(candidate: Candidate, sentences: CommonSentences, trusted: Tensor) -> Predicted:
    """Write texts from draws of p(latents | text), and count their tokens; of some of the texts with k̂ ≤ 0.7.

    Where a latent has a step for each token, a text is at most as long as the one that its latents belong to; where
    none has, it is cut off at twice the longest.
    """
    model: Any = candidate.model
    chosen = torch.zeros_like(trusted)
    chosen[trusted] = chosen_rows(int(trusted.sum()), WRITTEN)
    lengths, limit = [], 2 * int(sentences.tokens.max())
    for batch, values in _resampled(candidate, subset(sentences, chosen), TEXTS * OVERSAMPLING, TEXTS):
        latents = {name: value.flatten(0, 1).to(device_of(model)) for name, value in values.items()}
        source = None if batch.source is None else tile(batch.source, TEXTS)
        most = batch.steps if has_steps(model) else limit
        teller = storyteller(model, candidate.guide)
        tokens = write(model, teller, latents, TEXTS * batch.size, ANCESTRAL, most, source)
        found = _length(tokens, model.vocabulary.ids.eos).reshape(TEXTS, batch.size)
        lengths.append(torch.minimum(found, batch.lengths) if has_steps(model) else found)
    rows = chosen.nonzero().squeeze(-1).numpy()
    return Predicted(rows, sentences.tokens[chosen].long().numpy(), torch.cat(lengths, dim=1).cpu().numpy())


def _length(tokens: Tensor, eos: int) -> Tensor:
    """Return the scored tokens of each row (R, T): up to the first EOS, or all where there is none."""
    ends = tokens == eos
    return torch.where(ends.any(-1), ends.int().argmax(-1) + 1, tokens.shape[-1])


def _resampled(
    candidate: Candidate, sentences: CommonSentences, draws: int, picks: int
) -> Iterator[tuple[Batch, Latents]]:
    """Yield each batch with R = ``picks`` values (R, B, *event) of each site, picked from ``draws`` of the guide."""
    for batch in sentences:
        reservoir = _Reservoir(picks, batch.size)
        at_once = max(1, AT_ONCE // batch.size)
        for start in range(0, draws, at_once):
            reservoir.add(draw(candidate.model, candidate.guide, batch, min(at_once, draws - start)), candidate.latents)
        yield batch, reservoir.values


class _Reservoir:
    """R independent picks among draws that come in chunks, on the CPU; of each sentence, in proportion to its weights.

    A draw is picked where ln w + Gumbel noise is greatest (Gumbel-max), with other noise for each pick, so that the
    greatest so far is all that has to be kept.
    """

    def __init__(self, picks: int, sentences: int) -> None:
        self.values: Latents = {}
        self._best = torch.full((picks, sentences), -math.inf, dtype=torch.float64)

    def add(self, drawn: Draws, latents: Any) -> None:
        """Take K more draws of B sentences into account."""
        weights = drawn.scores.log_weights.double().cpu()
        noise = -torch.empty(len(self._best), *weights.shape, dtype=torch.float64).exponential_().log()
        scores, places = (weights + noise).max(dim=1)
        better = scores > self._best
        self._best = torch.where(better, scores, self._best)
        for spec in latents:
            value = drawn.values[spec.name].cpu()
            value = value.expand(*weights.shape, *value.shape[value.dim() - len(spec.axes) :])
            picked = value[places, torch.arange(weights.shape[1])]
            if spec.name in self.values:
                changed = better.reshape(*better.shape, *[1] * len(spec.axes))
                picked = torch.where(changed, picked, self.values[spec.name])
            self.values[spec.name] = picked
