"""How cost grows: every size is the one that changes, what is measured is told, and the figure shows it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import growth, page, race


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "limit_threads", lambda threads: 1)
    monkeypatch.setattr(growth, "TEXTS", (64, 256, 1_000))


def test_all_sizes_of_the_contract_grow() -> None:
    assert [axis.label.split(",")[0] for axis in growth.AXES.values()] == [
        *("particles K", "tokens T", "vocabulary V", "codes M", "codes M", "layers L")
    ]


@pytest.mark.parametrize("name", growth.AXES)
def test_what_a_step_is_made_of_grows_with_its_size_and_nothing_else(name: str) -> None:
    """The least two values, by their particles, tokens, and numbers in parameters."""
    axis = growth.AXES[name]
    for line in axis.lines.values():
        (few, little), (many, more) = (line(value, "cpu") for value in axis.values[:2])
        particles = [contestant.objective.particles for contestant in (few, many)]
        tokens = [words.tokens.shape[1] for words in (little, more)]
        numbers = [
            sum(value.numel() for part in (c.model, c.guide) for value in (*part.parameters(), *part.buffers()))
            for c in (few, many)
        ]
        assert (particles == list(axis.values[:2])) == (name == "particles")
        assert (tokens == list(axis.values[:2])) == (name == "steps")
        if name in ("vocabulary", "codes", "switched", "layers"):
            assert numbers[0] < numbers[1]
        assert little.tokens.max() < few.model.vocab_size


def test_a_report_has_times_memory_and_a_figure(tmp_path, capsys) -> None:
    file, figure = tmp_path / "growth.json", tmp_path / "growth.png"
    arguments = ["switched", "epoch", "--rounds", "1", "--values", "2", "--json", str(file), "--figure", str(figure)]
    growth.main(arguments)
    report = json.loads(file.read_text(encoding="utf-8"))
    codes, texts = report["axes"]["switched"], report["axes"]["epoch"]
    assert (codes["values"], texts["values"]) == ([2, 4], [64, 256])
    for axis in (codes, texts):
        (line,) = axis["lines"].values()
        assert len(line["seconds"]) == 2
        assert min(line["seconds"]) > 0
        assert line["peak_bytes"][0] < line["peak_bytes"][1]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.rstrip() == page.growth_markdown(report)


def test_an_epoch_takes_a_step_for_every_batch(tmp_path, monkeypatch) -> None:
    steps = []
    epoch = growth.Epoch(tmp_path / "texts.txt", 100)
    monkeypatch.setattr(epoch.contestant, "step", lambda batch: steps.append(float(batch.weights.sum())))
    epoch(2)
    seen = sum(steps)
    assert len(steps) == 2 * len(steps[::2])
    assert 2 * 60 <= seen <= 2 * 100  # some of the texts are set aside for validation and test


def test_the_page_tells_the_power_at_which_cost_grows() -> None:
    line = {"seconds": [0.001, 0.002, 0.008], "peak_bytes": [1_000_000, 1_000_000, 2_000_000]}
    report = {
        "command": "python -m benchmarks.growth",
        "clock": "processor",
        "rounds": 5,
        "load_average": [1.0],
        "environment": {
            "device": "cpu",
            "cuda": None,
            "threads": 2,
            "cpu": "CPU",
            "python": "3.11",
            "commit": "abcdefghij",
            "packages": {"torch": "2.13.0"},
        },
        "axes": {"layers": {"label": "layers L", "values": [1, 2, 4], "lines": {"one": line}}},
    }
    text = page.growth_markdown(report)
    assert "| layers L, 1 to 4 | one | 1.0 to 8.0 ms | 2.00 | 1.0 to 2.0 MB | 1.00 |" in text
    assert "2 threads, processor time, 5 interleaved rounds" in text
    assert np.isclose(float(page._power([1, 2], [3, 6])), 1.0)
    assert page._power([1], [3]) == ""


def test_a_wrong_axis_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as left:
        growth.main(["letters"])
    assert left.value.code == 2
    assert (
        "AXIS: expected one of particles, steps, vocabulary, codes, switched, layers, epoch" in capsys.readouterr().err
    )
