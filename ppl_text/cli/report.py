"""``report``: the page of a run, of several, or of a comparison, made anew."""

from __future__ import annotations

from pathlib import Path

import click

from .command import Command
from .output import TRUST, result, say


@click.command(cls=Command)
@click.argument("runs", nargs=-1, type=click.Path(), metavar="RUN…")
@click.option("--open", "show", is_flag=True, help="Show the page in a browser.")
@click.option("--out", type=click.Path(), metavar="FILE", help="Of several: the page; default: report.html beside RUN.")
@click.option("--force", is_flag=True, help="Let --out replace a file that is no report.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Of one run. Default: its own.")
@TRUST
def report(runs: tuple[str, ...], show: bool, out: str | None, force: bool, device: str | None, trust: bool) -> None:
    """Write the report of RUN (a folder) anew, as one page that needs no network.

    One run is measured again: RUN/report.html, with report.md and results.json. Several are compared on one page by
    what their folders hold. A comparison (the folder that compare has written) gets its comparison.html.
    """
    from ..core.errors import UserError

    places = [Path(run) for run in runs]
    if not places:
        raise UserError("give at least one run to report: the folder of a trained run")
    if len(places) > 1:
        from ..recipes.side_by_side import write_page

        page = write_page(places, None if out is None else Path(out), force=force)
    elif out is not None or force:
        raise UserError("--out is for the page of several runs; that of one run lies in its folder, so leave it out")
    else:
        page = _page_of_one(places[0], device, trust)
    result(lambda: {"page": str(page), "runs": list(runs)}, lambda: click.echo(f"The report is in {page}"))
    if show:
        _show(page)


def _page_of_one(place: Path, device: str | None, trust: bool) -> Path:
    """Write the page of a comparison or of a run."""
    from ..comparing.rows import RECORD, Comparison

    if (place / RECORD).is_file():
        from ..recipes.compare import write_comparison

        return write_comparison(Comparison.read(place), place)
    from ..run import load

    return load(place, device, trust=trust).report()


def _show(page: Path) -> None:
    """Open a page in the user's browser; say so where there is none."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser could be opened; open {page} yourself")
