"""What the latents of a sentence carry: KL by dimension, mutual information, active units, in one reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import Independent, kl_divergence

from ..core.atomic import finite_or_none
from ..core.batch import Batch
from ..core.latents import LatentSpec, of_sentence
from ..objectives.closed_form import is_masked, site_kl
from ..objectives.terms import LatentTerms, is_auxiliary, particle_plate, stochastic_sites
from .aggregate import posterior_site
from .representation import VERY_ACTIVE, DrawMoments, active_units, mutual_information, unit_variances
from .sentences import CommonSentences, chosen_rows, subset


@dataclass(frozen=True)
class LatentFigures:
    """What the latents say of N sentences; nats per sentence.

    ``kl``: E_x KL(q(z | x) ‖ p(z)), in closed form where one is known; ``mutual_information`` I_q(x; z) against the
    aggregate posterior q(z) of ``compared`` of them (all N, or fewer where that is costly), which cannot pass
    ``mutual_information_cap``, the entropy of these, ln ``compared`` for equal weights;
    ``active_units`` and ``active_units_02`` of ``latent_units`` entries: those whose posterior mean varies over the
    sentences by 0.01 or 0.2 and more (unbiased variance; None where latents are not real or there is one sentence);
    ``kl_by_dimension``: E_x of the KL of each entry, which sum to ``kl``; empty where it is no such sum;
    ``compared_kl``: ``kl`` of the compared sentences.
    """

    sentences: int
    kl: float
    compared_kl: float
    mutual_information: float
    mutual_information_cap: float
    active_units: int | None
    active_units_02: int | None
    latent_units: int
    kl_by_dimension: tuple[float, ...]
    compared: int

    @property
    def marginal_kl(self) -> float:
        """KL(q(z) ‖ p(z)) = KL - I_q(x; z) of the compared sentences: what latents cost without telling these apart."""
        return self.compared_kl - self.mutual_information

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is no finite number is None."""
        names = ("mutual_information", "mutual_information_cap", "marginal_kl")
        values = {name: getattr(self, name) for name in names}
        return {
            **finite_or_none(values),
            "compared": self.compared,
            "active_units": self.active_units,
            "active_units_02": self.active_units_02,
            "latent_units": self.latent_units,
            "kl_by_dimension": list(self.kl_by_dimension),
        }


def sentence_latents(model: nn.Module) -> tuple[LatentSpec, ...]:
    """Return the model's latents where all of them belong to whole sentences; none otherwise."""
    latents: tuple[LatentSpec, ...] = getattr(model, "latents", ())
    return latents if len(of_sentence(latents)) == len(latents) else ()


def latent_figures(
    model: nn.Module,
    guide: nn.Module,
    sentences: CommonSentences,
    *,
    draws: int = 4,
    mean_draws: int = 64,
    costly: int = 256,
) -> LatentFigures | None:
    """Read the latents of all sentences; None where there are none of sentences (:func:`sentence_latents`).

    ``draws`` of z per sentence stand behind the mutual information, and behind the KL where it is not known in closed
    form; ``mean_draws`` behind posterior means that are not known, since a variance of means of few draws is noise
    of the size of the threshold. Without closed forms the density is taken to be costly (the inverse of an
    autoregressive flow takes D passes), and the mutual information is that of ``costly`` sentences by one draw.
    Draws from torch's global random state; the tokens are not scored.
    """
    latents = sentence_latents(model)
    if not latents:
        return None
    with torch.no_grad(), pyro.validation_enabled(False):
        parts = [_read(model, guide, batch, latents, draws, mean_draws) for batch in sentences]
        cheap = all(part.closed for part in parts)
        chosen = chosen_rows(len(sentences.texts), len(sentences.texts) if cheap else costly)
        compared = subset(sentences, chosen)
        information = mutual_information(guide, compared, latents, draws=draws if cheap else 1)
    share, variances = sentences.share, _variances(parts, sentences)
    kl = torch.cat([part.kl for part in parts])
    entries = [part.entries for part in parts if part.entries is not None]
    by_dimension = (share @ torch.cat(entries)).tolist() if len(entries) == len(parts) else []
    return LatentFigures(
        sentences=len(share),
        kl=float(share @ kl),
        compared_kl=float(share[chosen] @ kl[chosen] / share[chosen].sum()),
        mutual_information=information.value,
        mutual_information_cap=information.cap,
        active_units=None if variances is None else active_units(variances),
        active_units_02=None if variances is None else active_units(variances, VERY_ACTIVE),
        latent_units=sum(math.prod(site.value.shape[len(site.q.batch_shape) :]) for site in parts[0].sites.values()),
        kl_by_dimension=tuple(by_dimension),
        compared=len(compared.texts),
    )


class _Reading(NamedTuple):
    """Of one batch, float64 on the CPU: ``kl`` (B,), its ``entries`` (B, D), moments (B, D) of the real sites.

    ``closed``: KL and posterior means are known, nothing of it is by Monte Carlo.
    """

    sites: dict[str, LatentTerms]
    kl: Tensor
    entries: Tensor | None
    moments: DrawMoments | None
    closed: bool


