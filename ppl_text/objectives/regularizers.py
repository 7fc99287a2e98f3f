"""Losses that weigh the KL otherwise than the ELBO does: free bits, one of its two terms alone, one of them averaged.

Free bits: a part of the KL is not paid for, so that a strong decoder does not switch the latents off (Kingma et al.
2016), in the form of a mask, 1[KL > λ] KL, whose gradient is that of max(λ, KL) (specification 0). Reconstruction is
what an autoencoder is trained by, also one that pretrains a VAE (specification 0: β = 0); rate, what a prior is trained
by when all else is done (specification 1C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.latents import LatentSpec
from ..core.protocols import Estimate
from .bounds import Reading, Scores, closed_form_scores, elbo, is_masked, registered_scores, total_kl
from .estimate import Beta, assemble
from .terms import LatentTerms, trace_latents, trace_terms

UNITS = ("sentence", "dimension", "batch")
"""What λ is granted to."""


@dataclass(frozen=True)
class FreeBits:
    """``free-bits:λ[:UNIT]``: loss = reconstruction + β · (the KL that exceeds its free bits); λ in nats for each site.

    ========= ==============================================================================================
    sentence  Σ_sites 1[KL_b > λ] KL_b: λ for each sentence
    dimension Σ_sites Σ_d 1[KL_bd > λ/D] KL_bd: λ/D for each of the D entries of the site, and each sentence
    batch     Σ_sites 1[mean_b KL_b > λ] KL_b: λ for the mean over the batch
    ========= ==============================================================================================

    The reported bound is the ELBO with the whole KL, closed form where one is known. Where none is, the estimate of a
    KL may be negative and is then masked away, so that even λ = 0 is not quite the ELBO.
    """

    name: str
    particles: int
    free: float
    unit: str = "sentence"

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Estimate`."""
        terms = trace_terms(model, guide, batch, self.particles)
        scores = closed_form_scores(terms)
        reading = elbo(scores)
        charge: dict[str, Callable[[LatentTerms, Tensor], Tensor]] = {
            "sentence": lambda site, kl: kl * (kl.detach() > self.free),
            "dimension": lambda site, kl: self._by_dimension(site),
            "batch": lambda site, kl: kl * ((kl.detach() * batch.shares).sum() > self.free),
        }
        weighed = {name: charge[self.unit](site, reading.kl[name]) for name, site in terms.latents.items()}
        target = scores.log_likelihood.mean(0) - sum(weighed.values(), start=torch.zeros_like(reading.bound))
        return assemble(Reading(target, reading.bound, reading.kl, weighed), scores, batch, beta)

    def _by_dimension(self, site: LatentTerms) -> Tensor:
        kl = _kl_by_dimension(site)
        kl = kl.expand(*site.shape, kl.shape[-1]).mean(0)
        return (kl * (kl.detach() > self.free / kl.shape[-1])).sum(-1)


def _kl_by_dimension(site: LatentTerms) -> Tensor:
    """Return the KL of each entry of a site, (…, B, D), where the entries are independent in q and in p."""
    q, p = _entries(site.q), _entries(site.p)
    if q is None or p is None or is_masked(site):
        raise UserError(
            f"free bits by dimension: the KL of site '{site.q_site['name']}' ({type(site.q).__name__}) is no sum over "
            "its entries; use free-bits:λ:sentence or free-bits:λ:batch"
        )
    try:
        kl: Tensor = kl_divergence(q, p)
    except NotImplementedError as error:
        raise UserError(
            f"free bits by dimension: no closed form of KL({type(q).__name__} ‖ {type(p).__name__}) is known; use "
            "free-bits:λ:sentence"
        ) from error
    return kl.flatten(-len(site.q.event_shape))


