"""``compare``: guides and objectives side by side on trained runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from ..recipes import REFIT_STEPS
from .command import Command, voice
from .output import COUNT, SEED, TRUST, advise, command_progress, detail, overwrite, result

if TYPE_CHECKING:
    from ..comparing.rows import Comparison


@click.command(cls=Command)
@click.argument("runs", nargs=-1, type=click.Path(), metavar="RUN…")
@click.option("--guides", metavar="A,B", help="Also refit these on each run's frozen model. Default: each run's own.")
@click.option("--objectives", metavar="A,B", help="Default: elbo, elbo-analytic, stl, iwae:16, dreg:16, stepwise:5, …")
@click.option("--draws", type=int, default=128, show_default=True, help="Per sentence, behind every bound.")
@click.option("--sentences", type=int, default=256, show_default=True, help="Drawn from the split, for all rows.")
@click.option("--repeats", type=int, default=24, show_default=True, help="Gradients whose spread is measured.")
@click.option("--steps", type=COUNT, help=f"Updates of a refit.  [default: {REFIT_STEPS}]")
@click.option("--split", default="valid", show_default=True, help="train, valid or test.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the sentences and all draws.")
@click.option("--out", type=click.Path(), metavar="DIR", help="Folder of the result; default: the next RUN/compare-N.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the runs' own.")
@TRUST
def compare(
    runs: tuple[str, ...],
    guides: str | None,
    objectives: str | None,
    steps: int | None,
    out: str | None,
    device: str | None,
    trust: bool,
    **settings: int | str,
) -> None:
    """Compare guides and objectives on RUN… (folders), every pair on the same sentences.

    Bounds at each objective's own K and at one K for all, from the same number of draws; noise of the
    gradients, effective sample size, Pareto k̂ over the sentences, time, memory; KL, active units and mutual
    information; and what all this says in words. Kept with its figures in RUN/compare-N.
    """
    from ..recipes.code import refer
    from ..recipes.compare import Settings, compare_runs
    from ..run import open_run

    names = listed(guides, "--guides")
    given = {text: own for name in names or () for text, own in refer(name, "guide")[1].items()}
    detail(f"sentences: {settings['sentences']} of {settings['split']}, drawn by seed {settings['seed']}, for all rows")
    detail(
        "guides: each run's own" if names is None else f"guides: {', '.join(names)}; refitted where not the run's own"
    )
    found = compare_runs(
        [open_run(run, device, given, trust=trust) for run in runs],
        names,
        listed(objectives, "--objectives"),
        settings=Settings(**settings),  # type: ignore[arg-type]
        steps=steps,
        out=out,
        progress=command_progress(),
        watch=stages(),
    )
    result(found.as_json, lambda: print_comparison(found))


def print_comparison(found: Comparison) -> None:
    """Tables and verdict, where they are kept, and what to run next."""
    click.echo(found.text)
    written = "comparison.html, comparison.md, comparison.json, inference.nc, figures/"
    advise(f"\nThe comparison is in {found.folder} ({written}).", found.next_commands)


def listed(text: str | None, option: str) -> list[str] | None:
    """The names of ``A,B``; None where the option is not given."""
    from ..core.errors import UserError

    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{option} '{text}': expected names with one comma between them, e.g. {option} A,B")
    return names


def stages() -> Callable[[str, int, int], None]:
    """A callback ``(what, done, total)`` that shows on stderr what is going on: one line that changes on a terminal."""
    live = sys.stderr.isatty()

    def show(what: str, done: int, total: int) -> None:
        if voice().quiet:
            return
        text = f"{what} ({done}/{total})"
        if live:
            overwrite(text, done == total)
        else:
            click.echo(text, err=True)

    return show
