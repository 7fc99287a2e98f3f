"""What a guide's latents say about the sentences: active units and mutual information."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.latents import LatentSpec
from ..objectives.terms import is_auxiliary, particle_plate, stochastic_sites
from .aggregate import aggregate_information, beyond_range, read_posteriors
from .sentences import CommonSentences

ACTIVE = 0.01
"""A unit is active when the variance of its posterior mean over sentences is at least this (Burda et al. 2016)."""

VERY_ACTIVE = 0.2
"""A stricter threshold: a fifth of the prior's variance."""


class DrawMoments(NamedTuple):
    """Of S draws of one site for N sentences: mean and unbiased variance over the draws, (N, [T,] D)."""

    mean: Tensor
    variance: Tensor
    draws: int


def unit_variances(moments: DrawMoments, weights: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Var_x E_q[z_d | x] over the sentences, (D,).

    The mean of S draws has noise variance s²/S of its own, which is taken off: with shares w,
    Σ_n w_n (m_n - m̄)² - Σ_n w_n (1 - w_n) s_n²/S is unbiased, and may come out a little below 0. With ``lengths``
    (N,) the site has a T axis: computed within each step over the sentences that reach it (at least two), then
    averaged over the steps with the weight of those sentences. Comparing across steps instead would count what
    the position says, which every guide knows.
    """
    if lengths is None:
        return _variance(moments.mean, moments.variance / moments.draws, weights)
    total, mass = torch.zeros_like(moments.mean[0, 0]), 0.0
    for step in range(moments.mean.shape[1]):
        rows = lengths > step
        if int(rows.sum()) < 2:
            break
        noise = moments.variance[rows, step] / moments.draws
        weight = float(weights[rows].sum())
        total = total + weight * _variance(moments.mean[rows, step], noise, weights[rows])
        mass += weight
    return total / mass if mass else total


def _variance(means: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
    share = (weights / weights.sum()).unsqueeze(-1)
    spread = (share * (means - (share * means).sum(0)).square()).sum(0)
    return spread - (share * (1 - share) * noise).sum(0)


def active_units(variances: Tensor, threshold: float = ACTIVE) -> int:
    """How many of the units (D,) are active."""
    return int((variances >= threshold).sum())


class MutualInformation(NamedTuple):
    """I_q(x; z) in nats, and its cap: the entropy of the sentences, which no latent can pass."""

    value: float
    cap: float


def mutual_information(
    guide: nn.Module,
    sentences: CommonSentences,
    latents: Sequence[LatentSpec],
    *,
    draws: int = 4,
    pairs: int = 32768,
) -> MutualInformation:
    """I_q(x; z) = E_x E_q(z|x) [ln q(z | x) - ln Σ_j w_j q(z | x_j)], the common sentences being all that there are.

    Latents with a T axis are compared only among sentences of the same length, since the length is not
    information of z; the cap is then E ln N_length for equal weights, Σ_l w_l H(x | length l) in general. Where
    the guide has auxiliary sites u, their drawn values are kept when q is evaluated for other sentences: the figure
    is I(x; z | u), an upper bound of I(x; z) wherever u does not depend on x. ``draws`` of z per sentence;
    ``pairs`` of a z and a sentence are scored at once. Draws from torch's global random state.

    Where the guide's one site without a T axis is distributed as q(z | x) itself, the guide reads the sentences once
    and those distributions score every z (:mod:`.aggregate`); otherwise the guide is run for every block of z.
    """
    by_length = any(spec.step_axis for spec in latents)
    posteriors = read_posteriors(guide, sentences) if latents and not by_length else None
    if posteriors is not None:
        share = sentences.share
        cap = -float((share * share.log()).sum())
        return MutualInformation(aggregate_information(posteriors, draws, pairs) if len(share) > 1 else 0.0, cap)
    batch = sentences.merged()
    value = cap = 0.0
    for rows in _groups(batch.lengths, by_length):
        group = batch.take(rows)
        share = group.weights.double() / group.weights.sum()
        mass = float(group.weights.sum() / batch.weights.sum())
        cap -= mass * float((share * share.log()).sum())
        if group.size > 1 and latents:
            value += mass * _within(guide, group, share, draws, max(1, pairs // group.size))
    return MutualInformation(value, cap)


def _groups(lengths: Tensor, by_length: bool) -> Iterator[Tensor]:
    for length in lengths.unique() if by_length else [None]:
        kept = torch.ones_like(lengths, dtype=torch.bool) if length is None else lengths == length
        yield torch.nonzero(kept).squeeze(-1)


def _within(guide: nn.Module, batch: Batch, share: Tensor, draws: int, chunk: int) -> float:
    """The same for one group of sentences with shares (B,)."""
    total = 0.0
    with torch.no_grad(), pyro.validation_enabled(False):
        for _ in range(draws):
            trace = poutine.trace(guide).get_trace(batch)
            values = {n: s["value"] for n, s in stochastic_sites(trace)}
            shapes = {n: len(s["fn"].batch_shape) for n, s in stochastic_sites(trace)}
            for rows in torch.arange(batch.size, device=share.device).split(chunk):
                given = {n: _for_every_sentence(v, shapes[n], rows, batch.size) for n, v in values.items()}
                log_q = _conditional_density(guide, batch, given, len(rows))
                own = log_q[torch.arange(len(rows), device=rows.device), rows]
                mixture = (beyond_range(log_q) + share.log()).logsumexp(-1)
                total += float((share[rows] * (own - mixture)).sum())
    return total / draws


def _for_every_sentence(value: Tensor, batch_dims: int, rows: Tensor, size: int) -> Tensor:
    """z of the sentences ``rows`` (R,) given to all B: batch shape (…, 1, B) becomes (…, R, B)."""
    event = value.shape[batch_dims:]
    shape = (1,) * max(0, 2 - batch_dims) + tuple(value.shape[:batch_dims])
    chosen = value.reshape(*shape, *event).transpose(len(shape) - 2, len(shape) - 1)
    chosen = chosen.index_select(len(shape) - 2, rows)
    return chosen.expand(*shape[:-2], len(rows), size, *event)


def _conditional_density(guide: nn.Module, batch: Batch, given: dict[str, Tensor], particles: int) -> Tensor:
    """Σ_sites ln q(z_r | x_b, u_r) of given values, (R, B) float64."""
    with particle_plate(particles):
        trace = poutine.trace(poutine.condition(guide, data=given)).get_trace(batch)
    trace.compute_log_prob(lambda _, site: not is_auxiliary(site))
    shape = (particles, batch.size)
    terms = [site["log_prob"].double().expand(shape) for _, site in stochastic_sites(trace) if not is_auxiliary(site)]
    return sum(terms, start=torch.zeros(shape, dtype=torch.float64, device=batch.tokens.device))
