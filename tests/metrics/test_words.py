"""Word metrics against numbers worked out by hand and against brute force."""

import math

import numpy as np
import pytest

from ppl_text.core.errors import DataError
from ppl_text.data.corpora import Split
from ppl_text.metrics.words import entropy, letter_cross_entropy, letter_model, share_in_list, share_unique


def split(**counts):
    return Split(tuple(counts), np.array(list(counts.values())))


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
    summed = -sum(p * model.log_prob(w) for w, p in zip(test.texts, test.probabilities(), strict=True))
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
