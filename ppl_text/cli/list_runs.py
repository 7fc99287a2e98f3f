"""``list runs``: what lies in run folders, finished or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import detail, print_table, result, say

if TYPE_CHECKING:
    from ..recipes.overview import RunOverview


def list_runs(place: str | None) -> None:
    """Folder, recipe, guide, bounds and state of every run in a folder and below it."""
    from ..recipes.folders import RUNS
    from ..recipes.overview import runs_below

    folder = RUNS if place is None else Path(place)
    found = runs_below(folder, lambda error: say(f"cannot be looked into: {error}"))
    detail(f"{len(found)} folders with a config.yaml in {folder} and below; no code of theirs was run")
    result(
        lambda: {"folder": str(folder), "runs": [run.as_json() for run in found]},
        lambda: show(found, folder),
    )


def show(runs: list[RunOverview], folder: Path) -> None:
    """A line for each run."""
    if not runs:
        click.echo(f"no run in {folder}; train one: python -m ppl_text fit")
        return
    rows = [(str(run.folder), run.recipe or "", run.guide or "", run.told_bounds, run.told_state) for run in runs]
    print_table(["run", "recipe", "guide", "bounds, nats a text", "state"], rows)
