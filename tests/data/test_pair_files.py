"""A user's pairs: found by the names of their columns or files; what becomes of sources and of vocabularies."""

import csv
import json

import pytest

from ppl_text.core.errors import ConfigError, DataError
from ppl_text.data.catalogue import load_corpus
from ppl_text.data.corpus import SPLITS
from ppl_text.data.forms import form_of
from ppl_text.data.options import SentenceOptions
from ppl_text.data.others import other_texts

SOURCES, TARGETS = ["le chat", "un chien dort", "la mer"], ["the cat", "a dog sleeps", "the sea"]


def load(path, **options):
    return load_corpus(str(path), unit="sentences", **options)


def rows_of(split):
    return list(zip(split.source.texts, split.texts, strict=True))


def lines(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def parallel(folder, names="{split}.{side}", splits=SPLITS, sources=SOURCES, targets=TARGETS, sides=("src", "tgt")):
    """The pairs in two files for each split, of which the first row is the split's own."""
    folder.mkdir(exist_ok=True)
    for split in splits:
        for side, texts in zip(sides, (sources, targets), strict=True):
            lines(folder / names.format(split=split, side=side), [f"{texts[0]} {split}", *texts[1:]])
    return folder


def message_of(call, *arguments, **options):
    with pytest.raises((ConfigError, DataError)) as caught:
        call(*arguments, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


# -- columns ----------------------------------------------------------------------------------------


def jsonl(folder, columns):
    for split in SPLITS:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(SOURCES, TARGETS, strict=True)]
        lines(folder / f"{split}.jsonl", map(json.dumps, rows))


def commas(folder, columns):
    for split in SPLITS:
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *zip(SOURCES, TARGETS, strict=True)])


def tabs(folder, columns):
    for split in SPLITS:
        lines(folder / f"{split}.tsv", map("\t".join, [columns, *zip(SOURCES, TARGETS, strict=True)]))


@pytest.mark.parametrize("write", [jsonl, commas, tabs])
@pytest.mark.parametrize(
    "columns", [("source", "target"), ("answer", "question"), ("line", "reply"), ("Source", "Target")]
)
def test_known_columns_make_pairs_without_being_named(tmp_path, write, columns):
    write(tmp_path, columns)
    corpus = load(tmp_path)
    assert rows_of(corpus.splits["train"]) == list(zip(SOURCES, TARGETS, strict=True))
    note = next(note for note in corpus.notes if "given" in note)
    assert f"column '{columns[1]}' given column '{columns[0]}'" in note
    assert load(tmp_path, column=columns[0]).source_tokenizer is None, "a column that is named is a lone text"


def test_a_column_of_texts_comes_before_a_known_pair(tmp_path):
    rows = [{"text": text, "source": "a paper", "target": "x"} for text in TARGETS]
    for split in SPLITS:
        lines(tmp_path / f"{split}.jsonl", map(json.dumps, rows))
    corpus = load(tmp_path)
    assert list(corpus.splits["train"].texts) == TARGETS
    assert corpus.source_tokenizer is None


def test_a_pair_needs_both_columns(tmp_path):
    path = lines(tmp_path / "pairs.csv", ["source,translation", "le chat,the cat"])
    assert message_of(load, path) == (
        f"{path}: which column is the text? Its columns are source (strings), translation (strings); set "
        "data.column to its name"
    )
    assert "no column 'target'; its columns are" in message_of(load, path, source="source", column="target")


def test_a_table_without_a_heading_is_no_table_of_pairs(tmp_path):
    path = lines(tmp_path / "pairs.tsv", [f"{s}.\t{t}." for s, t in zip(SOURCES, TARGETS, strict=True)])
    assert f"{path}, line 1: expected a heading with the names of columns" in message_of(load, path, source="source")
    corpus = load(lines(tmp_path / "more.tsv", [f"{i}.\t{t} {i}." for i in range(30) for t in TARGETS]))
    assert corpus.source_tokenizer is None
    assert "more.tsv: label<TAB>text lines; the labels are not used" in corpus.notes


# -- parallel files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["{split}.{side}", "{side}-{split}.txt"])
def test_parallel_files_are_pairs(tmp_path, names):
    corpus = load(parallel(tmp_path, names))
    for name, split in corpus.splits.items():
        assert rows_of(split) == [(f"le chat {name}", f"the cat {name}"), *zip(SOURCES[1:], TARGETS[1:], strict=True)]
    files = [names.format(split="train", side=side) for side in ("tgt", "src")]
    assert f"{files[0]}: the source of each line stands in {files[1]}" in corpus.notes
    assert not any("not read" in note for note in corpus.notes)


def test_parallel_files_may_end_otherwise(tmp_path):
    folder = parallel(tmp_path, sides=("fr", "en"))
    assert rows_of(load(folder, source="fr", column="en").splits["test"])[0] == ("le chat test", "the cat test")
    assert "no training file in the folder" in message_of(load, folder)


