"""Data sets in the hub's layout, read by ``datasets``, offline."""

import json
import logging
import os

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


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(rows)), encoding="utf-8")


def write_parquet(path, rows):
    pq.write_table(pa.table({"id": list(range(len(rows))), "text": rows}), path, row_group_size=2)


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


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_folder_that_is_replaced_is_read_anew_whatever_its_times(tmp_path, ending):
    """The cache of ``datasets`` knows a file by its path and its modification time."""
    root, sizes = tmp_path / "owner" / "name", []
    root.mkdir(parents=True)
    for word in ("wolf", "lion"):
        path, texts = root / f"train.{ending}", [f"the {word} number {i}" for i in range(60)]
        lines = ["text", *texts] if ending == "csv" else [json.dumps({"text": text}) for text in texts]
        path.write_text("\n".join(lines) + "\n")
        os.utime(path, (1_577_836_800, 1_577_836_800))
        sizes.append(path.stat().st_size)
        assert word in load(f"hub:{root}").tokenizer.symbols
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_arrow_type_of_strings(tmp_path, kind):
    root, texts = tmp_path / "owner" / "name", [f"row {i}" for i in range(60)]
    root.mkdir(parents=True)
    pq.write_table(pa.table({"text": pa.array(texts).cast(kind)}), root / "train.parquet")
    corpus = load(f"hub:{root}")
    assert sorted(text for split in corpus.splits.values() for text in split.texts) == sorted(texts)
