"""One row with one seed: trained, or gone on with, measured, and kept as a normal run folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..core.atomic import PARTIAL_SUFFIX
from ..core.errors import RunFolderError, UserError
from ..core.locks import locked
from ..fitting import fit
from ..measures import load_measure, measures_of
from ..measures.base import SEED, Measured, Numbers
from ..recipes import build, folders
from ..recipes.config import RunConfig, check_config, recipe_tree, with_own
from ..recipes.tree import source_of
from ..run import Run, load
from ..training.machine import describe_environment, torch_threads
from ..training.programs import count_parameters
from ..training.progress import Progress
from ..training.records import read_metrics
from .table import Row, Table

TEXTS = "texts.txt"
"""The file of a row's folder with what its run has written, one text a line, for rows that train on it."""

TRIES = 10
"""How often a run is asked for texts before it is said to write hardly anything but empty ones."""

RECORD = "measures.json"
"""The file of a row's folder with what was measured of it; written last, so it says that the row is done."""


@dataclass(frozen=True)
class Task:
    """A row of a table, a budget and a seed: what one folder holds. ``data`` replaces the table's corpus."""

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
    def texts(self) -> Path:
        """The file of what the row's run writes, where another row trains on it."""
        return self.folder / TEXTS

    @property
    def writes(self) -> int:
        """How many texts the row's run writes: as many as that of the rows takes which takes most of them."""
        takers = [replace(self, row=row) for row in self.table.rows if row.extra == self.row.name]
        return max((task.changes["data.extra_limit"] for task in takers), default=0)

    @property
    def written(self) -> bool:
        """Whether all texts that other rows train on are there; also where none does."""
        if not self.writes:
            return True
        lines = self.texts.read_text(encoding="utf-8").splitlines() if self.texts.is_file() else []
        return sum(bool(line.strip()) for line in lines) >= self.writes

    @property
    def before(self) -> Task | None:
        """The row whose texts this one trains on: it has to be run first; None for no such."""
        if self.row.extra is None:
            return None
        (row,) = self.table.select([self.row.extra])
        return replace(self, row=row)

    @property
    def corpus(self) -> str:
        """Name or path of what is trained on; raises :class:`UserError` where the table needs to be given it."""
        given = self.data or self.table.corpus
        if given is None:
            part, about = self.table.part, self.table.parts[self.table.part or ""].about
            raise UserError(f"table {self.table.name} needs {about}; give its folder: --data {part}=DIR")
        return given

    @property
    def changes(self) -> dict[str, Any]:
        """Dotted key to value: what is changed of the row's recipe; what a user has set wins."""
        changes = self.row.changes(self.table.budget(self.budget), self.seed)
        corpus = {"data.corpus": self.corpus}
        extra = {} if self.before is None else {"data.extra": str(self.before.texts.absolute())}
        changes = {**corpus, **changes, **(corpus if self.data else {}), **extra}
        return with_own(self.row.recipe or DATA_RECIPE, changes, self.table.set) if self.table.set else changes

    @property
    def settings(self) -> dict[str, Any]:
        """Of the measures."""
        return dict(self.table.budget(self.budget).measure)

    def config(self) -> RunConfig:
        """Return the configuration to train; raises with every error. Rows that train nothing take their data's."""
        recipe = self.row.recipe or DATA_RECIPE
        free = ("data.", "seed") if self.row.recipe is None else ("",)
        changes = {key: value for key, value in self.changes.items() if key.startswith(free)}
        return check_config(recipe_tree(recipe, changes), source_of(recipe))

    def done(self) -> dict[str, Any] | None:
        """Return what was measured of it, or None where something is left to do.

        Raises :class:`RunFolderError` where the folder holds another row, or one of other data.
        """
        config, path = self.config(), self.folder / RECORD
        if folders.has_run(self.folder) and trained_values(load(self.folder).config) != trained_values(config):
            raise self._other("another configuration")
        if not path.is_file():
            return None
        record = folders.read_record(path)
        if not {"config", "fingerprint"} <= record.keys():
            raise self._other("another record of measures")
        if build.effective(check_config(record["config"], str(path))).data != build.effective(config).data:
            raise self._other("other data")
        if record["fingerprint"] != build.load_data(config).fingerprint:
            raise self._other("other words or counts")
        return record if is_current(record, self.settings, self.table.measure) else None

    def _other(self, what: str) -> RunFolderError:
        return RunFolderError(
            f"{self.folder} holds a run with {what} than row '{self.row.name}' of table '{self.table.name}' has now "
            f"(budget {self.budget}, seed {self.seed}); remove that folder, or choose another with --out"
        )


DATA_RECIPE = "words"
"""Recipe whose data a row without a recipe is measured on."""


def trained_values(config: RunConfig) -> dict[str, Any]:
    """Return what two runs of a row must agree in: what was trained, on what and how; not where, nor the report."""
    return build.effective(config).model_dump(mode="json", exclude={"device", "threads", "description", "report"})


def sized(record: dict[str, Any]) -> dict[str, Any]:
    """Return a trained row's record with its numbers of parameters.

    A record of an older version has none: the two programs are built anew from its configuration and counted.
    """
    if "model_parameters" in record["measures"]:
        return record
    config = check_config(record["config"], f"the record of row '{record['row']}'")
    programs = build.build_programs(config, build.load_data(config).vocabulary)
    return {**record, "measures": {**_parameters(*programs), **record["measures"]}}


