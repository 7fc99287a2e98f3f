"""``fit --devices N``: start N processes that train together, pass signals on to them, and end as they do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from ..core.errors import ProcessLostError, UserError
from ..core.processes import MEETING, VARIABLES, own_cpus, own_place
from .command import own_words

PATIENCE = 15.0
"""Seconds in which the others have to end by themselves once one has failed, and again once they were asked to."""

PARENT = "PPL_TEXT_TOGETHER"
"""Variable by which a process knows the pid of the command that has started it with others."""

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that the processes are given in the place of this one; a lost terminal stops them like SIGTERM."""


def refuse_devices(devices: int) -> None:
    """Raise :class:`UserError` for more processes than there are CPUs, or where others were started otherwise."""
    place, there = own_place(), own_cpus()
    if place.size > 1 and devices != place.local_size:
        raise UserError(
            f"--devices {devices}, and {place.local_size} processes have been started on this machine; leave --devices "
            "out, as torchrun says how many there are"
        )
    if devices > there:
        raise UserError(
            f"--devices {devices}: this process may use {there} CPUs, and each device needs one at least; give "
            f"--devices {there} or fewer"
        )


def train_together(devices: int, arguments: Sequence[str]) -> int:
    """Run a command in ``devices`` processes and return the exit status of the first one.

    They find each other as those that ``torchrun --standalone`` starts, and the first of them prints the result. Where
    one fails the others notice, and are stopped if they do not. Raises :class:`ProcessLostError` where the first one
    was killed, since nobody else can say so.
    """
    command = [sys.executable, *(f"-W{each}" for each in sys.warnoptions), "-m", "ppl_text", *arguments]
    common = {
        **os.environ,
        **MEETING,
        "MASTER_PORT": str(_free_port()),
        VARIABLES["size"]: str(devices),
        VARIABLES["local_size"]: str(devices),
    }
    common.setdefault("OMP_NUM_THREADS", str(max(1, own_cpus() // devices)))
    common[PARENT] = str(os.getpid())
    processes: list[subprocess.Popen[bytes]] = []
    with _passing_on(lambda number: _send(processes, number)) as heard:
        for index in range(devices):
            own = {**common, VARIABLES["rank"]: str(index), VARIABLES["local_rank"]: str(index)}
            # In a group of its own: a key pressed on the terminal reaches it once, through this process.
            silent = None if index == 0 else subprocess.DEVNULL
            processes.append(subprocess.Popen(command, env=own, stdout=silent, process_group=0))
        for number in heard:
            _send(processes[-1:], number)
        _wait(processes)
    first = processes[0].returncode
    if first < 0:
        raise ProcessLostError(
            f"the first of {devices} processes was killed ({signal.Signals(-first).name}), and the training with it; "
            "what was saved stands, and the same command with --resume auto goes on"
        )
    return first or next((1 if p.returncode < 0 else p.returncode for p in processes if p.returncode), 0)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended; those that go on long after one has failed are stopped, at last by force."""
    failed: float | None = None
    asked = 0
    while any(process.poll() is None for process in processes):
        if failed is None and any(process.returncode for process in processes):
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > PATIENCE * (asked + 1):
            _send(processes, signal.SIGKILL if asked else signal.SIGTERM)
            asked += 1
        time.sleep(0.05)


def _send(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


@contextmanager
def _passing_on(send: Callable[[int], None]) -> Iterator[list[int]]:
    """Context in which signals go to the processes alone, which save, say so and end; it gives those that have come."""
    before, heard = {}, list[int]()

    def pass_on(number: int) -> None:
        heard.append(number)
        send(number)

    for name in PASSED_ON:
        if (number := getattr(signal, name, None)) is not None:
            other = signal.SIGTERM if name == "SIGHUP" else number
            before[number] = signal.signal(number, lambda *_, other=other: pass_on(other))
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def end_with_parent() -> None:
    """Let this process be stopped when the command that started it with others is killed, where the system can."""
    if not (parent := os.environ.get(PARENT)) or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        raise ProcessLostError("the command that started this process with others is gone.")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((MEETING["MASTER_ADDR"], 0))
        return int(found.getsockname()[1])


def end_together(devices: int) -> None:
    """Leave with the status of ``devices`` processes that run this very command, started here."""
    click.get_current_context().exit(train_together(devices, own_words()))
