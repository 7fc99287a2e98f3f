"""What run folders hold, told without opening a run: nothing of its code runs, and nothing damaged raises."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.errors import PplTextError, UserError
from ..core.printing import decimal, plus_minus
from ..training.checkpoints import Checkpoints
from ..training.weights import read_metadata
from . import folders
from .config import RunConfig, load_config
from .start import is_finished

State = Literal["finished", "stopped", "unstarted", "damaged"]

NOT_WITHIN = {"checkpoints", "figures", folders.CODE_FOLDER}
"""Folders of a run that hold no other runs."""

BROKEN = (PplTextError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading a damaged file can raise."""


@dataclass(frozen=True)
class RunOverview:
    """What is known of a run folder; None where it cannot be read.

    ============== ====================================================================================
    ``state``      ``finished``, ``stopped`` (there is a checkpoint), ``unstarted``, ``damaged``
    ``why``        what is damaged
    ``step``       updates made, of ``steps`` where the configuration says how many
    ``bounds``     of a finished run those of its report, by the names of ``results.json``; of another one
                   ``validation_bound``; nats per text
    ============== ====================================================================================
    """

    folder: Path
    state: State
    recipe: str | None = None
    model: str | None = None
    guide: str | None = None
    objective: str | None = None
    parent: str | None = None
    step: int | None = None
    steps: int | None = None
    bounds: dict[str, float] = field(default_factory=dict)
    why: str = ""

    @property
    def told_state(self) -> str:
        """The state in words."""
        if self.state == "damaged":
            return f"damaged: {self.why}"
        if self.state != "stopped":
            return self.state
        return f"stopped at step {self.step:,}" + ("" if self.steps is None else f" of {self.steps:,}")

    @property
    def told_bounds(self) -> str:
        """ELBO and importance-weighted bound of a finished run, or the best of the validations so far."""
        found, said = self.bounds, []
        if "elbo" in found:
            said.append(f"ELBO {plus_minus(found['elbo'], found.get('elbo_se'))}")
        if "iw" in found:
            at = f" (K = {int(found['particles'])})" if "particles" in found else ""
            said.append(f"IW {plus_minus(found['iw'], found.get('iw_se'))}{at}")
        if "validation_bound" in found:
            said.append(f"validation {decimal(found['validation_bound'])}")
        return "  ".join(said)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("state", "why", "recipe", "model", "guide", "objective", "parent", "step", "steps", "bounds")
        return {"folder": str(self.folder), **{name: getattr(self, name) for name in names}}


def runs_below(place: Path, unreadable: Callable[[str], object] = lambda text: None) -> list[RunOverview]:
    """Return all runs in a folder and below it, by their paths; ``unreadable`` is told of folders that refuse.

    Raises :class:`UserError` where there is no such folder.
    """
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise UserError(f"{place} {what}; give a folder with runs, or train one: python -m ppl_text fit")
    found = []
    for folder, below, files in os.walk(place, onerror=lambda error: unreadable(str(error))):
        below[:] = sorted(name for name in below if name not in NOT_WITHIN and not name.startswith("."))
        if folders.CONFIG in files:
            found.append(overview(Path(folder)))
    return sorted(found, key=lambda run: run.folder)


def overview(folder: Path) -> RunOverview:
    """Return what a run folder holds; whatever is wrong with it is told, and raises nothing."""
    try:
        config = load_config(str(folder / folders.CONFIG))
    except BROKEN as error:
        return RunOverview(folder, "damaged", why=_line(error))
    about: dict[str, Any] = {"recipe": config.recipe, "model": config.model.family, "guide": config.guide.name}
    about |= {"objective": config.objective, "parent": config.parent, "steps": _steps(config)}
    try:
        return RunOverview(folder, **{**about, **_progress(folder, config)})
    except BROKEN as error:
        return RunOverview(folder, "damaged", why=_line(error), **about)


def _progress(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Return how far a run has come: state, step and bounds."""
    weights = folder / folders.WEIGHTS
    kept = read_metadata(weights) if weights.is_file() else None
    if is_finished(folder, config):
        if kept is None:
            return {"state": "damaged", "why": f"no {folders.WEIGHTS}"}
        values = folders.read_record(folder / "results.json")
        names = ("elbo", "elbo_se", "iw", "iw_se", "particles")
        bounds = {name: float(values[name]) for name in names if _is_number(values.get(name))}
        return {"state": "finished", "step": values["trained"].get("step"), "bounds": bounds}
    saved = Checkpoints(folder, {}).steps()
    step = next((step for step, path in saved.items() if zipfile.is_zipfile(path)), None)
    if step is None and (saved or kept is not None):
        return {"state": "damaged", "why": "no checkpoint that can be read, to go on from"}
    if not step:
        return {"state": "unstarted", "step": 0}
    bound = (kept or {}).get("validation_bound")
    bounds = {"validation_bound": float(bound)} if bound is not None and _is_number(bound) else {}
    return {"state": "stopped", "step": step, "bounds": bounds}


def _steps(config: RunConfig) -> int | None:
    """Return the updates of a whole training; None where they are not known without the data."""
    lengths = [stage.steps for stage in config.training.in_stages()]
    return None if None in lengths else sum(steps for steps in lengths if steps is not None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
