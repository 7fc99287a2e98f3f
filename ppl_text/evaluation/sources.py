"""What texts take from their sources: their likelihood where they are written from q, and which way the source goes.

A story that decodes from q draws its latents ~ q(· | x, y_{<t}) and its tokens given them. That is a model of y given x
of its own, p̃(y | x) = E_q Π_t p(y_t | latents), whatever prior the story has beside it. The logarithm of the mean of K
such products is a lower bound of ln p̃(y | x) in expectation, and KL(q ‖ p) is no part of it (specification 3G.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, nn

from ..core.batch import Batch
from ..objectives.bounds import log_mean_exp
from ..objectives.terms import log_density, stochastic_sites
from .likelihood import exp_or_infinite, measuring
from .scores import draw
from .sentences import CommonSentences, chosen_rows, subset
from .standard_errors import jackknife_variance, log_means_without_each
from .storytelling import decodes_from_guide

DRAWN_AT_ONCE = 16
"""Particles that the guide draws at a time."""

COMPARED = 512
"""Texts whose sources are exchanged, where there are more."""

ROWS = 64
"""Texts whose sources are exchanged at a time."""


@dataclass(frozen=True)
class WrittenLikelihood:
    """Likelihood of N texts under the model that writes them, by K draws of q; nats per sentence.

    ``nats``: lower bound of ln p̃(y | x), ln p(y | x) itself where nothing is latent, and NaN where texts are not
    written from q; ``nats_se`` its Monte-Carlo standard error (NaN for K = 1). ``tokens``: scored tokens of a sentence,
    EOS counted.
    """

    particles: int
    nats: float
    nats_se: float
    tokens: float

    @property
    def perplexity(self) -> float:
        """exp(-nats per scored token), EOS counted: an upper bound of that of p̃."""
        return exp_or_infinite(-self.nats / self.tokens)

    @property
    def perplexity_se(self) -> float:
        """Return its Monte-Carlo standard error by the delta method."""
        return self.perplexity * self.nats_se / self.tokens


def written_likelihood(
    model: Any,
    guide: nn.Module,
    sentences: CommonSentences,
    *,
    particles: int,
    seed: int = 0,
    report: Callable[[], Any] = lambda: None,
) -> WrittenLikelihood:
    """Score every text under the model that writes it, by ``particles`` draws; ``report()`` after each batch."""
    exact = not model.latents
    if not (exact or decodes_from_guide(model)):
        return WrittenLikelihood(particles, math.nan, math.nan, sentences.tokens_per_sentence)
    parts = []
    with measuring(seed, model, guide):
        for batch in sentences:
            parts.append(_likelihoods(model, guide, batch, 1 if exact else particles))
            report()
    share = sentences.share
    nats = torch.cat([log_mean_exp(part) for part in parts])
    # Of what is exact one number says all.
    variances = [torch.zeros_like(p[0]) if exact else jackknife_variance(log_means_without_each(p)) for p in parts]
    error = float((share.square() @ torch.cat(variances)).sqrt())
    return WrittenLikelihood(1 if exact else particles, float(share @ nats), error, sentences.tokens_per_sentence)


def _likelihoods(model: nn.Module, guide: nn.Module, batch: Batch, particles: int) -> Tensor:
    """Return ln p(tokens | latents) of K draws of q, (K, B) float64 on the CPU."""
    starts = range(0, particles, DRAWN_AT_ONCE)
    chunks = (draw(model, guide, batch, min(DRAWN_AT_ONCE, particles - start)) for start in starts)
    return torch.cat([chunk.log_likelihood.double().cpu() for chunk in chunks])


class Lost(NamedTuple):
    """Nats a sentence that ln p(y | latents, x) falls by, and the standard error over the sentences."""

    nats: float
    error: float


@dataclass(frozen=True)
class Ways:
    """How ln p(y | latents, x) falls when the source, or what is drawn from it, is that of another text.

    ``whole``: with another source in all, latents drawn from it; ``around``: with another source and the latents of the
    right one, what goes past them; ``other`` by site: with this site alone drawn from another source; ``prior`` by
    site: with this site alone drawn from its prior. Expectations over one draw of q for each of ``sentences`` texts.
    ``whole`` is None and ``other`` empty where q reads the text too, since it then tells what the source does not.
    """

    sentences: int
    whole: Lost | None
    around: Lost
    other: dict[str, Lost]
    prior: dict[str, Lost]


def ways_of(model: nn.Module, guide: nn.Module, sentences: CommonSentences, *, seed: int = 0) -> Ways | None:
    """Give each text the source of another, and look what is lost; None for a single text, and without sources.

    At most :data:`COMPARED` texts, always the same ones, each paired with another by a fixed permutation.
    """
    some = subset(sentences, chosen_rows(len(sentences.texts), COMPARED))
    own = some.merged()
    if own.source is None or own.size < 2:
        return None
    order = torch.randperm(own.size, generator=torch.Generator().manual_seed(seed)).to(own.tokens.device)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    pairs = _pairs(own, own.source, partner)
    from_source = decodes_from_guide(model)
    falls: dict[tuple[str, str], list[Tensor]] = {}
    with measuring(seed, model, guide):
        for pair in pairs:
            for key, value in _falls(model, guide, *pair, from_source).items():
                falls.setdefault(key, []).append(value.double().cpu())
    lost = {key: _lost(torch.cat(values)) for key, values in falls.items()}
    by_site = {kind: {site: value for (of, site), value in lost.items() if of == kind} for kind in ("other", "prior")}
    return Ways(own.size, lost.get(("whole", "")), lost["around", ""], by_site["other"], by_site["prior"])


def _pairs(texts: Batch, sources: Batch, partner: Tensor) -> Iterator[tuple[Batch, Batch]]:
    """Yield some texts at a time, with their own sources and with those of their partners, equally wide."""
    for rows in torch.arange(texts.size, device=partner.device).split(ROWS):
        some = texts.take(rows)
        width = int(torch.maximum(sources.lengths[rows], sources.lengths[partner[rows]]).max())
        own, strange = (_as_wide(sources, whose, width) for whose in (rows, partner[rows]))
        yield replace(some, source=own), replace(some, source=strange)


def _as_wide(batch: Batch, rows: Tensor, width: int) -> Batch:
    """Return some rows in so many steps."""
    return batch.map(lambda tensor: tensor[rows] if tensor.dim() == 1 else tensor[rows, :width])


def _falls(
    model: Any, guide: nn.Module, own: Batch, strange: Batch, from_source: bool
) -> dict[tuple[str, str], Tensor]:
    """Return by how much each text (B,) loses, by what is exchanged and of which site."""
    drawn = poutine.trace(guide).get_trace(own)
    sites = [spec.name for spec in model.latents]
    right = _likelihood(model, own, drawn)
    found = {("around", ""): right - _likelihood(model, strange, drawn)}
    for name in sites:
        found["prior", name] = right - _likelihood(model, own, _with(drawn, name, None))
    if from_source:
        other = poutine.trace(guide).get_trace(strange)
        found["whole", ""] = right - _likelihood(model, strange, other)
        for name in sites:
            found["other", name] = right - _likelihood(model, own, _with(drawn, name, other.nodes[name]))
    elif not sites:
        found["whole", ""] = found["around", ""]
    return found


def _with(trace: poutine.Trace, name: str, node: dict[str, Any] | None) -> poutine.Trace:
    """Return the draws with another one of one site, or with none of it."""
    changed = poutine.Trace()
    for site, values in stochastic_sites(trace):
        given = node if site == name else values
        if given is not None:
            changed.add_node(site, **{**given, "name": site})
    return changed


def _likelihood(model: nn.Module, batch: Batch, drawn: poutine.Trace) -> Tensor:
    """Return ln p(tokens | latents, source), (B,), with what has not been drawn from the model's prior."""
    nodes = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(batch)
    return sum((log_density(s) for _, s in stochastic_sites(nodes) if s["is_observed"]), start=torch.zeros(()))


def _lost(values: Tensor) -> Lost:
    return Lost(float(values.mean()), float(values.std() / len(values) ** 0.5))
