"""Fewer training sentences, and further ones beside them: neither touches the vocabulary or another split."""

import pytest

from ppl_text.core.errors import DataError
from ppl_text.data.options import SentenceOptions
from ppl_text.data.sentences import load_sentences

WORDS = ["sun", "moon", "star", "sea", "sand"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sentences")
    lines = [f"{a} {b} n{i}" for i, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)]
    for name, part in (("train", lines), ("valid", ["sun moon"]), ("test", ["star sea n3"])):
        (place / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    (place.parent / "more.txt").write_text("moon comet\n\nsun sun sun sun sun sun\nsea\n", encoding="utf-8")
    return place


def loaded(folder, **options):
    return load_sentences(folder, SentenceOptions(**options))


def test_subsets_lie_within_each_other_and_leave_the_rest_as_it_is(folder):
    whole, *parts = (loaded(folder, train_limit=n) for n in (None, 12, 5))
    texts = [list(corpus.splits["train"].texts) for corpus in (whole, *parts)]
    assert [len(part) for part in texts] == [25, 12, 5]
    assert set(texts[2]) < set(texts[1]) < set(texts[0])
    assert texts[1] == [text for text in texts[0] if text in set(texts[1])]
    for corpus in parts:
        assert corpus.tokenizer == whole.tokenizer
        assert corpus.splits["test"].fingerprint == whole.splits["test"].fingerprint
    other = loaded(folder, train_limit=12, seed=1)
    assert set(other.splits["train"].texts) != set(texts[1])


def test_further_sentences_stand_behind_in_the_vocabulary_of_the_others(folder):
    more = folder.parent / "more.txt"
    plain, added = loaded(folder, train_limit=5), loaded(folder, train_limit=5, extra=str(more), max_tokens=4)
    train = added.splits["train"]
    assert list(train.texts) == [*plain.splits["train"].texts, "moon comet", "sun sun sun sun", "sea"]
    assert added.tokenizer == plain.tokenizer
    assert added.tokenizer.decode(train.target.table.tokens(5)) == "moon <unk>"
    assert train.fingerprint != plain.splits["train"].fingerprint
    two = loaded(folder, extra=str(more), extra_limit=2).splits["train"]
    assert list(two.texts)[25:] == ["moon comet", "sun sun sun sun sun sun"]


BAD = {
    "more than there are": ({"train_limit": 26}, "train_limit=26 of 25 training sentences; lower it"),
    "more than the file has": ({"extra": "more.txt", "extra_limit": 4}, "extra_limit=4 of 3 sentences; lower it"),
    "no such file": ({"extra": "none.txt"}, "none.txt"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_what_is_not_there_is_named(folder, options, message):
    if "extra" in options:
        options = {**options, "extra": str(folder.parent / options["extra"])}
    with pytest.raises(DataError, match=message):
        loaded(folder, **options)


def test_pairs_take_no_further_texts(folder):
    with pytest.raises(DataError, match="extra sentences have no sources"):
        loaded(folder, extra=str(folder.parent / "more.txt"), sources="text")
