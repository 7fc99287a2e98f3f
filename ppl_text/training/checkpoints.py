"""What a run writes into its folder while it trains: checkpoints that are written whole and verified when read.

::

    FOLDER/checkpoints/step-00001000.pt   the newest states (two by default)
    FOLDER/checkpoints/best.pt            the state with the best validation bound
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.atomic import finite_or_none, refused, remove_partial_files, write_atomically
from ..core.errors import RunFolderError
from ..core.limits import pass_on_memory_errors
from .machine import Ranks
from .records import MetricsFile, StepRecord, ValidationRecord, read_metrics
from .sharding import saved_state
from .state import TrainingState
from .tensorboard import TensorBoard
from .weights import save_weights

FORMAT = 1
"""Version of the checkpoint's layout."""

_BEST = "best.pt"
_STEP = re.compile(r"step-(\d+)\.pt")
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)
"""All that a damaged file can make the zip reader and the unpickler raise."""


class Checkpoints:
    """Save and find the states of one run.

    ``identity`` is a flat dictionary of plain values (recipe, fingerprint of the configuration) that is
    written into each file; a file with another identity is refused. ``keep`` is how many of the newest
    states stay, beside the best one. ``report`` is told, in one line, of a damaged file that was passed over.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, keep: int = 2, report: Callable[[str], None] = print
    ) -> None:
        self.run_folder = folder
        self.folder = folder / "checkpoints"
        self._identity = dict(identity)
        self._keep = max(keep, 1)
        self._report = report

    def steps(self) -> dict[int, Path]:
        """Return step -> file of the saved states, newest first; ``best.pt`` is not among them."""
        found = {}
        for path in self.folder.glob("step-*.pt"):
            match = _STEP.fullmatch(path.name)
            if match:
                found[int(match[1])] = path
        return dict(sorted(found.items(), reverse=True))

    def newest(self) -> Path | None:
        """Return the file of the newest state, or None."""
        return next(iter(self.steps().values()), None)

    def clean(self) -> None:
        """Make the folder and remove what a killed process left half-written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(self.folder, error) from error
        remove_partial_files(self.folder)
        remove_partial_files(self.run_folder)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state of ``step``, then remove all but the newest; raises :class:`CheckpointError`."""
        path = self.folder / f"step-{step:08d}.pt"
        self._write(path, state)
        for old in list(self.steps().values())[self._keep :]:
            old.unlink(missing_ok=True)
        return path

    def save_best(self, state: Mapping[str, Any]) -> Path:
        """Write the state with the best validation bound so far; raises :class:`CheckpointError`."""
        path = self.folder / _BEST
        self._write(path, state)
        return path

    def load(self) -> tuple[Path, dict[str, Any]]:
        """Return file and state of the newest checkpoint that can be read.

        A damaged file is reported and the one before it taken, at the last ``best.pt``. Raises
        :class:`RunFolderError` when there is none, when all are damaged, or when one is of another run.
        """
        candidates = [*self.steps().values(), *(p for p in [self.folder / _BEST] if p.exists())]
        if not candidates:
            raise RunFolderError(
                f"{self.run_folder} holds no checkpoint to resume from; give the folder of a run that has saved "
                "one, or start a new run in an empty folder (without --resume)"
            )
        damaged: dict[Path, str] = {}
        for path in candidates:
            try:
                stored = _read(path)
            except _UNREADABLE as error:
                pass_on_memory_errors(error)
                damaged[path] = _first_line(error)
                continue
            self._check(path, stored)
            self._set_aside(damaged, path)
            return path, stored["state"]
        raise RunFolderError(
            f"{self.run_folder} holds no usable checkpoint: "
            + "; ".join(f"{path.name} cannot be read ({reason})" for path, reason in damaged.items())
            + ". Put a copy of a good one back, or start a new run in an empty folder"
        )

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        stored = {"format": FORMAT, "identity": self._identity, "state": dict(state)}
        write_atomically(path, lambda file: torch.save(stored, file))

    def _check(self, path: Path, stored: dict[str, Any]) -> None:
        """Refuse a checkpoint of another layout or of another run."""
        for name in ("identity", "state"):
            if not isinstance(stored[name], dict):
                raise RunFolderError(
                    f"{path}: '{name}': expected named values; got {str(stored[name])[:80]}; the file is damaged, "
                    "put a good copy back or remove it"
                )
        if stored["format"] != FORMAT:
            raise RunFolderError(
                f"{path} has checkpoint format {stored['format']}, this version of ppl_text reads format {FORMAT}; "
                "resume it with the version that wrote it (see environment.json)"
            )
        theirs, ours = stored["identity"], self._identity
        differences = [
            f"{key}: {theirs.get(key, 'not set')!r} in the checkpoint, {ours.get(key, 'not set')!r} now"
            for key in dict.fromkeys([*theirs, *ours])
            if theirs.get(key) != ours.get(key)
        ]
        if differences:
            raise RunFolderError(
                f"{path} belongs to another run ({'; '.join(differences)}); resume it with the configuration that it "
                "was trained with, or give this run an empty folder"
            )

    def _set_aside(self, damaged: Mapping[Path, str], used: Path) -> None:
        """Rename damaged files, lest they count among the newest, and say so."""
        for path, reason in damaged.items():
            path.replace(path.with_name(path.name + ".damaged"))
            self._report(
                f"checkpoint {path.name} cannot be read ({reason}); fell back to {used.name} and renamed the "
                f"damaged file to {path.name}.damaged"
            )


class RunFiles:
    """Write checkpoints, ``model.safetensors`` and ``metrics.jsonl`` of one folder, in the first process only.

    Each thing is written after what it relies on. ``curves``: is given the lines of ``metrics.jsonl``, too.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        ranks: Ranks,
        *,
        keep: int,
        report: Callable[[str], None],
        curves: TensorBoard | None = None,
    ) -> None:
        self.folder, self._ranks = folder, ranks
        self._curves = curves if ranks.is_first else None
        self.checkpoints = Checkpoints(folder, identity, keep=keep, report=report)
        self._metrics = MetricsFile(folder / "metrics.jsonl")

    def begin(self, step: int) -> None:
        """Make the folder where there is none, and drop what was written after ``step``."""
        if self._ranks.is_first:
            self.checkpoints.clean()
            self._metrics.cut_after(step)
            if self._curves is not None:
                self._curves.begin(read_metrics(self._metrics.path))

    def close(self) -> None:
        """Write what has not been written yet."""
        if self._curves is not None:
            self._curves.close()

    def load(self) -> tuple[Path, dict[str, Any]]:
        """Return file and state of the newest checkpoint; see :meth:`Checkpoints.load`."""
        with self._ranks.first_goes_first():
            return self.checkpoints.load()

    def record(self, record: StepRecord | ValidationRecord) -> None:
        """Add a line to the metrics."""
        if self._ranks.is_first:
            self._metrics.append(record)
            if self._curves is not None:
                self._curves.add(finite_or_none(record.as_json()))

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
        tensors = saved_state(state.joint, kept=self._ranks.is_first)
        if self._ranks.is_first:
            metadata = finite_or_none({"step": state.counters.step, "validation_bound": state.counters.best_bound})
            save_weights(self.folder / "model.safetensors", tensors, metadata)

    def _write(self, state: TrainingState, save: Callable[[dict[str, Any]], object]) -> None:
        """Let the first process write the state that all hold together."""
        stored = state.capture()
        if self._ranks.is_first:
            self._metrics.sync()
            save(stored)
        self._ranks.wait()


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint after comparing all checksums, which ``torch.load`` does not do."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {bad}")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(stored, dict) or not {"format", "identity", "state"} <= stored.keys():
        raise ValueError("not a checkpoint of ppl_text")
    return stored


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(". ")
