"""Flat columns: in memory and on disk they hold the same."""

import os

import numpy as np
import pytest

from ppl_text.core.errors import CheckpointError
from ppl_text.data import columns
from ppl_text.data.columns import Spool, TextColumn

TEXTS = ["", "a", "é😀", "שלום עולם", "q\u0303", "x" * 5000, "", "last"]


@pytest.fixture(params=["memory", "disk"])
def place(request, monkeypatch):
    if request.param == "disk":
        monkeypatch.setattr(columns, "MEMORY", 100)
    return request.param


@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_texts_come_back(place, monkeypatch, chunk):
    monkeypatch.setattr(columns, "CHUNK", chunk)
    column = TextColumn.of(iter(TEXTS))
    assert isinstance(column._data, np.memmap) == (place == "disk")
    assert len(column) == len(TEXTS)
    assert list(column) == TEXTS
    assert [column[i] for i in range(-8, 8)] == [TEXTS[i] for i in range(-8, 8)]
    assert column[1:6:2] == tuple(TEXTS[1:6:2])
    assert column[5:1000] == tuple(TEXTS[5:])
    with pytest.raises(IndexError):
        column[8]


def test_numbers_come_back(place):
    spool = Spool(np.int32)
    parts = [np.arange(k, k + k % 7) for k in range(60)]
    for part in parts:
        spool.extend(part)
        part[:] = -1  # the spool keeps its own copy
    numbers = spool.column()
    assert numbers.dtype == np.int32
    assert numbers.tolist() == [i for k in range(60) for i in range(k, k + k % 7)]
    with pytest.raises(ValueError, match="read-only"):
        numbers[0] = 1


def test_empty_columns():
    assert Spool(np.int64).column().tolist() == []
    assert list(TextColumn.of([])) == []


def test_memory_is_bounded_and_nothing_is_left(tmp_path, monkeypatch):
    """A column of many times MEMORY never holds more than MEMORY and a part; its file has no name."""
    monkeypatch.setattr(columns, "MEMORY", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(columns.tempfile, "tempdir", None)
    spool = Spool(np.int64)
    most = 0
    for start in range(0, 10_000, 50):
        spool.extend(np.arange(start, start + 50))
        most = max(most, sum(part.nbytes for part in spool._parts))
    assert most <= 1000
    assert spool.column()[[0, 4999, 9999]].tolist() == [0, 4999, 9999]
    assert os.listdir(tmp_path) == []


def test_full_disk_is_the_machines_fault(monkeypatch):
    monkeypatch.setattr(columns, "MEMORY", 10)

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(columns.tempfile, "TemporaryFile", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        Spool(np.int64).extend(np.arange(100))
