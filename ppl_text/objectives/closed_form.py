"""KL(q ‖ p) of a site in closed form, where one is known; by Monte Carlo, and reported so, where none is."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import kl_divergence

from ..distributions.chains import FlowChain, chain_kl
from .bounds import Scores
from .terms import LatentTerms, Terms


def closed_form_scores(terms: Terms) -> Scores:
    """Return the scores with the KL of each site in closed form where :func:`site_kl` knows it, else ln q - ln p."""
    kl = {}
    for name, site in terms.latents.items():
        closed = site_kl(site)
        kl[name] = site.log_q - site.log_p if closed is None else closed.expand(site.shape)
    return Scores(terms.log_likelihood, kl, terms.side)


def site_kl(site: LatentTerms) -> Tensor | None:
    """KL(q ‖ p) in closed form given the sampled path, or None where none is registered.

    Chains of affine flows: :func:`~ppl_text.distributions.chains.chain_kl`; other distributions: what
    ``torch.distributions.kl`` (and Pyro) have registered.
    """
    if is_masked(site):
        return None
    if isinstance(site.q, FlowChain) and isinstance(site.p, FlowChain):
        return chain_kl(site.q, site.p, site.value)
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
