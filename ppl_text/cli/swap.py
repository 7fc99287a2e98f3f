"""``swap``: another guide on a trained run, by one command or in a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.printing import quoted_path
from ..recipes import REFIT_STEPS
from .command import Command, voice
from .output import COUNT, SEED, TRUST, advise, command_progress, print_table, result

if TYPE_CHECKING:
    from ..run import Run


@click.command(cls=Command)
@click.argument("run", type=click.Path())
@click.option("--guide", metavar="NAME|FILE.py:CLASS", help="The new guide; without it, a session begins.")
@click.option("--steps", type=COUNT, help=f"Updates of the refit.  [default: {REFIT_STEPS}]")
@click.option("--objective", metavar="NAME[:K]|FILE.py:NAME", help="Bound to refit on; default: the run's own.")
@click.option("--freeze", type=click.Choice(["model", "none"]), default="model", show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="guide.*, training.* or report.*")
@click.option("--seed", type=SEED, help="Of the guide's parameters, batches and noise; default: the run's own.")
@click.option("--out", type=click.Path(), metavar="DIR", help="Folder of the child; default: a new RUN/swaps/GUIDE-N.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the run's own.")
@TRUST
def swap(
    run: str,
    guide: str | None,
    assignments: tuple[str, ...],
    out: str | None,
    device: str | None,
    trust: bool,
    **options: Any,
) -> None:
    """Swap another guide into RUN (a folder), refit it, and show before and after.

    The model is frozen unless --freeze none. The result is a child run that knows its parent. Without --guide it is
    interactive: it lists the guides that fit, and any number of them can be tried, compared, undone and saved.
    """
    from ..core.errors import UserError
    from ..recipes.code import refer
    from ..recipes.tree import parse_assignments
    from ..run import open_run
    from .conversation import hold_session

    given = {} if guide is None else refer(guide, "guide")[1]
    opened = open_run(run, device, given, trust=trust)
    options["set"] = parse_assignments(assignments)
    if guide is not None:
        child = opened.swap_guide(guide, out=out, progress=command_progress(), **options)
        result(lambda: child_values(child), lambda: print_child(child))
    elif out is not None:
        raise UserError("--out needs --guide; in a session 'save DIR' says where a child goes")
    elif voice().json:
        raise UserError("--json needs --guide; a session is a dialogue, and has no one result")
    else:
        hold_session(opened, options)


def print_child(child: Run) -> None:
    """Before and after, where the child is, and what to run next."""
    from ..core.errors import RunFolderError
    from ..recipes.swap import before_after

    if not voice().quiet:
        click.echo()
    try:
        pair = before_after(child)
        print_table(pair.header(), pair.rows(), f"{child.config.recipe}, test split")
        click.echo(pair.how())
    except RunFolderError as error:
        click.echo(str(error))
    advise(f"The child run is in {child.folder} (report.html, report.md, results.json, parent.json).", after(child))


def child_values(child: Run) -> dict[str, Any]:
    """The same as plain values: ``swap`` holds the figures before and after, or null where they are not known."""
    from ..recipes.folders import read_record

    figures = read_record(child.folder / "results.json").get("swap")
    about = {"run": str(child.folder), "parent": str(child.config.parent), "guide": child.config.guide.name}
    return {**about, "swap": figures, "next": after(child)}


def after(child: Run) -> list[str]:
    """Commands for a finished child."""
    from ..recipes.folders import trusting

    parents, own = trusting(Path(str(child.config.parent))), trusting(child.folder)
    parent, place = quoted_path(child.config.parent), quoted_path(child.folder)
    return [f"compare {parent} {place}{own or parents}", f"evaluate {place}{own}", f"swap {parent}{parents}"]
