"""Folders that an early end or another process keeps from use: what is recognised, started over, refused, advised."""

import errno
import json
import os
import shutil

import pytest

import ppl_text as pt
from ppl_text.cli.session import Session
from ppl_text.core.errors import RunFolderError
from ppl_text.recipes import folders
from ppl_text.training.progress import Quiet

FIRST = ["data.json", "tokenizer.json", "environment.json", "config.yaml"]
"""What a run's folder holds before its first checkpoint, in the order of writing."""

LEFT = {
    "data.json only": FIRST[:1],
    "no config.yaml": FIRST[:3],
    "config.yaml": FIRST,
    "a partial file": [".data.json.partial"],
    "a partial file besides": [*FIRST[:2], ".environment.json.partial"],
    "a partial checkpoint": [*FIRST, "checkpoints/.step-00000000.pt.partial"],
    "a lock": [*FIRST[:1], ".lock"],
}


def left(trained, folder, names):
    """Make a folder with just these files of a run."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        own = trained.folder / name
        path.write_bytes(own.read_bytes() if own.is_file() else b"{")
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("names", LEFT.values(), ids=LEFT)
def test_a_supervisor_starts_over_what_ended_early(trained, tmp_path, ppl, tiny_arguments, names):
    folder = left(trained, tmp_path / "run", names)
    before = files(folder)
    refused = ppl("fit", *tiny_arguments, "--out", folder)
    assert refused.status == 2
    assert "holds what a run left that ended before its first checkpoint" in refused.err
    assert f"--resume auto --out {folder}" in refused.err
    assert files(folder) == before
    ended = ppl("fit", *tiny_arguments, "--steps", "2", "--resume", "auto", "--out", folder)
    assert ended.status == 0, ended.err
    assert pt.load(folder).finished
    assert not {".lock", *(name for name in names if name.endswith("partial"))} & set(files(folder))


def test_auto_starts_over_in_the_place_that_it_would_name(trained, tmp_path, ppl, tiny_arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left(trained, tmp_path / "runs/words-1", FIRST)
    assert ppl("fit", *tiny_arguments, "--steps", "2", "--resume", "auto").status == 0
    assert os.listdir("runs") == ["words-1"]
    assert pt.load("runs/words-1").config.training.steps == 2


def test_advice_for_an_unstarted_run_works(trained, tmp_path, ppl):
    folder = left(trained, tmp_path / "my run", FIRST)
    for words in (["evaluate", folder], ["fit", "--resume", folder], ["fit", "words", "--out", folder]):
        refused = ppl(*words)
        assert refused.status == 2
        advice = f"fit '{folder}/config.yaml' --resume auto --out '{folder}'"
        assert f"python -m ppl_text {advice}" in refused.err
    assert ppl("fit", f"{folder}/config.yaml", "--resume", "auto", "--out", folder).status == 0
    assert pt.load(folder).finished


@pytest.mark.parametrize("words", [["evaluate"], ["generate"], ["fit", "--resume"], ["swap"], ["compare"]])
def test_without_a_configuration_the_command_is_named_that_made_it(trained, tmp_path, ppl, words):
    folder = left(trained, tmp_path / "run", FIRST[:2])
    refused = ppl(*words, folder)
    assert refused.status == 2
    assert f"start it over: the same fit command with --resume auto --out {folder}" in refused.err


USERS = {
    "a recipe and code": {"config.yaml": "recipe: mine", "code/mine.py": "1"},
    "a tokenizer": {"tokenizer.json": "{}"},
    "other data": {"data.json": '{"mine": 1}'},
    "a file besides": {"data.json": None, "notes.md": "mine"},
    "a checkpoint of another name": {"data.json": None, "checkpoints/best.pt": "mine"},
}


@pytest.mark.parametrize("contents", USERS.values(), ids=USERS)
def test_what_a_user_has_put_somewhere_is_not_started_over(trained, tmp_path, ppl, tiny_arguments, contents):
    folder = tmp_path / "run"
    for name, text in contents.items():
        left(trained, folder, [name])
        if text is not None:
            (folder / name).write_text(text)
    before = files(folder)
    refused = ppl("fit", *tiny_arguments, "--resume", "auto", "--out", folder)
    assert refused.status == 2
    assert f"{folder} is not empty; choose another folder with --out" in refused.err
    folders.remove_unstarted(folder)
    assert files(folder) == before


def test_auto_has_nothing_to_do_where_the_run_is_finished(copied, ppl, tiny_arguments):
    ended = ppl("fit", *tiny_arguments, "--resume", "auto", "--out", copied)
    assert ended.status == 0, ended.err
    assert "already trained to step 20: nothing is left to do" in ended.err


def test_a_full_disk_before_the_first_checkpoint_says_how_to_start_over(tmp_path, ppl, tiny_arguments, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "run"
    monkeypatch.setattr("torch.save", full)
    ended = ppl("fit", *tiny_arguments, "--out", folder)
    assert ended.status == 1
    assert f"Start it over: python -m ppl_text fit {folder}/config.yaml --resume auto --out {folder}" in ended.err


OCCUPIED = {
    "resume": lambda run, tiny: ["fit", "--resume", run],
    "auto": lambda run, tiny: ["fit", *tiny, "--resume", "auto", "--out", run],
    "a new run": lambda run, tiny: ["fit", *tiny, "--out", run],
    "a swap": lambda run, tiny: ["swap", run, "--guide", "prior", "--steps", "2", "--out", run],
}


@pytest.mark.parametrize("words", OCCUPIED.values(), ids=OCCUPIED)
@pytest.mark.parametrize("started", [True, False])
def test_a_second_process_is_refused_with_the_pid_of_the_first(trained, copied, ppl, tiny_arguments, words, started):
    if not started:
        shutil.rmtree(copied)
        left(trained, copied, FIRST)
    before = files(copied)
    with folders.occupied(copied):
        refused = ppl(*words(copied, tiny_arguments))
        assert set(files(copied)) == {*before, ".lock"}
    assert refused.status == 2
    assert f"process {os.getpid()} is at work on {copied}" in refused.err or words is OCCUPIED["a swap"]
    assert files(copied) == before


def test_a_run_that_trains_can_be_read(copied, ppl):
    with folders.occupied(copied):
        assert ppl("generate", copied, "-n", "1").status == 0


def test_a_run_is_occupied_while_it_trains(tmp_path, tiny):
    folder = tmp_path / "run"
    seen = []

    class Looks(Quiet):
        def step(self, record):
            seen.append((folder / ".lock").is_file())

        def message(self, text):
            seen.append((folder / ".lock").is_file() or not folder.exists())

    pt.fit(set=tiny, steps=2, out=folder, progress=Looks())
    assert seen
    assert all(seen)
    assert not (folder / ".lock").exists()
    assert json.loads((folder / "results.json").read_text())["trained"]["step"] == 2


def test_undo_and_save_leave_a_child_that_another_process_trains(copied):
    session = Session(pt.load(copied), steps=2)
    child = session.swap("prior").run.folder
    with folders.occupied(child):
        for act in (session.undo, lambda: session.save(copied / "elsewhere")):
            with pytest.raises(RunFolderError, match="is at work on"):
                act()
    assert session.current.folder == child
    session.undo()
    assert not child.exists()


def test_a_folder_that_may_not_be_written_is_told_at_once(copied, tmp_path, ppl, tiny_arguments, monkeypatch):
    before = files(copied)
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    for words in (
        ["fit", *tiny_arguments, "--out", tmp_path / "new"],
        ["swap", copied, "--guide", "prior", "--steps", "2"],
        ["compare", copied, "--objectives", "elbo"],
        ["reproduce", "words", "--rows", "1", "--budget", "smoke", "--out", tmp_path / "table"],
    ):
        refused = ppl(*words)
        assert refused.status == 2, words
        assert "is read-only to you; choose another with --out" in refused.err
    assert f"the folder {tmp_path} is read-only" in ppl("evaluate", copied, "--store", tmp_path / "s").err
    assert files(copied) == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_run_that_may_not_be_written_is_read_and_not_resumed(copied, ppl, monkeypatch, number):
    opened = os.open

    def refuse(path, flags, *more, **named):
        if flags & os.O_CREAT and str(path).startswith(str(copied)):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    refused = ppl("fit", "--resume", copied, "--steps", "22")
    assert refused.status == 2
    assert f"{copied} cannot be written: {os.strerror(number)}; make it writable, or copy the folder" in refused.err
    assert ppl("generate", copied, "-n", "1").status == 0
