"""What a run writes into its folder while it trains, each thing after what it relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.atomic import finite_or_none
from .checkpoints import Checkpoints
from .ranks import Ranks
from .records import MetricsFile, StepRecord, ValidationRecord
from .state import TrainingState
from .weights import save_weights


class RunFiles:
    """Checkpoints, ``model.safetensors`` and ``metrics.jsonl`` of one folder, written by the first process only."""

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], ranks: Ranks, *, keep: int, report: Callable[[str], None]
    ) -> None:
        self.folder, self._ranks = folder, ranks
        self.checkpoints = Checkpoints(folder, identity, keep=keep, report=report)
        self._metrics = MetricsFile(folder / "metrics.jsonl")

    def begin(self, step: int) -> None:
        """Make the folder where there is none, and drop what was written after ``step``."""
        if self._ranks.is_first:
            self.checkpoints.clean()
            self._metrics.cut_after(step)

    def load(self) -> tuple[Path, dict[str, Any]]:
        """File and state of the newest checkpoint; see :meth:`Checkpoints.load`."""
        with self._ranks.first_goes_first():
            return self.checkpoints.load()

    def record(self, record: StepRecord | ValidationRecord) -> None:
        """Add a line to the metrics."""
        if self._ranks.is_first:
            self._metrics.append(record)

    def save(self, state: TrainingState) -> Path:
        """Save the state of its step."""
        step = state.counters.step
        self._write(state, lambda stored: self.checkpoints.save(step, stored))
        return self.checkpoints.folder / f"step-{step:08d}.pt"

    def save_best(self, state: TrainingState) -> None:
        """Save state and weights as the best."""
        self._write(state, self.checkpoints.save_best)
        self.save_weights(state)

    def save_weights(self, state: TrainingState) -> None:
        """Write the weights alone, with their step and their validation bound (None where it is not finite)."""
        if self._ranks.is_first:
            metadata = finite_or_none({"step": state.counters.step, "validation_bound": state.counters.best_bound})
            save_weights(self.folder / "model.safetensors", state.joint, metadata)

    def _write(self, state: TrainingState, save: Callable[[dict[str, Any]], object]) -> None:
        """Let the first process write the state that all hold together."""
        stored = state.capture()
        if self._ranks.is_first:
            self._metrics.sync()
            save(stored)
        self._ranks.wait()
