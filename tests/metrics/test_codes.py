"""Usage of a code book, of codes whose frequencies are known."""

import math

import numpy as np
import pytest

from ppl_text.core.errors import DataError
from ppl_text.metrics.codes import code_counts, code_usage


def test_equally_frequent_codes_have_their_number_as_perplexity():
    for used in (1, 3, 8):
        usage = code_usage(code_counts(np.arange(3 * used) % used, np.ones(3 * used), 8))
        assert (usage.size, usage.used, usage.dead) == (8, used, 8 - used)
        assert usage.perplexity == pytest.approx(used)


def test_shares_are_those_of_the_weights():
    """Codes with weights 2, 1 and 1: entropy of (1/2, 1/4, 1/4), 3/2 ln 2; a code of weight 0 is not used."""
    counts = code_counts([[4, 1], [2, 4], [0, 0]], [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]], 5)
    assert counts.tolist() == [0, 1, 1, 0, 2]
    usage = code_usage(counts)
    assert (usage.used, usage.dead) == (3, 2)
    assert usage.entropy == pytest.approx(1.5 * math.log(2))


def test_counts_of_batches_add_up():
    rng = np.random.default_rng(0)
    indices, weights = rng.integers(0, 7, 60), rng.random(60)
    parts = sum(code_counts(i, w, 7) for i, w in zip(np.split(indices, 3), np.split(weights, 3), strict=True))
    assert parts == pytest.approx(code_counts(indices, weights, 7))


def test_what_is_no_code_is_refused_and_nothing_has_no_entropy():
    with pytest.raises(DataError, match="codes are counted from 0 to 3; got 0 to 4"):
        code_counts([0, 4], [1, 1], 4)
    nothing = code_usage(code_counts([], [], 4))
    assert (nothing.used, nothing.dead) == (0, 4)
    assert math.isnan(nothing.perplexity)
