"""References and samples of a word model."""

import math

import pytest

from ppl_text.data.catalogue import load_corpus
from ppl_text.evaluation.words import word_references, word_samples
from ppl_text.metrics.words import letter_model


def test_references_are_those_of_the_split(trained):
    corpus = trained.corpus
    model, test = letter_model(corpus.splits["train"]), corpus.splits["test"]
    shares = test.probabilities()
    references = word_references(corpus, "test")
    expected = -sum(p * model.log_prob(word) for p, word in zip(shares, test.texts, strict=True))
    assert references.letters == pytest.approx(expected)
    assert references.entropy == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert references.entropy < references.letters
    assert references != word_references(corpus, "valid")


def test_shares_of_samples_are_counted(trained):
    samples = word_samples(trained.model, trained.guide, trained.corpus, 300, seed=2)
    known = set(trained.corpus.splits["train"].texts)
    assert samples.drawn == len(samples.words) == 300
    assert samples.in_list == sum(word in known for word in samples.words) / 300
    assert samples.unique == len(set(samples.words)) / 300
    limit = 2 * trained.corpus.max_steps
    assert samples.unfinished == sum(len(word) == limit for word in samples.words)
    assert samples == word_samples(trained.model, trained.guide, trained.corpus, 300, seed=2)


def test_sentences_are_compared_with_independent_tokens(tmp_path):
    lines = ["a b", "a", "a b c", "b"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("valid", "test"):
        (tmp_path / f"{name}.txt").write_text("a a\nc\n", encoding="utf-8")
    corpus = load_corpus(str(tmp_path), unit="sentences")
    references = word_references(corpus, "test")
    # train: a 3, b 3, c 1, EOS 4 of 11 symbols; test: a a EOS, c EOS
    expected = -(2 * math.log(3 / 11) + math.log(1 / 11) + 2 * math.log(4 / 11)) / 2
    assert references.letters == pytest.approx(expected)
    assert (references.unit, references.symbol) == ("sentence", "token")
    assert references.entropy == pytest.approx(math.log(2))
