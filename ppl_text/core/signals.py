"""SIGINT and SIGTERM of a command: the first ends it with one message, and those right after it disturb nothing.

Light: this is in place before anything else is imported.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

GRACE = 2.0
"""Seconds after a signal in which others are not heard: while what it ends is being left."""

_BOTH = (signal.SIGINT, signal.SIGTERM)
_received: list[tuple[float, int]] = []


class Stopped(KeyboardInterrupt):
    """A signal that ends what is going on; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def arm() -> None:
    """Let SIGINT and SIGTERM raise :class:`Stopped` from now on; outside the main thread nothing changes."""
    if threading.current_thread() is threading.main_thread():
        for number in _BOTH:
            signal.signal(number, stop)


def ignore() -> None:
    """Let no signal disturb the end of the process."""
    if threading.current_thread() is threading.main_thread():
        for number in _BOTH:
            signal.signal(number, signal.SIG_IGN)


def stop(number: int, _frame: FrameType | None = None) -> None:
    """Raise :class:`Stopped`, but for a signal that comes within :data:`GRACE` of the one before."""
    if not _received or time.monotonic() - _received[-1][0] >= GRACE:
        note(number)
        raise Stopped(number)


def note(number: int) -> None:
    """Remember a signal that ends something, so that those right after it are not heard."""
    _received.append((time.monotonic(), number))


def received() -> int:
    """Return the last signal that has ended something in this process, if it is armed; 0 for none."""
    armed = signal.getsignal(signal.SIGINT) is stop
    return _received[-1][1] if armed and _received else 0


def number_of(error: BaseException | None) -> int:
    """Return the signal behind an interruption; SIGINT where it does not say."""
    return error.number if isinstance(error, Stopped) else int(signal.SIGINT)
