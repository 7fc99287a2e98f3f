"""BLEU beside a whole set: against ``nltk``, which counts all references anew for each text, and by hand."""

import math
import random

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from ppl_text.core.errors import DataError
from ppl_text.metrics.bleu_of_sets import mean_bleu, self_bleu


def by_nltk(text, references):
    with_smoothing = {"smoothing_function": SmoothingFunction().method1}
    return 100 * sentence_bleu([reference.split() for reference in references], text.split(), **with_smoothing)


def sentences(number, seed, words="abcdef"):
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(number)]


@pytest.mark.parametrize("seed", range(5))
def test_texts_beside_a_set_of_references_are_those_of_nltk(seed):
    texts, references = sentences(30, seed), sentences(40, seed + 100, "abcg")
    expected = [by_nltk(text, references) for text in texts]
    assert mean_bleu(texts, references) == pytest.approx(math.fsum(expected) / 30, rel=1e-12)
    assert max(expected) > 20 > 10 > min(expected)


@pytest.mark.parametrize("seed", range(5))
def test_self_bleu_leaves_each_text_out_of_its_own_references(seed):
    texts = sentences(25, seed)
    texts += texts[:3]  # texts that come twice have themselves as a reference
    expected = [by_nltk(text, texts[:row] + texts[row + 1 :]) for row, text in enumerate(texts)]
    assert self_bleu(texts) == pytest.approx(math.fsum(expected) / 28, rel=1e-12)


def test_counts_are_clipped_by_the_one_reference_that_has_most():
    """'a a a b' beside 'a a' and 'a b b': 2 + 1 of 4 words, 2 of 3 pairs ('a a' once, 'a b'), no triple of 2."""
    found = mean_bleu(["a a a b"], ["a a", "a b b"])
    logs = (math.log(3 / 4) + math.log(2 / 3) + math.log(0.1 / 2) + math.log(0.1 / 1)) / 4
    assert found == pytest.approx(100 * math.exp(logs))


def test_the_nearest_length_decides_and_of_two_the_shorter():
    assert mean_bleu(["a b c d"], ["a b c d e f", "x x"]) == pytest.approx(100.0)
    assert mean_bleu(["a b c d"], ["a b c d e f g", "x"]) == pytest.approx(100.0)
    assert mean_bleu(["a b c d"], ["a b c d e f"]) == pytest.approx(100 * math.exp(-0.5))


def test_identities():
    texts = ["a b c d e", "f g h i j"]
    assert mean_bleu(texts, texts) == pytest.approx(100.0)
    assert self_bleu(texts) == 0.0
    assert self_bleu([texts[0]] * 3) == pytest.approx(100.0)
    assert mean_bleu([""], texts) == 0.0
    # One more copy of a text is nothing new to the others.
    more = sentences(10, 3)
    assert mean_bleu(texts, more) == mean_bleu(texts, more + more)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_bleu([], ["a"]), "a text and a reference or more; got 0 and 1"),
        (lambda: mean_bleu(["a"], []), "got 1 and 0"),
        (lambda: self_bleu(["a b c d"]), "two texts or more with each other; got 1"),
    ],
)
def test_nothing_to_compare_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
