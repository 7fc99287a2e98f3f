"""What a guide's latents say about the sentences: active units and mutual information.

Both are of one site, or of several sites together. The mutual information I_q(x; z) compares ln q(z | x) with the
aggregate posterior ln Σ_j w_j q(z | x_j) of all sentences. Where the site's distribution in a trace of the guide is
q(z | x) itself (:func:`posterior_site`), the guide reads the sentences once and those distributions score every z;
otherwise it is run for every block of z. Where another latent is drawn before the sites that are asked for, their
density given x alone is an integral over it, and the mutual information cannot be known.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.latents import LatentSpec
from ..metrics.words import entropy, merged_counts
from ..objectives.terms import is_auxiliary, particle_plate, stochastic_sites
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
    (N,), the steps of each sentence, the site runs along the text: computed within each step over the sentences that
    reach it (at least two), then averaged over the steps with the weight of those sentences. Comparing across steps
    instead would count what the position says, which every guide knows.
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
    """Count the units (D,) that are active."""
    return int((variances >= threshold).sum())


class MutualInformation(NamedTuple):
    """I_q(x; z) in nats, NaN where it cannot be known; and its cap: the entropy of the sentences, equal ones merged.

    ``so_far``: of several sites, for each in the order in which the guide draws them I_q(x; it and those before it);
    the last is ``value``. By the chain rule, what it exceeds the one before by is I_q(x; site | sites before).
    """

    value: float
    cap: float
    so_far: Mapping[str, float]


def mutual_information(
    guide: nn.Module,
    sentences: CommonSentences,
    latents: Sequence[LatentSpec],
    *,
    draws: int = 4,
    pairs: int = 32768,
    conditional: bool = False,
) -> MutualInformation:
    """I_q(x; z) = E_x E_q(z|x) [ln q(z | x) - ln Σ_j w_j q(z | x_j)], the common sentences being all that there are.

    Args:
        guide: q; its other sites do not count, and those behind ``latents`` are not run where none is needed.
        sentences: N sentences with weights.
        latents: z, one site or several together. Where one has a step axis, sentences are compared only among those
            of the same length, since the length is not information of z; the cap is then Σ_l w_l H(x | length l).
        draws: of z for each sentence, from torch's global random state.
        pairs: of a z and a sentence that are scored at once.
        conditional: whether x is a text with its source, which the model reads.

    Returns:
        The information, NaN where another latent is drawn before z: q(z | x) is then an integral over it. Where the
        guide has auxiliary sites u before z, their drawn values are kept when q is evaluated for other sentences: the
        figure is I(x; z | u), an upper bound of I(x; z) wherever u does not depend on x.
    """
    by_length = any(spec.step_axis for spec in latents)
    names = [spec.name for spec in latents]
    posteriors = read_posteriors(guide, sentences, names[0]) if len(names) == 1 and not by_length else None
    if posteriors is not None:
        cap = entropy_of(sentences.merged(), conditional)
        found = aggregate_information(posteriors, draws, pairs) if len(sentences.weights) > 1 else 0.0
        return MutualInformation(found, cap, {names[0]: found})
    batch, cap = sentences.merged(), 0.0
    so_far = dict.fromkeys(names, 0.0)
    for rows in _groups(batch.lengths, by_length):
        group = batch.take(rows)
        share = group.weights.double() / group.weights.sum()
        mass = float(group.weights.sum() / batch.weights.sum())
        cap += mass * entropy_of(group, conditional)
        if group.size > 1 and latents:
            part = _within(guide, group, share, names, draws, max(1, pairs // group.size))
            so_far = {name: so_far[name] + mass * value for name, value in part.items()}
    return MutualInformation(next(reversed(so_far.values()), 0.0), cap, so_far)


def entropy_of(batch: Batch, conditional: bool) -> float:
    """Return H(x) of the sentences of a batch by their weights, nats: equal rows of ids are one x.

    It is ln B for B different sentences of equal weights. ``conditional``: x is a text with its source.
    """
    sides = [batch, batch.source] if conditional and batch.source is not None else [batch]
    rows = zip(*(_ids(side) for side in sides), strict=True)
    return entropy(merged_counts(rows, batch.weights.double().cpu().numpy()))


def _ids(side: Batch) -> list[tuple[int, ...]]:
    """Return the ids of each row, without its padding."""
    lengths = side.lengths.tolist()
    return [tuple(row[:length]) for row, length in zip(side.tokens.tolist(), lengths, strict=True)]


def _groups(lengths: Tensor, by_length: bool) -> Iterator[Tensor]:
    for length in lengths.unique() if by_length else [None]:
        kept = torch.ones_like(lengths, dtype=torch.bool) if length is None else lengths == length
        yield torch.nonzero(kept).squeeze(-1)


def _within(
    guide: nn.Module, batch: Batch, share: Tensor, names: Sequence[str], draws: int, chunk: int
) -> dict[str, float]:
    """Do the same for one group of sentences with shares (B,): by site what it and those drawn before it say."""
    total, order = torch.zeros(len(names), dtype=torch.float64, device=share.device), list(names)
    with torch.no_grad(), pyro.validation_enabled(False):
        for _ in range(draws):
            sites = stochastic_sites(trace_until(guide, batch, names))
            if any(name not in names and not is_auxiliary(site) for name, site in sites):
                return dict.fromkeys(names, math.nan)
            values = {n: s["value"] for n, s in sites}
            shapes = {n: len(s["fn"].batch_shape) for n, s in sites}
            order = [n for n, _ in sites if n in names]
            for rows in torch.arange(batch.size, device=share.device).split(chunk):
                given = {n: _for_every_sentence(v, shapes[n], rows, batch.size) for n, v in values.items()}
                log_q = _conditional_densities(guide, batch, given, order, len(rows)).cumsum(0)
                own = log_q[:, torch.arange(len(rows), device=rows.device), rows]
                mixture = (beyond_range(log_q) + share.log()).logsumexp(-1)
                total += (share[rows] * (own - mixture)).sum(-1)
    return dict(zip(order, (total / draws).tolist(), strict=True))


def _for_every_sentence(value: Tensor, batch_dims: int, rows: Tensor, size: int) -> Tensor:
    """z of the sentences ``rows`` (R,) given to all B: batch shape (…, 1, B) becomes (…, R, B)."""
    event = value.shape[batch_dims:]
    shape = (1,) * max(0, 2 - batch_dims) + tuple(value.shape[:batch_dims])
    chosen = value.reshape(*shape, *event).transpose(len(shape) - 2, len(shape) - 1)
    chosen = chosen.index_select(len(shape) - 2, rows)
    return chosen.expand(*shape[:-2], len(rows), size, *event)


def _conditional_densities(
    guide: nn.Module, batch: Batch, given: dict[str, Tensor], names: Sequence[str], particles: int
) -> Tensor:
    """Ln q(z_r | x_b, u_r, sites before) of given values of each of n sites, (n, R, B) float64."""
    with particle_plate(particles):
        trace = trace_until(poutine.condition(guide, data=given), batch, names)
    trace.compute_log_prob(lambda name, _: name in names)
    sites = dict(stochastic_sites(trace))
    return torch.stack([sites[name]["log_prob"].double().expand(particles, batch.size) for name in names])


class _EnoughError(Exception):
    """Every site that was asked for has been sampled."""


class _Until(Messenger):
    """Leaves a program once some sites have been sampled: what follows would cost time and memory and say nothing."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._missing = set(names)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self._missing.discard(msg["name"])
        if not self._missing:
            raise _EnoughError


