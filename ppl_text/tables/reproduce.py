"""Fill a published table again: every row a run, ours beside the published figure.

:func:`reproduce` is behind ``python -m ppl_text reproduce``; tables are data, see ``ppl_text/tables/``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, Interrupted, PplTextError, RunFolderError, UserError
from ..core.limits import MOST_THREADS, check_most, out_of_memory
from ..core.processes import own_cpus
from ..core.signals import number_of
from ..recipes import build, folders
from ..recipes.errors import Errors
from ..recipes.tree import corpus_reference
from ..training.notebook import chosen_progress
from ..training.progress import Progress
from .jobs import GO_ON, RowsFailedError, raise_failed, run_at_once
from .page import figure_links, table_markdown
from .results import RESULTS, gather
from .rows import Task, run_task
from .table import MEASURE, Table, choose_part, load_table, table_parts

Say = Callable[[str], None]

PAGE, FIGURES = "table.md", "figures"

_NOT_SET = {"seed": "--seeds", "data.corpus": "--data"}
"""Keys of a recipe that an option of its own says."""

WRITTEN = (RESULTS, PAGE, FIGURES)
"""What is written over in the folder of a reproduction whenever it is gone on with."""


@dataclass(frozen=True)
class Reproduction:
    """A table that was filled again: ``results`` as in ``results.json`` of ``folder``."""

    folder: Path
    results: dict[str, Any]

    @property
    def text(self) -> str:
        """The table in Markdown."""
        return table_markdown(self.results)


def reproduce(
    table: str,
    rows: Sequence[str] | None = None,
    *,
    budget: str = "small",
    seeds: Sequence[int] = (0,),
    data: str | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    progress: Progress | bool | None = None,
    say: Say = lambda line: None,
) -> Reproduction:
    """Train and measure ``rows`` of a table (all of them for None) under ``seeds``, and write the result.

    ``rows``: names, or numbers as the table counts them (``"1-7"``). ``budget``: how long and how finely, by name;
    ``data`` replaces the table's corpus, for a table of several corpora as ``[NAME=]PATH`` (see
    :func:`~ppl_text.tables.table.choose_part`); ``out``: default ``runs/reproduce/TABLE[-CORPUS]-BUDGET``. What lies
    finished there is read, what was stopped goes on: the same command continues where it ended. ``jobs`` rows run at
    once, each in a process of its own (default: one a CPU, or one where they run on a GPU; 1: all in this process, told
    to ``progress``). ``settings`` of the measures win over the budget's, and ``set``, dotted keys to values, over every
    row's recipe; a folder holds one ``set``. A row that fails does not stop the others. All rows are checked, and their
    data loaded, before the first is trained; what was reached is written whatever happens. Rows whose texts others are
    trained on are run with those, and before them.
    """
    part, data = choose_part(table, table_parts(table), data)
    data = None if data is None else corpus_reference(data)
    for key, instead in _NOT_SET.items():
        if key in (set or {}):
            raise UserError(f"reproduce: {key} is not set by hand; give {instead}")
    found = load_table(table, part, settings, set)
    about = found.budget(budget).about
    place = _place(out, "-".join(name for name in (table, part, budget) if name), found, budget)
    chosen, seeds = found.select(rows), list(dict.fromkeys(seeds))
    wanted = {row.name for row in chosen} | {row.extra for row in chosen}
    chosen = tuple(row for row in found.rows if row.name in wanted)
    if not (chosen and seeds) or min(seeds) < 0:
        raise UserError("reproduce needs one row or more and one seed or more, 0 or above, e.g. --seeds 0,1,2")
    tasks = [Task(found, row, budget, seed, place, data) for seed in seeds for row in chosen]
    missing = _missing(tasks)
    at_once = min(_jobs(jobs, missing), max(1, len(missing)))
    say(f"{len(tasks)} rows and seeds, {len(tasks) - len(missing)} of them done before; {budget}: {about}")
    with _written(found, place, budget, data):
        run = (
            partial(run_at_once, jobs=at_once)
            if at_once > 1
            else partial(_run_here, progress=chosen_progress(progress))
        )
        raise_failed(_in_order(missing, run, say))
    return Reproduction(place, gather(found, place, budget, data))


def _in_order(tasks: Sequence[Task], run: Callable[..., None], say: Say) -> dict[str, str]:
    """Run tasks, those whose texts others train on before the others; return why any of them failed.

    A row that trains on texts which are not there then is not run, for the reason that they were not written.
    """
    failed = dict[str, str]()
    for waiting in (False, True):
        ready = []
        for task in (task for task in tasks if (task.before is not None) == waiting):
            if task.before is None or task.before.written:
                ready.append(task)
                continue
            name = task.before.folder.name
            failed[task.folder.name] = f"not run, for want of the texts of {name}: {failed.get(name, 'there are none')}"
            say(f"[{task.folder.name}] error: {failed[task.folder.name]}")
        try:
            run(ready, say=say)
        except RowsFailedError as error:
            failed |= error.rows
    return failed


def _place(out: str | Path | None, name: str, table: Table, budget: str) -> Path:
    """Return the folder of a reproduction, which may hold an earlier part of it, and nothing that would be lost."""
    place = Path(out) if out is not None else folders.RUNS / "reproduce" / name
    folders.check_folder(place)
    there = [name for name in WRITTEN if os.path.lexists(place / name)]
    if there and not _is_of(place / RESULTS, table, budget):
        raise RunFolderError(
            f"{place} holds {', '.join(there)} of something else than table {table.name} with budget {budget}"
            f"{' and what is set by hand' if table.set else ''}, which would be lost; choose another folder with --out"
        )
    return place


def _is_of(path: Path, table: Table, budget: str) -> bool:
    """Tell whether a file holds the results of a table by its budget, with what is set by hand."""
    try:
        record = folders.read_record(path)
    except RunFolderError:
        return False
    trained = {key: value for key, value in record.get("set", {}).items() if not key.startswith(MEASURE)}
    found = (record.get("table"), record.get("part"), record.get("budget"), trained)
    return found == (table.name, table.part, budget, table.set)


def _missing(tasks: Sequence[Task]) -> list[Task]:
    """Tasks that are not done; raises with everything that is wrong with any of them."""
    errors = Errors()
    missing = [task for task in tasks if errors.attempt(_is_missing, task)]
    errors.raise_any(f"table '{tasks[0].table.name}'")
    return missing


def _is_missing(task: Task) -> bool:
    config = task.config()
    waits = task.before is not None and not task.before.written
    if not waits:
        build.load_data(config)
    if task.row.recipe is not None:
        for check in (build.check_programs, build.build_objective, build.build_fabric):
            check(config)
    return waits or task.done() is None or not task.written


def _jobs(given: int | None, tasks: Sequence[Task]) -> int:
    """Return how many rows run at once, unless it is said: as many as there are CPUs, one on a GPU."""
    if given is not None and given < 1:
        raise UserError(f"--jobs must be 1 or more; got {given}")
    check_most(given or 1, MOST_THREADS, "--jobs")
    if given is None and any(build.build_fabric(task.config()).device.type == "cuda" for task in tasks[:1]):
        return 1
    return given or own_cpus()


def _run_here(tasks: Sequence[Task], progress: Progress, say: Say) -> None:
    """Run one row after the other in this process; a failed one does not stop the others, a full disk does."""
    failed = dict[str, str]()
    for number, task in enumerate(tasks, 1):
        say(f"row {number} of {len(tasks)}: {task.folder.name}")
        try:
            run_task(task, progress)
        except Interrupted as stop:
            raise Interrupted(f"{stop}\n{GO_ON}", stop.exit_code) from stop
        except KeyboardInterrupt as stop:
            raise Interrupted(f"stopped while a row was measured; {GO_ON}", 128 + number_of(stop)) from None
        except CheckpointError:
            raise
        except (PplTextError, MemoryError, RuntimeError) as error:
            if not isinstance(error, PplTextError) and not out_of_memory(error):
                raise
            failed[task.folder.name] = out_of_memory(error) or str(error)
            say(f"[{task.folder.name}] error: {failed[task.folder.name]}")
    raise_failed(failed)


@contextmanager
def _written(table: Table, place: Path, budget: str, data: str | None) -> Iterator[None]:
    """Context after which the results, the page and the figures of all rows so far are written, whatever happened."""
    try:
        yield
    finally:
        results = gather(table, place, budget, data)
        if any(row["seeds"] for row in results["rows"]):
            folders.write_record(place / RESULTS, results)
            page = [f"# {table.title}", table_markdown(results), figure_links(table, place, results)]
            folders.write_text(place / PAGE, "\n\n".join(part for part in page if part) + "\n")
