"""A user's own sentences: formats, cleaning, division, long and empty lines, folders, and every fault."""

import os
import unicodedata

import pytest

from ppl_text.core.errors import DataError, UserError
from ppl_text.core.vocabulary import UNK_ID
from ppl_text.data.catalogue import load_corpus
from ppl_text.data.corpus import SPLITS
from ppl_text.data.options import SentenceOptions
from ppl_text.data.reading import clean
from ppl_text.data.sentences import division

LINES = [f"sentence number {i} of {i % 7}" for i in range(60)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(path, **options):
    return load_corpus(str(path), unit="sentences", **options)


def folder(path, train="a b c\nb c\n", valid="a b\n", test="c d\n"):
    for name, content in zip(SPLITS, (train, valid, test), strict=True):
        write(path / f"{name}.txt", content)
    return path


def texts(corpus, name="train"):
    return list(corpus.splits[name].texts)


def message_of(call, *args, **options):
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- text files -------------------------------------------------------------------------------------


def test_folder_by_hand(tmp_path):
    corpus = load(folder(tmp_path, "b a <unk>\nb _UNK\n\n b \n", "a  zz\n", "b"))
    assert [texts(corpus, name) for name in SPLITS] == [["b a <unk>", "b _UNK", "b"], ["a zz"], ["b"]]
    assert corpus.tokenizer.symbols == ("<pad>", "<s>", "</s>", "<unk>", "b", "_UNK", "a")
    train = corpus.splits["train"]
    assert train.target.table.ids.tolist() == [4, 6, 3, 4, 5, 4]
    assert train.target.table.offsets.tolist() == [0, 3, 5, 6]
    assert train.target.table.lengths.tolist() == [4, 3, 2]
    assert train.target.table.scored_tokens == 9
    assert train.counts.tolist() == [1, 1, 1]
    assert corpus.splits["valid"].target.table.ids.tolist() == [6, UNK_ID]
    assert corpus.max_steps == 4
    assert corpus.notes == (
        "train.txt: 4 lines read, 1 without text dropped",
        "valid.txt: 1 lines read",
        "test.txt: 1 lines read",
        "vocabulary: 7 symbols (word), made from train",
        "train: 3 sentences, 9 scored tokens (3.000 a sentence, EOS counted), 16.67% <unk>",
        "valid: 1 sentences, 3 scored tokens (3.000 a sentence, EOS counted), 50.00% <unk>",
        "test: 1 sentences, 2 scored tokens (2.000 a sentence, EOS counted), 0.00% <unk>",
        "test: 1 of 1 sentences stand in train too, as they are scored",
    )


def test_labels_are_cut_off(tmp_path):
    write(tmp_path / "train.tsv", "1\tgood food\n\n0\tbad food\n")
    write(tmp_path / "valid.txt", "1\tgood\n")
    write(tmp_path / "test.txt", "bad\n")
    corpus = load(tmp_path)
    assert [texts(corpus, name) for name in SPLITS] == [["good food", "bad food"], ["good"], ["bad"]]
    assert "train.tsv: label<TAB>text lines; the labels are not used" in corpus.notes
    path = write(tmp_path / "train.tsv", "1\tgood food\n\nbad food\n")
    assert message_of(load, tmp_path) == (
        f"{path}, line 3: expected two columns, 'label<TAB>text'; got 1: 'bad food'; plain sentences belong into a "
        ".txt without tabs; a table needs a heading, such as 'text'"
    )


@pytest.mark.parametrize(
    "raw",
    [
        "cafe\u0301 q\u0303 A\u030a \ufb01",
        "שלום \u202eabc\u202c مرحبا",
        "👩‍👩‍👧 🇩🇪 😀\ufe0f",
        "a\u00a0b\u2003c\u3000d\u2028e\x85f\x1cg\x0bh",
        "zero\u200bwidth in\ufeffside",
        "<s> </s> <pad> <unk>",
    ],
)
@pytest.mark.parametrize("tokenizer", ["word", "bpe", "character"])
def test_unicode_in_every_form(tmp_path, raw, tokenizer):
    corpus = load(folder(tmp_path, f"\ufeff{raw}\r\n\r\nx\r\n", raw, "never seen ☃"), tokenizer=tokenizer)
    expected = " ".join(unicodedata.normalize("NFC", raw).split())
    assert texts(corpus)[0] == texts(corpus, "valid")[0] == expected
    assert texts(corpus) == [expected, "x"]
    table = corpus.splits["train"].target.table
    decoded = corpus.tokenizer.decode(table.ids[: table.offsets[1]].tolist())
    assert decoded == (
        expected if tokenizer == "bpe" or "<s>" not in raw or tokenizer == "character" else "<unk> <unk> <unk> <unk>"
    )
    assert all(ids > 2 for split in corpus.splits.values() for ids in split.target.table.ids)


def test_cleaning_comes_once_and_is_stable():
    for text in ("J\u030ca  É", "İ\tx", "\u1e9e", "ﬁ"):
        for lower in (False, True):
            assert clean(clean(text, lower), lower) == clean(text, lower)
    assert clean("J\u030c", lower=True) == "\u01f0"


def test_lower_case_is_an_option(tmp_path):
    assert texts(load(folder(tmp_path, "The THE É\n")))[0] == "The THE É"
    corpus = load(tmp_path, lower=True)
    assert texts(corpus)[0] == "the the é"
    assert "the" in corpus.tokenizer.symbols
    assert "The" not in corpus.tokenizer.symbols


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"good\n\ncaf\xe9 au lait\n", 3, "byte 0xE9 (byte 4 of the line)"),
        ("good\n".encode("utf-16"), 1, "byte 0xFF (byte 1 of the line)"),
        (b"good\nwith\0NUL\n", 2, "a NUL byte"),
    ],
)
def test_wrong_encoding_names_file_and_line(tmp_path, content, line, found):
    path = folder(tmp_path, content)
    assert message_of(load, path).startswith(f"{path / 'train.txt'}, line {line}: not UTF-8 text: {found}; convert")