def trace_until(program: Callable[[Batch], Any], batch: Batch, names: Collection[str]) -> poutine.Trace:
    """Trace a program as far as the last of the sites ``names``; what it would do afterwards is left out."""

    def part(batch: Batch) -> None:
        # Within the trace, which has noted a site before the program is left.
        with contextlib.suppress(_EnoughError), _Until(names):
            program(batch)

    return poutine.trace(part).get_trace(batch)


class Posterior(NamedTuple):
    """q(z | x_b) of the B sentences of a batch, one z of each (B, …), and their shares (B,) of all N."""

    q: Any
    value: Tensor
    share: Tensor


def posterior_site(trace: poutine.Trace, batch: Batch, name: str) -> dict[str, Any] | None:
    """Return the site ``name`` of a guide's trace where its distribution is q(z | x); None where it need not be.

    It is where the site is the first that the guide draws, unmasked and once for each sentence. A site behind others
    has a distribution given their values, and q(z | x) is known only by running the guide.
    """
    sites = stochastic_sites(trace)
    if not sites or sites[0][0] != name:
        return None
    _, site = sites[0]
    plain = site["mask"] is None and not site["is_observed"] and site["fn"].batch_shape == (batch.size,)
    return site if plain else None


def _read(guide: nn.Module, batch: Batch, name: str) -> dict[str, Any] | None:
    return posterior_site(trace_until(guide, batch, [name]), batch, name)


