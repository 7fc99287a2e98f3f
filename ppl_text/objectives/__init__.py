"""L2: bounds of log p(tokens) and their gradient estimators; ``build("iwae:16")`` makes one by name."""

from __future__ import annotations

from typing import Any

OBJECTIVES = {
    "elbo": "evidence lower bound E_q[ln p - ln q]; elbo:K averages K particles (equals pyro.infer.Trace_ELBO)",
    "elbo-analytic": "ELBO with the KL in closed form where it is known, by Monte Carlo elsewhere",
    "iwae": "iwae:K, ln of the mean of K importance weights (equals pyro.infer.RenyiELBO(alpha=0))",
    "renyi": "renyi:ALPHA:K, Rényi bound of order ALPHA ≠ 1 (equals pyro.infer.RenyiELBO)",
    "pyro": "pyro:Trace_ELBO, pyro:RenyiELBO:K, ...: a stock Pyro ELBO, run as it is",
}
"""Names for ``--objective`` with one line each."""


def build(spec: Any) -> Any:
    """Make an objective from ``"NAME[:…]"`` or from a stock ``pyro.infer.ELBO`` instance.

    Raises :class:`~ppl_text.core.errors.UserError` on an unknown name or a malformed argument.

    Example::

        >>> build("iwae:16").particles
        16
    """
    from .parse import build_objective

    return build_objective(spec)
