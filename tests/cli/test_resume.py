"""--resume: finished, longer, damaged, starved of disk space."""

import json
import os
import subprocess

import pytest

import ppl_text as pt

from .conftest import run_process


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def longer(tmp_path_factory, tiny, one_thread):
    """An uninterrupted run of 30 steps."""
    return pt.fit(set=tiny, steps=30, out=tmp_path_factory.mktemp("longer") / "copy")


def test_a_finished_run_has_nothing_left_to_do(ppl, copied):
    before = (copied / "model.safetensors").read_bytes()
    (copied / "report.md").unlink()
    ended = ppl("fit", "--resume", copied)
    assert ended.status == 0
    assert "already trained to step 20: nothing is left to do" in ended.err
    assert (copied / "report.md").is_file()
    assert (copied / "model.safetensors").read_bytes() == before


def test_a_finished_run_goes_on_with_more_steps(ppl, copied, longer):
    ended = ppl("fit", "words", "--resume", copied, "--steps", "30")
    assert ended.status == 0, ended.err
    assert "training: 30 steps, 20 of them done before" in ended.err
    assert "30 steps (all of them)" in (copied / "report.md").read_text(encoding="utf-8")
    assert results(copied)["trained"]["step"] == 30
    assert pt.load(copied).config.training.steps == 30
    assert (copied / "model.safetensors").read_bytes() == (longer.folder / "model.safetensors").read_bytes()
    assert results(copied) == results(longer.folder)


def test_a_run_goes_on_beyond_its_first_pool_of_batches(ppl, tiny, tmp_path, one_thread):
    """From there on what is left over in a bucket waits for the next pool, and is stored."""
    far = {**tiny, "training.steps": 80, "training.checkpoint_every": 70, "training.validate_every": 80}
    whole = pt.fit(set=far, out=tmp_path / "whole")
    cut = pt.fit(set={**far, "training.steps": 70}, out=tmp_path / "cut")
    ended = ppl("fit", "--resume", cut.folder, "--steps", "80")
    assert ended.status == 0, ended.err
    assert (cut.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


def test_a_run_counts_as_unfinished_until_its_report_is_renewed(ppl, copied, monkeypatch):
    """Stopped on the way from 20 to 30 steps, it is what --resume auto takes up."""
    monkeypatch.setattr("ppl_text.run.Run.report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    ended = ppl("fit", "--resume", copied, "--steps", "30")
    assert ended.status == 130
    assert f"Write the report with: python -m ppl_text fit --resume {copied}" in ended.err
    assert not pt.load(copied).finished
    monkeypatch.undo()
    assert ppl("fit", "--resume", "auto", "--out", copied).status == 0
    assert pt.load(copied).finished


def test_auto_takes_the_newest_unfinished_run_or_a_new_one(ppl, tmp_path, monkeypatch, tiny_arguments):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    assert ppl("fit", *tiny_arguments, "--steps", "5", "--resume", "auto").status == 0
    assert os.listdir(runs) == ["words-1"]
    assert ppl("fit", *tiny_arguments, "--steps", "5").status == 0
    assert ppl("fit", *tiny_arguments, "--steps", "6").status == 0
    (runs / "words-2" / "results.json").unlink()
    ended = ppl("fit", *tiny_arguments, "--steps", "5", "--resume", "auto")
    assert "already trained to step 5" in ended.err
    assert (runs / "words-2" / "results.json").is_file()
    assert ppl("fit", *tiny_arguments, "--steps", "5", "--resume", "auto").status == 0
    assert sorted(os.listdir(runs)) == ["words-1", "words-2", "words-3", "words-4"]


def test_a_truncated_checkpoint_is_passed_over(ppl, copied, longer):
    truncate(copied / "checkpoints" / "step-00000020.pt")
    ended = ppl("fit", "--resume", copied, "--steps", "30")
    assert ended.status == 0, ended.err
    assert "checkpoint step-00000020.pt cannot be read" in ended.err
    assert "fell back to step-00000015.pt and renamed the damaged file to step-00000020.pt.damaged" in ended.err
    assert "Traceback" not in ended.err
    assert (copied / "model.safetensors").read_bytes() == (longer.folder / "model.safetensors").read_bytes()


def test_when_all_checkpoints_are_damaged_nothing_is_touched(ppl, copied):
    for path in (copied / "checkpoints").iterdir():
        truncate(path)
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    ended = ppl("fit", "--resume", copied)
    assert ended.status == 2
    assert f"{copied} holds no usable checkpoint: step-00000020.pt cannot be read (" in ended.err
    assert "best.pt cannot be read (" in ended.err
    assert "Put a copy of a good one back, or start a new run in an empty folder" in ended.err
    assert "Traceback" not in ended.err
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before


def test_a_checkpoint_that_may_not_grow_leaves_the_previous_one(copied, command, environment, longer, ppl):
    """A real process under RLIMIT_FSIZE, which refuses like a full disk."""
    resource = pytest.importorskip("resource")
    sizes = [p.stat().st_size for p in (copied / "checkpoints").iterdir()]
    limit = min(sizes) - 1
    kept = {p.name: p.read_bytes() for p in (copied / "checkpoints").iterdir()}
    ended = run_process(
        command("fit", "--resume", copied, "--steps", "30"),
        environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )
    assert ended.status == 1, ended.err
    assert "the limit on the size of a file is reached" in ended.err
    assert "What was saved before is untouched: make room or raise the limit." in ended.err
    assert f"Go on with: python -m ppl_text fit --resume {copied}" in ended.err
    assert "Traceback" not in ended.err
    assert {p.name: p.read_bytes() for p in (copied / "checkpoints").iterdir()} == kept
    assert not list(copied.rglob("*.partial"))
    assert ppl("fit", "--resume", copied).status == 0
    assert (copied / "model.safetensors").read_bytes() == (longer.folder / "model.safetensors").read_bytes()


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 64 KiB, and a function that gives it more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system needs root")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_was_saved_goes_on(ppl, tiny_disk, tiny_arguments, trained):
    disk, enlarge = tiny_disk
    ended = ppl("fit", *tiny_arguments, "--out", disk / "run")
    assert ended.status == 1, ended.err
    assert "the disk is full (0.0 MiB free)" in ended.err
    assert "Traceback" not in ended.err
    assert (disk / "run/checkpoints/step-00000000.pt").is_file()
    enlarge()
    resumed = ppl("fit", "--resume", disk / "run")
    assert resumed.status == 0, resumed.err
    assert (disk / "run/model.safetensors").read_bytes() == (trained.folder / "model.safetensors").read_bytes()