def read_posteriors(guide: nn.Module, sentences: CommonSentences, name: str) -> list[Posterior] | None:
    """Return the posteriors of site ``name`` batch by batch, each with one draw; None where the guide knows none."""
    total, found = float(sentences.weights.sum()), []
    with torch.no_grad(), pyro.validation_enabled(False):
        # Looked at without a trace in the random numbers, since most guides that are run anew go on from here.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if _read(guide, sentences.batches[0], name) is None:
                return None
        for batch in sentences:
            site = _read(guide, batch, name)
            if site is None:
                return None
            found.append(Posterior(site["fn"], site["value"], batch.weights.double() / total))
    return found


def aggregate_information(posteriors: list[Posterior], draws: int, pairs: int) -> float:
    """E_x E_q(z|x) [ln q(z | x) - ln Σ_j w_j q(z | x_j)] in nats, by ``draws`` of z for each of the N sentences.

    The first draw is the one at hand. ``pairs`` of a z and a sentence are scored at once.
    """
    total = 0.0
    with torch.no_grad(), pyro.validation_enabled(False):
        for number in range(draws):
            for drawn in [_draw(owner, anew=number > 0) for owner in posteriors]:
                total += float((drawn.owner.share * _surprise(drawn, posteriors, pairs)).sum())
    return total / draws


class _Drawn(NamedTuple):
    """z of the sentences of a batch (B, …) and ln q(z_b | x_b) (B,)."""

    owner: Posterior
    value: Tensor
    own: Tensor


def _draw(owner: Posterior, *, anew: bool) -> _Drawn:
    """Scored at once: a flow remembers its last draw, and inverts any other with the rounding of its scales."""
    value = owner.q() if anew else owner.value
    return _Drawn(owner, value, owner.q.log_prob(value).double())


def beyond_range(log_q: Tensor) -> Tensor:
    """Return ln q(z | x_j) at the z of other sentences, -∞ where it is no number.

    A flow whose scales are tiny takes a z from elsewhere to values past the range of floats, of which infinities of
    both signs add up to no number; the density falls like exp(-u²/2) on the way there. Whether ln q is a number at a
    sentence's own z, which is only drawn and never inverted, is not asked here.
    """
    return log_q.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _surprise(drawn: _Drawn, posteriors: list[Posterior], pairs: int) -> Tensor:
    """ln q(z_b | x_b) - ln Σ_j w_j q(z_b | x_j) for the z of one batch, (B,).

    Point masses have densities of +∞ where they lie; counted there instead (1 each), so that the difference is
    -ln of the share of the sentences with that very z.
    """
    points = bool(torch.isposinf(drawn.own).all())
    own = torch.zeros_like(drawn.own) if points else drawn.own
    found = torch.full_like(own, -torch.inf)
    for other in posteriors:
        size = len(other.share)
        parts = []
        for rows in torch.arange(len(own), device=own.device).split(max(1, pairs // size)):
            z = drawn.value[rows]
            log_q = beyond_range(other.q.log_prob(z.unsqueeze(1).expand(len(z), size, *z.shape[1:])).double())
            log_q = torch.isposinf(log_q).double().log() if points else log_q
            if other is drawn.owner:
                log_q = log_q.index_put((torch.arange(len(rows), device=rows.device), rows), own[rows])
            parts.append((log_q + other.share.log()).logsumexp(-1))
        found = torch.logaddexp(found, torch.cat(parts))
    return own - found
