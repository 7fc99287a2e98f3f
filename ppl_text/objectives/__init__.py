"""L2: bounds of log p(tokens) and their gradient estimators; ``build("iwae:16")`` makes one by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.registry import Package

OBJECTIVES = {
    "elbo": "evidence lower bound E_q[ln p - ln q]; elbo:K averages K particles (equals pyro.infer.Trace_ELBO)",
    "elbo-analytic": "ELBO with the KL of each site in closed form where it is known, by Monte Carlo elsewhere",
    "stl": "ELBO with the path gradient only (sticking the landing): no variance where q is the posterior",
    "iwae": "iwae:K, ln of the mean of K importance weights (equals pyro.infer.RenyiELBO(alpha=0))",
    "renyi": "renyi:ALPHA:K, Rényi bound of order ALPHA ≠ 1 (equals pyro.infer.RenyiELBO); -inf: VR-max",
    "dreg": "dreg:K, the IWAE bound with the doubly reparametrised gradient for the guide",
    "vimco": "vimco:K, the IWAE bound with a score-function gradient, for guides that draw what is discrete; K ≥ 2",
    "stepwise": "stepwise:K, Algorithm 1 of the state-space paper: K particles a step, one carried on by its weight",
    "fivo": "fivo:N, filtering bound: N particles, resampled where their effective sample size falls below N/2",
    "free-bits": "free-bits:LAMBDA[:UNIT], ELBO whose first LAMBDA nats of KL are free, a sentence, dimension or batch",
    "reconstruction": "reconstruction[:K], -E_q ln p(tokens | latents) alone: an autoencoder; the bound is the ELBO",
    "rate": "rate[:K], KL(q ‖ p) of the latents alone: a prior under frozen networks; the bound is the ELBO",
    "per-token": "per-token[:K], ELBO whose tokens and step-wise KLs are averaged over a text, other KLs not",
    "pyro": "pyro:Trace_ELBO, pyro:RenyiELBO:K, ...: a stock Pyro ELBO, run as it is",
}
"""Names for ``--objective`` with one line each."""


def build(spec: Any) -> Any:
    """Make an objective from ``"NAME[:…]"``, a stock ``pyro.infer.ELBO`` instance, or an object or class of yours.

    An object of yours is returned as it is, a class is built without arguments: see
    :class:`~ppl_text.core.protocols.Objective`. No file is run here.

    Raises :class:`~ppl_text.core.errors.UserError` on an unknown name or a malformed argument.

    Example::

        >>> build("iwae:16").particles
        16
    """
    from .parse import build_objective

    return build_objective(spec)


def package_of(spec: str) -> Package | None:
    """Return the installed package that an objective is from, None for one of ours; nothing is imported of it."""
    from .parse import package_of as found

    return found(spec)
