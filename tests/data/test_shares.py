"""Shares of <unk>, truncated and dropped texts, by hand; the warning of an <unk> that is scored and never trained."""

import numpy as np
import pytest

from ppl_text.data.corpus import Long
from ppl_text.data.options import SentenceOptions
from ppl_text.data.sentences import load_sentences
from ppl_text.data.shares import Shares, shares_of


def load(folder, train, valid="a\n", test="a\n", **options):
    for name, text in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return load_sentences(folder, SentenceOptions(**options))


def warnings(corpus):
    return [note for note in corpus.notes if note.startswith("warning")]


@pytest.mark.parametrize(
    ("long", "expected"),
    [
        ("truncate", Shares(unknown=1 / 6, truncated=2 / 4, dropped=0.0)),
        ("drop", Shares(unknown=0 / 2, truncated=0.0, dropped=2 / 4)),
    ],
)
def test_shares_by_hand(tmp_path, long, expected):
    corpus = load(tmp_path, "a b\nb a c\n", test="a\nc x a b\nb\na b b\n", max_tokens=2, long=long)
    assert shares_of(corpus.splits["test"]) == expected
    assert sum(corpus.splits["test"].long) == 2


def test_a_pair_is_long_where_either_side_is(tmp_path):
    rows = ["text,source", "a b c,a", "a,a b c", "a,b", "a b c,b a c"]
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    limits = {"source": "source", "max_tokens": 2, "source_max_tokens": 2}
    for long, expected in (("truncate", Long(truncated=3)), ("drop", Long(dropped=3))):
        corpus = load_sentences(tmp_path, SentenceOptions(**limits, long=long))
        assert corpus.splits["train"].long == expected


def test_a_part_of_a_split_has_the_shares_of_what_was_read(tmp_path):
    long = "a b c\na b\nb a c\nb\n"
    whole = load(tmp_path, long, max_tokens=2, long="truncate").splits["train"]
    assert (whole.long, whole.read) == (Long(truncated=2), 4)
    part = whole.take(np.array([3]))
    assert (part.long, part.read) == (whole.long, whole.read)
    assert shares_of(part).truncated == 2 / 4
    more = tmp_path / "more.txt"
    more.write_text("a a a a\nb\n", encoding="utf-8")
    both = load(tmp_path, long, max_tokens=2, long="drop", train_limit=1, extra=str(more)).splits["train"]
    assert (len(both), both.long, both.read) == (3, Long(truncated=1, dropped=2), 6)
    assert shares_of(both) == Shares(unknown=0.0, truncated=1 / 6, dropped=2 / 6)


def test_a_closed_vocabulary_has_no_shares(trained):
    assert shares_of(trained.corpus.splits["test"]) is None


def test_an_unknown_that_is_scored_and_not_trained_is_warned_of(tmp_path):
    (warning,) = warnings(load(tmp_path, "a b\na b c\n", valid="a x\n", test="y a\nz\n"))
    assert warning.startswith("warning: train has no <unk>, valid 1 and test 2: it is never trained and yet scored")
    assert "data.min_count" in warning


def test_no_warning_where_train_has_it_or_nothing_has(tmp_path):
    assert not warnings(load(tmp_path, "a b\na b c\n", test="a x\n", min_count=2))
    assert not warnings(load(tmp_path, "a b\na <unk>\n", test="a x\n"))
    assert not warnings(load(tmp_path, "a b\n"))
