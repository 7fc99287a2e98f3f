"""One row in a process of its own: ``python -m ppl_text.cli.worker [OPTIONS] TABLE ROW BUDGET SEED OUT``.

What :mod:`ppl_text.tables.jobs` starts; people type ``python -m ppl_text reproduce TABLE --rows ROW``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..core.signals import arm, ignore
from .entry import run_command


@click.command()
@click.argument("table")
@click.argument("row")
@click.argument("budget")
@click.argument("seed", type=int)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--part")
@click.option("--data")
@click.option("--settings", default="{}", help="Of the measures, as JSON.")
@click.option("--set", "changes", default="{}", help="Of the row's recipe, as JSON.")
def worker(
    table: str,
    row: str,
    budget: str,
    seed: int,
    out: Path,
    part: str | None,
    data: str | None,
    settings: str,
    changes: str,
) -> None:
    """Bring one row to its end."""
    from ..tables.rows import Task, run_task
    from ..tables.table import load_table
    from ..training.progress import PlainProgress

    found = load_table(table, part, json.loads(settings), json.loads(changes))
    (chosen,) = found.select([row])
    run_task(Task(found, chosen, budget, seed, out, data), PlainProgress(sys.stdout))


if __name__ == "__main__":
    arm()
    try:
        run_command(worker)
    finally:
        ignore()
