"""What commands print: tables on a terminal, plain text elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..run import Run


SEED = click.IntRange(0, 2**63 - 1)
"""What torch takes as a seed."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print a table on stdout; columns are as wide as their content."""
    from rich.cells import cell_len, set_cell_size

    widths = [max(cell_len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    if title:
        click.echo(title)
    for row in [header, *rows]:
        click.echo("  " + "  ".join(set_cell_size(text, w) for text, w in zip(row, widths, strict=True)).rstrip())


def print_json(values: Any) -> None:
    """Print plain values as strict JSON."""
    click.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))


def print_report(run: Run) -> None:
    """The report of a finished run, and what to run next."""
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    click.echo()
    click.echo(text.replace("](figures/", f"]({run.folder}/figures/"))
    click.echo(f"The run is in {run.folder} (report.md, results.json, model.safetensors). Next:")
    for command in (f"evaluate {run.folder}", f"generate {run.folder} -n 20", "list guides"):
        click.echo(f"  python -m ppl_text {command}")


def counter(what: str) -> Callable[[int, int], None]:
    """A callback ``(done, total)`` that shows progress on stderr where that is a terminal."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{what}: {done}/{total} batches" + ("\n" if done == total else ""), nl=False, err=True)

    return show
