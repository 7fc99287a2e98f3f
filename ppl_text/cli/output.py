"""What commands print: tables on a terminal, plain text elsewhere; and what is said beside a result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..core.limits import MOST, MOST_PARTICLES, MOST_TEXTS
from ..core.printing import Pause, printable, quoted_path, unscreened
from .command import voice

if TYPE_CHECKING:
    from rich.console import Console

    from ..run import Run
    from ..training.progress import Progress


SEED = click.IntRange(0, 2**63 - 1)
"""What torch takes as a seed."""

COUNT, PARTICLES, TEXTS = (click.IntRange(1, most) for most in (MOST, MOST_PARTICLES, MOST_TEXTS))
"""How many of something; how many draws of each text; how many texts."""

TRUST = click.option("--trust", is_flag=True, help="Run the code that the run's folder keeps; read it first.")
"""Of every command that opens runs."""


def console(margin: int = 0) -> Console:
    """Return what prints on stdout: as wide as the terminal, less a margin; elsewhere as wide as what it holds."""
    from rich.console import Console

    out = Console(file=unscreened(sys.stdout), highlight=False, markup=False, emoji=False)
    out.width = out.width - margin if sys.stdout.isatty() else WIDE
    return out


WIDE = 10_000
"""Columns of a file or pipe: no line is folded."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print a table on stdout; columns are as wide as their content, on a terminal no wider than it is."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if sys.stdout.isatty() else "")
    for name in header:
        table.add_column(printable(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if title:
        click.echo(title)
    out = console(margin=2)
    with out.capture() as captured:
        out.print(table)
    lines = (f"  {line.rstrip()}" for line in captured.get().splitlines())
    click.echo("\n".join(lines), file=unscreened(sys.stdout))


def print_markdown(text: str) -> None:
    """Print a report: rendered on a terminal, as it is written elsewhere."""
    if not sys.stdout.isatty():
        click.echo(text)
        return
    from rich.markdown import Markdown

    console().print(Markdown(printable(text), hyperlinks=False))


def print_json(values: Any) -> None:
    """Print plain values as strict JSON."""
    click.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))


def result(values: Callable[[], Mapping[str, Any]], show: Callable[[], object]) -> None:
    """Print the result of a command: ``values()`` as one JSON object where that is asked for, else by ``show()``."""
    if voice().json:
        print_json(dict(values()))
    else:
        show()


def say(text: str) -> None:
    """Say something beside the result, on stderr."""
    if not voice().quiet:
        click.echo(text, err=True)


def detail(text: str) -> None:
    """Say what is decided and why, to those who have asked for it."""
    if voice().verbose:
        click.echo(text, err=True)


def advise(text: str, commands: Sequence[str]) -> None:
    """Print where the result lies, and what to run next."""
    if voice().quiet:
        return
    click.echo(f"{text} Next:")
    for command in commands:
        click.echo(f"  python -m ppl_text {command}")


def command_progress() -> Progress:
    """Return what shows the progress of a training on stderr: a bar, lines, or nothing."""
    from ..training.progress import Quiet, make_progress

    return Quiet() if voice().quiet else make_progress(verbose=voice().verbose)


def print_report(run: Run) -> None:
    """The report of a finished run, and what to run next."""
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    if not voice().quiet:
        click.echo()
    print_markdown(text.replace("](figures/", f"]({run.folder}/figures/"))
    advise(f"The run is in {run.folder} (report.html, report.md, results.json, model.safetensors).", after(run))


def report_values(run: Run) -> dict[str, Any]:
    """The same as plain values."""
    from ..recipes.folders import read_record

    about = {"run": str(run.folder), "recipe": run.config.recipe, "finished": run.finished}
    return {**about, **read_record(run.folder / "results.json"), "next": after(run)}


def after(run: Run) -> list[str]:
    """Commands for a finished run."""
    from ..recipes.folders import trusting

    own = trusting(run.folder)
    asked = "-n 20" if run.form.source_tokenizer is None else "--source TEXT"
    place = quoted_path(run.folder)
    return [f"evaluate {place}{own}", f"generate {place} {asked}{own}", "list guides"]


def counter(what: str, unit: str = "batches") -> Callable[[int, int], None]:
    """A callback ``(done, total)`` that shows progress on stderr: a line that changes on a terminal.

    Elsewhere it is a line every :data:`~ppl_text.core.printing.PAUSE` seconds, and none for what is done before.
    """
    live, due = sys.stderr.isatty(), Pause()

    def show(done: int, total: int) -> None:
        text = f"{what}: {done:,}/{total:,} {unit}"
        if voice().quiet:
            return
        if live:
            overwrite(text, done == total)
        elif due():
            click.echo(text, err=True)

    return show


def overwrite(text: str, last: bool) -> None:
    """Write a line on a terminal's stderr in the place of the one before; after the ``last`` one a new line begins."""
    click.echo(f"\r\x1b[K{printable(text)}" + "\n" * last, file=unscreened(sys.stderr), nl=False)