# -- empty and long lines ---------------------------------------------------------------------------


def test_empty_lines_may_be_refused(tmp_path):
    path = folder(tmp_path, "a\n \t \nb\n")
    assert message_of(load, path, empty="refuse") == (
        f"{path / 'train.txt'}, line 2: no text; remove the line, or drop such lines with data.empty=drop"
    )


@pytest.mark.parametrize("content", ["", "\n  \r\n\n", "\ufeff"])
@pytest.mark.parametrize("name", SPLITS)
def test_file_without_a_sentence(tmp_path, name, content):
    path = folder(tmp_path, **{name: content})
    expected = "there is no sentence in it; expected one on each line (or in each row)"
    assert message_of(load, path) == f"{path / name}.txt: {expected}"


def test_long_sentences(tmp_path):
    path = folder(tmp_path, "a b c d\n\na b\na b c\n", "d c b a\n", "a")
    cut = load(path, max_tokens=2)
    assert [texts(cut, name) for name in SPLITS] == [["a b", "a b", "a b"], ["d c"], ["a"]]
    assert cut.max_steps == 3
    assert cut.splits["train"].target.table.lengths.tolist() == [3, 3, 3]
    assert "train: 2 sentences of more than 2 tokens truncated" in cut.notes
    assert "valid: 1 sentences of more than 2 tokens truncated" in cut.notes
    assert not any("test: 1 sentences of more" in note for note in cut.notes)
    other = folder(tmp_path / "other", "a b c d\na b\na b c\n", "d c\n", "a")
    dropped = load(other, max_tokens=3, long="drop")
    assert texts(dropped) == ["a b", "a b c"]
    assert "train: 1 sentences of more than 3 tokens dropped" in dropped.notes
    assert message_of(load, path, max_tokens=3, long="refuse") == (
        f"{path / 'train.txt'}, line 1: 4 tokens, more than max_tokens=3: 'a b c d'; raise max_tokens, or truncate or "
        "drop such sentences with data.long"
    )
    assert "every sentence of valid has more than max_tokens=3 tokens" in message_of(
        load, path, max_tokens=3, long="drop"
    )


@pytest.mark.parametrize("tokenizer", ["word", "bpe", "character"])
def test_truncated_texts_are_those_of_their_ids(tmp_path, tokenizer):
    long = "the cat 😀 sat שלום e\u0301 <unk> on the mat"
    corpus = load(folder(tmp_path, f"{long}\n" * 3 + "the cat\n", long, long), tokenizer=tokenizer, max_tokens=7)
    for split in corpus.splits.values():
        encoded = corpus.tokenizer.encode(list(split.texts))
        assert [i for ids in encoded for i in ids] == split.target.table.ids.tolist()
        assert split.target.table.lengths.max() <= 8
        assert all(unicodedata.normalize("NFC", long).startswith(text) for text in split.texts)


# -- one file, divided ------------------------------------------------------------------------------


