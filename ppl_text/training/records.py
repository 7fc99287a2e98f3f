"""What a training run says about itself: records, ``metrics.jsonl`` that keeps them, and the time that it took."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core.atomic import finite_or_none, refused, write_atomically
from ..core.reading import parse_json

TIME_FIELDS = frozenset({"seconds", "steps_per_second", "sentences_per_second"})
"""Fields of a record that differ between two runs of the same seed."""


@dataclass(frozen=True)
class StepRecord:
    """Hold means over the updates since the last record; bounds in nats per sentence.

    ``loss`` is what was descended, as the objective scales it; ``grad_norm`` is the norm of the last gradient
    before clipping; ``seconds`` is the time trained so far, over all resumed parts. ``stage`` names the stage of a
    training that has several; ``counted`` is what else the update rule has counted since the last record, by name.
    """

    step: int
    total: int
    bound: float
    kl: float
    log_likelihood: float
    loss: float
    beta: float | dict[str, float]
    lr: float
    grad_norm: float
    seconds: float
    steps_per_second: float
    sentences_per_second: float
    stage: str = ""
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """Return the expected time to the last step, in seconds; NaN where nobody knows."""
        left = self.total - self.step
        return left / self.steps_per_second if self.steps_per_second > 0 else math.nan

    def as_json(self) -> dict[str, Any]:
        """Return the record as a line of ``metrics.jsonl``."""
        values = _without(asdict(self), "step", "total", "stage", "counted")
        return {"step": self.step, "split": "train", **_named(self.stage), **values, **self.counted}


@dataclass(frozen=True)
class ValidationRecord:
    """Hold the bound at β = 1 on the validation data: nats per sentence and per token (EOS counted).

    ``sentences`` and ``tokens`` are sums of the weights; ``best`` says whether these weights are kept, since no earlier
    bound was higher or the last ones are wanted; ``monitor`` holds what else was measured, by name, and is left out of
    the line where that is nothing; ``stage`` as in :class:`StepRecord`.
    """

    step: int
    bound: float
    bound_per_token: float
    kl: float
    log_likelihood: float
    sentences: float
    tokens: float
    best: bool = False
    seconds: float = 0.0
    monitor: dict[str, float | list[float]] = field(default_factory=dict)
    stage: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the record as a line of ``metrics.jsonl``."""
        absent = () if self.monitor else ("monitor",)
        values = _without(asdict(self), "step", "stage", *absent)
        return {"step": self.step, "split": "valid", **_named(self.stage), **values}


class MetricsFile:
    """Keep ``metrics.jsonl``: one strict JSON object per line, in the order of the steps.

    Numbers that JSON does not know (NaN, infinities) are written as null.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: StepRecord | ValidationRecord) -> None:
        """Add one line and hand it to the system; raises :class:`CheckpointError` when the disk refuses."""
        line = json.dumps(finite_or_none(record.as_json()), allow_nan=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise refused(self.path, error) from error

    def sync(self) -> None:
        """Wait until all lines are on the disk; done before a checkpoint that counts on them."""
        if not self.path.exists():
            return
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error

    def cut_after(self, step: int) -> None:
        """Drop, atomically, what was written after ``step`` and what a killed process wrote in part."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        kept = b"".join(line for line in content.splitlines(keepends=True) if _is_until(line, step))
        if kept != content:
            write_atomically(self.path, lambda file: file.write(kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a ``metrics.jsonl``; none where there is no file."""
    content = path.read_bytes() if path.is_file() else b""
    return [parse_json(line) for line in content.splitlines(keepends=True) if _is_until(line, math.inf)]


class Clock:
    """Count the time trained, on from the ``seconds`` and the ``step`` of a resumed run; it never goes back.

    The clock below may, in a machine that was moved or is made to believe in another time; it stands still then.
    """

    def __init__(self) -> None:
        self.start(0.0, 0)

    def start(self, seconds: float, step: int) -> None:
        """Begin to count; ``seconds`` were trained and ``step`` updates made before."""
        self._read, self._seconds = time.perf_counter(), max(seconds, 0.0)
        self._last_time, self._last_step, self._rate = self._seconds, step, math.nan

    @property
    def seconds(self) -> float:
        """Return the time trained so far."""
        now = time.perf_counter()
        self._seconds += max(now - self._read, 0.0)
        self._read = now
        return self._seconds

    def rate(self, step: int) -> float:
        """Return the updates per second since the last call, of which ``step`` is now the last.

        The rate before where no time has passed, NaN without one.
        """
        now = self.seconds
        done, passed = step - self._last_step, now - self._last_time
        self._last_time, self._last_step = now, step
        self._rate = done / passed if passed > 0 else self._rate
        return self._rate


def _is_until(line: bytes, step: float) -> bool:
    """Return whether a line is complete and not later than ``step``."""
    try:
        record = parse_json(line)
    except ValueError:
        return False
    own = record.get("step") if isinstance(record, dict) else None
    return line.endswith(b"\n") and isinstance(own, int | float) and own <= step


def _without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in names}


def _named(stage: str) -> dict[str, str]:
    return {"stage": stage} if stage else {}
