"""Generated texts of stated lengths: figures from texts that are known, beside those of the real ones."""

import math

import numpy as np
import pytest

from ppl_text.data.corpus import Corpus, Side, Split
from ppl_text.data.tokenizers import word_tokenizer
from ppl_text.measures import load_measure
from ppl_text.measures.base import TextSamples
from ppl_text.measures.generation import texts_of_length
from ppl_text.metrics.diversity import diversity
from ppl_text.metrics.fluency import NgramJudge

TRAIN = ["a b c", "a b", "c b a", "a b c d"] * 3
TEST = ["a b c", "b a", "d d d", "a b c d", "rare words here"]
SETTINGS = {"lengths": [2, 3, 9], "samples": 4, "order": 2, "judge": None}


class Known:
    """A subject that writes as many a's and b's as it is asked for."""

    steps = 7

    def __init__(self):
        tokenizer = word_tokenizer(TRAIN)
        splits = {name: Split(Side(texts, tokenizer)) for name, texts in (("train", TRAIN), ("test", TEST))}
        self.corpus = Corpus("known", splits, (), "text", "word", weighted=False)
        self.asked = []

    def samples(self, n, seed, length=None):
        self.asked.append((n, seed, length))
        texts = [" ".join((["a", "b"] * length)[i : i + length]) for i in range(n)]
        return TextSamples(n, 0.5, 0.5, 0, tuple(texts))


@pytest.fixture(scope="module")
def filled():
    subject = Known()
    return subject, load_measure("generation").row(subject, SETTINGS, lambda what: None)


def test_every_length_is_drawn_by_a_seed_of_its_own(filled):
    subject, _ = filled
    assert [(n, length) for n, _, length in subject.asked] == [(4, 2), (4, 3), (4, 9)]
    assert len({seed for _, seed, _ in subject.asked}) == 3


def test_figures_are_those_of_all_texts_together(filled):
    _, measured = filled
    found = measured.numbers
    texts = ["a b a", "b a b", "a b a", "b a b"]
    assert (found["ent_3"], found["dist1_3"], found["dist2_3"]) == tuple(diversity([t.split() for t in texts]))
    surprises = NgramJudge(TRAIN, 2)(texts)
    assert found["ngram_3"] == pytest.approx(surprises.mean())
    assert found["ngram_sd_3"] == pytest.approx(surprises.std(ddof=1))
    assert found["ngram_ppl_3"] == pytest.approx(math.exp(surprises.mean()))
    assert "judge_3" not in found
    assert measured.texts == {"2 words": ["a b"], "3 words": ["a b a"], "9 words": ["a b a b a b a b a"]}


def test_real_texts_of_the_same_length_stand_beside(filled):
    subject, measured = filled
    assert texts_of_length(subject.corpus.splits["test"], 3, 2) == ["a b c", "d d d"]
    found = measured.numbers
    assert [found[f"real_{length}"] for length in SETTINGS["lengths"]] == [1, 3, 0]
    unknown = ["a b c", "d d d", "<unk> <unk> <unk>"]
    assert found["real_ent_3"] == pytest.approx(diversity([t.split() for t in unknown]).entropy)
    assert found["real_ngram_3"] == pytest.approx(np.mean(NgramJudge(TRAIN, 2)(unknown)))
    assert "real_ent_2" not in found
    notes = load_measure("generation").notes(
        {"rows": [{"seeds": [0], "measures": found}], "settings": {**SETTINGS, "lengths": [2, 3]}}
    )
    assert any(note.startswith("The 3 test texts of length 3: Ent 1.46, Dist-1 0.556, Dist-2 ") for note in notes)
