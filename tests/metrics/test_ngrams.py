"""Kneser-Ney models against nltk's plain class, sums over all characters and numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from nltk.lm import KneserNeyInterpolated, Vocabulary
from nltk.lm.preprocessing import padded_everygram_pipeline

from ppl_text.core.errors import DataError
from ppl_text.data.word_lists import WordCounts
from ppl_text.metrics.ngrams import BOS, EOS, kneser_ney


def split(**counts):
    return WordCounts(tuple(counts), np.array(list(counts.values())))


@pytest.fixture(scope="module")
def random_words():
    """100 words over five letters, of one to six, with counts of 1 to 6."""
    rng = np.random.default_rng(0)
    words = sorted({"".join(rng.choice(list("abcde"), size=rng.integers(1, 7))) for _ in range(130)})[:100]
    return WordCounts(tuple(words), rng.integers(1, 7, len(words)))


def everygrams(word, order):
    """All n-grams up to ``order`` that end in a character of the word or in EOS, BOS in front."""
    symbols = [BOS] * (order - 1) + [*word, EOS]
    ends = range(order, len(symbols) + 1)
    return [tuple(symbols[end - n : end]) for end in ends for n in range(1, order + 1)]


def plain(words, order, discount):
    """nltk's class itself, every word given as often as it occurs."""
    model = KneserNeyInterpolated(order, discount, vocabulary=Vocabulary([*"abcde", BOS, EOS]))
    repeated = itertools.chain.from_iterable([w] * int(n) for w, n in zip(words.texts, words.counts, strict=True))
    model.counts.update(everygrams(word, order) for word in repeated)
    return model


@pytest.mark.parametrize(("order", "discount"), [(2, 0.75), (3, 0.75), (3, 0.1), (5, 0.75), (4, 1.0)])
def test_it_is_nltks_model(random_words, order, discount):
    ours, theirs = kneser_ney(random_words, order, discount=discount), plain(random_words, order, discount)
    unseen = ["edcba", "eeeeee", "aaaab", "", "d"]
    for word in [*random_words.texts[::10], *unseen]:
        symbols = [BOS] * (order - 1) + [*word, EOS]
        scores = [theirs.score(symbols[i], symbols[i - order + 1 : i]) for i in range(order - 1, len(symbols))]
        assert ours.log_prob(word) == pytest.approx(sum(map(math.log, scores)), abs=1e-12, rel=1e-12)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_what_may_follow_sums_to_one(random_words, order):
    """In seen contexts and in those never seen, BOS at the beginning or not."""
    model = kneser_ney(random_words, order)
    rng = np.random.default_rng(1)
    for _ in range(60):
        word = "".join(rng.choice(list("abcde"), size=rng.integers(0, 8)))
        total = sum(math.exp(conditional(model, word, symbol)) for symbol in [*"abcde", EOS])
        assert total == pytest.approx(1.0, abs=1e-12)


def conditional(model, word, symbol):
    """ln p(symbol | the word so far), from whole words: EOS ends one, of a character the rest is taken off."""
    gram = ([BOS] * (model.order - 1) + [*word, symbol])[-model.order :]
    return model._log_score(tuple(gram))


def test_words_sum_to_one():
    model = kneser_ney(split(ab=3, ba=1, a=2), 3)
    total, level = 0.0, [""]
    for _ in range(12):
        total += sum(math.exp(model.log_prob(word)) for word in level)
        level = [word + c for word in level for c in "ab"]
    assert total == pytest.approx(1.0, abs=2e-2)
    assert total < 1.0


def test_nltks_own_padding_leaks_to_the_beginning(random_words):
    """Why the n-grams are counted here: with nltk's pipeline BOS is an outcome, and the rest does not sum to one."""
    grams, symbols = padded_everygram_pipeline(3, random_words.texts)
    model = KneserNeyInterpolated(3)
    model.fit(grams, symbols)
    assert sum(model.score(c) for c in [*"abcde", EOS]) < 0.99