def test_one_of_two_parallel_files_stands_for_both(tmp_path):
    many = [f"le chat {i}" for i in range(40)], [f"the cat {i}" for i in range(40)]
    folder = parallel(tmp_path, splits=["all"], sources=many[0], targets=many[1])
    for side in ("src", "tgt"):
        assert rows_of(load(folder / f"all.{side}").splits["test"])[0][0].startswith("le chat")


def test_without_train_valid_is_trained_on_and_that_is_said(tmp_path):
    many = [f"le chat {i}" for i in range(40)], [f"the cat {i}" for i in range(40)]
    folder = parallel(tmp_path, "{side}-{split}.txt", ["dev", "test"], *many)
    corpus = load(folder, valid_share=0.2)
    assert (
        f"warning: no training file in {folder}: tgt-dev.txt is trained on, and valid is taken from it" in corpus.notes
    )
    sizes = {name: len(split) for name, split in corpus.splits.items()}
    assert sizes["test"] == 40
    assert sizes["train"] + sizes["valid"] == 40
    assert sizes["valid"] > 0


@pytest.mark.parametrize(("sources", "targets"), [(2, 3), (3, 2), (3, 1)])
def test_parallel_files_of_different_lengths_are_refused_with_both_counts(tmp_path, sources, targets):
    folder = parallel(tmp_path, sources=SOURCES[:sources], targets=TARGETS[:targets])
    assert message_of(load, folder) == (
        f"{folder / 'train.tgt'}: {targets} lines, and train.src has {sources}; expected as many: line i of the one is "
        "the source of line i of the other"
    )


def test_one_side_alone_is_refused(tmp_path):
    folder = parallel(tmp_path)
    (folder / "valid.src").unlink()
    assert message_of(load, folder) == (
        f"{folder}: valid.tgt is there without its source side; expected two parallel files, valid.src and valid.tgt"
    )
    (folder / "valid.tgt").unlink()
    lines(folder / "src-dev.txt", SOURCES)
    assert message_of(load, folder).endswith(
        "src-dev.txt is there without its text side; expected two parallel files, src-dev.txt and tgt-dev.txt"
    )


def test_empty_sides_are_dropped_or_refused_with_their_line(tmp_path):
    folder = parallel(tmp_path, sources=["le chat", " ", "la mer"])
    corpus = load(folder)
    assert len(corpus.splits["train"]) == 2
    assert "train.tgt: 3 lines read, 1 without text or source dropped" in corpus.notes
    assert message_of(load, folder, empty="refuse").startswith(
        f"{folder / 'train.tgt'}, line 2: no source in train.src; remove the line"
    )


def test_splits_have_sources_or_none_has(tmp_path):
    folder = parallel(tmp_path, splits=["train", "valid"])
    lines(folder / "test.txt", TARGETS)
    assert "all splits need sources, or none: train has sources, valid has sources, test lacks sources" in message_of(
        load, folder
    )


# -- what becomes of sources ------------------------------------------------------------------------


def test_sources_may_be_left_out(tmp_path):
    corpus, pairs = load(parallel(tmp_path), sources="none"), load(tmp_path)
    assert corpus.source_tokenizer is None
    assert all(list(corpus.splits[name].texts) == list(pairs.splits[name].texts) for name in SPLITS)
    assert any(note.startswith("the sources are not read") for note in corpus.notes)


@pytest.mark.parametrize("tokenizer", ["word", "character", "bpe"])
def test_a_text_may_be_its_own_source(tmp_path, tokenizer):
    for split in SPLITS:
        lines(tmp_path / f"{split}.txt", TARGETS)
    corpus = load(tmp_path, sources="text", max_tokens=2, tokenizer=tokenizer)
    assert corpus.source_tokenizer is corpus.tokenizer
    for split in corpus.splits.values():
        assert split.source.texts == split.texts
        assert split.source.table.ids.tolist() == split.target.table.ids.tolist()
        assert split.target.table.lengths.max() == 3
    alone = load(tmp_path, max_tokens=2, tokenizer=tokenizer)
    assert corpus.tokenizer == alone.tokenizer, "each text is counted once"


def test_undivided_texts_that_are_their_own_sources_are_divided_as_without(tmp_path):
    path = lines(tmp_path / "all.txt", [f"text {i // 4} {i}" for i in range(200)])
    own, alone = (load(path, sources=sources, max_tokens=2, test_share=0.3) for sources in ("text", "given"))
    for name in SPLITS:
        assert own.splits[name].texts == alone.splits[name].texts


