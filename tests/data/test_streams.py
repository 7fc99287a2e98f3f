"""Streamed corpora: equal to those in memory in everything, made once, whole or not at all, and refused in words."""

import errno
import json
import os
import shutil
import subprocess
import threading

import numpy as np
import pytest

from ppl_text.core.errors import CheckpointError, ConfigError, DataError, UserError
from ppl_text.core.watching import heard_by
from ppl_text.data import stored, streams
from ppl_text.data.batches import default_buckets
from ppl_text.data.corpus import SPLITS, Split, found_among
from ppl_text.data.shares import shares_of

from .streaming import both, lines_of, loaded, write


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder of the cache."""
    monkeypatch.setenv("PPL_TEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "streams"


@pytest.fixture
def lines():
    return lines_of(np.random.default_rng(0), 400)


def file_with(edit=list, name="mine.txt", start=""):
    return lambda folder, lines: write(folder / name, edit(lines), start)


def folder_of(*splits):
    def made(folder, lines):
        for place, split in enumerate(splits):
            write(folder / "data" / f"{split}.txt", lines[place::3])
        return folder / "data"

    return made


CASES = {
    "words": (file_with(), {}),
    "rare words are unknown": (file_with(), {"min_count": 2, "vocabulary": 40}),
    "truncated": (file_with(), {"max_tokens": 5}),
    "dropped": (file_with(), {"max_tokens": 5, "long": "drop"}),
    "characters": (file_with(), {"tokenizer": "character", "max_tokens": 20}),
    "byte pairs": (file_with(), {"tokenizer": "bpe", "vocabulary": 300, "max_tokens": 9}),
    "lower case and NFC": (file_with(lambda ls: [f"{line.upper()}  Cafe\u0301 " for line in ls]), {"lower": True}),
    "a mark, blank lines, other line ends": (
        file_with(lambda ls: [x for line in ls for x in (f" {line}\r", "", "\t" * 0)], start="\ufeff"),
        {},
    ),
    "labels": (file_with(lambda ls: [f"{i}\t{line}" for i, line in enumerate(ls)], "mine.tsv"), {"max_tokens": 7}),
    "a limit": (file_with(), {"limit": 150}),
    "a folder": (folder_of("train", "valid", "test"), {"max_tokens": 6}),
    "a folder without test": (folder_of("train", "valid"), {}),
    "a vocabulary of all splits": (folder_of("train", "valid", "test"), {"fit_on": "all", "min_count": 2}),
    "another division": (file_with(), {"seed": 5, "test_share": 0.3, "divide": "whole", "max_tokens": 4}),
}


def assert_equal(one, two):
    assert two.tokenizer == one.tokenizer
    assert (two.max_steps, two.repeats, two.fingerprint) == (one.max_steps, one.repeats, one.fingerprint)
    for name in SPLITS:
        a, b = one.splits[name], two.splits[name]
        assert list(b.texts) == list(a.texts)
        assert np.array_equal(b.target.table.ids, a.target.table.ids)
        assert np.array_equal(b.target.table.offsets, a.target.table.offsets)
        assert np.array_equal(b.target.lengths, a.target.lengths)
        assert b.fingerprint == a.fingerprint == Split(b.target).fingerprint
        assert (b.long, b.read, b.total, shares_of(b)) == (a.long, a.read, a.total, shares_of(a))
        assert default_buckets(b, 4) == default_buckets(a, 4)
        assert np.array_equal(np.concatenate(list(b.digests())), np.concatenate(list(a.digests())))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_streamed_is_what_is_in_memory(tmp_path, cache, lines, monkeypatch, case):
    monkeypatch.setattr(stored, "ROWS", 37)
    make, options = case
    here, there = both(make(tmp_path, lines), **options)
    assert_equal(here, there)
    *notes, where = there.notes
    assert tuple(notes) == here.notes
    (folder,) = cache.iterdir()
    assert f"sentences are kept in {folder}" in where


def test_rows_of_a_split_are_those_in_memory(tmp_path, cache, lines):
    here, there = both(write(tmp_path / "a.txt", lines), max_tokens=6)
    a, b = here.splits["train"], there.splits["train"]
    rows = np.array([5, 6, 7, 3, 200, 0, 200])
    one, two = a.take(rows), b.take(rows)
    assert list(two.texts) == list(one.texts)
    assert two.target.table.ids.tolist() == one.target.table.ids.tolist()
    assert b.batch(rows).tokens.tolist() == a.batch(rows).tokens.tolist()
    assert len(b.take(rows[:0])) == 0
    assert b.texts[3] == a.texts[3]
    assert b.texts[-1] == a.texts[-1]
    assert b.texts[10:20:3] == list(a.texts[10:20:3])
    assert b.texts[20:10:-3] == list(a.texts[20:10:-3])
    assert b.target.table.tokens(7) == a.target.table.tokens(7)
    wanted = {a.texts[3], a.texts[-1], "not there"}
    assert found_among(b.texts, wanted) == found_among(a.texts, wanted) == wanted - {"not there"}
    with pytest.raises(IndexError):
        b.texts[len(b)]


# -- made once --------------------------------------------------------------------------------------


def test_a_second_time_nothing_is_made(tmp_path, cache, lines, monkeypatch):
    path = write(tmp_path / "a.txt", lines)
    first = loaded(path, stream=True)
    monkeypatch.setattr(streams._Maker, "make", None)
    second = loaded(path, stream=True)
    assert_equal(first, second)
    assert second.notes == first.notes
    moved = shutil.copytree(tmp_path, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("cache")) / "a.txt"
    assert loaded(moved, stream=True).fingerprint == first.fingerprint


def test_other_content_or_options_lie_elsewhere(tmp_path, cache, lines):
    path = write(tmp_path / "a.txt", lines)
    first = loaded(path, stream=True).fingerprint
    assert loaded(path, stream=True, min_count=2).fingerprint != first
    write(path, [*lines[1:], "x"])
    assert loaded(path, stream=True).fingerprint != first
    assert len(list(cache.iterdir())) == 3


def test_two_at_once_make_it_once(tmp_path, cache, lines, monkeypatch):
    path = write(tmp_path / "a.txt", lines)
    made, told, found = [], [], {}
    make, both_there, waits = streams._Maker.make, threading.Barrier(2), threading.Event()

    def slowly(self, folder):
        made.append(folder)
        waits.wait(10)
        make(self, folder)

    monkeypatch.setattr("ppl_text.core.locks.WAIT", 0.01)
    monkeypatch.setattr(streams._Maker, "make", slowly)

    def hears(what, done, total):
        if what.startswith("waiting: process"):
            told.append(what)
            waits.set()

    def load(name):
        both_there.wait(10)
        with heard_by(hears):
            found[name] = loaded(path, stream=True)

    threads = [threading.Thread(target=load, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert told[0].startswith(f"waiting: process {os.getpid()} is at work on ")
    assert_equal(found["a"], found["b"])


def damage_of(name, change):
    """Change the bytes of a file."""

    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def facts_with(**changed):
    return damage_of("facts.json", lambda data: json.dumps({**json.loads(data), **changed}).encode())


def flipped(data):
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


DAMAGE = {
    "shorter": damage_of("train.ids", lambda data: data[:-4]),
    "one bit": damage_of("valid.places", flipped),
    "no JSON": damage_of("facts.json", lambda data: data[:50]),
    "of another": facts_with(key="0" * 32),
    "without splits": facts_with(splits={}),
    "of a later version": facts_with(news=1),
    "another type": damage_of("facts.json", lambda data: data.replace(b'"rows":', b'"rows":"x", "y":', 1)),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no file": lambda folder: (folder / "test.offsets").unlink(),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_told_and_mended(tmp_path, cache, lines, damage):
    path = write(tmp_path / "a.txt", lines)
    here, there = both(path)
    (folder,) = cache.iterdir()
    damage(folder)
    again = loaded(path, stream=True)
    assert_equal(here, again)
    assert again.notes[0].startswith("warning: ")
    assert again.notes[0].endswith(f": {folder} is made anew")
    assert again.notes[1:] == there.notes
    assert loaded(path, stream=True).notes == there.notes


def test_a_folder_of_somebody_else_stays(tmp_path, cache, lines):
    path = write(tmp_path / "a.txt", lines)
    loaded(path, stream=True)
    (folder,) = cache.iterdir()
    (folder / "facts.json").unlink()
    (folder / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match=r"is no cache of data.stream: it holds thesis.tex; move it elsewhere"):
        loaded(path, stream=True)
    assert (folder / "thesis.tex").read_text() == "dear"


# -- whole or not at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["vocabulary", "ids", "looking for sentences", "reading valid again"])
def test_a_stop_leaves_nothing(tmp_path, cache, lines, monkeypatch, where):
    monkeypatch.setattr(streams, "NOTICE", 100)
    path = write(tmp_path / "a.txt", lines)

    def stop(what, done, total):
        if what.startswith(where) and (done or not total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), heard_by(stop):
        loaded(path, stream=True)
    assert not list(cache.iterdir())
    assert_equal(*both(path))


def test_what_a_killed_process_left_is_no_obstacle(tmp_path, cache, lines, monkeypatch):
    path = write(tmp_path / "a.txt", lines)
    here, there = both(path)
    (folder,) = cache.iterdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    shutil.move(folder, folder.with_name(f"{folder.name}.{streams._HOST}-{gone.pid}{streams.PARTIAL}"))
    folder.with_suffix(".lock").write_text("1\n")
    assert_equal(here, loaded(path, stream=True))
    assert [found.name for found in cache.iterdir()] == [folder.name]
    assert there.notes


def test_of_several_that_find_damage_only_the_first_mends_it(tmp_path, cache, lines, monkeypatch):
    path = write(tmp_path / "a.txt", lines)
    here, _ = both(path)
    checked, damage = streams._checked, [streams._DamagedError("found by all at once")]
    monkeypatch.setattr(streams, "_checked", lambda *of: raised(damage.pop()) if damage else checked(*of))
    monkeypatch.setattr(streams._Maker, "make", lambda *_: pytest.fail("what another process has mended is made anew"))
    assert_equal(here, loaded(path, stream=True))


def raised(error):
    raise error


def test_where_nothing_can_be_locked_the_first_to_finish_is_taken(tmp_path, cache, lines, monkeypatch):
    path = write(tmp_path / "a.txt", lines)
    written = streams._Maker._write

    def overtaken(maker, folder):
        written(maker, folder)
        shutil.copytree(folder, folder.parent / maker.key)

    monkeypatch.setattr(streams._Maker, "_write", overtaken)
    assert_equal(*both(path))
    assert len(list(cache.iterdir())) == 1


def test_progress_is_told_by_bytes(tmp_path, cache, lines, monkeypatch):
    monkeypatch.setattr(streams, "NOTICE", 100)
    path, heard = write(tmp_path / "a.txt", lines), []
    with heard_by(lambda *told: heard.append(told)):
        loaded(path, stream=True)
    for what in ("vocabulary of a.txt, by bytes", "ids of a.txt, by bytes"):
        done = [(at, total) for said, at, total in heard if said == what]
        assert len(done) == 4
        assert sorted(done) == done
        assert done[-1][0] < done[-1][1] == path.stat().st_size


def test_a_small_disk_is_seen_before(tmp_path, cache, lines, monkeypatch):
    path = write(tmp_path / "a.txt", lines)
    usage = shutil.disk_usage(tmp_path)
    loaded(path, stream=True)
    (folder,) = cache.iterdir()
    size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".json")
    shutil.rmtree(cache)
    for free, works in ((0.7 * size, False), (1.3 * size, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=int(free)))
        if works:
            loaded(path, stream=True)
        else:
            with pytest.raises(UserError, match=r"data.stream takes about .* MiB in .*PPL_TEXT_CACHE"):
                loaded(path, stream=True)
            assert not list(cache.iterdir())


def test_a_full_disk_is_told(tmp_path, cache, lines, monkeypatch):
    def full(self, numbers):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stored._File, "add", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        loaded(write(tmp_path / "a.txt", lines), stream=True)
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, lines):
    monkeypatch.setenv("PPL_TEXT_CACHE", str(write(tmp_path / "file", []) / "x"))
    with pytest.raises(UserError, match=r"cannot be written in .*file/x/streams: Not a directory; .*PPL_TEXT_CACHE"):
        loaded(write(tmp_path / "a.txt", lines), stream=True)


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    for name in ("PPL_TEXT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert str(streams.cache_folder()) == "/home/me/.cache/ppl_text/streams"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(streams.cache_folder()) == "/x/ppl_text/streams"
    monkeypatch.setenv("PPL_TEXT_CACHE", "~/big")
    assert str(streams.cache_folder()) == "/home/me/big/streams"


# -- files that change ------------------------------------------------------------------------------


def test_a_file_that_has_changed_is_not_read_from(tmp_path, cache, lines):
    path = write(tmp_path / "a.txt", lines)
    split = loaded(path, stream=True).splits["train"]
    text = split.texts[7]
    os.utime(path, (1, 1))
    assert split.texts[7] == text, "only its date is another"
    write(path, ["zzz", *lines])
    with pytest.raises(DataError, match=r"a.txt: the file has changed since its sentences were read .*put it back"):
        split.texts[7]
    path.unlink()
    with pytest.raises(DataError, match="cannot be read any more: No such file or directory; put it back"):
        split.texts[7]
    write(path, lines)
    assert split.texts[7] == text


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, cache, lines, monkeypatch):
    path = write(tmp_path / "a.txt", lines)

    def change(what, done, total):
        if what.startswith("looking for sentences"):
            write(path, [*lines, "one more"])

    with pytest.raises(DataError, match="the file has changed since"), heard_by(change):
        loaded(path, stream=True)
    assert not list(cache.iterdir())


# -- samples ----------------------------------------------------------------------------------------


def test_byte_pairs_are_learned_from_a_sample(tmp_path, cache, lines, monkeypatch):
    monkeypatch.setattr(streams, "BPE_CHARACTERS", 3000)
    found = loaded(write(tmp_path / "a.txt", lines), stream=True, tokenizer="bpe", vocabulary=280)
    note = next(note for note in found.notes if note.startswith("vocabulary"))
    sample, _, whole = note.partition("made from train, of ")[2].removesuffix(" sentences").partition(" of ")
    assert 0 < int(sample) < int(whole) == len(found.splits["train"])


def test_each_text_is_as_likely_in_a_sample():
    texts = [f"{i:02}" for i in range(60)]
    counts = np.zeros(60)
    for seed in range(2000):
        sample = streams._sampled(texts, 40, seed)
        assert sum(map(len, sample.texts)) <= 40
        assert sample.read == 60
        counts[[int(text) for text in sample.texts]] += 1
    share = counts.sum() / 60 / 2000
    # Whether one text is drawn depends on the others, which makes the spread less than that of independent draws.
    assert abs(counts / 2000 - share).max() < 5 * np.sqrt(share * (1 - share) / 2000)
    assert streams._sampled(texts, 120, 0).texts == texts
    assert streams._sampled(["x" * 50], 40, 0).texts == ["x" * 50]


# -- refused ----------------------------------------------------------------------------------------


def parallel(folder):
    write(folder / "train.src", ["a b"] * 9)
    return write(folder / "train.tgt", ["c d"] * 9)


OTHERS = {
    "a table": lambda folder: write(folder / "a.csv", ["text", *["a b"] * 9]),
    "a table between tabs": lambda folder: write(folder / "a.tsv", ["text\tlabel", *["a b\t1"] * 9]),
    "JSON": lambda folder: write(folder / "a.jsonl", ['{"text": "a b"}'] * 9),
    "parallel files": parallel,
    "built in": lambda folder: "verses",
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_has_no_lines_is_refused(tmp_path, cache, make):
    with pytest.raises(DataError, match=r"data.stream reads text files with a sentence on each line, .*into a \.txt"):
        loaded(make(tmp_path), stream=True)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"train_limit": 9}, "train_limit"),
        ({"extra": "x.txt"}, "extra"),
        ({"sources": "text"}, "sources"),
        ({"train_limit": 9, "extra": "x.txt"}, "train_limit, extra"),
    ],
)
def test_options_that_need_memory_are_refused(tmp_path, options, names):
    with pytest.raises(ConfigError, match=f"'stream': expected none of {names} beside it"):
        loaded(write(tmp_path / "a.txt", ["a"] * 9), stream=True, **options)


BAD = {
    "not UTF-8": (["a b"] * 30, b"caf\xe9\n", r"a.txt, line 31: not UTF-8 text: byte 0xE9"),
    "too few": (["a b", "a b"], b"", "too few sentences to divide: 2 leave none for"),
    "empty": ([], b"\n\n", "there is no sentence in it"),
    "all too long": ([f"a b {i}" for i in range(60)], b"", "every sentence of train has more than max_tokens=2"),
}


@pytest.mark.parametrize(("lines", "more", "message"), BAD.values(), ids=BAD)
def test_faults_are_those_of_any_text(tmp_path, cache, lines, more, message):
    path = write(tmp_path / "a.txt", lines)
    path.write_bytes(path.read_bytes() + more)
    assert_same_fault(path, message, max_tokens=2, long="drop")
    assert not list(cache.iterdir())


def assert_same_fault(path, message, **options):
    said = []
    for stream in (False, True):
        with pytest.raises(DataError, match=message) as caught:
            loaded(path, stream=stream, **options)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_long_one_is_refused_by_its_line(tmp_path, cache):
    path = write(tmp_path / "a.txt", [*[f"a b {i}" for i in range(60)], "a b c d e"])
    assert_same_fault(path, r"a.txt, line 61: 5 tokens, more than max_tokens=4", long="refuse", max_tokens=4)
    assert not list(cache.iterdir())
