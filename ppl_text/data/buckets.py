"""Buckets: the few numbers of steps T that batches are padded to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import ConfigError, DataError

from .corpus import Split
from .tables import token_table
from .tokenizers import Tokenizer


def assign_buckets(lengths: NDArray[np.int64], buckets: Sequence[int]) -> NDArray[np.int64]:
    """Bucket (N,) of each scored length (N,): the first that is long enough.

    Raises :class:`ConfigError` for buckets that do not rise or that the longest sentence does not fit.
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


def default_buckets(split: Split, tokenizer: Tokenizer, n: int, longest: int | None = None) -> tuple[int, ...]:
    """At most n bucket lengths that minimise the expected padding E[T − length] under the counts.

    The last is the longest sentence of the split, or ``longest`` where that is more (a corpus'
    ``max_steps``, so that its other splits fit as well). Fewer than n where there are fewer lengths.
    Raises :class:`ConfigError` for n < 1, :class:`DataError` for an empty split.
    """
    if n < 1:
        raise ConfigError(f"the number of buckets must be 1 or more; got {n}")
    lengths = token_table(split, tokenizer).lengths
    if not len(lengths):
        raise DataError("a split without any text has no lengths to choose buckets from")
    present, places = np.unique(lengths, return_inverse=True)
    mass = np.bincount(places, weights=split.counts.astype(np.float64))
    if longest is not None and longest > present[-1]:
        present, mass = np.append(present, longest), np.append(mass, 0.0)
    return tuple(int(present[end]) for end in _least_padding(present, mass, min(n, len(present))))


def _least_padding(lengths: NDArray[np.int64], mass: NDArray[Any], n: int) -> list[int]:
    """Last index of each of n consecutive groups with the least Σ mass·(group's longest − length).

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
