"""What the latents of a model carry, site by site: KL, mutual information, active units, in one reading.

A site of the whole sentence (no step axis) has :class:`SiteFigures`; one with a step for each token has
:class:`StepFigures`, since its mutual information would be that of the position and the length, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from ..objectives.bounds import is_masked, site_kl
from ..objectives.terms import LatentTerms, is_auxiliary, particle_plate, stochastic_sites
from .information import (
    VERY_ACTIVE,
    DrawMoments,
    active_units,
    mutual_information,
    posterior_site,
    trace_until,
    unit_variances,
)
from .scores import steps_of
from .sentences import CommonSentences, chosen_rows, subset
from .storytelling import is_conditional


@dataclass(frozen=True)
class SiteFigures:
    """What a latent of whole sentences, or several of them together, says of N sentences; nats per sentence.

    ``kl``: E_x KL(q(z | x) ‖ p(z)), in closed form where one is known; ``mutual_information`` I_q(x; z) against the
    aggregate posterior q(z) of ``compared`` of them (all N, or fewer where that is costly), which cannot pass
    ``mutual_information_cap``, the entropy of these (equal ones merged), and is NaN where it cannot be known
    (:func:`~ppl_text.evaluation.information.mutual_information`);
    ``active_units`` and ``active_units_02`` of ``latent_units`` entries: those whose posterior mean varies over the
    sentences by 0.01 or 0.2 and more (unbiased variance; None where latents are not real or there is one sentence);
    ``kl_by_dimension``: E_x of the KL of each entry, which sum to ``kl``; empty where it is no such sum;
    ``compared_kl``: ``kl`` of the compared sentences; ``so_far``: I_q(x; this site and those drawn before it), against
    the same number of sentences as those of all sites together, None where the site is alone; ``added``: what of it the
    site adds to those before, I_q(x; site | sites before), which its KL exceeds whatever is drawn before it.
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
    so_far: float | None = None
    added: float | None = None

    @property
    def marginal_kl(self) -> float:
        """KL(q(z) ‖ p(z)) = KL - I_q(x; z) of the compared sentences: what latents cost without telling these apart."""
        return self.compared_kl - self.mutual_information

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is no finite number is None."""
        names = ("mutual_information", "mutual_information_cap", "marginal_kl")
        return {
            **finite_or_none({name: getattr(self, name) for name in names}),
            **({} if self.so_far is None else {"information_so_far": finite_or_none(self.so_far)}),
            "compared": self.compared,
            "active_units": self.active_units,
            "active_units_02": self.active_units_02,
            "latent_units": self.latent_units,
            "kl_by_dimension": list(self.kl_by_dimension),
        }


@dataclass(frozen=True)
class StepFigures:
    """What a latent with a step axis costs: ``kl`` in nats per sentence, of ``steps`` steps on average.

    The KL is E_x E_q[KL(q ‖ p)] given the latents drawn before it, in closed form where one is known.
    """

    sentences: int
    kl: float
    steps: float

    @property
    def kl_per_step(self) -> float:
        """Nats per step of the site."""
        return self.kl / self.steps

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is no finite number is None."""
        found: dict[str, Any] = finite_or_none({"kl": self.kl, "kl_per_step": self.kl_per_step, "steps": self.steps})
        return found


