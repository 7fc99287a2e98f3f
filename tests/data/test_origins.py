"""csv, jsonl, parquet and data sets in the hub's layout, all read by ``datasets``, offline."""

import json
import logging

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppl_text.core.errors import DataError
from ppl_text.data.catalogue import load_corpus
from ppl_text.data.corpus import SPLITS

TEXTS = {
    "train": ["null", 'a, "b"', "NA", "é\u0301 😀", "line one\nline two", "the end"],
    "valid": ["the end"],
    "test": ["a"],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing is taken from the user's cache or put there, and nothing asks the network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def write_csv(path, rows):
    quoted = ['"' + text.replace('"', '""') + '"' for text in rows]
    path.write_text("id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(quoted)), encoding="utf-8")


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(rows)), encoding="utf-8")


def write_parquet(path, rows):
    pq.write_table(pa.table({"id": list(range(len(rows))), "text": rows}), path, row_group_size=2)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def load(path, **options):
    return load_corpus(str(path), unit="sentences", **options)


def message_of(call, *args, **options):
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(corpus):
    found = {name: list(corpus.splits[name].texts) for name in SPLITS}
    expected = {**TEXTS, "train": [*TEXTS["train"]]}
    expected["train"][3:5] = ["é\u0301 😀", "line one line two"]
    assert found == expected


# -- tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", WRITERS)
def test_tables_hold_the_same_as_text(tmp_path, ending):
    (tmp_path / "data").mkdir()
    for name, rows in TEXTS.items():
        WRITERS[ending](tmp_path / "data" / f"{name}.{ending}", rows)
    corpus = load(tmp_path / "data")
    check(corpus)
    assert f"train.{ending}: 6 rows read" in corpus.notes
    assert corpus.fingerprint == load(tmp_path / "data").fingerprint
    assert next((tmp_path / "cache").rglob("*.arrow")).is_file(), "cached as memory-mapped tables"


def test_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "all.jsonl"
    write_jsonl(path, [f"text {i}" for i in range(60)])
    before = load(path).fingerprint
    write_jsonl(path, [f"text {i}" for i in range(61)])
    assert load(path).fingerprint != before


def write_columns(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_which_column_is_the_text(tmp_path):
    rows = [f"row {i}" for i in range(60)]
    ids = list(range(60))
    for names, chosen in (
        ({"title": ids, "sentence": rows, "other": ["x"] * 60}, None),
        ({"sentence": ["x"] * 60, "text": rows}, None),
        ({"number": ids, "remark": rows}, None),
        ({"text": ["x"] * 60, "mine": rows}, "mine"),
    ):
        path = write_columns(tmp_path / f"{'-'.join(names)}.parquet", **names)
        corpus = load(path, column=chosen)
        assert sorted(t for split in corpus.splits.values() for t in split.texts) == sorted(rows)


def test_columns_that_will_not_do(tmp_path):
    path = write_columns(tmp_path / "two.parquet", a=["x"], b=["y"], n=[1])
    assert message_of(load, path) == (
        f"{path}: which column is the text? Its columns are a (string), b (string), n (int64); "
        "set data.column to its name"
    )
    assert message_of(load, path, column="text").startswith(f"{path}: no column 'text'; its columns are a (string)")
    assert message_of(load, path, column="n").startswith(f"{path}: column 'n' holds int64, not strings")
    numbers = write_columns(tmp_path / "n.parquet", text=[1, 2])
    assert "which column is the text? Its columns are text (int64)" in message_of(load, numbers)


def test_missing_texts_are_empty_rows(tmp_path):
    path = write_columns(tmp_path / "train.parquet", text=["a", None, "", *(f"b {i}" for i in range(60))])
    assert "train.parquet: 63 rows read, 2 without text dropped" in load(path).notes
    assert message_of(load, path, empty="refuse").startswith(f"{path}: row 2: no text; remove the line")
    assert message_of(load, path, max_tokens=1, long="refuse").startswith(f"{path}: row 4: 2 tokens, more than")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"PAR1 no table", ": cannot be read: Parquet "),
        ("x.parquet", b"", ": cannot be read: "),
        ("x.csv", b"text\ngood\ncaf\xe9\n", ", line 3: not UTF-8 text: byte 0xE9 (byte 4 of the line)"),
        ("x.csv", b"", ": the file is empty; expected a column of texts"),
        ("x.csv", b"text\n", ": cannot be read: "),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', ", line 2: not JSON: Expecting value (character 11)"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', ": row 2: not UTF-8 text: byte 0xFF; convert the file first"),
        ("x.jsonl", b'{"text": "a\\u0000b"}\n', ": row 1: a NUL character in 'a\\x00b'; remove it"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert message_of(load, path).startswith(f"{path}{message}")


# -- the hub ----------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """A data set as a repository of the hub holds it: a card that says where its configurations' splits lie."""
    root = tmp_path / "owner" / "name"
    for config, suffix in (("plain", ""), ("shouted", "!")):
        (root / config).mkdir(parents=True)
        for name, rows in TEXTS.items():
            split = {"valid": "validation"}.get(name, name)
            half = len(rows) // 2
            parts = [rows[:half], rows[half:]] if half else [rows]
            for i, part in enumerate(parts):
                rows_ = [text + suffix for text in part]
                write_parquet(root / config / f"{split}-{i:05d}-of-{len(parts):05d}.parquet", rows_)
    card = ["---", "configs:"]
    for config in ("plain", "shouted"):
        card += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "validation", "test"):
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (root / "README.md").write_text("\n".join([*card, "---", "# A data set"]))
    return root