def test_a_bigram_model_by_hand():
    """ab three times, b once; D = 1/2.

    Bigrams: BOS a 3, BOS b 1, a b 3, b EOS 4. Before a stands BOS; before b BOS and a; before EOS b: continuations
    1, 2, 1 of 4.
    """
    model = kneser_ney(split(ab=3, b=1), 2, discount=0.5)
    a = 2.5 / 4 + 0.5 * 2 / 4 * 1 / 4
    b_first = 0.5 / 4 + 0.5 * 2 / 4 * 2 / 4
    b_after_a = 2.5 / 3 + 0.5 / 3 * 2 / 4
    a_after_a = 0.5 / 3 * 1 / 4
    end_after_b = 3.5 / 4 + 0.5 / 4 * 1 / 4
    assert math.exp(model.log_prob("ab")) == pytest.approx(a * b_after_a * end_after_b)
    assert math.exp(model.log_prob("b")) == pytest.approx(b_first * end_after_b)
    assert math.exp(model.log_prob("aab")) == pytest.approx(a * a_after_a * b_after_a * end_after_b)
    # Five scored symbols in two words: ab and b.
    surprise = -model.log_prob("ab") - model.log_prob("b")
    assert model.perplexity(["ab", "b"]) == pytest.approx(math.exp(surprise / 5))
    assert model.mean_surprise(["ab", "b"]) == pytest.approx(surprise / 2)


def test_higher_orders_fit_the_words_they_were_made_of_better(random_words):
    drawn = [w for w, n in zip(random_words.texts, random_words.counts.tolist(), strict=True) for _ in range(n)]
    perplexities = [kneser_ney(random_words, order).perplexity(drawn) for order in (2, 3, 5)]
    assert perplexities == sorted(perplexities, reverse=True)
    assert perplexities[0] > 1.3 * perplexities[2]


def test_tokens_count_and_words_of_count_0_do_not():
    rare, frequent = split(ab=1, cd=1, ef=0), split(ab=90, cd=10)
    assert kneser_ney(rare, 3).log_prob("ab") == kneser_ney(rare, 3).log_prob("cd")
    assert kneser_ney(frequent, 3).log_prob("ab") > kneser_ney(frequent, 3).log_prob("cd") + 1
    assert kneser_ney(rare, 3).log_prob("ef") == -math.inf


def test_a_character_that_the_list_does_not_have():
    model = kneser_ney(split(ab=3, ba=1), 3)
    assert model.log_prob("az") == -math.inf
    assert model.perplexity(["ab", "az"]) == math.inf
    assert model.mean_surprise(["ab", "az"]) == math.inf
    assert math.isfinite(model.log_prob("bbbaaa"))


def test_repeated_words_count_each_time(random_words):
    model = kneser_ney(random_words, 3)
    surprise = -2 * model.log_prob("abc") - model.log_prob("d")
    assert model.mean_surprise(iter(["abc", "d", "abc"])) == pytest.approx(surprise / 3)
    assert model.perplexity(iter(["abc", "d", "abc"])) == pytest.approx(math.exp(surprise / 10))


def test_many_tokens_and_many_words_take_no_longer_than_their_types():
    """A word that occurs 10¹² times is one entry; 20,000 samples are scored by their different n-grams."""
    rng = np.random.default_rng(2)
    words = sorted({"".join(rng.choice(list("abcdefgh"), size=rng.integers(2, 8))) for _ in range(3000)})
    model = kneser_ney(WordCounts(tuple(words), np.full(len(words), 10**12)), 5)
    samples = ["".join(row) for row in np.array(list("abcdefgh"))[rng.integers(0, 8, (20_000, 6))]]
    assert 1.0 < model.perplexity(samples) < math.inf


@pytest.mark.parametrize(("order", "discount"), [(1, 0.75), (3, 0.0), (3, 1.5), (3, math.nan)])
def test_orders_and_discounts_that_make_no_model(order, discount):
    with pytest.raises(DataError, match="an order of 2 or more and a discount"):
        kneser_ney(split(ab=1), order, discount=discount)


def test_no_words():
    with pytest.raises(DataError, match="one word or more with a count above 0"):
        kneser_ney(split(ab=0), 3)
    with pytest.raises(DataError, match="no words were given"):
        kneser_ney(split(ab=1), 3).perplexity([])
