"""Monte-Carlo standard errors: what leaving out each of the independent draws does to an estimate.

One rule serves every figure that draws of the guide are behind, a mean of log-weights, the logarithm of a mean weight,
their difference, or a mean over repeats of any objective's estimate. Without assumption on the weights it is in
expectation no smaller than the variance of the figure (of R - 1 draws: Efron and Stein 1981, "The jackknife estimate of
variance"), and it tends to it as R grows. The delta method has no such guarantee: under the heavy tails that a high
Pareto k̂ speaks of it sees only the weights that were drawn.

The error is that of the figure around its own expectation at that K. How far this expectation is below ln p(x) is no
part of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNRELIABLE = 1 / 3
"""Share of the texts with k̂ > 0.7, from above which an importance-weighted figure hangs on a few draws: its error is
printed, and claims no coverage. Of texts that all have k = 0.7 about a third show k̂ > 0.7, with 64 draws as with 500,
since the estimate scatters and leans to 0.5; of texts with k = 0.3 and 64 draws a tenth do."""


DOUBT = "†"
"""Stands in tables behind an error that claims no coverage."""


def doubt_explained(noun: str) -> str:
    """Say what :data:`DOUBT` means."""
    return f"unreliable: k̂ > 0.7 on more than a third of the {noun}s, so the error claims no coverage"


def jackknife_variance(left_out: Tensor) -> Tensor:
    """Var v ≈ (R-1)/R Σ_r (v_(r) - v̄)², where v_(r) is the estimate from all draws but the r-th.

    Args:
        left_out: (R, …) v_(r).

    Returns:
        (…); s²/R where v is the mean of R numbers. NaN for R = 1, which says nothing of a spread; ∞ where v is -∞
        without one of the draws.
    """
    draws = len(left_out)
    if draws < 2:
        return torch.full_like(left_out[0], math.nan)
    infinite = left_out.isinf()
    variance = left_out.var(0) * ((draws - 1) ** 2 / draws)
    return variance.masked_fill(infinite.any(0) & left_out.isfinite().any(0), math.inf)


def log_means_without_each(log_weights: Tensor) -> Tensor:
    """Return ln of the mean weight without each of K draws: (K, B) to (K, B).

    Exact also where one weight is nearly all of the sum, which would leave nothing of 1 - w/Σw.
    """
    draws = len(log_weights)
    if draws < 2:
        return log_weights
    total = log_weights.logsumexp(0)
    largest = log_weights.argmax(0, keepdim=True)
    others = log_weights.scatter(0, largest, -math.inf).logsumexp(0, keepdim=True)
    left = total + torch.log1p(-(log_weights - total).exp())
    return left.scatter(0, largest, others) - math.log(draws - 1)


def is_unreliable(share: float | None) -> bool:
    """Return whether importance-weighted figures are, where this share of the texts has k̂ > 0.7 (NaN: unknown)."""
    return share is not None and share > UNRELIABLE
