"""Buckets: the choice that pads least, against all others."""

import itertools

import numpy as np
import pytest

from ppl_text.core.errors import ConfigError, DataError
from ppl_text.data.buckets import assign_buckets, default_buckets
from ppl_text.data.corpus import Split
from ppl_text.data.tokenizers import character_tokenizer

TOKENIZER = character_tokenizer("abc")


def padding(split, buckets):
    lengths = np.array([len(text) + 1 for text in split.texts])
    return (split.counts * (np.array(buckets)[assign_buckets(lengths, buckets)] - lengths)).sum()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 50])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_buckets_are_the_best_of_all(n, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.choice(np.arange(1, 13), size=8, replace=False)
    words = Split(tuple("a" * k for k in lengths), rng.integers(1, 10 ** rng.integers(1, 5, size=8)))
    chosen = default_buckets(words, TOKENIZER, n)
    present = sorted(set((lengths + 1).tolist()))
    assert chosen[-1] == present[-1]
    assert len(chosen) == min(n, len(present))
    subsets = itertools.combinations(present[:-1], min(n, len(present)) - 1)
    assert padding(words, chosen) == min(padding(words, (*subset, present[-1])) for subset in subsets)


def test_default_buckets_can_leave_room_for_other_splits():
    words = Split(("a", "abc"), np.array([3, 1]))
    assert default_buckets(words, TOKENIZER, 1, longest=9) == (9,)
    assert default_buckets(words, TOKENIZER, 2, longest=9) == (2, 9), "3·0 + 1·5 < 3·2 + 1·0"
    assert default_buckets(words, TOKENIZER, 2, longest=3) == (2, 4)


def test_default_buckets_refuse_nonsense():
    with pytest.raises(ConfigError, match="number of buckets must be 1 or more; got 0"):
        default_buckets(Split(("a",), np.array([1])), TOKENIZER, 0)
    with pytest.raises(DataError, match="no lengths to choose buckets from"):
        default_buckets(Split((), np.zeros(0, dtype=np.int64)), TOKENIZER, 2)
