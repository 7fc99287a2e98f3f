"""Texts with a source beside each: reading, filters, vocabularies, batches, and going on exactly."""

import csv
import io
import itertools
import json
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ppl_text.core.errors import CheckpointError, DataError
from ppl_text.data.batches import EpochBatches, default_buckets, evaluation_batches
from ppl_text.data.buckets import source_widths
from ppl_text.data.catalogue import load_corpus
from ppl_text.data.corpus import SPLITS, Side, Split
from ppl_text.data.tokenizers import Tokenizer, word_tokenizer

TARGETS = word_tokenizer(["t0 t1 t2 t3 t4 t5 t6 t7 t8 t9"])
SOURCES = word_tokenizer(["s0 s1 s2 s3 s4 s5 s6 s7 s8 s9"])


def write_csv(path, columns, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([list(columns), *zip(*columns.values(), strict=True)])


def write_tsv(path, columns):
    lines = ["\t".join(columns), *("\t".join(row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_jsonl(path, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path, columns):
    pq.write_table(pa.table(columns), path)


WRITERS = {"csv": write_csv, "tsv": write_tsv, "jsonl": write_jsonl, "parquet": write_parquet}


def load(path, **options):
    return load_corpus(str(path), unit="sentences", **{"source": "en", "column": "de", **options})


def message_of(path, **options):
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return str(caught.value)


def folder(path, **columns):
    """The same pairs as train, valid and test."""
    path.mkdir(exist_ok=True)
    for name in SPLITS:
        write_jsonl(path / f"{name}.jsonl", columns)
    return path


def rows_of(split):
    return list(zip(split.texts, split.source.texts, strict=True))


# -- reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", WRITERS)
def test_pairs_are_read_from_every_kind_of_table(tmp_path, ending):
    german, english = ["das Haus", 'ein "Hund"', "é\u0301  x"], ["the house", '"a dog"', "never seen"]
    for name, rows in {"train": slice(0, 2), "valid": slice(2, 3), "test": slice(0, 1)}.items():
        columns = {"id": ["1", "2", "3"][rows], "en": english[rows], "de": german[rows]}
        WRITERS[ending](tmp_path / f"{name}.{ending}", columns)
    corpus = load(tmp_path)
    assert rows_of(corpus.splits["train"]) == list(zip(german[:2], english[:2], strict=True))
    assert rows_of(corpus.splits["valid"]) == [("é\u0301 x", "never seen")]
    assert set(corpus.tokenizer.symbols[4:]) == {"das", "Haus", "ein", '"Hund"'}
    assert set(corpus.source_tokenizer.symbols[4:]) == {"the", "house", '"a', 'dog"'}
    assert corpus.vocabulary.source.size == corpus.source_tokenizer.size == 8
    valid = corpus.splits["valid"].source
    assert valid.table.ids.tolist() == [3, 3], "the source vocabulary is that of train's sources alone"
    note = next(note for note in corpus.notes if "given" in note)
    assert note.startswith(f"train.{ending}: column 'de' given column 'en'")
    assert "vocabulary of the sources: 8 symbols (word), made from train" in corpus.notes
    assert "valid: 1 sources, 3 scored tokens (3.000 a sentence, EOS counted), 100.00% <unk>" in corpus.notes


def test_the_text_column_is_found_beside_the_source(tmp_path):
    pairs = {"en": ["a b"] * 3, "de": ["x y"] * 3}
    assert rows_of(load(folder(tmp_path / "two", **pairs), column=None).splits["train"])[0] == ("x y", "a b")
    corpus = load(folder(tmp_path / "named", text=["x"], en=["a"], other=["b"]), column=None)
    assert rows_of(corpus.splits["train"]) == [("x", "a")]


def test_columns_that_will_not_do(tmp_path):
    path = tmp_path / "pairs.parquet"
    write_parquet(path, {"en": ["a"], "de": ["x"], "n": [1]})
    described = "its columns are en (string), de (string), n (int64)"
    assert message_of(path, source="fr") == f"{path}: no column 'fr'; {described}; set data.source to one of them"
    assert message_of(path, source="n") == f"{path}: column 'n' holds int64, not strings; {described}"
    assert f"no column 'fr'; {described}; set data.column to one of them" in message_of(path, column="fr")
    assert message_of(path, column="EN").endswith("column 'en' is asked for twice; name another")
    text = tmp_path / "pairs.txt"
    text.write_text("a\n")
    assert message_of(text) == (
        f"{text}: a text file has no column 'en'; expected pairs (data.source is set) in csv, tsv, jsonl or parquet, "
        "with the names of the columns, or in parallel files, such as NAME.src beside NAME.tgt"
    )


def test_a_row_without_text_or_source_is_dropped_or_refused(tmp_path):
    path = folder(tmp_path, en=["a", "", "b", " ", "c"], de=["x", "y", None, "", "z"])
    corpus = load(path)
    assert rows_of(corpus.splits["train"]) == [("x", "a"), ("z", "c")]
    assert "train.jsonl: 5 rows read, 3 without text or source dropped" in corpus.notes
    advice = "remove the line, or drop such lines with data.empty=drop"
    assert message_of(path, empty="refuse") == f"{path / 'train.jsonl'}, line 2: no source in column 'en'; {advice}"
    path = folder(tmp_path, en=["a", "b"], de=["x", None])
    assert message_of(path, empty="refuse") == f"{path / 'train.jsonl'}, line 2: no text; {advice}"


LONG = {"en": ["a", "a b c d", "a b", "a b c"], "de": ["x y z", "x", "x y", "x y z"]}


def test_long_sides_are_truncated_each_by_its_own_limit(tmp_path):
    corpus = load(folder(tmp_path, **LONG), max_tokens=2, source_max_tokens=3)
    assert rows_of(corpus.splits["train"]) == [("x y", "a"), ("x", "a b c"), ("x y", "a b"), ("x y", "a b c")]
    assert "train: 2 targets of more than 2 tokens truncated" in corpus.notes
    assert "train: 1 sources of more than 3 tokens truncated" in corpus.notes
    for split in corpus.splits.values():
        for side in (split.target, split.source):
            assert Side(side.texts, side.tokenizer).table.ids.tolist() == side.table.ids.tolist()


def test_a_pair_goes_with_either_of_its_sides(tmp_path):
    path = folder(tmp_path, **LONG)
    corpus = load(path, max_tokens=2, source_max_tokens=3, long="drop")
    assert rows_of(corpus.splits["train"]) == [("x y", "a b")]
    assert corpus.splits["train"].source.table.lengths.tolist() == [3]
    assert message_of(path, source_max_tokens=2, long="refuse") == (
        f"{path / 'train.jsonl'}, line 2: 4 tokens, more than source_max_tokens=2: 'a b c d'; raise source_max_tokens, "
        "or truncate or drop such sentences with data.long"
    )
    everything = "every sentence of train has more than max_tokens=1 or source_max_tokens=1 tokens"
    path = folder(tmp_path, en=["a b", "a"], de=["x", "x y"])
    assert everything in message_of(path, max_tokens=1, source_max_tokens=1, long="drop")


def test_a_lone_table_is_divided_by_its_sources(tmp_path):
    path = tmp_path / "all.jsonl"
    write_jsonl(path, {"en": [f"source {i // 3}" for i in range(300)], "de": [f"target {i}" for i in range(300)]})
    corpus = load(path, test_share=0.2, valid_share=0.2)
    parts = {name: rows_of(split) for name, split in corpus.splits.items()}
    assert sorted(row for part in parts.values() for row in part) == sorted(
        (f"target {i}", f"source {i // 3}") for i in range(300)
    )
    seen = {name: {source for _, source in part} for name, part in parts.items()}
    assert not seen["train"] & seen["test"]
    assert all(seen.values())


def test_a_lone_table_is_divided_by_its_truncated_sources(tmp_path):
    path = tmp_path / "all.jsonl"
    source = [f"{i // 3 % 10} {i // 30} end {i}" for i in range(300)]
    write_jsonl(path, {"en": source, "de": ["one target"] * 300})
    options = {"test_share": 0.3, "valid_share": 0.3, "source_max_tokens": 2}
    corpus, whole = load(path, **options), load(path, **options, divide="whole")
    seen = {name: {source for _, source in rows_of(split)} for name, split in corpus.splits.items()}
    assert not seen["train"] & seen["test"] | seen["train"] & seen["valid"] | seen["valid"] & seen["test"]
    assert corpus.repeats == ()
    assert any("pairs stand in train too" in note for note in whole.notes), "the case is one"


def test_pairs_are_repeated_where_both_sides_are(tmp_path):
    for name, sides in {
        "train": ["a b", "c"],
        "valid": ["a", "b c"],
        "test": ["a b", "x"],
    }.items():
        write_jsonl(tmp_path / f"{name}.jsonl", {"en": sides, "de": ["t", "t"]})
    assert load(tmp_path).repeats == (("test", "train", 1),), "where the ends of sides fall makes a difference"


def test_sources_are_part_of_the_fingerprint(tmp_path):
    base = load(folder(tmp_path, en=["a b"], de=["x"])).fingerprint
    assert load(tmp_path).fingerprint == base
    assert load(tmp_path, source=None).fingerprint != base
    assert load(folder(tmp_path, en=["a c"], de=["x"])).fingerprint != base


# -- batches ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split():
    """90 pairs with marks of their number on both sides; sources and targets have lengths of their own."""
    rng = np.random.default_rng(0)

    def texts(letter, lengths):
        digits = [f"{i:02d}" for i in range(90)]
        rest = [" ".join(f"{letter}{k}" for k in rng.integers(0, 10, size=n)) for n in lengths]
        return [f"{letter}{d[0]} {letter}{d[1]} {more}".strip() for d, more in zip(digits, rest, strict=True)]

    targets, sources = texts("t", rng.integers(0, 8, size=90)), texts("s", rng.integers(0, 20, size=90))
    return Split(Side(targets, TARGETS), source=Side(sources, SOURCES))


def epochs(split, **options):
    return EpochBatches(split, **{"batch_size": 8, "buckets": default_buckets(split, 3), "seed": 0, **options})


def decoded(batch):
    """(text, source) of each row that counts; filler is empty on both sides."""
    for text, source, weight in zip(batch.tokens, batch.source.tokens, batch.weights, strict=True):
        pair = TARGETS.decode(text), SOURCES.decode(source)
        if weight:
            yield pair
        else:
            assert pair == ("", "")


def check_sides(batch, widths):
    source = batch.source
    assert source.steps in widths
    assert source.lengths.max() > max((w for w in widths if w < source.steps), default=0), "no wider than it must be"
    assert source.weights.equal(batch.weights)
    assert source.tokens.gather(1, source.lengths[:, None] - 1).eq(2).all(), "EOS ends each source"
    places = torch.arange(source.steps)
    assert source.tokens[places >= source.lengths[:, None]].eq(0).all()


def test_sources_stay_with_their_texts_through_epochs(split):
    stream, widths = epochs(split), source_widths(split)
    assert len(widths) == 4
    for _ in range(3):
        batches = list(itertools.islice(stream, stream.batches_per_epoch))
        assert sorted(pair for batch in batches for pair in decoded(batch)) == sorted(rows_of(split))
        for batch in batches:
            check_sides(batch, widths)


def test_sources_stay_with_their_texts_in_evaluation(split):
    whole, some = (
        evaluation_batches(split, weighted=False, batch_size=8, buckets=(6, 12), limit=limit) for limit in (None, 20)
    )
    assert sorted(pair for batch in whole for pair in decoded(batch)) == sorted(rows_of(split))
    drawn = [pair for batch in some for pair in decoded(batch)]
    assert len(drawn) == 20
    assert set(drawn) <= set(rows_of(split))
    assert [text for text, _ in drawn] == [text for texts in some.texts for text in texts]
    for batch in whole:
        check_sides(batch, source_widths(split))


def test_targets_come_in_the_order_that_they_have_without_sources(split):
    """Sources take nothing from the random streams; word dropout leaves them alone."""
    alone, pairs, plain = (
        epochs(Split(split.target), word_dropout=0.4),
        epochs(split, word_dropout=0.4),
        epochs(split),
    )
    for one, two, three in itertools.islice(zip(alone, pairs, plain, strict=True), 30):
        assert one.source is None
        assert one.tokens.equal(two.tokens)
        assert one.decoder_inputs.equal(two.decoder_inputs)
        assert two.source.decoder_inputs.equal(three.source.decoder_inputs)


@pytest.mark.parametrize("taken", [0, 5, 14, 25])
def test_continuation_is_bit_identical(split, taken):
    stream = epochs(split, word_dropout=0.3)
    for _ in range(taken):
        next(stream)
    buffer = io.BytesIO()
    torch.save(stream.state_dict(), buffer)
    buffer.seek(0)
    resumed = epochs(split, word_dropout=0.3, seed=9)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    for one, two in itertools.islice(zip(stream, resumed, strict=True), 30):
        assert one.decoder_inputs.equal(two.decoder_inputs)
        assert one.source.tokens.equal(two.source.tokens)
        assert one.source.lengths.equal(two.source.lengths)


def test_a_position_among_other_sources_is_refused(split):
    state = epochs(split).state_dict()
    turned = Split(split.target, source=Side(split.source.texts[::-1], SOURCES))
    for other in (turned, Split(split.target)):
        with pytest.raises(CheckpointError, match=r"data.* differ"):
            epochs(other).load_state_dict(state)


def test_the_source_tokenizer_is_saved_beside_the_other(tmp_path):
    from ppl_text.recipes.config import load_config
    from ppl_text.recipes.folders import open_folder

    corpus = load(folder(tmp_path / "data", en=["a b", "c"], de=["x", "y z"]))
    with ExitStack() as held:
        open_folder(tmp_path / "run", load_config("verses-lm"), corpus, "cpu", held)
    assert Tokenizer.load(tmp_path / "run" / "source-tokenizer.json") == corpus.source_tokenizer
    assert Tokenizer.load(tmp_path / "run" / "tokenizer.json") == corpus.tokenizer
