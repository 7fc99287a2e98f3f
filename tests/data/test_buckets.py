"""Buckets: the choice that pads least, against all others."""

import itertools

import numpy as np
import pytest

from ppl_text.core.errors import ConfigError, DataError
from ppl_text.data.buckets import assign_buckets, default_buckets, source_widths
from ppl_text.data.corpus import Side, Split
from ppl_text.data.tokenizers import character_tokenizer

TOKENIZER = character_tokenizer("abc")


def split_of(texts, counts):
    return Split(Side(texts, TOKENIZER), np.asarray(counts, dtype=np.int64))


def padding(split, buckets):
    lengths = np.array([len(text) + 1 for text in split.texts])
    return (split.counts * (np.array(buckets)[assign_buckets(lengths, buckets)] - lengths)).sum()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 50])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_buckets_are_the_best_of_all(n, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.choice(np.arange(1, 13), size=8, replace=False)
    words = split_of(["a" * k for k in lengths], rng.integers(1, 10 ** rng.integers(1, 5, size=8)))
    chosen = default_buckets(words, n)
    present = sorted(set((lengths + 1).tolist()))
    assert chosen[-1] == present[-1]
    assert len(chosen) == min(n, len(present))
    subsets = itertools.combinations(present[:-1], min(n, len(present)) - 1)
    assert padding(words, chosen) == min(padding(words, (*subset, present[-1])) for subset in subsets)


def test_widths_of_sources_are_chosen_like_buckets():
    texts, sources = ["a"] * 6, ["a" * k for k in (1, 1, 1, 4, 5, 9)]
    split = Split(Side(texts, TOKENIZER), [5, 1, 1, 1, 1, 1], Side(sources, TOKENIZER))
    assert source_widths(split) == (2, 5, 6, 10)
    assert source_widths(split.take(np.array([0, 3]))) == (2, 5)
    assert source_widths(split_of(texts, [1] * 6)) == ()


def test_default_buckets_refuse_nonsense():
    with pytest.raises(ConfigError, match="number of buckets must be 1 or more; got 0"):
        default_buckets(split_of(["a"], [1]), 0)
    with pytest.raises(DataError, match="no lengths to choose buckets from"):
        default_buckets(split_of([], []), 2)
