"""What a notebook shows of a training: one output that is written anew with every record, and nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..core.processes import own_place
from .progress import Progress, Quiet, describe_step, describe_validation, make_progress
from .records import StepRecord, ValidationRecord

LINES = 30
"""Lines of an output; of more the first ones are left out."""


def in_notebook() -> bool:
    """Return whether this runs in a kernel that shows rich outputs; IPython is not imported for that."""
    return hasattr(_shell(), "kernel")


def _shell() -> Any:
    """Return the running shell of IPython, or None."""
    found = sys.modules.get("IPython")
    return None if found is None else found.get_ipython()


def chosen_progress(asked: Progress | bool | None) -> Progress:
    """Return what shows the progress of a call in Python.

    None: in a notebook an output below the cell, at IPython's prompt what :func:`make_progress` chooses, and nothing
    in a script. True: as for the command line, a live bar on a terminal and plain lines elsewhere. False: nothing. Of
    processes that train together the first alone shows it.
    """
    if not own_place().is_first:
        return Quiet()
    if not isinstance(asked, bool) and asked is not None:
        return asked
    if asked is False:
        return Quiet()
    if in_notebook():
        return NotebookProgress()
    return make_progress() if asked or _shell() is not None else Quiet()


class NotebookProgress:
    """Show messages and validations, and below them how far the training is, in one output of the cell."""

    def __init__(self) -> None:
        self._output = Output()
        self._lines: list[str] = []
        self._last, self._working = "", ""

    def start(self, total: int, done: int) -> None:
        """Say how much is to do."""
        self._show(f"step {done:,}/{total:,}")

    def step(self, record: StepRecord) -> None:
        """Write anew how far the training is."""
        self._show(f"step {record.step:,}/{record.total:,}  {describe_step(record)}")

    def validation(self, record: ValidationRecord) -> None:
        """Add a line."""
        self.message(describe_validation(record))

    def working(self, what: str, done: int, total: int) -> None:
        """Write anew how far the work between two steps is."""
        self._working = "" if total and done >= total else f"{what} … {done:,}/{total:,}" if total else f"{what} …"
        self._write()

    def message(self, text: str) -> None:
        """Add the text."""
        self._lines += text.splitlines()
        self._show()

    def detail(self, text: str) -> None:
        """Leave it out."""

    def close(self) -> None:
        """Leave what is shown as it stands."""

    def _show(self, last: str | None = None) -> None:
        self._last, self._working = self._last if last is None else last, ""
        self._write()

    def _write(self) -> None:
        left_out = ["…"] if len(self._lines) > LINES else []
        self._output.write("\n".join([*left_out, *self._lines[-LINES:], *filter(None, [self._last, self._working])]))


class Output:
    """An output of the cell that runs, made with its first text, whose text can be replaced."""

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        """Show the text in the place of what was there."""
        data = {"text/plain": text}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def counted(what: str) -> Callable[[int, int], None]:
    """Return a callback ``(done, total)`` that counts in a notebook's output, and does nothing elsewhere."""
    watch = watched()
    return lambda done, total: watch(what, done, total)


def watched() -> Callable[[str, int, int], None]:
    """Return a callback ``(what, done, total)`` that shows in a notebook what is going on, and nothing elsewhere."""
    if not in_notebook():
        return lambda what, done, total: None
    output = Output()
    return lambda what, done, total: output.write(f"{what}: {done}/{total}")
