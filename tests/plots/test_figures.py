"""The figure of a training run."""

import json
import math

import pytest

from ppl_text.plots import figures
from ppl_text.plots.figures import read_metrics, training_figure

PNG = b"\x89PNG\r\n\x1a\n"


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def record(step, split, bound, kl=1.0):
    return {"step": step, "split": split, "bound": bound, "kl": kl}


def size(path):
    """Width and height out of the PNG's header."""
    header = path.read_bytes()[:24]
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def test_metrics_are_told_apart(tmp_path):
    records = [record(5, "train", -3.0), record(5, "valid", -4.0), record(10, "train", -2.0)]
    write(tmp_path / "metrics.jsonl", *records)
    train, valid = read_metrics(tmp_path / "metrics.jsonl")
    assert train == [records[0], records[2]]
    assert valid == [records[1]]


CURVES = {
    "both": [record(5, "train", -3.0), record(5, "valid", -4.0)],
    "no validation": [record(5, "train", -3.0)],
    "bounds that were no numbers": [record(5, "train", None), record(6, "train", -2.0), record(6, "valid", None)],
}


@pytest.mark.parametrize("records", CURVES.values(), ids=CURVES)
def test_a_png_is_drawn_into_a_folder_that_is_made(tmp_path, records):
    write(tmp_path / "metrics.jsonl", *records)
    target = tmp_path / "figures" / "training.png"
    training_figure(tmp_path / "metrics.jsonl", target)
    assert target.read_bytes().startswith(PNG)
    assert size(target) == (900, 384)
    assert [p.name for p in target.parent.iterdir()] == ["training.png"]


def test_the_curves_show(tmp_path):
    """Other numbers, another picture; the same numbers, the same picture."""
    pictures = []
    for bound in (-3.0, -3.0, -9.0):
        write(tmp_path / "metrics.jsonl", record(1, "train", -5.0), record(2, "train", bound), record(2, "valid", -4.0))
        training_figure(tmp_path / "metrics.jsonl", tmp_path / "training.png")
        pictures.append((tmp_path / "training.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


@pytest.fixture
def panels(tmp_path, monkeypatch):
    """``panels(records, …)``: the axes that are drawn of them."""
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, target: drawn.append(figure))

    def draw(records, *options):
        write(tmp_path / "metrics.jsonl", *records)
        shown = training_figure(tmp_path / "metrics.jsonl", tmp_path / "training.png", *options)
        assert shown == bool(drawn)
        return drawn.pop().axes if shown else []

    return draw


def falling(split="train", first=-200.0, every=10):
    """A run whose first points lie far from all others: the bound from -200 to -12, the KL from 90 to 5."""
    decay = [(step, math.exp(-step / 40)) for step in range(every, 2001, every)]
    return [record(s, split, -12 - 1e-3 * (2000 - s) + (first + 12) * d, 5 + 85 * d - 1e-3 * s) for s, d in decay]


@pytest.mark.parametrize("records", [falling(), [*falling(), *falling("valid", every=250)]], ids=["train", "both"])
def test_the_first_points_do_not_set_the_scale(panels, records):
    bound, kl = panels(records)
    late = [r for r in records if r["step"] > 200]
    for axes, key in ((bound, "bound"), (kl, "kl")):
        low, high = axes.get_ylim()
        values = [r[key] for r in late]
        assert low <= min(values) < max(values) <= high, "what is learnt after the beginning is all there"
        assert max(values) - min(values) > 0.3 * (high - low), "and is not squeezed"
    first = records[0]
    assert bound.get_title("right") == f"beyond the edge: {first['bound']:.4g} at step 10"
    assert kl.get_title("right") == f"beyond the edge: {first['kl']:.4g} at step 10"


@pytest.mark.parametrize(
    "records",
    [
        [record(s, "train", s - 30.0) for s in range(1, 30)],
        [record(1, "train", -50.0), record(2, "train", -3.0)],
        [record(s, "train", -50.0 if s == 1 else -3.0) for s in range(1, 30)],
    ],
    ids=["nothing is squeezed", "two points", "a level line"],
)
def test_nothing_is_cut_off_where_it_would_show_no_more(panels, records):
    bound, _ = panels(records)
    low, high = bound.get_ylim()
    assert all(low <= r["bound"] <= high for r in records)
    assert bound.get_title("right") == ""


@pytest.mark.parametrize("noun", ["word", "sentence", "pair"])
def test_axes_are_called_what_a_text_is(panels, noun):
    labels = [axes.get_ylabel() for axes in panels(CURVES["both"], noun)]
    assert labels == [f"bound (nats per {noun})", f"KL (nats per {noun})"]


SHORT = {
    "nothing recorded": ([], []),
    "no number": ([record(1, "train", None, None), record(1, "valid", math.nan, math.inf)], []),
    "one point": ([record(1, "train", -3.0)], ["bound", "KL"]),
    "one validation": ([record(1, "valid", -3.0)], ["bound", "KL"]),
    "no bound": ([record(1, "train", None)], ["KL"]),
    "no KL": ([record(1, "train", -3.0, 0.0), record(1, "valid", -3.0, None)], ["bound"]),
}


@pytest.mark.parametrize(("records", "shown"), SHORT.values(), ids=SHORT)
def test_a_short_run_has_no_empty_axes(panels, records, shown):
    drawn = panels(records)
    assert [axes.get_ylabel().split()[0] for axes in drawn] == shown
    for axes in drawn:
        assert all(line.get_marker() not in ("", "None") for line in axes.lines), "a line of one point is not seen"
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [line.get_label() for line in axes.lines]


def test_nothing_is_written_where_nothing_was_recorded(tmp_path):
    write(tmp_path / "metrics.jsonl")
    assert not training_figure(tmp_path / "metrics.jsonl", tmp_path / "figures" / "training.png")
    assert not (tmp_path / "figures").exists()
