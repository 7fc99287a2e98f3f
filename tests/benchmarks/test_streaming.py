"""What ``benchmarks.streaming`` measures, at a size that takes no time."""

import pytest

from benchmarks import streaming

LINES = 600


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "big.txt"
    streaming.generate(path, LINES)
    return path


def test_lines_are_as_they_are_said_to_be(file):
    lines = [line.split() for line in file.read_text().splitlines()]
    assert len(lines) == LINES
    assert {len(line) for line in lines} == set(range(streaming.SHORTEST, streaming.LONGEST + 1))
    assert len({word for line in lines for word in line}) > 1000


def test_phases_say_what_they_took(file, monkeypatch):
    monkeypatch.setenv("PPL_TEXT_CACHE", str(file.parent / "cache"))
    found = {name: streaming.run_phase(name, file, 3, 2) for name in ("nothing", "make", "open", "epoch", "memory")}
    assert all(phase["seconds"] > 0 and phase["peak_mib"] > 10 for phase in found.values())
    assert sum(found["make"]["sentences"].values()) == LINES
    assert found["make"]["tokens"] == found["memory"]["tokens"]
    assert found["epoch"]["rows"] == found["memory"]["rows"] > 0
    cached = sum(path.stat().st_size for path in (file.parent / "cache").rglob("*") if path.is_file())
    whole = {**found, "generate": {"seconds": 1.0}, "lines": LINES, "file_bytes": 2**20, "cache_bytes": cached}
    whole["train"] = {"seconds": 2.0, "peak_mib": 1234.5}
    shown = streaming.table(whole)
    assert shown.startswith("600 lines, 1 MiB; cache 0 MiB\n")
    assert "| train | 2 | 1,234 |" in shown


def test_the_training_is_one(file, monkeypatch):
    monkeypatch.setenv("PPL_TEXT_CACHE", str(file.parent / "cache"))
    streaming.run_phase("make", file, 3, 2)
    assert streaming.run_phase("train", file, 3, 2)["perplexity"] > 1
    assert len(list((file.parent / "cache" / "streams").iterdir())) == 1, "it is trained on what was made"
