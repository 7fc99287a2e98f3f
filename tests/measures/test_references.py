"""What bounds are compared with: i.i.d. letters of words, i.i.d. tokens of sentences, the entropy of the split."""

import math

import pytest

from ppl_text.data.catalogue import load_corpus
from ppl_text.measures.sentences import SentenceMeasure
from ppl_text.measures.words import WordMeasure
from ppl_text.metrics.words import letter_model


def test_words_are_compared_with_independent_letters(trained):
    corpus = trained.corpus
    model, test = letter_model(corpus.splits["train"]), corpus.splits["test"]
    shares = test.probabilities()
    references = WordMeasure().references(corpus, "test")
    expected = -sum(p * model.log_prob(word) for p, word in zip(shares, test.texts, strict=True))
    assert references.letters == pytest.approx(expected)
    assert references.entropy == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert references.entropy < references.letters
    assert references != WordMeasure().references(corpus, "valid")


def test_sentences_are_compared_with_independent_tokens(tmp_path):
    lines = ["a b", "a", "a b c", "b"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("valid", "test"):
        (tmp_path / f"{name}.txt").write_text("a a\nc\n", encoding="utf-8")
    corpus = load_corpus(str(tmp_path), unit="sentences")
    references = SentenceMeasure().references(corpus, "test")
    # train: a 3, b 3, c 1, EOS 4 of 11 symbols; test: a a EOS, c EOS
    expected = -(2 * math.log(3 / 11) + math.log(1 / 11) + 2 * math.log(4 / 11)) / 2
    assert references.letters == pytest.approx(expected)
    assert references.entropy == pytest.approx(math.log(2))
