"""The time that a run has trained, over all its resumed parts, and the rate since the last record."""

from __future__ import annotations

import time


class Clock:
    """Counts on from the ``seconds`` and the ``step`` of a resumed run."""

    def __init__(self) -> None:
        self.start(0.0, 0)

    def start(self, seconds: float, step: int) -> None:
        """Begin to count; ``seconds`` were trained and ``step`` updates made before."""
        self._origin = time.perf_counter() - seconds
        self._last_time, self._last_step = time.perf_counter(), step

    @property
    def seconds(self) -> float:
        """Time trained so far."""
        return time.perf_counter() - self._origin

    def rate(self, step: int) -> float:
        """Updates per second since the last call, of which ``step`` is now the last."""
        now = time.perf_counter()
        done, passed = step - self._last_step, now - self._last_time
        self._last_time, self._last_step = now, step
        return done / max(passed, 1e-9)
