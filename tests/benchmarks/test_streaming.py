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
    about = {"cpu": "a processor", "commit": "0123456789", "python": "3.11"}
    whole = {**found, "generate": {"seconds": 1.0}, "train": {"seconds": 2.0, "peak_mib": 1234.5}, "lines": LINES}
    whole |= {"file_bytes": 2**20, "cache_bytes": 3 * 2**20, "command": "x", "load_average": [1.0, 2.0]}
    shown = streaming.table_markdown({**whole, "environment": about}).splitlines()
    assert shown[2] == "| the file is generated | 1 |  |"
    assert "| found, trained for some steps, with validation and report | 2 | 1,234 |" in shown
    assert len(shown) == 2 + len(streaming.WHAT) + 2
    assert shown[-1].startswith("600 lines of 1 MiB, ")
    assert "`x`: a processor, one process of one thread, load average 1.0 to 2.0, commit `0123456`," in shown[-1]


def test_the_training_is_one(file, monkeypatch):
    monkeypatch.setenv("PPL_TEXT_CACHE", str(file.parent / "cache"))
    streaming.run_phase("make", file, 3, 2)
    assert streaming.run_phase("train", file, 3, 2)["perplexity"] > 1
    assert len(list((file.parent / "cache" / "streams").iterdir())) == 1, "it is trained on what was made"
