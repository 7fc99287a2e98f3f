"""Published figures in other terms: what a printed reconstruction and KL say as a perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping

PPL = "ppl"
"""Key of a perplexity that is a bound."""


def bound_perplexity(rec: float, tokens: float, *, kl: float = 0.0, kl_per_step: float = 0.0) -> float:
    """exp((rec + kl + n · kl_per_step) / n), the perplexity of a bound from printed figures (specification 1G.1).

    Args:
        rec: nats a text.
        tokens: n, scored tokens a text, of which each has a latent step.
        kl: of latents of the whole text, nats.
        kl_per_step: of latents of every step, nats averaged over the steps.

    Example::

        >>> round(bound_perplexity(60.16, 21.917, kl_per_step=3.12))    # printed as 17.94
        352
    """
    return math.exp((rec + kl) / tokens + kl_per_step)


def recomputed(published: Mapping[str, float], tokens: float | None) -> dict[str, float]:
    """Return what a row does not print and its other figures say: ``ppl`` where it prints ``paper_ppl`` alone.

    Nothing where it has no reconstruction, or where nobody has counted the ``tokens`` a text.
    """
    if tokens is None or PPL in published or not {"rec", "paper_ppl"} <= published.keys():
        return {}
    kl, kl_per_step = published.get("kl", 0.0), published.get("kl_per_step", 0.0)
    return {PPL: bound_perplexity(published["rec"], tokens, kl=kl, kl_per_step=kl_per_step)}
