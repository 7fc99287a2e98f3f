"""Several rows at once, each in a process of its own; lines that they print are passed on with the row's name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from ..core.errors import Interrupted, PplTextError
from .rows import Task

Say = Callable[[str], None]

POLL = 0.1
"""Seconds between two looks at the workers."""


class _Job(NamedTuple):
    task: Task
    process: subprocess.Popen[str]
    reader: threading.Thread
    last: list[str]


class RowsFailedError(PplTextError):
    """One or more rows ended with an error; the others are kept."""


def run_at_once(tasks: Sequence[Task], jobs: int, say: Say) -> None:
    """Run tasks as ``python -m ppl_text.cli.worker``, ``jobs`` at a time, until all have ended.

    A row that fails does not stop the others: :class:`RowsFailedError` names all that did, at the end. SIGINT and
    SIGTERM are passed on to the workers, which save and stop; then :class:`Interrupted` is raised.
    """
    waiting, running, failed = list(tasks), list[_Job](), list[str]()
    with _passed_on_signals(running) as received:
        while waiting or running:
            while waiting and len(running) < jobs and not received:
                running.append(_start(waiting.pop(0), say))
            ended = _wait_for_one(running)
            for job in ended:
                running.remove(job)
                if job.process.returncode and not received:
                    failed.append(f"{job.task.folder.name}: {' '.join(job.last) or 'no message'}")
            if received and not running:
                name = signal.Signals(received[0]).name
                raise Interrupted(
                    f"stopped by {name}; finished rows are kept, stopped ones resume with the same command",
                    exit_code=128 + received[0],
                )
    if failed:
        raise RowsFailedError("rows that failed (run them again with the same command):\n- " + "\n- ".join(failed))


def _start(task: Task, say: Say) -> _Job:
    """A worker in a process group of its own, so that a terminal's Ctrl-C reaches it once, through us."""
    task.out.mkdir(parents=True, exist_ok=True)
    where = [] if task.data is None else ["--data", task.data]
    names = [task.table.name, task.row.name, task.budget, str(task.seed), str(task.out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ppl_text.cli.worker", *names, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        cwd=Path.cwd(),
    )
    last: list[str] = []
    reader = threading.Thread(target=_pass_on, args=(process, task.folder.name, say, last), daemon=True)
    reader.start()
    return _Job(task, process, reader, last)


def _pass_on(process: subprocess.Popen[str], name: str, say: Say, last: list[str]) -> None:
    """Print a worker's lines as they come, and remember the last error."""
    for line in process.stdout or ():
        text = line.rstrip()
        if text.startswith("error: "):
            last.clear()
        if last or text.startswith("error: "):
            last.append(text)
        say(f"[{name}] {text}")


def _wait_for_one(running: Sequence[_Job]) -> list[_Job]:
    """Jobs that have ended, at least one of those there are."""
    while running:
        if ended := [job for job in running if job.process.poll() is not None]:
            for job in ended:
                job.reader.join()
            return ended
        time.sleep(POLL)
    return []


@contextmanager
def _passed_on_signals(running: Sequence[_Job]) -> Iterator[list[int]]:
    """Context that passes SIGINT and SIGTERM on to the running jobs and collects them instead of obeying them.

    The old handlers are back afterwards. Outside the main thread, where Python takes no signals, it does nothing.
    """
    received: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for job in running:
            job.process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, notice) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
