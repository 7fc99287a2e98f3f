"""Buckets: the few numbers of steps that the sides of a batch are padded to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import ConfigError, DataError

from .corpus import Side, Split

SOURCE_WIDTHS = 4
"""Most widths that sources are padded to: each doubles, with each bucket of the targets, the shapes of batches."""


def assign_buckets(lengths: NDArray[np.int64], buckets: Sequence[int]) -> NDArray[np.int64]:
    """Return the bucket (N,) of each scored length (N,): the first that is long enough.

    Raises:
        ConfigError: buckets that do not rise, or that the longest sentence does not fit.
    """
    if not buckets or buckets[0] < 1 or any(a >= b for a, b in pairwise(buckets)):
        raise ConfigError(f"buckets must be rising numbers of steps, 1 or more; got {list(buckets)}")
    longest = int(lengths.max(initial=0))
    if longest > buckets[-1]:
        raise ConfigError(
            f"the longest sentence has {longest} tokens (EOS counted), the largest bucket only {buckets[-1]} steps; "
            f"let the last bucket be {longest} or more"
        )
    return np.searchsorted(np.asarray(buckets), lengths, side="left")


def default_buckets(split: Split, n: int) -> tuple[int, ...]:
    """Return at most n bucket lengths that minimise the expected padding E[T − length] under the counts.

    The last is the longest sentence of the split; they are fewer than n where there are fewer lengths.

    Raises:
        ConfigError: n < 1.
        DataError: an empty split.
    """
    return _chosen(split.target, split.counts, n)


def source_widths(split: Split) -> tuple[int, ...]:
    """Return the widths that the sources of a split are padded to, chosen like buckets; none without sources."""
    return () if split.source is None else _chosen(split.source, split.counts, SOURCE_WIDTHS)


def _chosen(side: Side, counts: NDArray[np.int64], n: int) -> tuple[int, ...]:
    if n < 1:
        raise ConfigError(f"the number of buckets must be 1 or more; got {n}")
    if not len(side):
        raise DataError("a split without any text has no lengths to choose buckets from")
    present, mass = side.mass_by_length(counts)
    return tuple(int(present[end]) for end in _least_padding(present, mass, min(n, len(present))))


def _least_padding(lengths: NDArray[np.int64], mass: NDArray[Any], n: int) -> list[int]:
    """Return the last index of each of n consecutive groups with the least Σ mass·(group's longest − length).

    Dynamic programme: ``best[j]`` is the least padding of the first j lengths in k groups, and
    cost(i, j) = longest_j · Σ mass − Σ mass·length over the lengths i … j−1.
    """
    size = len(lengths)
    number, steps = (np.concatenate([[0.0], np.cumsum(x)]) for x in (mass, mass * lengths))
    best = np.concatenate([[0.0], np.full(size, np.inf)])
    choices = []
    for _ in range(n):
        previous, best = best, np.full(size + 1, np.inf)
        choice = np.zeros(size + 1, dtype=np.int64)
        for end in range(1, size + 1):
            padding = lengths[end - 1] * (number[end] - number[:end]) - (steps[end] - steps[:end])
            totals = previous[:end] + padding
            choice[end] = np.argmin(totals)
            best[end] = totals[choice[end]]
        choices.append(choice)
    ends, end = [], size
    for choice in reversed(choices):
        ends.append(end - 1)
        end = int(choice[end])
    return ends[::-1]
