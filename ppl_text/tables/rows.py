"""One row with one seed: trained, or gone on with, measured, and kept as a normal run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import RunFolderError, UserError
from ..fitting import fit
from ..recipes import build, folders
from ..recipes.config import RunConfig, check_config, recipe_tree, source_of
from ..run import Run, load
from ..training.environment import describe_environment
from ..training.progress import Progress
from .measures import MEASURES
from .table import Budget, Row, Table

RECORD = "measures.json"
"""The file of a row's folder with what was measured of it; written last, so it says that the row is done."""


@dataclass(frozen=True)
class Task:
    """A row of a table, a budget and a seed: what one folder holds."""

    table: Table
    row: Row
    budget: str
    seed: int
    out: Path
    data: str | None = None

    @property
    def folder(self) -> Path:
        """``OUT/ROW-sSEED``."""
        return self.out / f"{self.row.name}-s{self.seed}"

    @property
    def _budget(self) -> Budget:
        return self.table.budget(self.budget)

    @property
    def changes(self) -> dict[str, Any]:
        """Dotted key to value: what is changed of the row's recipe."""
        corpus = {} if self.data is None else {"data.corpus": self.data}
        return {**corpus, **self.row.changes(self._budget, self.seed)}

    @property
    def settings(self) -> dict[str, Any]:
        """Of the measures."""
        return dict(self._budget.measure)

    def config(self) -> RunConfig:
        """The configuration to train, checked; raises with every fault. Rows that train nothing take their data's."""
        recipe = self.row.recipe or DATA_RECIPE
        changes = self.changes if self.row.recipe else {k: v for k, v in self.changes.items() if k.startswith("data.")}
        return check_config(recipe_tree(recipe, changes), source_of(recipe))

    def done(self) -> dict[str, Any] | None:
        """What was measured before, or None; raises :class:`RunFolderError` where the folder holds another row."""
        if (self.folder / RECORD).is_file():
            record = folders.read_record(self.folder / RECORD)
            if (record.get("settings"), record.get("config")) != (self.settings, trained_values(self.config())):
                raise self._other()
            return record
        if folders.has_run(self.folder) and trained_values(load(self.folder).config) != trained_values(self.config()):
            raise self._other()
        return None

    def _other(self) -> RunFolderError:
        return RunFolderError(
            f"{self.folder} holds a run with another configuration than row '{self.row.name}' of table "
            f"'{self.table.name}' has now (budget {self.budget}, seed {self.seed}); remove that folder, or choose "
            "another with --out"
        )


def trained_values(config: RunConfig) -> dict[str, Any]:
    """What two runs of a row must agree in: what was trained, on what and how; not where, nor how it was reported."""
    return config.model_dump(mode="json", exclude={"device", "threads", "description", "report"})


DATA_RECIPE = "words"
"""Recipe whose data a row without a recipe is measured on."""


def run_task(task: Task, progress: Progress) -> dict[str, Any]:
    """Bring a row to its end, from wherever it stands, and return its record.

    A finished row is read, a trained one measured, a stopped one resumed, a new one trained.
    """
    if (record := task.done()) is not None:
        return record
    config = task.config()
    report: Callable[[str], None] = lambda what: progress.message(f"measuring: {what}")  # noqa: E731 - a callback
    of_run, of_data = MEASURES[task.table.measure]
    if task.row.recipe is None:
        if task.folder.exists() and not task.folder.is_dir():
            raise UserError(f"{task.folder} is a file; choose another folder with --out")
        task.folder.mkdir(parents=True, exist_ok=True)
        measured, seconds = of_data(build.load_data(config), task.settings, report), None
    else:
        run = _trained(task, progress)
        measured, seconds = of_run(run, task.settings, report), _seconds(run)
    record = {
        "table": task.table.name,
        "row": task.row.name,
        "budget": task.budget,
        "seed": task.seed,
        "settings": task.settings,
        "config": trained_values(config),
        "measures": measured.numbers,
        "profiles": measured.profiles,
        "training_seconds": seconds,
        "machine": _machine(task.folder),
    }
    folders.write_record(task.folder / RECORD, record)
    return record


def _trained(task: Task, progress: Progress) -> Run:
    """The run of a task, trained to its end."""
    folder = task.folder
    if not folders.has_run(folder):
        return fit(task.row.recipe, set=task.changes, out=folder, progress=progress)
    run = load(folder)
    if run.finished:
        return run
    if folders.has_checkpoint(folder):
        return fit(resume=folder, progress=progress)
    raise RunFolderError(
        f"{folder} holds a run that was stopped before its first checkpoint; remove that folder and start again"
    )


def _seconds(run: Run) -> float | None:
    """How long a run has trained, by its last record."""
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1]).get("seconds") if lines else None


def _machine(folder: Path) -> dict[str, Any]:
    """Where a row was made, in a few words."""
    record = folder / "environment.json"
    found = folders.read_record(record) if record.is_file() else describe_environment()
    return {"device": found["device_name"], "cores": found["cpu_count"], "torch": found["packages"]["torch"]}
