"""Word metrics against numbers worked out by hand and against brute force."""

import math

import numpy as np
import pytest

from ppl_text.core.errors import DataError
from ppl_text.data.word_lists import WordCounts
from ppl_text.metrics.words import (
    cross_entropy,
    draws_for_unique,
    entropy,
    expected_unique,
    letter_cross_entropy,
    letter_model,
    share_in_list,
    share_unique,
)


def split(**counts):
    return WordCounts(tuple(counts), np.array(list(counts.values())))


# -- entropy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "nats"),
    [
        ([7], 0.0),
        ([1, 1], math.log(2)),
        ([5, 5, 0, 5, 5], math.log(4)),
        ([1, 3], 2 * math.log(2) - 0.75 * math.log(3)),
        ([2, 1, 1], 1.5 * math.log(2)),
        ([10**12, 10**12], math.log(2)),
    ],
)
def test_entropy_by_hand(counts, nats):
    assert entropy(counts) == pytest.approx(nats, abs=1e-12)
    assert entropy(np.array(counts)) == pytest.approx(nats, abs=1e-12)


def test_entropy_is_the_expected_surprise():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(50))
    counts = rng.multinomial(200_000, p)
    surprise = [-math.log(counts[i] / counts.sum()) for i in range(50) for _ in range(counts[i])]
    assert entropy(counts) == pytest.approx(math.fsum(surprise) / len(surprise), rel=1e-10)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [1, math.nan], [math.inf]])
def test_entropy_of_no_distribution(counts):
    with pytest.raises(DataError, match="entropy needs finite counts"):
        entropy(counts)


# -- sampling from the training words -------------------------------------------------------------------


def test_cross_entropy_of_relative_frequencies():
    train, test = split(ab=1, b=3), split(b=2, ab=2, c=0)
    assert cross_entropy(train, test) == pytest.approx(0.5 * math.log(4 / 3) + 0.5 * math.log(4))
    assert cross_entropy(train, train) == pytest.approx(entropy(train.counts))
    assert cross_entropy(train, split(b=1, c=1)) == math.inf
    assert cross_entropy(split(b=1, c=0), split(c=1)) == math.inf


@pytest.mark.parametrize("sides", [(split(), split(a=1)), (split(a=1), split(a=0))])
def test_cross_entropy_of_nothing(sides):
    with pytest.raises(DataError, match="a text or more with a count above 0"):
        cross_entropy(*sides)


# -- the letter model -------------------------------------------------------------------------------


def test_letter_model_by_hand():
    # aab thrice, b once: 6 a, 4 b, 4 EOS of 14.
    model = letter_model(split(aab=3, b=1))
    assert set(model.letters) == {"a", "b"}
    assert math.exp(model.letters["a"]) == pytest.approx(6 / 14)
    assert math.exp(model.letters["b"]) == pytest.approx(4 / 14)
    assert math.exp(model.eos) == pytest.approx(4 / 14)
    assert model.log_prob("ab") == pytest.approx(math.log(6 / 14 * 4 / 14 * 4 / 14))
    assert model.log_prob("") == model.eos
    assert model.log_prob("ac") == -math.inf


def test_letter_model_sums_to_one_over_all_strings():
    model = letter_model(split(ab=2, b=5, aaab=1))
    letters = sum(math.exp(v) for v in model.letters.values())
    total, level = 0.0, [""]
    for _ in range(9):
        total += sum(math.exp(model.log_prob(word)) for word in level)
        level = [word + c for word in level for c in model.letters]
    assert total == pytest.approx(1 - letters**9, rel=1e-9), "what is missing are the strings of 9 letters and more"


def test_letter_model_is_the_maximum_likelihood():
    train = split(abc=4, cab=1, aa=2, b=9)
    model = letter_model(train)
    best = letter_cross_entropy(train, train)
    keys, p = zip(*[("", model.eos), *model.letters.items()], strict=True)
    rng = np.random.default_rng(1)
    for _ in range(200):
        q = rng.dirichlet(np.exp(p) * 50)
        table = dict(zip(keys, np.log(q), strict=True))
        other = -sum(c * (sum(table[x] for x in w) + table[""]) for w, c in zip(train.texts, train.counts, strict=True))
        assert other / train.total >= best - 1e-12


def test_cross_entropy_by_hand():
    # Train: ab once: a, b, EOS each 1/3. Test words: ab, 3 tokens each; b, 2 tokens each.
    assert letter_cross_entropy(split(ab=1), split(ab=1, b=3)) == pytest.approx((3 + 3 * 2) / 4 * math.log(3))


def test_cross_entropy_equals_the_sum_over_words():
    rng = np.random.default_rng(2)
    words = {"".join(rng.choice(list("abcdéz漢"), size=rng.integers(1, 9))) for _ in range(300)}
    train = split(**{w: int(rng.integers(1, 1000)) for w in words})
    test = split(**{w: int(rng.integers(0, 50)) for w in sorted(words)[:120]})
    model = letter_model(train)
    summed = -sum(n * model.log_prob(w) for w, n in zip(test.texts, test.counts / test.total, strict=True))
    assert letter_cross_entropy(train, test) == pytest.approx(summed, rel=1e-12)