def _parameters(model: nn.Module, guide: nn.Module) -> Numbers:
    return {f"{who}_parameters": number for who, number in count_parameters(model, guide)._asdict().items()}


def is_current(record: Mapping[str, Any], settings: Mapping[str, Any], measure: str) -> bool:
    """Return whether a row was measured as it would be today."""
    return record.get("settings") == settings and record.get("version") == load_measure(measure).version


def run_task(task: Task, progress: Progress) -> dict[str, Any]:
    """Bring a row to its end, from wherever it stands, and return its record.

    A finished row is read, a trained one measured, a stopped one resumed, a new one trained; texts that others train on
    are written where they are not there, or not all. Raises :class:`RunFolderError` where another process is at work on
    it.
    """
    with _locked(task):
        record = task.done()
        if record is not None and task.written:
            return record
        config = task.config()
        run = None if task.row.recipe is None else _trained(task, progress)
        with torch_threads(config.threads):
            if run is not None and not task.written:
                folders.write_text(task.texts, "\n".join(_texts(task, run)) + "\n")
            if record is not None:
                return record
            measured = _measured(task, run, progress)
        record = _record(task, config, measured, run)
        folders.write_record(task.folder / RECORD, record)
        return record


def _texts(task: Task, run: Run) -> list[str]:
    """Return as many texts of a run as other rows need, empty ones left out; raises where it has hardly any others."""
    found, drawn = list[str](), 0
    most = int(1.1 * task.writes) + 10
    for number in range(TRIES):
        # By the share of them that has not been empty so far.
        wanted = most if not found else int(1.1 * (task.writes - len(found)) * drawn / len(found)) + 10
        texts = run.generate(min(wanted, most), SEED + number)
        drawn += len(texts)
        found += [text for text in texts if text.strip()]
        if len(found) >= task.writes:
            return found[: task.writes]
    raise UserError(
        f"row '{task.row.name}' has written {len(found):,} texts that are not empty among {drawn:,}, and the rows that "
        f"train on them need {task.writes:,}: train it longer (another --budget), or leave those rows out"
    )


@contextmanager
def _locked(task: Task) -> Iterator[None]:
    """Context in which no other process works on the row; the system frees the lock whatever becomes of this one."""
    task.out.mkdir(parents=True, exist_ok=True)
    with locked(task.out / f".{task.folder.name}.lock", task.folder):
        yield


def _trained(task: Task, progress: Progress) -> Run:
    """Return the run of a task, trained to its end."""
    _copied(task, progress)
    if folders.has_run(task.folder):
        run = load(task.folder)
        if run.finished:
            return run
        if folders.has_checkpoint(task.folder):
            return fit(resume=task.folder, progress=progress)
    folders.remove_unstarted(task.folder)
    return fit(task.row.recipe, set=task.changes, out=task.folder, progress=progress)


def _copied(task: Task, progress: Progress) -> None:
    """Copy the row's run from where the table that trains it keeps it by default, where it lies finished there."""
    other = task.table.trained_as
    if other is None or folders.has_run(task.folder):
        return
    place = task.out.with_name(task.out.name.replace(task.table.name, other)) / task.folder.name
    if place == task.folder or not folders.has_run(place):
        return
    run = load(place)
    if run.finished and trained_values(run.config) == trained_values(task.config()):
        progress.message(f"trained already: {place}")
        folders.remove_unstarted(task.folder)
        part = task.out / f".{task.folder.name}{PARTIAL_SUFFIX}"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(place, part, ignore=shutil.ignore_patterns(RECORD))
        part.rename(task.folder)


def _measured(task: Task, run: Run | None, progress: Progress) -> Measured:
    measure = load_measure(task.table.measure)

    def report(what: str) -> None:
        progress.message(f"measuring: {what}")

    if run is not None:
        filled = measure.row(run.subject, task.settings, report)
        others = [other for other in measures_of(run.model, run.corpus) if other.name != measure.name]
        added = [other.beside(run.subject, task.settings) for other in others]
        return filled._replace(numbers={**filled.numbers, **{key: n for of in added for key, n in of.items()}})
    return measure.data_row(build.load_data(task.config()), task.settings, task.seed, report)


def _record(task: Task, config: RunConfig, measured: Measured, run: Run | None) -> dict[str, Any]:
    """Return what ``measures.json`` keeps."""
    corpus = build.load_data(config) if run is None else run.corpus
    task.folder.mkdir(exist_ok=True)
    return {
        "table": task.table.name,
        "row": task.row.name,
        "budget": task.budget,
        "corpus": task.corpus,
        "seed": task.seed,
        "version": load_measure(task.table.measure).version,
        "settings": task.settings,
        "config": trained_values(config),
        "fingerprint": corpus.fingerprint,
        "measures": {**({} if run is None else _parameters(run.model, run.guide)), **measured.numbers},
        "profiles": measured.profiles,
        "texts": measured.texts,
        "training_seconds": None if run is None else _seconds(run),
        "machine": _machine(task.folder),
    }


def _seconds(run: Run) -> float | None:
    """Return how long a run has trained, by its last record."""
    lines = read_metrics(run.folder / "metrics.jsonl")
    return lines[-1].get("seconds") if lines else None


def _machine(folder: Path) -> dict[str, Any]:
    """Return where a row was made, in a few words."""
    record = folder / "environment.json"
    found = folders.read_record(record) if record.is_file() else describe_environment()
    return {"device": found["device_name"], "cores": found["cpu_count"], "torch": found["packages"]["torch"]}
