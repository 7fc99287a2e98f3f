"""Several rows at once, each in a process of its own; lines that they print are passed on with the row's name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import NamedTuple

from ..core.errors import Interrupted, PplTextError
from .rows import Task

Say = Callable[[str], None]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop the work."""

GO_ON = "finished rows are kept, stopped ones go on with the same command"
"""What a user must know who has stopped it."""

POLL = 0.1
"""Seconds between two looks at the workers."""


class _Job(NamedTuple):
    task: Task
    process: subprocess.Popen[str]
    reader: threading.Thread
    last: list[str]


class RowsFailedError(PplTextError):
    """One or more rows ended with an error; the others are kept. ``rows``: what each said, by its folder's name."""

    def __init__(self, rows: Mapping[str, str]) -> None:
        lines = (f"\n- {name}: {reason}" for name, reason in rows.items())
        super().__init__("rows that failed (the same command runs them again):" + "".join(lines))
        self.rows = dict(rows)


def run_at_once(tasks: Sequence[Task], jobs: int, say: Say) -> None:
    """Run tasks as ``python -m ppl_text.cli.worker``, ``jobs`` at a time, until all have ended.

    A row that fails does not stop the others: :class:`RowsFailedError` names all that did, at the end. SIGINT,
    SIGTERM and SIGHUP are passed on to the workers, which save and stop; then :class:`Interrupted` is raised.
    """
    waiting, running, failed = list(tasks), list[_Job](), dict[str, str]()
    with _passed_on_signals(running) as received:
        try:
            while running or (waiting and not received):
                while waiting and len(running) < jobs and not received:
                    running.append(_start(waiting.pop(0), say))
                    for number in received:  # one that came before the job stood in the list
                        running[-1].process.send_signal(_known_to_workers(number))
                for job in _wait_for_one(running):
                    running.remove(job)
                    failed |= {} if received or not job.process.returncode else {job.task.folder.name: _why(job)}
        finally:
            for job in running:  # only where something went wrong here
                job.process.terminate()
        if received:
            raise Interrupted(f"stopped by {signal.Signals(received[0]).name}; {GO_ON}", exit_code=128 + received[0])
    raise_failed(failed)


def raise_failed(failed: Mapping[str, str]) -> None:
    """Raise :class:`RowsFailedError` where there is a failed row; ``failed``: folder's name to reason."""
    if failed:
        raise RowsFailedError(failed)


def _start(task: Task, say: Say) -> _Job:
    """Start a worker in a session of its own, so that a terminal's Ctrl-C reaches it once, through us."""
    mappings = {"--settings": task.table.given, "--set": task.table.set}
    as_json = {option: json.dumps(values) for option, values in mappings.items() if values}
    given = {"--part": task.table.part, "--data": task.data, **as_json}
    where = [text for option, value in given.items() if value is not None for text in (option, value)]
    names = [task.table.name, task.row.name, task.budget, str(task.seed), str(task.out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ppl_text.cli.worker", *where, "--", *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    last: list[str] = []
    reader = threading.Thread(target=_pass_on, args=(process, task.folder.name, say, last), daemon=True)
    reader.start()
    return _Job(task, process, reader, last)


def _pass_on(process: subprocess.Popen[str], name: str, say: Say, last: list[str]) -> None:
    """Print a worker's lines as they come; keep its last line, or all lines from its ``error: `` on."""
    with process.stdout or nullcontext(()) as lines:
        for line in lines:
            text = line.rstrip()
            if text.startswith("error: ") or not (last and last[0].startswith("error: ")):
                last.clear()
            last.append(text)
            with suppress(OSError):  # nobody reads our output any more; the worker must not wait for that
                say(f"[{name}] {text}")


def _why(job: _Job) -> str:
    """Return why a job failed: its message, or what killed it."""
    code = job.process.returncode
    if code < 0:
        memory = " (is the memory used up? try fewer --jobs)" if -code == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{memory}"
    return "\n  ".join(job.last) or f"ended with status {code} and no message"


def _known_to_workers(number: int) -> int:
    """Return the signal by which a worker saves and stops: a hang-up is a wish to end, too."""
    return signal.SIGTERM if number == signal.SIGHUP else number


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
    """Context that passes SIGINT, SIGTERM and SIGHUP on to the running jobs and collects them instead of obeying them.

    The old handlers are back afterwards. Outside the main thread, where Python takes no signals, it does nothing.
    """
    received: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for job in running:
            job.process.send_signal(_known_to_workers(number))

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, notice) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
