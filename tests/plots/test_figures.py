"""The figure of a training run."""

import json

import pytest

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
