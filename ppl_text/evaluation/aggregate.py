"""The aggregate posterior Σ_j w_j q(z | x_j) of all sentences, where q(z | x) is a distribution at hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ..core.batch import Batch
from ..objectives.terms import stochastic_sites
from .sentences import CommonSentences


class Posterior(NamedTuple):
    """q(z | x_b) of the B sentences of a batch, one z of each (B, …), and their shares (B,) of all N."""

    q: Any
    value: Tensor
    share: Tensor


def posterior_site(trace: poutine.Trace, batch: Batch) -> dict[str, Any] | None:
    """The site of a guide's trace whose distribution is q(z | x); None where the guide samples anything else.

    A guide with auxiliary sites, several sites or a mask knows q(z | x) only by being run.
    """
    sites = stochastic_sites(trace)
    if len(sites) != 1:
        return None
    _, site = sites[0]
    plain = site["mask"] is None and not site["is_observed"] and site["fn"].batch_shape == (batch.size,)
    return site if plain else None


def _read(guide: nn.Module, batch: Batch) -> dict[str, Any] | None:
    return posterior_site(poutine.trace(guide).get_trace(batch), batch)


def read_posteriors(guide: nn.Module, sentences: CommonSentences) -> list[Posterior] | None:
    """The posteriors of all batches, each with one draw; None where the guide is not of that kind."""
    total, found = float(sentences.weights.sum()), []
    with torch.no_grad(), pyro.validation_enabled(False):
        # Looked at without a trace in the random numbers, since most guides that are run anew go on from here.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if _read(guide, sentences.batches[0]) is None:
                return None
        for batch in sentences:
            site = _read(guide, batch)
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
    """ln q(z | x_j) at the z of other sentences, -∞ where it is no number.

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
