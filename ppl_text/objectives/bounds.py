"""Bounds of log p(tokens) as pure functions of the log-terms, and the objective that trains on one.

All bounds are per sentence, shape (B,), in nats, at β = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ..core.batch import Batch
from ..core.errors import UnknownNameError, UserError
from ..core.protocols import Estimate
from ..distributions.chains import FlowChain, chain_kl
from .terms import LatentTerms, Program, Terms, trace_terms

Beta = float | Tensor | Mapping[str, float | Tensor]


class Reading(NamedTuple):
    """What an estimator reads off the terms of a batch.

    ``target`` (B,): what is maximised at β = 1; ``bound`` (B,): a lower bound of ln p(tokens), the target
    itself unless that is none; ``kl``: KL(q ‖ p) by site, (B,); all in nats per sentence.
    """

    target: Tensor
    bound: Tensor
    kl: dict[str, Tensor]


def elbo(terms: Terms) -> Reading:
    """E_q[ln p(x, z) - ln q(z | x)] by K draws; equals ``pyro.infer.Trace_ELBO`` per sentence."""
    bound = terms.log_weights.mean(0)
    return Reading(bound, bound, monte_carlo_kl(terms))


def elbo_analytic(terms: Terms) -> Reading:
    """E_q[ln p(x | z)] - KL(q ‖ p), the KL of each site in closed form where :func:`site_kl` knows one."""
    kl = {name: analytic_or_sampled_kl(site) for name, site in terms.latents.items()}
    bound = terms.log_likelihood.mean(0) - sum(kl.values(), start=torch.zeros_like(terms.log_likelihood[0]))
    return Reading(bound, bound, kl)


def iwae(terms: Terms) -> Reading:
    """ln (1/K) Σ_k w_k (Burda et al. 2016); equals ``pyro.infer.RenyiELBO(alpha=0)`` per sentence."""
    bound = log_mean_exp(terms.log_weights)
    return Reading(bound, bound, monte_carlo_kl(terms))


def renyi(alpha: float) -> Callable[[Terms], Reading]:
    """Rényi bound of order α ≠ 1: ln[(1/K) Σ_k w_k^{1-α}] / (1-α) (Li and Turner 2016).

    The estimate falls as α rises: α = 0 is IWAE, α → 1 the ELBO. For α < 0 it is no lower bound, so the
    reported bound is then IWAE's, from the same weights.
    """
    if alpha == 1.0:
        raise UserError("renyi: order 1 is the ELBO in the limit; use --objective elbo")

    def estimate(terms: Terms) -> Reading:
        target = log_mean_exp((1.0 - alpha) * terms.log_weights) / (1.0 - alpha)
        bound = target if alpha >= 0 else log_mean_exp(terms.log_weights)
        return Reading(target, bound, monte_carlo_kl(terms))

    return estimate


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """ln of the mean weight over the K particles: (K, B) to (B,)."""
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


def monte_carlo_kl(terms: Terms) -> dict[str, Tensor]:
    """KL(q ‖ p) of each site by the mean of ln q - ln p over the particles, (B,)."""
    return {name: (site.log_q - site.log_p).mean(0) for name, site in terms.latents.items()}


def analytic_or_sampled_kl(site: LatentTerms) -> Tensor:
    """KL(q ‖ p) of a site, averaged over the particles that drew its parents, (B,)."""
    closed = site_kl(site)
    return (site.log_q - site.log_p if closed is None else closed.expand(site.shape)).mean(0)


def site_kl(site: LatentTerms) -> Tensor | None:
    """KL(q ‖ p) in closed form given the sampled path, or None where none is registered.

    Chains of affine flows: :func:`~ppl_text.distributions.chains.chain_kl`; other distributions: what
    ``torch.distributions.kl`` (and Pyro) have registered.
    """
    masks = (site.p_site["mask"], site.q_site["mask"])
    if any(mask is not None and mask is not True for mask in masks):
        return None  # poutine.mask acts on log-densities; a closed form would count what it hides
    if isinstance(site.q, FlowChain) and isinstance(site.p, FlowChain):
        return chain_kl(site.q, site.p, site.value)
    try:
        divergence: Tensor = kl_divergence(site.q, site.p)
    except NotImplementedError:
        return None
    return divergence


@dataclass(frozen=True)
class BoundObjective:
    """Train on a bound by reparametrised gradients.

    loss = -Σ_b w_b [target_b - Σ_sites (β_site - 1) KL_site,b] / Σ_b w_b + side losses, in nats per
    sentence: β stands outside the logarithm, so no log-weight is ever scaled; β = 1 leaves the bound.
    """

    name: str
    particles: int
    estimator: Callable[[Terms], Reading]

    def __call__(self, model: Program, guide: Program, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """Run both programs and estimate; see :class:`~ppl_text.core.protocols.Estimate`."""
        terms = trace_terms(model, guide, batch, self.particles)
        reading = self.estimator(terms)
        return assemble(reading, terms, batch, beta)


def assemble(reading: Reading, terms: Terms, batch: Batch, beta: Beta) -> Estimate:
    """Weigh the sentences, apply β outside the logarithm, add the side losses."""
    kl = sum(reading.kl.values(), start=torch.zeros_like(reading.bound))
    target = reading.target
    if isinstance(beta, Mapping):
        for name in beta:
            if name not in reading.kl:
                raise UnknownNameError("latent site in β", name, reading.kl)
        for name, value in reading.kl.items():
            target = target + (1.0 - beta.get(name, 1.0)) * value
    elif isinstance(beta, Tensor) or beta != 1.0:
        target = target + (1.0 - beta) * kl
    share = batch.weights / batch.weights.sum()
    loss = -(share * target).sum()
    for value in terms.side.values():
        loss = loss + (share * value.expand(terms.log_likelihood.shape).mean(0)).sum()
    return Estimate(loss, reading.bound.detach(), terms.log_likelihood.mean(0).detach(), kl.detach())
