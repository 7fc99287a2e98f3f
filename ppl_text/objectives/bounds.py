"""Bounds of ln p(tokens) as pure functions of the scores of K particles; per sentence, (B,), nats, at β = 1.

The KL of a site is in closed form where one is known; by Monte Carlo, and reported so, where none is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ..core.errors import UserError
from .terms import LatentTerms, Terms


class Scores(NamedTuple):
    """What a bound is made of: numbers of one batch under K particles, nats per particle and sentence.

    ``log_likelihood`` (K, B): ln p(observed | latents); ``kl`` by site, (K, B): ln q - ln p of what was drawn, or the
    KL in closed form given the particle; ``side``: auxiliary losses, (K, B) or scalar, which enter no bound.
    """

    log_likelihood: Tensor
    kl: dict[str, Tensor]
    side: dict[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        """ln w = ln p(x | z) - Σ_sites kl, (K, B). Never scaled."""
        total = self.log_likelihood
        for value in self.kl.values():
            total = total - value
        return total

    @property
    def mean_kl(self) -> dict[str, Tensor]:
        """KL(q ‖ p) of each site by the mean over the particles, (B,)."""
        return {name: value.mean(0) for name, value in self.kl.items()}


class Reading(NamedTuple):
    """What an estimator reads off the scores of a batch; all in nats per sentence, (B,).

    ``target``: what is maximised at β = 1; ``bound``: a lower bound of ln p(tokens), the target itself unless that
    is none; ``kl``: KL(q ‖ p) by site; ``weighed``: what β multiplies in the loss, the KL where it is None;
    ``log_weights`` (K, B): of the estimate, for the effective sample size; None where it has none.
    """

    target: Tensor
    bound: Tensor
    kl: dict[str, Tensor]
    weighed: dict[str, Tensor] | None = None
    log_weights: Tensor | None = None


Bound = Callable[[Scores], Reading]


def monte_carlo_scores(terms: Terms) -> Scores:
    """Return the scores with ln q - ln p of each site."""
    kl = {name: site.log_q - site.log_p for name, site in terms.latents.items()}
    return Scores(terms.log_likelihood, kl, terms.side)


def closed_form_scores(terms: Terms) -> Scores:
    """Return the scores with the KL of each site in closed form where :func:`site_kl` knows it, else ln q - ln p."""
    kl = {}
    for name, site in terms.latents.items():
        closed = site_kl(site)
        kl[name] = site.log_q - site.log_p if closed is None else closed.expand(site.shape)
    return Scores(terms.log_likelihood, kl, terms.side)


def registered_scores(terms: Terms) -> Scores:
    """Return the scores with the KL of each site where :func:`registered_kl` knows it, else unknown (NaN)."""
    kl = {}
    for name, site in terms.latents.items():
        known = registered_kl(site)
        unknown = torch.full_like(terms.log_likelihood, math.nan)
        kl[name] = unknown if known is None else known.expand(site.shape)
    return Scores(terms.log_likelihood, kl, terms.side)


def site_kl(site: LatentTerms) -> Tensor | None:
    """KL(q ‖ p) in closed form given the sampled path, or None where none is registered.

    A distribution of steps that depend on each other says it along the path, p by ``kl_from(q, value)`` or q by
    ``kl_to(p, value)``; for other distributions it is what ``torch.distributions.kl`` (and Pyro) have registered.
    """
    if is_masked(site):
        return None
    from_p, from_q = getattr(site.p, "kl_from", None), getattr(site.q, "kl_to", None)
    found: Tensor | None = None
    if from_p is not None:
        found = from_p(site.q, site.value)
    if found is None and from_q is not None:
        found = from_q(site.p, site.value)
    return registered_kl(site) if found is None else found


def registered_kl(site: LatentTerms) -> Tensor | None:
    """KL(q ‖ p) as ``torch.distributions.kl`` has it registered, which costs no pass of a network; else None."""
    if is_masked(site):
        return None
    try:
        divergence: Tensor = kl_divergence(site.q, site.p)
    except NotImplementedError:
        return None
    return divergence


def is_masked(site: LatentTerms) -> bool:
    """Return whether ``poutine.mask`` hides a part of the site, which a closed form would count."""
    return any(mask is not None and mask is not True for mask in (site.p_site["mask"], site.q_site["mask"]))


def describe_coverage(terms: Terms) -> list[str]:
    """Describe in one line for each latent site: whether its KL is in closed form or by Monte Carlo."""
    return [
        f"KL of site '{name}': "
        + (
            f"no closed form of KL({type(site.q).__name__} ‖ {type(site.p).__name__}) for these two, so by Monte Carlo"
            if site_kl(site) is None
            else "in closed form"
        )
        for name, site in terms.latents.items()
    ]


def elbo(scores: Scores) -> Reading:
    """E_q[ln p(x, z) - ln q(z | x)] by K draws; equals ``pyro.infer.Trace_ELBO`` per sentence."""
    log_weights = scores.log_weights
    bound = log_weights.mean(0)
    return Reading(bound, bound, scores.mean_kl, log_weights=log_weights)


def iwae(scores: Scores) -> Reading:
    """ln (1/K) Σ_k w_k (Burda et al. 2016); equals ``pyro.infer.RenyiELBO(alpha=0)`` per sentence."""
    log_weights = scores.log_weights
    bound = log_mean_exp(log_weights)
    return Reading(bound, bound, scores.mean_kl, log_weights=log_weights)


def renyi(alpha: float) -> Bound:
    """Rényi bound of order α ≠ 1: ln[(1/K) Σ_k w_k^{1-α}] / (1-α) (Li and Turner 2016).

    The estimate falls as α rises: α → -∞ is max_k ln w_k (VR-max), α = 0 is IWAE, α → 1 the ELBO, α → ∞ is
    min_k ln w_k. For α < 0 it is no lower bound, so the reported bound is then IWAE's, from the same weights.
    """
    if alpha == 1.0:
        raise UserError("renyi: order 1 is the ELBO in the limit; use --objective elbo")

    def read(scores: Scores) -> Reading:
        log_weights = scores.log_weights
        if math.isinf(alpha):
            target = log_weights.amax(0) if alpha < 0 else log_weights.amin(0)
        else:
            target = log_power_mean(log_weights, 1.0 - alpha)
        bound = target if alpha >= 0 else log_mean_exp(log_weights)
        return Reading(target, bound, scores.mean_kl, log_weights=log_weights)

    return read


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """ln of the mean weight over the K particles: (K, B) to (B,)."""
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


def means_without_each(values: Tensor) -> Tensor:
    """Return the means of R numbers without each of them: (R, …) to (R, …); a lone number as it is."""
    return (values.sum(0) - values) / (len(values) - 1) if len(values) > 1 else values


def log_power_mean(log_weights: Tensor, power: float) -> Tensor:
    """ln[(1/K) Σ_k w_k^power] / power, (K, B) to (B,); exact in single precision however small the power is.

    With e = (1/K) Σ_k (w_k / w_max)^power - 1 (w_min for a negative power) it is ln w_max + ln(1 + e) / power, and
    where e is near 0 ``expm1`` and ``log1p`` keep the digits that ``logsumexp`` loses to ln K and 1 / power blows up.
    """
    top = (log_weights.amax(0) if power > 0 else log_weights.amin(0)).detach()
    top = torch.where(top.isfinite(), top, 0.0)
    scaled = power * (log_weights - top)
    excess = scaled.expm1().mean(0)
    log_mean = torch.where(excess > -0.5, excess.log1p(), log_mean_exp(scaled))
    return top + log_mean / power


def effective_share(log_weights: Tensor) -> Tensor:
    """Return the effective sample size by K, 1 / (K Σ_k w̃_k²) with w̃ normalised: (K, B) to (B,), in (0, 1]."""
    normalised = log_weights.softmax(0)
    return 1.0 / (log_weights.shape[0] * normalised.square().sum(0))


def total_kl(reading: Reading) -> Tensor:
    """Σ over the sites, (B,)."""
    return sum(reading.kl.values(), start=torch.zeros_like(reading.bound))
