"""Limits: how large numbers may be that say how much work there is, how much memory there is, and its end."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from .errors import UserError

MOST = 10**9
"""The largest whole number that an option takes, where nothing more is known of it."""

MOST_UNITS = 10**6
"""A width, or a number of layers or codes, of a model or guide of ours, at most."""

MOST_PARTICLES = 10**6
"""K: particles, or draws for each text, at most."""

MOST_TEXTS = 10**7
"""Texts that are drawn at once, at most."""

MOST_POINTS = 10**5
"""Texts on the way from one to another, at most: their latents are made together."""

MOST_BATCH = 10**6
"""Texts of a batch, at most."""

MOST_TOKENS = 10**5
"""Tokens of a text that is asked for, at most."""

MOST_BEAMS = 10**4
"""Width of a beam, at most."""

MOST_THREADS = 1024
"""Threads of torch, at most."""

MOST_OUTCOMES = 10**7
"""V: types of a vocabulary that is asked for, at most."""


class _Group(NamedTuple):
    """Files of a control group: what it may take, what it has taken, and the name of what it would give back."""

    limit: Path
    taken: Path
    given_back: str


_GROUPS = (
    _Group(Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), "inactive_file"),
    _Group(
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        "total_inactive_file",
    ),
)
"""Of the group that a container's process is in, as it sees itself: of version 2, and of version 1."""

_SAYINGS = (
    "out of memory",
    "not enough memory",
    "allocate memory",
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "unable to allocate",
    "alloc_failed",
)
"""How libraries say that memory is used up, in lower case; most of them raise a plain ``RuntimeError``."""

_NO_THREADS = ("can't start new thread", "thread creation failed")


def check_most(number: int, most: int, what: str) -> None:
    """Raise :class:`UserError` for a number above the limit; ``what``: its name in the message.

    Example::

        >>> check_most(5, 4, "K")
        Traceback (most recent call last):
        ppl_text.core.errors.UserError: K is at most 4; got 5
    """
    if number > most:
        raise UserError(f"{what} is at most {most:,}; got {number}")


def physical_memory() -> int | None:
    """Return the bytes that this machine, or the group that the process is in, has; None where nobody knows."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):
        found = []
    found += [limit for group in _GROUPS if (limit := _whole(group.limit)) is not None]
    return min((size for size in found if size > 0), default=None)


def free_memory() -> int | None:
    """Return the bytes that a process could still take on this machine and in its group; None where nobody knows."""
    available = _number_of(Path("/proc/meminfo"), "MemAvailable:")
    found = [] if available is None else [1024 * available]
    for group in _GROUPS:
        limit, taken = _whole(group.limit), _whole(group.taken)
        if limit is not None and taken is not None:
            kept = taken - (_number_of(group.taken.with_name("memory.stat"), group.given_back) or 0)
            found.append(max(0, limit - kept))
    return min(found, default=None)


def _whole(path: Path) -> int | None:
    """Return the number that a file is; None for one that is absent or says "max"."""
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None


def _number_of(path: Path, name: str) -> int | None:
    """Return the number behind a name that begins a line of a file."""
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)


def out_of_memory(error: BaseException) -> str:
    """Return what to do about an error that says that memory or threads are used up, "" for any other error."""
    text = str(error).lower()
    if any(saying in text for saying in _NO_THREADS):
        return (
            "the machine starts no more threads; lower threads (--set threads=N, or OMP_NUM_THREADS), or end other "
            "programs"
        )
    short = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if short or (isinstance(error, RuntimeError) and any(saying in text for saying in _SAYINGS)):
        return (
            "the memory is used up; lower what is held at once: data.batch_size, the particles (K, --particles, or "
            "CHUNK of an objective K/CHUNK), the sizes of model and guide, -n, or threads; or use another --device"
        )
    return ""


def pass_on_memory_errors(error: BaseException) -> None:
    """Raise an error again that says that memory is used up: it is no fault of what was being tried."""
    if out_of_memory(error):
        raise error
