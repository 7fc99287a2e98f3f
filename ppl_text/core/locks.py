"""One process at a time: a lock file that the system frees whatever becomes of the process that holds it."""

from __future__ import annotations

import errno
import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import RunFolderError

_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

WAIT = 0.5
"""Seconds after which a lock is tried again."""

_UNLOCKABLE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems say that know no locks: there nothing is guarded."""


@contextmanager
def locked(path: Path, place: Path) -> Iterator[None]:
    """Context in which no other process holds the lock file ``path``, which is gone afterwards.

    A file that a killed process has left is no lock. Raises :class:`RunFolderError`, with the other's pid, where
    another process is at work on ``place``, and ``OSError`` where the file cannot be made.
    """
    descriptor = _acquire(path, place)
    try:
        yield
    finally:
        # While it is held, so that nobody waits for a file that has no name any more.
        with suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


@contextmanager
def locked_in_turn(path: Path, place: Path, waiting: Callable[[str], object]) -> Iterator[None]:
    """Context in which no other process holds the lock file; one that does is waited for, which ``waiting`` is told.

    Raises ``OSError`` where the file cannot be made.
    """
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(path, place))
                break
            except RunFolderError as busy:
                waiting(str(busy).partition(";")[0])
                time.sleep(WAIT)
        yield


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine is there."""
    try:
        with suppress(PermissionError):
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def refuse_locked(path: Path, place: Path) -> None:
    """Raise :class:`RunFolderError` where another process holds the lock file; it is not made here."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        _lock(descriptor, place, shared=True)
    finally:
        os.close(descriptor)


def _acquire(path: Path, place: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(descriptor, place)
            if _is_named(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Who held it has removed it in between.
        os.close(descriptor)


def _lock(descriptor: int, place: Path, *, shared: bool = False) -> None:
    if _fcntl is None:
        return
    try:
        _fcntl.flock(descriptor, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        who = f"process {pid}" if pid.isdecimal() else "another process"
        raise RunFolderError(
            f"{who} is at work on {place}; wait for it to end, stop it, or choose another folder"
        ) from error
    except OSError as error:
        if error.errno not in _UNLOCKABLE:
            raise


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
