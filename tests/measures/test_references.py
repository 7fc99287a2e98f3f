"""What bounds are compared with: i.i.d. letters of words, i.i.d. tokens of sentences, the entropy of the split."""

import math
from dataclasses import replace

import pytest

from ppl_text.data.catalogue import load_corpus
from ppl_text.measures.sentences import SentenceMeasure
from ppl_text.measures.texts import reference_rows
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
    assert not references.telling, "all differ: that is how many there are, and no limit"


def corpus_of(folder, test, *, suffix="txt", **options):
    """A corpus whose test split has these lines, and its measure's references."""
    heading = "source\ttext\n" if suffix == "tsv" else ""
    train = "a\ta b\nb\tc\n" if suffix == "tsv" else "a b\nc\n"
    for name, text in (("train", train), ("valid", train), ("test", "\n".join(test) + "\n")):
        (folder / f"{name}.{suffix}").write_text(heading + text, encoding="utf-8")
    return load_corpus(str(folder), unit="sentences", min_count=1, **options)


FIVE = ["a b", "a b c", "c", "b", "a"]


@pytest.mark.parametrize(
    ("test", "options", "shares"),
    {
        "copies": (FIVE * 100, {}, [1 / 5] * 5),
        "equal after <unk>": (["a never", "a seen", "b", "b"], {}, [1 / 2] * 2),
        "equal after truncation": (
            ["a b c a", "a b c b", "c", "c a", "c b", "c c"],
            {"max_tokens": 3, "long": "truncate"},
            [1 / 3, *[1 / 6] * 4],
        ),
    }.values(),
    ids=["copies", "equal after <unk>", "equal after truncation"],
)
def test_texts_that_are_equal_are_one_text(tmp_path, test, options, shares):
    """No model's mean log-probability is above -H: who gives each of five lines 1/5 knows 100 copies of them."""
    corpus = corpus_of(tmp_path, test, **options)
    references = SentenceMeasure().references(corpus, "test")
    best = sum(share * math.log(share) for share in shares)
    assert references.entropy == pytest.approx(-best)
    assert references.telling
    rows = reference_rows(references, "token")
    assert rows[-1] == ("most on the whole split: minus its entropy", f"{best:.3f}", "exact")
    assert rows[-1] not in reference_rows(replace(references, telling=False), "token")


def test_a_model_that_reads_a_source_is_limited_by_what_the_source_leaves_open(tmp_path):
    """Beside one source stand two texts, beside the other one: half of the time one of two remains open."""
    pairs = ["a\ta", "a\tb", "b\ta", "b\ta"]
    corpus = corpus_of(tmp_path, pairs, suffix="tsv", column="text", source="source")
    alone, given = (SentenceMeasure().references(corpus, "test", conditional=c) for c in (False, True))
    assert alone.entropy == pytest.approx(-(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)))
    assert given.entropy == pytest.approx(math.log(2) / 2)
    assert alone.telling
    assert given.telling
