"""Archives are known by their content: none is unpacked, and nothing is left in a cache."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from ppl_text.core.errors import DataError
from ppl_text.data.catalogue import load_corpus

TEXT = b"text\n" + b"the cat sees a dog\n" * 20


def zipped():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", TEXT)
    return made.getvalue()


def tarred():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        entry = tarfile.TarInfo("train.csv")
        entry.size = len(TEXT)
        archive.addfile(entry, io.BytesIO(TEXT))
    return made.getvalue()


PACKED = {
    "zip": zipped(),
    "gzip": gzip.compress(TEXT),
    "bzip2": bz2.compress(TEXT),
    "bzip2, fast": bz2.compress(TEXT, 1),
    "xz": lzma.compress(TEXT),
    "tar": tarred(),
    "zstandard": b"\x28\xb5\x2f\xfd" + bytes(40),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(40),
    "rar": b"Rar!\x1a\x07\x01\x00" + bytes(40),
    "lz4": b"\x04\x22\x4d\x18" + bytes(40),
}

NAMES = ["x.csv", "x.csv.gz", "x.tsv", "x.txt", "x.jsonl", "x.json", "x"]


def refused(name, unit="sentences"):
    with pytest.raises(DataError) as caught:
        load_corpus(str(name), unit=unit)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", PACKED)
def test_an_archive_under_any_name(tmp_path, kind, name):
    (tmp_path / name).write_bytes(PACKED[kind])
    for unit in ("sentences", "word-list"):
        message = refused(tmp_path / name, unit)
        assert f"{name}: this is no text but {kind.split(',')[0]}" in message
        assert "; unpack it, or write it as csv or jsonl" in message


@pytest.mark.parametrize("kind", PACKED)
def test_an_archive_in_a_folder(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_bytes(PACKED[kind])
    for name in (tmp_path / "data", f"hub:{tmp_path / 'data'}"):
        assert f"train.csv: this is no text but {kind.split(',')[0]}" in refused(name)
    assert not (tmp_path / "cache").exists()


def test_a_folder_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "data" / f"{split}.csv").write_bytes(TEXT)
    for _ in range(2):
        corpus = load_corpus(f"hub:{tmp_path / 'data'}", unit="sentences", min_count=1)
        assert len(corpus.splits["train"]) == 20
        assert not list((tmp_path / "cache").iterdir())


def test_texts_that_begin_like_an_archive_are_texts(tmp_path):
    (tmp_path / "x.txt").write_text("\n".join(f"BZh {i} is no archive" for i in range(200)))
    assert load_corpus(str(tmp_path / "x.txt"), unit="sentences", min_count=1).splits
