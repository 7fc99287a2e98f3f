"""SIGINT and SIGTERM as a wish that the training loop looks at between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Context in which SIGINT and SIGTERM only set ``number``; the handlers before it come back at the end.

    Nothing is interrupted, so a second signal while a checkpoint is being written does no harm. The handlers
    are set even where a background job inherited "ignored" for SIGINT: a signal that someone sends is meant.
    Outside of the main thread, where Python allows no handlers, the context does nothing.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_raised: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
