"""Entropy and distinct shares in closed form: what all the texts have together."""

import math
import random

import pytest

from ppl_text.core.errors import DataError
from ppl_text.metrics.diversity import diversity, diversity_by_source, jaccard


def test_one_word_over_and_over_has_no_variety():
    found = diversity([["a"] * 5, ["a"] * 3])
    assert found == (0.0, 1 / 8, 1 / 6)


@pytest.mark.parametrize("words", [2, 7, 40])
def test_words_that_are_all_different_have_as_much_as_there_is(words):
    found = diversity([[f"{text}-{word}" for word in range(words)] for text in range(3)])
    assert found.entropy == pytest.approx(math.log(3 * words))
    assert found[1:] == (1.0, 1.0)


def test_texts_are_pooled():
    """Ten texts of ten different words, the same in each: a mean over texts would give Dist 1 and ln 10, too."""
    words = list("abcdefghij")
    found = diversity([words] * 10)
    assert found.entropy == pytest.approx(math.log(10))
    assert found[1:] == (0.1, 0.1)
    assert diversity([words]) == pytest.approx((math.log(10), 1.0, 1.0))


def test_pairs_lie_within_texts_and_in_order():
    """ab, ba, a: pairs ab and ba; across the borders there would be bb and aa. p = 3/5, 2/5."""
    found = diversity([["a", "b"], ["b", "a"], ["a"]])
    assert found.entropy == pytest.approx(-(3 / 5 * math.log(3 / 5) + 2 / 5 * math.log(2 / 5)))
    assert found.distinct_1 == 2 / 5
    assert found.distinct_2 == 1.0


@pytest.mark.parametrize("texts", [[], [[]], [["a"], ["b"]]])
def test_texts_without_a_pair_are_refused(texts):
    with pytest.raises(DataError, match="a text of two words or more"):
        diversity(texts)


def test_diversity_by_source_is_counted_by_hand():
    """First source: a b, b a, a; words a×3, b×2; pairs ab, ba of 2; joined a b b a a: ab, bb, ba, aa over 5 words.

    Second source: all of 4 words alike; pairs cc of 2, joined cc over 4. Pooled, the two would have other figures.
    """
    first = [["a", "b"], ["b", "a"], ["a"]]
    second = [["c", "c"], ["c", "c"]]
    found = diversity_by_source([first, second])
    assert found.entropy == pytest.approx(-(3 / 5 * math.log(3 / 5) + 2 / 5 * math.log(2 / 5)) / 2)
    assert found.distinct_1 == pytest.approx((2 / 5 + 1 / 4) / 2)
    assert found.distinct_2 == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert found.distinct_2_paper == pytest.approx((4 / 5 + 1 / 4) / 2)


def test_one_text_over_and_over_has_what_it_has():
    """Ten times the same n different words: Ent ln n, Dist-1 and Dist-2 a tenth of a text's own."""
    words = [f"w{i}" for i in range(6)]
    found = diversity_by_source([[words] * 10, [words[::-1]] * 10])
    assert found[:3] == pytest.approx((math.log(6), 1 / 10, 1 / 10))
    assert found.distinct_2_paper == pytest.approx(6 / 60), "five pairs, and that of last and first word"


def test_a_source_without_words_or_pairs_has_no_variety():
    assert diversity_by_source([[[], []]]) == (0.0, 0.0, 0.0, 0.0)
    assert diversity_by_source([[["a"], ["b"]]]) == pytest.approx((math.log(2), 1.0, 0.0, 1 / 2))
    with pytest.raises(DataError, match="one source or more"):
        diversity_by_source([])


def common_by_hand(texts, n):
    sets = [{tuple(text[i : i + n]) for i in range(len(text) - n + 1)} for text in texts]
    pairs = [(a, b) for i, a in enumerate(sets) for b in sets[i + 1 :]]
    return sum(len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_jaccard_similarity_is_the_mean_over_all_pairs(n, monkeypatch):
    draw = random.Random(n)
    texts = [draw.choices("abcde", k=draw.randint(0, 8)) for _ in range(30)]
    expected = common_by_hand(texts, n)
    assert jaccard(texts, n) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr("ppl_text.metrics.diversity.AT_ONCE", 7)
    assert jaccard(texts, n) == pytest.approx(expected, rel=1e-12)


def test_jaccard_similarity_of_the_same_of_others_and_of_nothing():
    assert jaccard([["a", "b"], ["b", "a", "a"]]) == 1.0
    assert jaccard([["a"], ["b"], ["c"]]) == 0.0
    assert jaccard([[], [], ["a"]]) == pytest.approx(1 / 3)
    assert jaccard([["a", "b"], ["b", "a"]], n=2) == 0.0
    with pytest.raises(DataError, match="compares two texts or more; got 1"):
        jaccard([["a"]])