def test_cross_entropy_is_not_below_the_entropy():
    train = split(ab=3, ba=4, abba=1)
    assert letter_cross_entropy(train, train) > entropy(train.counts)


def test_letter_that_training_never_saw():
    assert letter_cross_entropy(split(ab=1), split(ab=5, abc=1)) == math.inf
    assert math.isfinite(letter_cross_entropy(split(ab=1), split(ab=5, abc=0))), (
        "a word without a count does not matter"
    )
    assert letter_cross_entropy(split(ab=1, abc=0), split(abc=1)) == math.inf, "nor does it teach a letter"


def test_letter_model_of_nothing():
    with pytest.raises(DataError, match="one word or more"):
        letter_model(split())
    with pytest.raises(DataError, match="one word or more"):
        letter_cross_entropy(split(a=1), split(a=0))


# -- samples ----------------------------------------------------------------------------------------


def test_share_in_list_counts_every_sample():
    assert share_in_list(["the", "the", "teh", "of"], ["of", "the"]) == 0.75
    assert share_in_list(iter(["xq"]), {"of"}) == 0.0
    assert share_in_list(["of"], ("of",)) == 1.0


def test_share_unique():
    assert share_unique(["a", "b", "a", "a"]) == 0.5
    assert share_unique(iter("abcd")) == 1.0
    assert share_unique(["a"] * 10) == 0.1


@pytest.mark.parametrize("share", [lambda: share_unique([]), lambda: share_in_list([], ["a"])])
def test_no_samples(share):
    with pytest.raises(DataError, match="no samples were given"):
        share()


# -- how many are distinct ------------------------------------------------------------------------------


def test_expected_unique_by_hand():
    assert expected_unique([7], 4) == 0.25, "a single word is seen for certain"
    assert expected_unique([1, 1], 2) == pytest.approx(3 / 4)
    # Two of p = 1/2, 1/3, 1/6: the second differs from the first unless both are the same word.
    assert expected_unique([3, 2, 1, 0], 2) == pytest.approx(1 - (9 + 4 + 1) / 36 / 2)
    assert expected_unique([3, 2, 1], 1) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_expected_unique_of_equal_words(n):
    assert expected_unique(np.full(50, 9), n) == pytest.approx(50 * (1 - (49 / 50) ** n) / n)


def test_expected_unique_is_the_mean_of_simulated_shares():
    rng = np.random.default_rng(0)
    counts = np.ceil(1000 / np.arange(1, 301))
    draws = rng.choice(300, size=(3000, 200), p=counts / counts.sum())
    shares = np.array([len(set(row)) / 200 for row in draws.tolist()])
    assert expected_unique(counts, 200) == pytest.approx(shares.mean(), abs=5 * shares.std() / math.sqrt(3000))


def test_expected_unique_of_words_rarer_than_a_rounding_error():
    """1 - (1 - p)^n computed as written is 0 for p = 10⁻¹⁷: the thousand rare words would be lost."""
    counts = np.append(np.full(1000, 1e-17), 1.0)
    n = 10**16
    assert n * expected_unique(counts, n) == pytest.approx(1 + 1000 * (1 - math.exp(-0.1)), rel=1e-6)
    assert expected_unique([1] * 10**6, 10) == pytest.approx(1 - 4.5e-6, abs=1e-9), "ten draws of a million: 45 pairs"


def test_draws_for_unique_is_the_first_that_falls_so_far():
    counts = np.ceil(10_000 / np.arange(1, 2001))
    for share in (0.9, 0.5, 0.27, 0.01, 1e-4):
        n = draws_for_unique(counts, share)
        assert expected_unique(counts, n) <= share < expected_unique(counts, n - 1)


def test_draws_for_unique_at_the_ends():
    assert draws_for_unique([5, 3], 1.0) == 1
    assert draws_for_unique([5], 0.25) == 4
    assert draws_for_unique([5], 0.3) == 4, "three draws of one word: a third"
    assert draws_for_unique(np.ones(10), 1e-6) == 10**7
    assert draws_for_unique([5, 3, 0, 0], 0.5) == draws_for_unique([5, 3], 0.5)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, math.nan])
def test_a_share_that_no_number_of_draws_has(share):
    with pytest.raises(DataError, match="above 0 and at most 1"):
        draws_for_unique([1, 2], share)


@pytest.mark.parametrize("count", [lambda c: expected_unique(c, 5), lambda c: draws_for_unique(c, 0.5)])
@pytest.mark.parametrize("counts", [[], [0], [1, -1], [math.nan]])
def test_distinct_words_of_no_distribution(count, counts):
    with pytest.raises(DataError, match="needs finite counts"):
        count(counts)


def test_distinct_words_of_no_draws():
    with pytest.raises(DataError, match="1 draw or more; got 0"):
        expected_unique([1, 2], 0)
