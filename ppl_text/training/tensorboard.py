"""Curves for TensorBoard, from the same records as ``metrics.jsonl``."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.atomic import refused
from ..core.errors import UserError

FOLDER = "tensorboard"
"""Where the files lie in a run folder."""

_NO_CURVES = {"step", "split", "seconds"}


def require_tensorboard() -> None:
    """Raise :class:`UserError` where the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "training.log: tensorboard needs the package tensorboard, which is not installed: pip install "
            "'ppl-text[tensorboard]'; or leave it out, metrics.jsonl has the same figures"
        )


class TensorBoard:
    """Keep ``FOLDER/tensorboard``: a curve for each number of a record, ``train/bound``, ``valid/monitor/NAME``, ….

    A resumed run writes its files anew from the lines of ``metrics.jsonl`` that are left, so that no point stands twice
    and none is missing, whenever the curves were asked for. Lists and what is no finite number have no curve.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        self.folder = folder / FOLDER
        self._writer: Any = None

    def begin(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the files anew, with these records of a run so far."""
        from torch.utils.tensorboard import SummaryWriter

        try:
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            # What a TensorBoard that is open has read of the old files is dropped from step 0 on.
            self._writer = SummaryWriter(str(self.folder), purge_step=0)
        except OSError as error:
            raise refused(self.folder, error) from error
        trained = max((float(record.get("seconds") or 0.0) for record in records), default=0.0)
        self._began = time.time() - trained
        for record in records:
            self.add(record)
        self._writer.flush()

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the points of one record, a line of ``metrics.jsonl``."""
        at = self._began + float(record.get("seconds") or 0.0)
        for name, value in _numbers(record):
            self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"], walltime=at)
        if record["split"] == "valid":
            self._writer.flush()

    def close(self) -> None:
        """Write what is left; after it nothing can be added."""
        if self._writer is not None:
            self._writer.close()


def _numbers(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, float]]:
    """Yield every finite number with its path of names."""
    for name, value in values.items():
        if not place and name in _NO_CURVES:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{place}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{place}{name}", float(value)
