"""What commands print: tables on a terminal, plain text elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..core.limits import MOST, MOST_PARTICLES, MOST_TEXTS
from ..core.printing import Pause, printable, quoted_path, unscreened

if TYPE_CHECKING:
    from rich.console import Console

    from ..run import Run


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


def print_report(run: Run) -> None:
    """The report of a finished run, and what to run next."""
    from ..recipes.folders import trusting

    text = (run.folder / "report.md").read_text(encoding="utf-8")
    click.echo()
    print_markdown(text.replace("](figures/", f"]({run.folder}/figures/"))
    click.echo(f"The run is in {run.folder} (report.md, results.json, model.safetensors). Next:")
    own = trusting(run.folder)
    asked = "-n 20" if run.form.source_tokenizer is None else "--source TEXT"
    place = quoted_path(run.folder)
    for command in (f"evaluate {place}{own}", f"generate {place} {asked}{own}", "list guides"):
        click.echo(f"  python -m ppl_text {command}")


def counter(what: str, unit: str = "batches") -> Callable[[int, int], None]:
    """A callback ``(done, total)`` that shows progress on stderr: a line that changes on a terminal.

    Elsewhere it is a line every :data:`~ppl_text.core.printing.PAUSE` seconds, and none for what is done before.
    """
    live, due = sys.stderr.isatty(), Pause()

    def show(done: int, total: int) -> None:
        text = f"{what}: {done:,}/{total:,} {unit}"
        if live:
            overwrite(text, done == total)
        elif due():
            click.echo(text, err=True)

    return show


def overwrite(text: str, last: bool) -> None:
    """Write a line on a terminal's stderr in the place of the one before; after the ``last`` one a new line begins."""
    click.echo(f"\r\x1b[K{printable(text)}" + "\n" * last, file=unscreened(sys.stderr), nl=False)