def _read(
    model: nn.Module, guide: nn.Module, batch: Batch, latents: Sequence[LatentSpec], draws: int, mean_draws: int
) -> _Reading:
    sites, plain = _latent_terms(model, guide, batch, 1)
    closed = plain and all(site_kl(site) is not None and _mean(site.q) is not None for site in sites.values())
    if not closed:
        # Two draws are the least that know their own noise.
        sites, _ = _latent_terms(model, guide, batch, max(2, draws))
    divergences = [_divergence(site) for site in sites.values()]
    entries = [entrywise_kl(sites[spec.name]) for spec in latents]
    by_dimension = [_by_dimension(kl, spec) for kl, spec in zip(entries, latents, strict=True) if kl is not None]
    real = [spec.name for spec in latents if spec.support == "real"]
    moments = [_known(sites[name]) for name in real] if closed else _drawn(guide, batch, real, max(2, mean_draws))
    return _Reading(
        sites,
        torch.stack(divergences).sum(0).double().cpu(),
        torch.cat(by_dimension, -1).double().cpu() if len(by_dimension) == len(latents) else None,
        _side_by_side(moments) if moments else None,
        closed,
    )


def _latent_terms(
    model: nn.Module, guide: nn.Module, batch: Batch, particles: int
) -> tuple[dict[str, LatentTerms], bool]:
    """The latent sites of K particles, no token scored; and whether the one site of K = 1 is q(z | x) itself."""
    with particle_plate(particles):
        drawn = poutine.trace(guide).get_trace(batch)
        replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(batch)
    sites = {
        name: LatentTerms((particles, batch.size), replayed.nodes[name], site)
        for name, site in stochastic_sites(drawn)
        if not is_auxiliary(site)
    }
    return sites, posterior_site(drawn, batch) is not None


def _mean(q: Any) -> Tensor | None:
    try:
        mean: Tensor = q.mean
    except NotImplementedError:
        return None
    return mean


def _divergence(site: LatentTerms) -> Tensor:
    """KL(q ‖ p), (B,): in closed form, or by the mean over the particles."""
    closed = site_kl(site)
    kl = site.log_q - site.log_p if closed is None else closed.expand(site.shape)
    return kl.mean(0)


def entrywise_kl(site: LatentTerms) -> Tensor | None:
    """KL of every entry of the latent, (…, B, *event), where q and p are products over entries; otherwise None."""
    q, p = _entries(site.q), _entries(site.p)
    if is_masked(site) or q.event_shape or p.event_shape:
        return None
    try:
        kl: Tensor = kl_divergence(q, p)
    except NotImplementedError:
        return None
    return kl if kl.shape == site.value.shape else None


def _entries(distribution: Distribution) -> Any:
    """The distribution of the entries behind ``to_event``."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _by_dimension(kl: Tensor, spec: LatentSpec) -> Tensor:
    """Sum over the event axes beside D, mean over particles: (B, D)."""
    kl = kl.reshape(-1, *kl.shape[kl.dim() - 1 - len(spec.axes) :]).mean(0)
    others = [1 + place for place, axis in enumerate(spec.axes) if axis != "D"]
    return kl.sum(others) if others and "D" in spec.axes else kl.reshape(len(kl), -1)


def _known(site: LatentTerms) -> DrawMoments:
    """Posterior means (B, units) that the distribution knows: without noise."""
    mean = site.q.mean.reshape(site.shape[1], -1).double().cpu()
    return DrawMoments(mean, torch.zeros_like(mean), 1)


def _drawn(guide: nn.Module, batch: Batch, names: Sequence[str], draws: int) -> list[DrawMoments]:
    """Posterior means (B, units) of each site by the mean of draws, with the variance of these."""
    with particle_plate(draws):
        nodes = poutine.trace(guide).get_trace(batch).nodes
    values = [nodes[name]["value"].reshape(draws, batch.size, -1).double().cpu() for name in names]
    return [DrawMoments(value.mean(0), value.var(0), draws) for value in values]


def _side_by_side(moments: Sequence[DrawMoments]) -> DrawMoments:
    """The units of several sites as those of one."""
    means, variances = ([getattr(m, name) for m in moments] for name in ("mean", "variance"))
    return DrawMoments(torch.cat(means, -1), torch.cat(variances, -1), moments[0].draws)


def _variances(parts: Sequence[_Reading], sentences: CommonSentences) -> Tensor | None:
    """Unbiased variance over sentences of each unit's posterior mean, (units,); None where there is none."""
    found = [part.moments for part in parts if part.moments is not None]
    alike = float(sentences.share.square().sum())
    if not found or len(sentences.share) < 2:
        return None
    moments = DrawMoments(torch.cat([m.mean for m in found]), torch.cat([m.variance for m in found]), found[0].draws)
    return unit_variances(moments, sentences.weights) / (1.0 - alike)