def test_sources_of_pairs_make_room_for_the_texts_themselves(tmp_path):
    corpus = load(parallel(tmp_path), sources="text")
    assert rows_of(corpus.splits["train"])[1] == (TARGETS[1], TARGETS[1])
    assert "train.tgt: the sources in train.src are not read" in corpus.notes


def test_what_stands_in_two_splits_is_said_of_each_side(tmp_path):
    rows = {"train": [("a", "x"), ("b", "y")], "valid": [("a", "z"), ("c", "y")], "test": [("b", "y"), ("d", "w")]}
    for split, pairs in rows.items():
        lines(tmp_path / f"{split}.src", [source for source, _ in pairs])
        lines(tmp_path / f"{split}.tgt", [target for _, target in pairs])
    corpus = load(tmp_path, fit_on="all")
    assert [note for note in corpus.notes if "stand in" in note] == [
        "test: 1 of 2 pairs stand in train too, as they are scored",
        "valid: 1 of 2 targets stand in train too, as they are scored",
        "test: 1 of 2 targets stand in train too, as they are scored",
        "test: 1 of 2 targets stand in valid too, as they are scored",
        "valid: 1 of 2 sources stand in train too, as they are scored",
        "test: 1 of 2 sources stand in train too, as they are scored",
    ]


# -- vocabularies -----------------------------------------------------------------------------------


def test_vocabularies_are_of_train_or_of_all_splits(tmp_path):
    corpora = {fit_on: load(parallel(tmp_path), fit_on=fit_on) for fit_on in ("train", "all")}
    assert {"valid", "test"} <= set(corpora["all"].tokenizer.symbols)
    assert not {"valid", "test"} & set(corpora["train"].tokenizer.symbols)
    assert any("(fit_on): words of valid and test alone are never trained" in note for note in corpora["all"].notes)


def test_one_vocabulary_may_serve_both_sides(tmp_path):
    corpus = load(parallel(tmp_path), shared_vocabulary=True)
    assert corpus.source_tokenizer is corpus.tokenizer
    assert {*" ".join([*SOURCES, *TARGETS]).split()} <= set(corpus.tokenizer.symbols)


def test_sides_may_have_vocabularies_of_their_own_size(tmp_path):
    corpus = load(parallel(tmp_path), vocabulary=7, source_vocabulary=6)
    assert (corpus.tokenizer.size, corpus.source_tokenizer.size) == (7, 6)
    assert load(tmp_path, vocabulary=7).source_tokenizer.size == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"sources": "text", "source": "en"},
            "'sources': expected no column of sources (data.source) beside it; got 'en'",
        ),
        ({"shared_vocabulary": True, "source_vocabulary": 9}, "'shared_vocabulary': one vocabulary has one size"),
        ({"tokenizer": "bpe", "source_vocabulary": 100}, "'source_vocabulary': expected 260 or more for bpe"),
    ],
)
def test_options_of_sources_that_do_not_go_together(tmp_path, options, says):
    assert says in message_of(load, parallel(tmp_path), **options)


@pytest.mark.parametrize("option", [{"source_max_tokens": 4}, {"shared_vocabulary": True}, {"source_vocabulary": 9}])
def test_options_of_sources_need_some(tmp_path, option):
    path = lines(tmp_path / "lone.txt", TARGETS * 20)
    assert f"it has no sources, which {next(iter(option))} is about; expected pairs:" in message_of(
        load, path, **option
    )


# -- other texts than a run's own -------------------------------------------------------------------


def test_other_pairs_are_encoded_as_the_run_s_own(tmp_path):
    folder, options = parallel(tmp_path / "d"), SentenceOptions()
    form = form_of(load(folder))
    for name in (str(folder), str(folder / "test.src")):
        (found,) = other_texts(name, "sentences", options, form, "test").splits.values()
        assert rows_of(found)[0] == ("le chat test", "the cat test")
        assert found.source.tokenizer is form.source_tokenizer
    alone = lines(tmp_path / "alone.txt", TARGETS)
    assert "the run reads a source beside each text, and here are texts alone; expected pairs" in message_of(
        other_texts, str(alone), "sentences", options, form, "test"
    )


def test_other_pairs_of_a_run_without_sources_are_texts(tmp_path):
    folder = parallel(tmp_path / "d")
    form = form_of(load(folder, sources="none"))
    corpus = other_texts(str(folder), "sentences", SentenceOptions(), form, "test")
    assert corpus.source_tokenizer is None
    assert "test.tgt: the sources in test.src are not read" in corpus.notes


def test_other_texts_of_an_autoencoder_are_their_own_sources(tmp_path):
    options = SentenceOptions(sources="text")
    for split in SPLITS:
        lines(tmp_path / f"{split}.txt", TARGETS)
    form = form_of(load(tmp_path, sources="text"))
    (found,) = other_texts(str(tmp_path), "sentences", options, form, "test").splits.values()
    assert found.source.texts == found.texts == TARGETS
