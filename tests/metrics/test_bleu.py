"""BLEU counted by hand, and against sacreBLEU where the two should agree."""

import math
import random

import pytest
from sacrebleu.metrics import BLEU

from ppl_text.core.errors import DataError
from ppl_text.metrics.bleu import bleu, signature


def test_figures_are_those_counted_by_hand():
    """Texts of 4 words each, references of 4 and 5: BP = exp(1 - 9/8)."""
    texts = ["a b c d", "e f h g"]
    references = ["a b c d", "e f x g y"]
    # 1-grams: abcd 4/4, efhg: e f g 3/4. 2-grams: 3/3, ef 1/3. 3-grams: 2/2, 0/2. 4-grams: 1/1, 0/1.
    brevity = math.exp(1 - 9 / 8)
    p1, p2, p3, p4 = 7 / 8, 4 / 6, 2 / 4, 1 / 2
    found = bleu(texts, references)
    assert found.bleu1 == pytest.approx(100 * brevity * p1)
    assert found.bleu2 == pytest.approx(100 * brevity * math.sqrt(p1 * p2))
    assert found.bleu3 == pytest.approx(100 * brevity * p1**0.34 * p2**0.33 * p3**0.33)
    assert found.bleu4 == pytest.approx(100 * brevity * (p1 * p2 * p3 * p4) ** 0.25)


def test_a_word_counts_as_often_as_its_reference_has_it():
    """The example of Papineni et al.: "the" seven times, of which the reference has two."""
    found = bleu(["the the the the the the the"], ["the cat is on the mat"])
    assert found.bleu1 == pytest.approx(100 * 2 / 7)


def test_nothing_is_smoothed():
    found = bleu(["a b x c d"], ["a b y c d"])
    assert found.bleu2 == pytest.approx(100 * math.sqrt(4 / 5 * 2 / 4))
    assert found.bleu3 == pytest.approx(0.0, abs=1e-30)
    assert found.sacrebleu > 1.0, "which smooths"
    assert bleu(["", ""], ["a b", "c"]) == (0.0,) * 5


def test_texts_like_their_references_have_all_there_is():
    texts = ["a b c d e", "f g h i", "j k l m n o"]
    assert bleu(texts, texts) == pytest.approx((100.0,) * 5)


def test_bleu_4_is_that_of_sacrebleu_without_its_tokenizer_and_smoothing():
    draw = random.Random(0)
    references = [" ".join(draw.choices("abcde", k=draw.randint(5, 12))) for _ in range(40)]
    texts = [" ".join(w if draw.random() < 0.8 else "x" for w in text.split()) for text in references]
    oracle = BLEU(tokenize="none", smooth_method="none").corpus_score(texts, [references])
    assert bleu(texts, references).bleu4 == pytest.approx(oracle.score)


def test_sacrebleu_is_the_one_that_is_quoted():
    oracle = BLEU()
    texts, references = ["The cat sat, alone.", "a dog barks at it"], ["The cat slept, alone.", "a dog barks at night"]
    assert bleu(texts, references).sacrebleu == pytest.approx(oracle.corpus_score(texts, [references]).score)
    assert signature() == str(oracle.get_signature())
    assert "tok:13a" in signature()


@pytest.mark.parametrize(("texts", "references"), [([], []), (["a"], ["a", "b"])])
def test_what_cannot_be_compared_is_refused(texts, references):
    with pytest.raises(DataError, match="as many references"):
        bleu(texts, references)
