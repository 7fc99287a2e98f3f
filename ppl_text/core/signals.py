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
    now = time.monotonic()
    if _received and now - _received[-1][0] < GRACE:
        return
    _received.append((now, number))
    raise Stopped(number)


def received() -> int:
    """Return the last signal that :func:`stop` was called for, 0 for none."""
    return _received[-1][1] if _received else 0


def number_of(error: BaseException | None) -> int:
    """Return the signal behind an interruption; SIGINT where it does not say."""
    return error.number if isinstance(error, Stopped) else int(signal.SIGINT)
