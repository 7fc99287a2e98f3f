"""What a notebook shows of a training, by default and without a widget."""

import sys
from types import SimpleNamespace

import pytest

import ppl_text as pt
from ppl_text.training import notebook
from ppl_text.training.notebook import NotebookProgress, chosen_progress, counted, in_notebook
from ppl_text.training.progress import PlainProgress, Quiet

from .test_progress import VALID, show


class Cell:
    """Where outputs go: the text that each of them shows now, and all that it has shown."""

    def __init__(self):
        self.outputs = []

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        self.outputs.append([data["text/plain"]])
        own = self.outputs[-1]
        return SimpleNamespace(update=lambda data, *, raw: own.append(data["text/plain"]))


@pytest.fixture
def cell(monkeypatch):
    """A kernel's shell, as IPython tells of one."""
    made = Cell()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, version_info=(9, 0)))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=made.display))
    return made


def test_a_notebook_shows_one_output_that_is_written_anew(cell):
    show(NotebookProgress())
    (shown,) = cell.outputs
    assert shown[0] == "resumed from a file"
    assert shown[-1].splitlines()[:4] == [
        *("resumed from a file", "a table [with brackets]", "of two lines"),
        "validation at step 1,500: bound -12.500 nats/sentence (-2.500 nats/token)  KL 3.000  (best)",
    ]
    assert shown[-1].splitlines()[4].startswith("step 1,500/10,000  bound -12.346 nats/sentence")
    assert "step 1,400/10,000" in shown[1]


def test_a_long_training_shows_its_last_lines(cell):
    progress = NotebookProgress()
    for _ in range(notebook.LINES + 5):
        progress.validation(VALID)
    lines = cell.outputs[0][-1].splitlines()
    assert lines[0] == "…"
    assert len(lines) == notebook.LINES + 1


def test_progress_is_shown_in_notebooks_and_not_in_scripts(cell, monkeypatch):
    assert in_notebook()
    assert isinstance(chosen_progress(None), NotebookProgress)
    assert isinstance(chosen_progress(True), NotebookProgress)
    assert isinstance(chosen_progress(False), Quiet)
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: SimpleNamespace())
    assert not in_notebook()
    assert isinstance(chosen_progress(None), PlainProgress), "at IPython's prompt; stderr is no terminal here"
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert isinstance(chosen_progress(None), Quiet)
    assert isinstance(chosen_progress(True), PlainProgress)
    mine = Quiet()
    assert chosen_progress(mine) is mine


def test_ipython_is_not_imported_to_find_out(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    assert "IPython" not in sys.modules


def test_fit_evaluate_and_swap_show_it_without_being_asked(cell, tiny, tmp_path, one_thread):
    run = pt.fit(set={**tiny, "training.steps": 4}, out=tmp_path / "run")
    (shown,) = cell.outputs
    assert "validation at step 4" in shown[-1]
    assert "step 4/4  bound" in shown[-1]
    run.evaluate(particles=2, limit=20)
    assert cell.outputs[1][-1].startswith("evaluating: ")
    run.swap_guide("prior")
    assert "no parameter to train" in cell.outputs[2][-1]
    number = len(cell.outputs)
    pt.fit(set={**tiny, "training.steps": 1}, out=tmp_path / "silent", progress=False)
    assert len(cell.outputs) == number


def test_what_is_counted_is_shown_in_a_notebook_alone(cell, monkeypatch):
    tell = counted("encoding")
    tell(1, 2)
    tell(2, 2)
    assert cell.outputs == [["encoding: 1/2", "encoding: 2/2"]]
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    counted("encoding")(1, 2)
    assert len(cell.outputs) == 1