@dataclass(frozen=True)
class LatentFigures:
    """The latents of a model: each site by itself, and all of whole sentences ``together`` (None: there is none)."""

    sites: dict[str, SiteFigures | StepFigures]
    together: SiteFigures | None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of all together and, where there are several sites, of each under ``sites``."""
        values = {} if self.together is None else self.together.as_dict()
        if len(self.sites) > 1:
            values["sites"] = {
                name: {"kl": finite_or_none(site.kl), **site.as_dict()} for name, site in self.sites.items()
            }
        return values


def says_more(latents: Sequence[LatentSpec]) -> bool:
    """Return whether there is more to say of them than the KL of a lone path, which stands beside the bounds."""
    return len(latents) > 1 or bool(of_sentence(latents))


def latent_figures(
    model: nn.Module,
    guide: nn.Module,
    sentences: CommonSentences,
    *,
    draws: int = 4,
    mean_draws: int = 64,
    costly: int = 256,
) -> LatentFigures | None:
    """Read the latents of all sentences; the tokens are not scored.

    Args:
        model: the story, whose ``latents`` are read.
        guide: q.
        sentences: N sentences with weights.
        draws: of z per sentence behind the mutual information, and behind a KL that is not known in closed form;
            from torch's global random state.
        mean_draws: behind posterior means that are not known, since a variance of means of few draws is noise of the
            size of the threshold.
        costly: without closed forms the density is taken to be costly (the inverse of an autoregressive flow takes D
            passes), and the mutual information is that of so many sentences by one draw.

    Returns:
        The figures; None where there is nothing latent, or a lone path (:func:`says_more`).
    """
    latents: tuple[LatentSpec, ...] = getattr(model, "latents", ())
    if not says_more(latents):
        return None
    with torch.no_grad(), pyro.validation_enabled(False):
        parts = [_read(model, guide, batch, latents, draws, mean_draws) for batch in sentences]
        read = {spec.name: _joined([part[spec.name] for part in parts]) for spec in latents}

        def told(whole: Sequence[LatentSpec]) -> tuple[SiteFigures, Mapping[str, float]]:
            return _told(model, guide, sentences, whole, [read[spec.name] for spec in whole], draws, costly)

        whole = of_sentence(latents)
        sites: dict[str, SiteFigures | StepFigures] = {
            spec.name: told([spec])[0] if spec in whole else _stepwise(read[spec.name], sentences.share)
            for spec in latents
        }
        if len(whole) < 2:
            alone = (sites[spec.name] for spec in whole)
            return LatentFigures(sites, next((site for site in alone if isinstance(site, SiteFigures)), None))
        together, so_far = told(whole)
    before = 0.0
    for name, value in so_far.items():
        site = sites[name]
        if isinstance(site, SiteFigures):
            sites[name] = replace(site, so_far=value, added=value - before)
        before = value
    return LatentFigures(sites, together)


class _SiteTerms(NamedTuple):
    """Of one site, float64 on the CPU: ``kl`` (B,), its ``entries`` (B, D), moments (B, units) where it is real.

    ``steps`` (B,): of the site, where it has any; ``units``: entries of a sentence. ``closed``: KL and posterior means
    are known, nothing of it is by Monte Carlo.
    """

    kl: Tensor
    entries: Tensor | None
    moments: DrawMoments | None
    steps: Tensor | None
    units: int
    closed: bool


def _read(
    model: nn.Module, guide: nn.Module, batch: Batch, latents: Sequence[LatentSpec], draws: int, mean_draws: int
) -> dict[str, _SiteTerms]:
    """Read each site of one batch."""
    sites, closed = latent_terms(model, guide, batch, latents)
    drawn = sites
    if not all(closed.values()):
        # Two draws are the least that know their own noise.
        drawn, _ = latent_terms(model, guide, batch, latents, max(2, draws))
    real = [spec.name for spec in of_sentence(latents) if spec.support == "real"]
    unknown = [name for name in real if not closed[name]]
    moments = _drawn(guide, batch, unknown, max(2, mean_draws)) if unknown else {}
    moments |= {name: _known(sites[name]) for name in real if closed[name]}
    found = {}
    for spec in latents:
        site = sites[spec.name] if closed[spec.name] else drawn[spec.name]
        entries = entrywise_kl(site)
        steps = steps_of(site.q, spec, batch)
        found[spec.name] = _SiteTerms(
            divergence(site).double().cpu(),
            None if entries is None else _by_dimension(entries, spec).double().cpu(),
            moments.get(spec.name),
            None if steps is None else steps.double().cpu(),
            math.prod(site.value.shape[len(site.q.batch_shape) :]),
            closed[spec.name],
        )
    return found


def latent_terms(
    model: nn.Module, guide: nn.Module, batch: Batch, latents: Sequence[LatentSpec], particles: int = 1
) -> tuple[dict[str, LatentTerms], dict[str, bool]]:
    """Return the latent sites of K particles, no token scored; and of K = 1 whether all of each is known."""
    with particle_plate(particles):
        drawn = poutine.trace(guide).get_trace(batch)
        replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(batch)
    sites = {
        name: LatentTerms((particles, batch.size), replayed.nodes[name], site)
        for name, site in stochastic_sites(drawn)
        if not is_auxiliary(site)
    }
    closed = {
        spec.name: posterior_site(drawn, batch, spec.name) is not None
        and site_kl(sites[spec.name]) is not None
        and (spec.step_axis is not None or _mean(sites[spec.name].q) is not None)
        for spec in latents
    }
    return sites, closed


def _joined(parts: Sequence[_SiteTerms]) -> _SiteTerms:
    """Return the batches under each other."""
    first, moments = parts[0], [part.moments for part in parts if part.moments is not None]
    entries = [part.entries for part in parts if part.entries is not None]
    return _SiteTerms(
        torch.cat([part.kl for part in parts]),
        torch.cat(entries) if len(entries) == len(parts) and first.steps is None else None,
        _under_each_other(moments) if moments else None,
        None if first.steps is None else torch.cat([part.steps for part in parts if part.steps is not None]),
        first.units,
        all(part.closed for part in parts),
    )


def _under_each_other(moments: Sequence[DrawMoments]) -> DrawMoments:
    """Return the moments of several batches as those of one."""
    means, variances = ([getattr(m, name) for m in moments] for name in ("mean", "variance"))
    return DrawMoments(torch.cat(means), torch.cat(variances), moments[0].draws)


def _told(
    model: nn.Module,
    guide: nn.Module,
    sentences: CommonSentences,
    latents: Sequence[LatentSpec],
    read: Sequence[_SiteTerms],
    draws: int,
    costly: int,
) -> tuple[SiteFigures, Mapping[str, float]]:
    """Put together what was read of one latent of whole sentences, or of several; and the information site by site."""
    number, share = len(sentences.texts), sentences.share
    cheap = len(read) == 1 and read[0].closed
    chosen = chosen_rows(number, number if cheap else costly)
    compared = subset(sentences, chosen)
    information = mutual_information(
        guide, compared, latents, draws=draws if cheap else 1, conditional=is_conditional(model)
    )
    kl = torch.stack([part.kl for part in read]).sum(0)
    units = [_variances(part.moments, sentences) for part in read if part.moments is not None]
    known = [variances for variances in units if variances is not None]
    variances = torch.cat(known) if known else None
    entries = [part.entries for part in read if part.entries is not None]
    figures = SiteFigures(
        sentences=number,
        kl=float(share @ kl),
        compared_kl=float(share[chosen] @ kl[chosen] / share[chosen].sum()),
        mutual_information=information.value,
        mutual_information_cap=information.cap,
        active_units=None if variances is None else active_units(variances),
        active_units_02=None if variances is None else active_units(variances, VERY_ACTIVE),
        latent_units=sum(part.units for part in read),
        kl_by_dimension=tuple((share @ torch.cat(entries, -1)).tolist()) if len(entries) == len(read) else (),
        compared=len(compared.texts),
    )
    return figures, information.so_far


def _stepwise(read: _SiteTerms, share: Tensor) -> StepFigures:
    """Put together what was read of a latent with a step axis."""
    steps = torch.ones_like(share) if read.steps is None else read.steps
    return StepFigures(len(share), float(share @ read.kl), float(share @ steps))


def _mean(q: Any) -> Tensor | None:
    try:
        mean: Tensor = q.mean
    except NotImplementedError:
        return None
    return mean


def divergence(site: LatentTerms) -> Tensor:
    """KL(q ‖ p), (B,), nats: in closed form, or by the mean over the particles."""
    closed = site_kl(site)
    kl = site.log_q - site.log_p if closed is None else closed.expand(site.shape)
    return kl.mean(0)


def entrywise_kl(site: LatentTerms) -> Tensor | None:
    """Return the KL of every entry, (…, B, *event), where q and p are products over entries; otherwise None."""
    q, p = _entries(site.q), _entries(site.p)
    if is_masked(site) or q.event_shape or p.event_shape:
        return None
    try:
        kl: Tensor = kl_divergence(q, p)
    except NotImplementedError:
        return None
    return kl if kl.shape == site.value.shape else None


def _entries(distribution: Distribution) -> Any:
    """Return the distribution of the entries behind ``to_event``."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _by_dimension(kl: Tensor, spec: LatentSpec) -> Tensor:
    """Sum over the event axes beside D, mean over particles: (B, D)."""
    kl = kl.reshape(-1, *kl.shape[kl.dim() - 1 - len(spec.axes) :]).mean(0)
    others = [1 + place for place, axis in enumerate(spec.axes) if axis != "D"]
    return kl.sum(others) if others and "D" in spec.axes else kl.reshape(len(kl), -1)


def _known(site: LatentTerms) -> DrawMoments:
    """Return the posterior means (B, units) that the distribution knows: without noise."""
    mean = site.q.mean.reshape(site.shape[1], -1).double().cpu()
    return DrawMoments(mean, torch.zeros_like(mean), 1)


def _drawn(guide: nn.Module, batch: Batch, names: Sequence[str], draws: int) -> dict[str, DrawMoments]:
    """Return the posterior means (B, units) of each site by the mean of draws, with the variance of these."""
    with particle_plate(draws):
        nodes = trace_until(guide, batch, names).nodes
    values = {name: nodes[name]["value"].reshape(draws, batch.size, -1).double().cpu() for name in names}
    return {name: DrawMoments(value.mean(0), value.var(0), draws) for name, value in values.items()}


def _variances(moments: DrawMoments, sentences: CommonSentences) -> Tensor | None:
    """Return the unbiased variance over sentences of each unit's posterior mean, (units,); None for one sentence."""
    if len(sentences.share) < 2:
        return None
    alike = float(sentences.share.square().sum())
    return unit_variances(moments, sentences.weights) / (1.0 - alike)
