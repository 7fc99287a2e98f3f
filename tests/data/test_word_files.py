"""A user's own list: formats, filters, folders, and every message about a fault."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppl_text.core.errors import ConfigError, DataError
from ppl_text.data.catalogue import load_corpus
from ppl_text.data.options import WordListOptions
from ppl_text.data.word_files import is_word, load_word_list, read_words

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "he", "ji", "ko")
LIST = "".join(f"{a}{b}\t{10 * i + j + 20}\n" for i, a in enumerate(SYLLABLES) for j, b in enumerate(SYLLABLES))
"""64 words with counts of 20 and more: enough for every split."""


def load(path, **options):
    return load_corpus(str(path), **options)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def whole(corpus):
    total = {}
    for split in corpus.splits.values():
        for word, count in zip(split.texts, split.counts.tolist(), strict=True):
            total[word] = total.get(word, 0) + count
    return total


def message_of(call, *args, **options):
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


# -- one file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["list.tsv", "list.txt", "list"])
def test_list_with_counts(tmp_path, name):
    corpus = load(write(tmp_path / name, LIST))
    expected = dict(line.split("\t") for line in LIST.splitlines())
    assert whole(corpus) == {word: int(count) for word, count in expected.items()}
    assert corpus.tokenizer.symbols[3:] == tuple("abcdefghijkou")
    assert corpus.max_steps == 5
    assert corpus.name == str(tmp_path / name)
    assert corpus.notes == (f"{name}: 64 types read, none dropped; 64 types (3,744 tokens) kept",)


def test_plain_text_is_counted(tmp_path):
    path = write(tmp_path / "book.txt", "The cat -- the CAT's_hat; don't!\r\n\r\n3 cats² x2y\n")
    reading = read_words(path, WordListOptions())
    assert reading.counts == {"the": 2, "cat": 2, "s": 1, "hat": 1, "don": 1, "t": 1, "cats": 1, "x": 1, "y": 1}
    assert reading.blank == 1
    assert not reading.listed


def test_plain_text_becomes_a_corpus(tmp_path):
    path = write(tmp_path / "book.txt", "the quick brown fox jumps over the lazy dog\n" * 200)
    corpus = load(path)
    others = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog"]
    assert whole(corpus) == {"the": 400, **dict.fromkeys(others, 200)}
    assert corpus.tokenizer.size == 3 + 26


def test_same_file_gives_the_same_corpus(tmp_path):
    one, two = write(tmp_path / "a.tsv", LIST), write(tmp_path / "b.tsv", "".join(reversed(LIST.splitlines(True))))
    assert load(one).fingerprint == load(two).fingerprint
    assert load(one, seed=1).fingerprint != load(one).fingerprint


def test_bom_line_ends_blanks_and_duplicates(tmp_path):
    lines = LIST.replace("\n", "\r\n") + "\r\n  \r\nBaBa\t5\r\nbaba\t7"
    corpus = load(write(tmp_path / "list.tsv", b"\xef\xbb\xbf" + lines.encode()))
    assert whole(corpus)["baba"] == 20 + 5 + 7
    assert "﻿baba" not in whole(corpus)
    assert corpus.notes[1:] == (
        "list.tsv: 2 blank lines skipped",
        "list.tsv: 2 lines repeat an earlier word (in lower case); their counts were added",
    )


def test_filters_are_options_and_are_noted(tmp_path):
    path = write(tmp_path / "list.tsv", LIST + "b\t99\nunbelievably-so\t9\nrare\t1\nabcdefghijkou\t30\n")
    corpus = load(path, min_count=2)
    assert set(whole(corpus)) == {line.split("\t")[0] for line in LIST.splitlines()}
    assert corpus.notes[0] == (
        "list.tsv: 68 types read, dropped: 1 that are not made of letters only, 2 with fewer than 2 or more than 12 "
        "letters, 1 with a count below 2; 64 types (3,744 tokens) kept"
    )
    assert "abcdefghijkou" in whole(load(path, max_length=13))


def test_limit_keeps_the_most_frequent(tmp_path):
    corpus = load(write(tmp_path / "list.tsv", LIST), limit=40, split="alternative")
    ranked = sorted((line.split("\t") for line in LIST.splitlines()), key=lambda row: (-int(row[1]), row[0]))
    assert set(whole(corpus)) == {word for word, _ in ranked[:40]}


def test_alphabet_is_that_of_the_whole_list(tmp_path):
    # "zz" is seen once: wherever its token goes, the letter is known to all splits.
    corpora = [load(write(tmp_path / "list.tsv", LIST + "zz\t1\n"), seed=seed) for seed in range(40)]
    homes = {next(name for name, split in c.splits.items() if "zz" in split.texts) for c in corpora}
    assert "test" in homes
    assert all("z" in c.tokenizer.symbols for c in corpora)


# -- unicode ----------------------------------------------------------------------------------------


def test_words_are_composed_and_lower_case(tmp_path):
    text = "E\u0301te\u0301 ÉTÉ été straße Ω\u0301 İzmir J\u030ca\n"
    counts = read_words(write(tmp_path / "text.txt", text), WordListOptions()).counts
    assert counts == {"été": 3, "straße": 1, "ώ": 1, "i\u0307zmir": 1, "\u01f0a": 1}, (
        "j with caron has a composed form, J has none"
    )


def test_combining_marks_belong_to_words(tmp_path):
    hindi = "हिन्दी"
    counts = read_words(write(tmp_path / "text.txt", f"{hindi}, {hindi} 1\u0301\n"), WordListOptions())
    assert counts.counts == {hindi: 2}
    assert counts.not_letters == {"\u0301"}
    assert is_word(hindi)
    assert not is_word("\u0301a")
    assert not is_word("a1")
    assert not is_word("")


def test_list_of_another_script(tmp_path):
    greek = LIST.translate(str.maketrans("abcdefghijkou", "αβγδεζηθικλμν"))
    corpus = load(write(tmp_path / "list.tsv", greek))
    assert corpus.tokenizer.symbols[3:] == tuple("αβγδεζηθικλμν")


# -- faults of a file -------------------------------------------------------------------------------


def test_missing_path(tmp_path):
    message = message_of(load_word_list, tmp_path / "none.tsv", WordListOptions())
    assert message == f"{tmp_path}/none.tsv: no such file or folder; expected a word list or a folder with train.txt"


def test_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder; expected a word list" in message_of(load, tmp_path / "pipe")


def test_file_or_folder_that_may_not_be_read(tmp_path, monkeypatch):
    write(tmp_path / "list.tsv", LIST)

    def forbidden(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", forbidden)
    assert message_of(load, tmp_path / "list.tsv").endswith("list.tsv: the file cannot be read: Permission denied")
    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert message_of(load, tmp_path) == f"{tmp_path}: the folder cannot be read: Permission denied"


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf"], ids=["nothing", "blank", "bom"])
@pytest.mark.parametrize("name", ["list.tsv", "list.txt"])
def test_empty_file(tmp_path, content, name):
    message = message_of(load, write(tmp_path / name, content))
    assert message.startswith(f"{tmp_path / name}: the file is empty; expected one 'word<TAB>count' on each line")


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        ("naïve\t3\ncafé\t4\n".encode("latin-1"), 1, "byte 0xEF (byte 3 of the line)"),
        (b"good\t3\n\ncaf\xe9\t4\n", 3, "byte 0xE9 (byte 4 of the line)"),
        ("good\t3\n".encode("utf-16"), 1, "byte 0xFF (byte 1 of the line)"),
        ("good\t3\n".encode("utf-16-le"), 1, "a NUL byte"),
    ],
    ids=["latin-1", "third line", "utf-16", "utf-16 without mark"],
)
def test_not_utf8(tmp_path, content, line, found):
    path = write(tmp_path / "list.tsv", content)
    message = message_of(load, path)
    encoding = "UTF-16" if b"\0" in content else "ISO-8859-1"
    assert message.startswith(f"{path}, line {line}: not UTF-8 text: {found}; convert the file first")
    assert f"iconv -f {encoding} -t UTF-8 list.tsv > new.txt" in message


@pytest.mark.parametrize("count", ["-3", "0", "3.5", "1e5", "many", "１２", "9" * 30, "1_000", "+4"])
def test_malformed_count(tmp_path, count):
    path = write(tmp_path / "list.tsv", f"good\t3\nbad\t{count}\n")
    message = message_of(load, path)
    assert message.startswith(f"{path}, line 2: the count must be a whole number from 1 to 10^15; got '{count}'")
    assert "for the word 'bad'" in message


def test_heading_is_recognised(tmp_path):
    headed = load(write(tmp_path / "headed.tsv", "Word\tCount\n" + LIST))
    assert whole(headed) == whole(load(write(tmp_path / "list.tsv", LIST)))
    assert headed.notes[1] == (
        "headed.tsv: column 'Word' with the counts of column 'Count'; fields separated by tabs, quotes are characters "
        "like others"
    )
    message = message_of(load, write(tmp_path / "other.tsv", "term\thits\ngood\t3\n"))
    assert "line 1: " in message
    assert message.endswith("remove the line if it is a heading")
    # A number is no name of a column.
    assert whole(load(write(tmp_path / "text.tsv", "text\t50\n" + LIST)))["text"] == 50


@pytest.mark.parametrize(("line", "columns"), [("bad", 1), ("bad\t", 1), ("\t4", 1), ("bad\t3\tnoun", 3)])
def test_wrong_number_of_columns(tmp_path, line, columns):
    path = write(tmp_path / "list.tsv", f"good\t3\n\n{line}\n")
    message = message_of(load, path)
    assert message.startswith(
        f"{path}, line 3: expected two columns, 'word<TAB>count'; got {columns}: {line.strip()!r}"
    )


def test_counts_beyond_all_bounds(tmp_path):
    path = write(tmp_path / "list.tsv", "good\t1000000000000000\n" * 5000)
    assert message_of(load, path) == (
        f"{path}: the counts sum to more than 2^62; divide all of them by the same number"
    )


@pytest.mark.parametrize(
    ("name", "content", "filters"),
    [
        (
            "list.tsv",
            "x1\t5\ny-z\t3\na\t2\n",
            "3 types read, dropped: 2 that are not made of letters only, 1 with fewer",
        ),
        ("book.txt", "1234 5678\n", "0 types read, none dropped"),
        ("long.txt", "a incomprehensibilities\n", "2 types read, dropped: 2 with fewer than 2 or more than 12 letters"),
    ],
)
def test_no_word_left(tmp_path, name, content, filters):
    path = write(tmp_path / name, content)
    message = message_of(load, path)
    assert message.startswith(f"{path}: no word is left after filtering: {filters}")
    assert message.endswith("widen min_length, max_length or min_count, or give another list")


@pytest.mark.parametrize("split", ["standard", "alternative"])
def test_too_few_types(tmp_path, split):
    path = write(tmp_path / "list.tsv", "only\t1\ntwo\t1\n")
    message = message_of(load, path, split=split)
    assert message.startswith(f"{path}: too few words to divide: 2 types (2 tokens) leave none for ")
    assert "or a folder with train.txt, valid.txt and test.txt" in message


def test_options_are_checked_before_the_file_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key 'limt' \(did you mean 'limit'\?\)"):
        load(write(tmp_path / "list.tsv", b"\xff"), limt=3)


# -- folders ----------------------------------------------------------------------------------------


def test_folder_with_all_splits_is_taken_as_it_is(tmp_path):
    write(tmp_path / "train.tsv", LIST)
    write(tmp_path / "valid.txt", "baba baba dido\n")
    write(tmp_path / "test.tsv", "koko\t3\nz9\t4\n")
    write(tmp_path / "notes.md", "x")
    write(tmp_path / ".hidden", "x")
    corpus = load(tmp_path, min_count=2, seed=3)
    assert corpus.splits["valid"].texts == ("baba", "dido")
    assert corpus.splits["valid"].counts.tolist() == [2, 1]
    assert corpus.splits["test"].texts == ("koko",)
    assert corpus.splits["train"].total == 3744
    assert corpus.notes == (
        "train.tsv: 64 types read, none dropped; 64 types (3,744 tokens) kept",
        "valid.txt: 2 types read, none dropped; 2 types (3 tokens) kept",
        "test.tsv: 2 types read, dropped: 1 that are not made of letters only; 1 types (3 tokens) kept",
        "the folder holds all three splits: seed not used",
        f"not read in {tmp_path}: notes.md",
    )


@pytest.mark.parametrize("missing", [("valid",), ("test",), ("valid", "test")])
def test_folder_lacking_a_split_draws_it_from_train(tmp_path, missing):
    write(tmp_path / "train.tsv", LIST)
    for name in {"valid", "test"} - set(missing):
        write(tmp_path / f"{name}.txt", "baba dido\n")
    corpus = load(tmp_path)
    drawn = [corpus.splits[name] for name in ("train", *missing)]
    assert sum(split.total for split in drawn) == 3744
    assert all(split.total > 0 for split in drawn)
    for name in {"valid", "test"} - set(missing):
        assert corpus.splits[name].total == 2
    for name in missing:
        assert f"no {name} in {tmp_path}: drawn from train.tsv" in corpus.notes


def test_folder_without_training_file(tmp_path):
    write(tmp_path / "data" / "val.txt", "x")
    write(tmp_path / "data" / "words.tsv", "x")
    message = message_of(load, tmp_path / "data")
    assert message == (
        f"{tmp_path}/data: no training file in the folder: expected train.txt (or .tsv, .csv, .json, .jsonl, .ndjson, "
        ".parquet) and, if there are any, valid (or val, dev, validation) and test; found val.txt, words.tsv"
    )


def test_empty_folder(tmp_path):
    assert message_of(load, tmp_path).endswith("; found nothing")


def test_folder_with_two_training_files(tmp_path):
    write(tmp_path / "train.tsv", LIST)
    write(tmp_path / "train.txt", LIST)
    assert "both train.tsv and train.txt are there; keep the one that is meant" in message_of(load, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("test.tsv", "baba\t2\n\ncafé\t3\n"), ("test.txt", "baba\n\nbaba-Café\n")]
)
def test_character_that_training_never_saw(tmp_path, name, content):
    write(tmp_path / "train.tsv", LIST)
    path = write(tmp_path / name, content)
    message = message_of(load, tmp_path)
    assert message == (
        f"{path}, line 3: the word 'café' has the character 'é' (U+00E9, LATIN SMALL LETTER E WITH ACUTE), which no "
        "training word has (1 of 2 types are affected); remove such words, or add to the training file words that "
        "have it"
    )


def test_fault_in_a_file_of_the_folder_names_that_file(tmp_path):
    write(tmp_path / "train.tsv", LIST)
    path = write(tmp_path / "valid.tsv", "baba\tx\n")
    assert message_of(load, tmp_path).startswith(f"{path}, line 1: the count must be")


# -- tables -----------------------------------------------------------------------------------------


def write_table(path, rows):
    """Rows (dictionaries of the same keys) in the form that the ending says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        write(path, "\n".join(lines))
    elif path.suffix == ".json":
        write(path, json.dumps(rows, ensure_ascii=False))
    else:
        write(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return path


TABLES = (".csv", ".json", ".jsonl", ".ndjson", ".parquet")


@pytest.mark.parametrize("ending", TABLES)
def test_words_and_counts_of_a_table(tmp_path, ending):
    pairs = [line.split("\t") for line in LIST.splitlines()]
    rows = [{"rank": i, "Frequency": int(count), "word": word} for i, (word, count) in enumerate(pairs)]
    corpus = load(write_table(tmp_path / f"list{ending}", rows))
    assert whole(corpus) == {word: int(count) for word, count in pairs}
    assert corpus.notes[1] == f"list{ending}: column 'word' with the counts of column 'Frequency'"
    others = [{"n": row["Frequency"], "term": row["word"], "kind": "noun"} for row in rows]
    path = write_table(tmp_path / f"others{ending}", others)
    assert whole(load(path, column="term", count="n")) == whole(corpus)
    assert "no column 'count'; its columns are n (" in message_of(load, path, column="term", count="count")


@pytest.mark.parametrize("ending", TABLES)
def test_texts_of_a_table_are_counted(tmp_path, ending):
    rows = [{"label": i % 2, "text": "The quick brown fox; jumps, over the lazy dog!"} for i in range(200)]
    corpus = load(write_table(tmp_path / f"texts{ending}", rows))
    assert whole(corpus) == {
        "the": 400,
        **dict.fromkeys(["quick", "brown", "fox", "jumps", "over", "lazy", "dog"], 200),
    }
    assert corpus.notes[1] == f"texts{ending}: the words of column 'text' counted"


@pytest.mark.parametrize("ending", TABLES)
def test_a_table_of_words_alone_and_one_with_counts_under_a_strange_name(tmp_path, ending):
    words = ["baba", "dido", "baba", "koko"]
    path = write_table(tmp_path / f"words{ending}", [{"word": word} for word in words])
    assert read_words(path, WordListOptions()).counts == {"baba": 2, "dido": 1, "koko": 1}
    path = write_table(tmp_path / f"strange{ending}", [{"word": word, "n": 3} for word in words])
    message = message_of(load, path)
    assert message.startswith(f"{path}: which column holds the counts of 'word'? Its columns are word (")
    assert message.endswith("set data.count to its name, or leave only the words")


@pytest.mark.parametrize("count", [0, -3, 2.5, "many", None, True])
def test_malformed_count_of_a_table(tmp_path, count):
    path = write_table(tmp_path / "list.jsonl", [{"word": "good", "count": 3}, {"word": "bad", "count": count}])
    got = repr(json.dumps(count)) if not isinstance(count, str) else repr(count)
    assert message_of(load, path).startswith(
        f"{path}, line 2: the count must be a whole number from 1 to 10^15; got {got} for the word 'bad'"
    )


def test_a_folder_of_tables_with_other_names_of_splits(tmp_path):
    rows = [dict(zip(("word", "count"), line.split("\t"), strict=True)) for line in LIST.splitlines()]
    write_table(tmp_path / "Train.csv", rows)
    write_table(tmp_path / "dev.jsonl", [{"word": "baba", "count": 2}, {"word": "", "count": 1}])
    write_table(tmp_path / "test.parquet", [{"word": "koko", "count": 3}, {"word": "café", "count": 3}])
    message = message_of(load, tmp_path)
    assert message.startswith(f"{tmp_path / 'test.parquet'}: row 2: the word 'café' has the character 'é'")
    write_table(tmp_path / "test.parquet", [{"word": "koko", "count": 3}])
    corpus = load(tmp_path)
    assert (corpus.splits["valid"].texts, corpus.splits["test"].texts) == (("baba",), ("koko",))
    assert (corpus.splits["valid"].total, corpus.splits["test"].total) == (2, 3)
    assert "dev.jsonl: 1 blank lines skipped" in corpus.notes


def test_names_of_columns_are_not_used_in_plain_text(tmp_path):
    plain = write(tmp_path / "book.txt", "the quick brown fox jumps over the lazy dog\n" * 200)
    note = "book.txt: a text file has no columns; data.column and data.count not used"
    assert load(plain, column="x").notes[1] == note
    assert note not in load(plain).notes