def test_repository_in_the_hubs_layout(repository):
    corpus = load(f"hub:{repository}", subset="plain")
    check(corpus)
    assert corpus.name == f"hub:{repository}"
    assert f"hub:{repository} valid: 1 rows read" in corpus.notes
    shouted = load(f"hub:{repository}", subset="shouted")
    assert shouted.splits["test"].texts[0] == "a!"


def test_repository_needs_its_configuration_named(repository):
    message = message_of(load, f"hub:{repository}")
    assert message.startswith(f"hub:{repository}: cannot be read: ")
    assert "['plain', 'shouted']" in message
    assert "for several configurations, data.subset" in message


def test_split_that_the_repository_lacks_is_taken_from_train(repository):
    for path in (repository / "plain").glob("test-*"):
        path.unlink()
    card = repository / "README.md"
    lines = card.read_text().split("\n")
    kept = [line for line in lines if "test" not in line]
    card.write_text("\n".join(kept))
    write_parquet(repository / "plain" / "train-00002-of-00002.parquet", [f"text {i}" for i in range(60)])
    corpus = load(f"hub:{repository}", subset="plain")
    assert f"no test in hub:{repository}: taken from train" in corpus.notes
    assert len(corpus.splits["train"]) + len(corpus.splits["test"]) == 66
    assert list(corpus.splits["valid"].texts) == TEXTS["valid"]


def test_repository_without_train(repository):
    for path in repository.rglob("train-*"):
        path.unlink()
    card = repository / "README.md"
    lines = card.read_text().split("\n")
    kept = [x for i, x in enumerate(lines) if "train" not in x]
    card.write_text("\n".join(kept))
    assert message_of(load, f"hub:{repository}", subset="plain") == (
        f"hub:{repository}: the data set has no split 'train'; it has test, validation"
    )


@pytest.mark.parametrize("name", ["nobody/no-such-thing", "no such name!", "", "../nowhere"])
def test_unknown_name_is_one_message(name, capfd):
    message = message_of(load, f"hub:{name}")
    assert message.startswith(f"hub:{name}: cannot be read: ")
    assert message.endswith("check the name, the connection and, for several configurations, data.subset")
    assert capfd.readouterr() == ("", "")


def test_libraries_speak_as_before(repository):
    level = logging.getLogger("datasets").level
    bars = datasets.are_progress_bars_disabled()
    load(f"hub:{repository}", subset="plain")
    assert logging.getLogger("datasets").level == level
    assert datasets.are_progress_bars_disabled() == bars