def test_division_is_decided_by_the_sentence(tmp_path):
    place = division(SentenceOptions(test_share=0.2, valid_share=0.3))
    homes = [place(f"sentence {i}") for i in range(20_000)]
    for name, share in (("test", 0.2), ("valid", 0.3), ("train", 0.5)):
        assert abs(homes.count(name) - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5
    assert [place(f"SENTENCE  {i}") for i in range(200)] == homes[:200]
    other = division(SentenceOptions(test_share=0.2, valid_share=0.3, seed=1))
    assert [other(f"sentence {i}") for i in range(200)] != homes[:200]
    no_test = division(SentenceOptions(test_share=0.2, valid_share=0.3), ["valid"])
    expected = {"test": "train"}
    assert [no_test(f"sentence {i}") for i in range(200)] == [expected.get(h, h) for h in homes[:200]]


def test_lone_file(tmp_path):
    path = write(tmp_path / "all.txt", "\n".join([*LINES, *LINES]) + "\n")
    corpus = load(path, test_share=0.2, valid_share=0.2)
    parts = [texts(corpus, name) for name in SPLITS]
    assert sorted(text for part in parts for text in part) == sorted([*LINES, *LINES]), "duplicates stay"
    assert not set(parts[0]) & set(parts[1]) | set(parts[0]) & set(parts[2]) | set(parts[1]) & set(parts[2])
    assert parts[0] == [t for t in [*LINES, *LINES] if t in set(parts[0])], "in their order"
    backwards = load(write(tmp_path / "b.txt", "\n".join(reversed(LINES))), test_share=0.2, valid_share=0.2)
    assert set(texts(backwards, "test")) == set(parts[2])
    assert load(path, test_share=0.2, valid_share=0.2).fingerprint == corpus.fingerprint
    assert load(path, test_share=0.2, valid_share=0.2, seed=1).fingerprint != corpus.fingerprint


def test_vocabulary_is_part_of_the_fingerprint(tmp_path):
    path = folder(tmp_path, "a a b\n", "a\n", "a\n")
    prints = [
        load(path, **o).fingerprint for o in ({}, {"min_count": 2}, {"tokenizer": "character"}, {"vocabulary": 5})
    ]
    assert len(set(prints)) == 3, "min_count=2 and vocabulary=5 leave the same two symbols"
    assert prints[1] == prints[3]


def test_limit_stops_reading(tmp_path):
    path = folder(tmp_path, "\n".join(LINES).encode() + b"\n\xff\n", "a\nb\nc\n")
    corpus = load(path, limit=5)
    assert texts(corpus) == LINES[:5]
    assert texts(corpus, "valid") == ["a", "b", "c"]
    assert "train.txt: 5 lines read; stopped at 5 training sentences (limit)" in corpus.notes


def test_one_sentence(tmp_path):
    path = write(tmp_path / "one.txt", "only one\n")
    message = message_of(load, path)
    assert message.startswith(f"{path}: too few sentences to divide: 1 leave none for ")
    assert message.endswith("or a folder with train, valid and test files")
    corpus = load(folder(tmp_path / "d", "only one\n", "only one\n", "only one\n"))
    assert [texts(corpus, name) for name in SPLITS] == [["only one"]] * 3


def test_missing_splits_are_taken_from_train(tmp_path):
    write(tmp_path / "train.txt", "\n".join(LINES))
    write(tmp_path / "test.txt", "a\n")
    write(tmp_path / "README.md", "x")
    corpus = load(tmp_path, valid_share=0.3)
    assert sorted(texts(corpus) + texts(corpus, "valid")) == sorted(LINES)
    assert texts(corpus, "test") == ["a"]
    assert f"no valid in {tmp_path}: taken from train" in corpus.notes
    assert f"not read in {tmp_path}: README.md" in corpus.notes


@pytest.mark.parametrize("name", ["val.txt", "dev.jsonl", "validation.csv", "Valid.TXT", "valid.tsv"])
def test_the_validation_split_has_many_names(tmp_path, name):
    content = {"txt": "d e\n", "jsonl": '{"text": "d e"}\n', "csv": "text\nd e\n", "tsv": "0\td e\n"}
    write(tmp_path / "train.txt", "a b\nc\n")
    write(tmp_path / "TEST.txt", "f\n")
    write(tmp_path / name, content[name.lower().partition(".")[2]])
    corpus = load(tmp_path)
    assert [texts(corpus, split) for split in SPLITS] == [["a b", "c"], ["d e"], ["f"]]
    assert (
        f"{name}: 1 {'rows' if name[0] in 'dv' and 'txt' not in name and 'tsv' not in name else 'lines'} read"
        in corpus.notes
    )
    write(tmp_path / "eval.txt", "x\n")
    assert f"not read in {tmp_path}: eval.txt" in load(tmp_path).notes
    write(tmp_path / "valid.parquet", "x")
    assert message_of(load, tmp_path).endswith("are there; keep the one that is meant")


# -- texts that stand in several splits -------------------------------------------------------------


def rows_by_split(corpus):
    """The id rows of each split, with those of the sources."""
    sides = {name: [s for s in (split.target, split.source) if s is not None] for name, split in corpus.splits.items()}
    return {
        name: {tuple(side.table.tokens(i) for side in both) for i in range(len(both[0]))}
        for name, both in sides.items()
    }


def in_several(corpus):
    rows = rows_by_split(corpus)
    return len(rows["train"] & rows["test"] | rows["train"] & rows["valid"] | rows["valid"] & rows["test"])


CUT = [f"{chr(97 + i % 26)} é{i // 26} both {end}" for i in range(156) for end in ("ends", "end here", "have an end")]
"""Each text three times, with another end after its third word and its ninth character."""


@pytest.mark.parametrize(
    ("tokenizer", "most", "vocabulary"), [("word", 3, None), ("character", 9, None), ("bpe", 3, None), ("bpe", 11, 260)]
)
def test_no_text_stands_in_two_splits_once_it_is_truncated(tmp_path, tokenizer, most, vocabulary):
    path = write(tmp_path / "all.txt", "\n".join(CUT))
    options = {
        "tokenizer": tokenizer,
        "max_tokens": most,
        "vocabulary": vocabulary,
        "test_share": 0.3,
        "valid_share": 0.3,
    }
    corpus = load(path, **options)
    assert in_several(corpus) == 0
    assert corpus.repeats == ()
    assert sum(map(len, corpus.splits.values())) == len(CUT)
    whole = load(path, **options, divide="whole")
    assert in_several(whole) > 0, "the case is one"
    assert whole.repeats


def test_what_is_cut_off_moves_no_text_that_is_dropped_or_fits(tmp_path):
    path = write(tmp_path / "all.txt", "\n".join(CUT))
    expected = load(path, divide="whole").fingerprint
    assert load(path).fingerprint == load(path, max_tokens=40).fingerprint == expected
    dropped, as_before = (load(path, max_tokens=9, long="drop", divide=d) for d in ("scored", "whole"))
    assert len(dropped.splits["train"])
    assert dropped.fingerprint == as_before.fingerprint


def test_repeats_of_given_splits_are_counted_as_they_are_scored(tmp_path):
    path = folder(tmp_path, "a b c\nb c\nb zz\na a b b\n", "b c\nb c\nd d\n", "a b c d\nb new\nb other\nd d\n")
    corpus = load(path, max_tokens=3, min_count=2)
    # The vocabulary is a, b, c: "b zz", "b new" and "b other" are all "b <unk>"; "a b c d" becomes "a b c".
    assert corpus.repeats == (("valid", "train", 2), ("test", "train", 3), ("test", "valid", 1))
    assert corpus.notes[-3:] == (
        "valid: 2 of 3 sentences stand in train too, as they are scored",
        "test: 3 of 4 sentences stand in train too, as they are scored",
        "test: 1 of 4 sentences stand in valid too, as they are scored",
    )
    assert load(folder(tmp_path / "apart", "a\n", "b\n", "c a\n")).repeats == ()


# -- faults of paths and options --------------------------------------------------------------------


def test_paths_that_will_not_do(tmp_path):
    expected = "expected train.txt (or .tsv, .csv, .json, .jsonl, .ndjson, .parquet) and, if there are any, valid"
    assert f"no training file in the folder: {expected}" in message_of(load, tmp_path)
    write(tmp_path / "train.txt", "a")
    write(tmp_path / "train.csv", "text\na")
    assert "both train.csv and train.txt are there" in message_of(load, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder; expected sentences" in message_of(load, tmp_path / "pipe")
    with pytest.raises(UserError, match="'no/such' does not exist"):
        load("no/such")


def test_options_that_are_not_used_are_noted(tmp_path):
    notes = load(folder(tmp_path), seed=3, subset="x", column="text").notes
    assert "not used: seed, subset" in notes
    assert "train.txt: a text file has no columns; column not used" in notes
