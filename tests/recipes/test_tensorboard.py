"""Curves for TensorBoard: the points of ``metrics.jsonl``, each once."""

import importlib.util
import json
import math

import pytest

import ppl_text as pt
from ppl_text.core.errors import UserError
from ppl_text.training import tensorboard
from ppl_text.training.tensorboard import _numbers

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed"
)


def lines(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curves(run):
    """All points of a run as TensorBoard reads them: by tag, step and value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def in_file(run):
    """The same as they are written, with nothing left out that TensorBoard would purge."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = list((run.folder / "tensorboard").iterdir())
    events = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [(value.tag, event.step) for event in events for value in event.summary.value]


def expected(run, split, name):
    return [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines(run) if line["split"] == split]


@needs_package
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_record_is_a_point_and_a_resumed_run_repeats_none(tiny, tmp_path, one_thread):
    changes = {**tiny, "training.log": "tensorboard"}
    run = pt.fit(set={**changes, "training.steps": 10}, out=tmp_path / "run")
    assert curves(run)["train/bound"] == expected(run, "train", "bound")
    # What was written after the last checkpoint goes with the lines of metrics.jsonl.
    with (run.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**lines(run)[0], "step": 12}) + "\n")
    run = pt.fit(resume=run.folder, steps=20)
    found = curves(run)
    assert [step for step, _ in found["train/bound"]] == [5, 10, 15, 20]
    for split, name in (("train", "bound"), ("train", "kl"), ("train", "lr"), ("valid", "bound_per_token")):
        assert found[f"{split}/{name}"] == expected(run, split, name)
    assert "valid/monitor/entropy_gap" in found
    written = in_file(run)
    assert len(written) == len(set(written))


@needs_package
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_curves_may_be_asked_for_later(tiny, tmp_path, one_thread):
    run = pt.fit(set={**tiny, "training.steps": 10}, out=tmp_path / "run")
    assert not (run.folder / "tensorboard").exists()
    run = pt.fit(resume=run.folder, steps=15, set={"training.log": "tensorboard"})
    assert [step for step, _ in curves(run)["train/bound"]] == [5, 10, 15]


def test_without_the_package_one_message_names_the_extra(ppl, tiny_arguments, tmp_path, monkeypatch, copied):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    log = ["--set", "training.log=tensorboard"]
    ended = ppl("fit", *tiny_arguments, *log, "--out", tmp_path / "run")
    assert ended.status == 2
    assert "pip install 'ppl-text[tensorboard]'" in ended.err
    assert not (tmp_path / "run").exists()
    before = (copied / "config.yaml").read_bytes()
    ended = ppl("fit", "--resume", copied, "--steps", "30", *log)
    assert ended.status == 2
    assert "pip install 'ppl-text[tensorboard]'" in ended.err
    assert (copied / "config.yaml").read_bytes() == before


def test_another_log_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match=r"training\.log"):
        pt.fit(set={**tiny, "training.log": "wandb"}, out=tmp_path / "run")


def test_numbers_have_curves_and_nothing_else():
    record = {"step": 3, "split": "valid", "bound": -1.5, "kl": None, "best": True, "stage": "a", "beta": {"z": 0.5}}
    record |= {"monitor": {"gap": 2, "list": [1.0]}, "seconds": 3.0}
    assert dict(_numbers(record)) == {"bound": -1.5, "beta/z": 0.5, "monitor/gap": 2.0}
    assert all(math.isfinite(value) for _, value in _numbers(record))
