"""Usage of a code book: how many of its codes occur, and how evenly; pure functions of indices and weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_text.core.errors import DataError

from .words import entropy


class CodeUsage(NamedTuple):
    """Of M = ``size`` codes: ``used``, how many occur; ``entropy``: of their shares, nats, NaN where none occurs."""

    size: int
    used: int
    entropy: float

    @property
    def dead(self) -> int:
        """How many codes do not occur."""
        return self.size - self.used

    @property
    def perplexity(self) -> float:
        """exp of the entropy: as many equally frequent codes would have it; at most M."""
        return math.exp(self.entropy)


def code_counts(indices: ArrayLike, weights: ArrayLike, size: int) -> NDArray[np.float64]:
    """Count how often each of M = ``size`` codes occurs, (M,), given indices and what each counts for (same shape).

    Counts of several batches add up. Raises :class:`DataError` for an index that is none of M.

    Example::

        >>> code_counts([0, 2, 2], [1, 1, 0.5], 4).tolist()
        [1.0, 0.0, 1.5, 0.0]
    """
    places, shares = np.asarray(indices, np.int64).ravel(), np.asarray(weights, np.float64).ravel()
    if places.size and not 0 <= int(places.min()) <= int(places.max()) < size:
        raise DataError(f"codes are counted from 0 to {size - 1}; got {int(places.min())} to {int(places.max())}")
    counts: NDArray[np.float64] = np.bincount(places, shares, minlength=size).astype(np.float64)
    return counts


def code_usage(counts: ArrayLike) -> CodeUsage:
    """Return how many of M codes are used and how evenly, given their counts (M,).

    Example::

        >>> usage = code_usage([2, 0, 2, 0])
        >>> usage.used, usage.dead, round(usage.perplexity, 6)
        (2, 2, 2.0)
    """
    found = np.asarray(counts, dtype=np.float64)
    return CodeUsage(len(found), int((found > 0).sum()), entropy(found) if found.sum() > 0 else math.nan)