def _entries(distribution: Distribution) -> Distribution | None:
    """Return the distribution of the entries, where they are independent and all axes of the event are theirs."""
    base = getattr(distribution, "base_dist", None)
    if base is None or distribution.event_dim == 0 or base.event_dim != 0:
        return None
    independent = getattr(distribution, "reinterpreted_batch_ndims", None)
    return base if independent == distribution.event_dim else None


@dataclass(frozen=True)
class Reconstruction:
    """``reconstruction:K``: loss = -Σ_b w_b E_q ln p(x_b | z) / Σ_b w_b + side losses, mean over K particles.

    No KL has a part in the loss or in any gradient, and β none either. The reported bound is the ELBO all the same,
    with the KL in closed form where one is known: -inf where q is a point mass, which has no density. So validations
    are compared by ``criterion``, the mean of E_q ln p(x | z), whose -1-fold is the validation loss at β = 0.

    While gradients are wanted no prior is run for the sake of the report: a KL that is not registered with torch is
    unknown then (NaN), and so is the bound.
    """

    name: str
    particles: int
    criterion: ClassVar[str] = "log_likelihood"

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Estimate`; rows of weight 0 have the bound and the KL 0."""
        terms = trace_terms(model, guide, batch, self.particles)
        reported = registered_scores if torch.is_grad_enabled() else closed_form_scores
        with torch.no_grad():
            found = elbo(reported(terms))
        scores = Scores(terms.log_likelihood, {}, terms.side)
        counts = batch.weights > 0

        def counted(value: Tensor) -> Tensor:  # whoever sums w·bound would make NaN of 0 · ∞
            return torch.where(counts, value, 0.0)

        target = terms.log_likelihood.mean(0)
        kl = {name: counted(value) for name, value in found.kl.items()}
        free = {name: torch.zeros_like(target) for name in kl}
        reading = Reading(target, counted(found.bound), kl, free)
        return assemble(reading, scores, batch, beta)


@dataclass(frozen=True)
class Rate:
    """``rate:K``: loss = β Σ_b w_b KL(q(z | x_b) ‖ p(z)) / Σ_b w_b + side losses, mean over K particles.

    What a prior is trained by under a guide and a decoder that are frozen: the gradient of the ELBO, without the cost
    of its likelihood. While gradients are wanted the model is left after its last latent site, so that likelihood and
    bound are unknown (NaN); otherwise the bound is the ELBO.
    """

    name: str
    particles: int

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Estimate`."""
        trace = trace_latents if torch.is_grad_enabled() else trace_terms
        scores = closed_form_scores(trace(model, guide, batch, self.particles))
        if not scores.kl:
            raise UserError("objective rate is the KL of the latents, and this model has none; use elbo")
        reading = elbo(scores)
        return assemble(reading._replace(target=-total_kl(reading)), scores, batch, beta)


@dataclass(frozen=True)
class PerToken:
    """``per-token:K``: loss = Σ_b w_b [(-E_q ln p(x_b | z) + Σ_stepwise β KL_b) / n_b + Σ_others β KL_b] / Σ_b w_b.

    n_b are the scored tokens of a text. Tokens, and KLs of sites with a step for each of them, are averaged over the
    text; the KL of a site of the whole text is not, and so weighs n_b times as much as in the ELBO. The public code of
    variational attention descends this (specification 3G.3). Side losses are added; the reported bound is the ELBO.
    """

    name: str
    particles: int

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Estimate`."""
        scores = closed_form_scores(trace_terms(model, guide, batch, self.particles))
        reading, sites = elbo(scores), cast("Iterable[LatentSpec]", getattr(model, "latents", ()))
        averaged = {spec.name for spec in sites if spec.step_axis is not None}
        n = batch.lengths.to(reading.bound.dtype)
        weighed = {name: kl / n if name in averaged else kl for name, kl in reading.kl.items()}
        target = scores.log_likelihood.mean(0) / n - sum(weighed.values(), start=torch.zeros_like(reading.bound))
        return assemble(Reading(target, reading.bound, reading.kl, weighed), scores, batch, beta)
