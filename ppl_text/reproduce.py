"""Fill a published table again: every row a run, ours beside the published figure.

:func:`reproduce` is behind ``python -m ppl_text reproduce``; tables are data, see ``ppl_text/tables/``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.errors import Interrupted, UserError
from .recipes import folders
from .recipes.faults import Faults
from .tables.figures import reproduction_figures
from .tables.jobs import run_at_once
from .tables.markdown import table_markdown
from .tables.results import RESULTS, gather
from .tables.rows import Task, run_task
from .tables.table import load_table
from .training.progress import Progress, Quiet


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
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Reproduction:
    """Train and measure ``rows`` of a table (all of them for None) under ``seeds``, and write the result.

    ``budget``: how long and how finely, by name; ``data`` replaces the table's corpus; ``out``: default
    ``runs/reproduce/TABLE-BUDGET``. What lies finished there is read, what was stopped goes on: the same command
    continues where it ended. ``jobs`` rows run at once, each in a process of its own (default: one a CPU; 1: all in
    this process, told to ``progress``). All rows are checked before the first is trained.
    """
    found = load_table(table)
    found.budget(budget)
    place = Path(out) if out is not None else folders.RUNS / "reproduce" / f"{table}-{budget}"
    if not seeds:
        raise UserError("reproduce needs one seed or more, e.g. --seeds 0,1,2")
    tasks = [Task(found, row, budget, seed, place, data) for seed in seeds for row in found.select(rows)]
    jobs = _checked_jobs(jobs, len(tasks))
    missing = _missing(tasks)
    say(f"{len(tasks)} rows, {len(tasks) - len(missing)} of them done before; {budget}: {found.budget(budget).about}")
    try:
        _run(missing, min(jobs, max(1, len(missing))), progress or Quiet(), say)
    finally:
        # What is finished counts, whatever became of the others.
        results = gather(found, place, budget)
        if any(row["seeds"] for row in results["rows"]):
            folders.write_record(place / RESULTS, results)
    reproduction = Reproduction(place, results)
    figures = reproduction_figures(place, results)
    folders.write_text(place / "table.md", f"# {found.title}\n\n{reproduction.text}\n\n{figures}\n")
    return reproduction


def _run(tasks: Sequence[Task], jobs: int, progress: Progress, say: Callable[[str], None]) -> None:
    if jobs > 1:
        run_at_once(tasks, jobs, say)
        return
    for number, task in enumerate(tasks, 1):
        say(f"row {number} of {len(tasks)}: {task.folder.name}")
        try:
            run_task(task, progress)
        except Interrupted as stop:
            raise Interrupted(
                f"{stop}\nFinished rows are kept; the same reproduce command goes on from here", stop.exit_code
            ) from stop


def _missing(tasks: Sequence[Task]) -> list[Task]:
    """Tasks that are not done; raises with everything that is wrong with any of them."""
    faults = Faults()
    missing = [task for task in tasks if faults.attempt(_is_missing, task)]
    faults.raise_any(f"table '{tasks[0].table.name}'")
    return missing


def _is_missing(task: Task) -> bool:
    task.config()
    return task.done() is None


def _checked_jobs(jobs: int | None, tasks: int) -> int:
    """How many rows run at once."""
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be 1 or more; got {jobs}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(jobs or cores, tasks)
