"""``reproduce``: a published table, filled again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..core.numbers import whole
from ..core.printing import quoted_path
from .command import Command
from .compare import listed
from .output import advise, command_progress, result, say

if TYPE_CHECKING:
    from ..tables.reproduce import Reproduction


@click.command(cls=Command)
@click.argument("table")
@click.option("--rows", metavar="A,B", help="Names, or numbers as 1-7. Default: every row.")
@click.option("--budget", default="small", show_default=True, help="smoke, small or full: how long, how finely.")
@click.option("--seeds", metavar="0,1,2", default="0", show_default=True, help="Each row once with each seed.")
@click.option("--data", metavar="[NAME=]PATH", help="Another corpus than the table's own, or which of its corpora.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value of every row's recipe, or measure.KEY of how rows are measured.",
)
@click.option("--out", type=click.Path(), metavar="DIR", help="Default: runs/reproduce/TABLE[-CORPUS]-BUDGET.")
@click.option("--jobs", type=int, help="Rows at once, each in its own process. Default: one a CPU, one on a GPU.")
@click.option("--judge", metavar="NAME|FOLDER|FILE.gguf", help="A pretrained model that scores generated texts.")
@click.option("--features", metavar="NAME|FOLDER", help="A pretrained model by which MAUVE and BERTScore see texts.")
def reproduce(
    table: str,
    rows: str | None,
    budget: str,
    seeds: str,
    data: str | None,
    assignments: tuple[str, ...],
    out: str | None,
    jobs: int | None,
    judge: str | None,
    features: str | None,
) -> None:
    """Train and measure the rows of a published TABLE and print ours beside the published figures.

    `words`: deep state-space models of words (Tables 1 and 2). `davam-table2`: sentence VAEs and the cures of
    posterior collapse, on the built-in verses or with --data [ptb|yahoo|snli=]DIR. `davam-generation`: what runs of
    that table write from scratch (Tables III to V; --judge names a pretrained model for their fluency).
    `davam-figure3`: such texts as training data. `vattn-table2`: texts given a source, with attention that is
    deterministic or latent, on built-in pairs or with --data [squad|dialogue=]DIR; `vattn-weights`: latent attention
    weights of four kinds. Every row is a normal run folder; the same command goes on where it
    was stopped. The table, its figures and results.json lie in the folder of the reproduction.
    """
    from ..core.errors import UserError
    from ..recipes.tree import parse_assignments
    from ..tables.reproduce import reproduce as fill
    from ..tables.table import MEASURE

    try:
        numbers = [whole(text.strip()) for text in seeds.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds '{seeds}': expected whole numbers with one comma between them, e.g. 0,1,2") from error
    changes = parse_assignments(assignments)
    given = {key.removeprefix(MEASURE): changes.pop(key) for key in [*changes] if key.startswith(MEASURE)}
    given |= {name: value for name, value in (("judge", judge), ("features", features)) if value is not None}
    found = fill(
        table,
        listed(rows, "--rows"),
        budget=budget,
        seeds=numbers,
        data=data,
        out=out,
        jobs=jobs,
        settings=given,
        set=changes,
        progress=command_progress(),
        say=say,
    )
    result(lambda: found.results, lambda: print_reproduction(found, table, budget))


def print_reproduction(found: Reproduction, table: str, budget: str) -> None:
    """The table, where it is kept, and what to run next."""
    from ..tables.page import own_options
    from ..tables.table import load_table

    click.echo(found.text)
    trained = [row for row in found.results["rows"] if any(row["training_seconds"])]
    firsts = [found.folder / f"{row['name']}-s{row['seeds'][0]}" for row in trained[:1]]
    commands = [f"evaluate {quoted_path(first)}" for first in firsts]
    longest = list(load_table(table).budgets)[-1]
    longer = "" if budget == longest else f" --budget {longest}"
    commands.append(f"reproduce {table}{longer}{own_options(found.results)} --seeds 0,1,2")
    about = f"\nThe reproduction is in {found.folder} (table.md, results.json, figures/, a run folder a row)."
    advise(about, commands)
