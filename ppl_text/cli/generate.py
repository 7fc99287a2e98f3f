"""``generate``: texts out of a trained run."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import click

from .output import SEED


@click.command()
@click.argument("run", type=click.Path())
@click.option("-n", "number", type=click.IntRange(min=1), help="How many texts: 20, on the way from A to B 7.")
@click.option("--reconstruct", metavar="FILE|TEXT", help="Encode each line of FILE (or TEXT) and decode it again.")
@click.option("--interpolate", nargs=2, metavar="A B", help="Texts on the way from A to B.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the draws.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the run's own.")
def generate(
    run: str,
    number: int | None,
    reconstruct: str | None,
    interpolate: tuple[str, str] | None,
    seed: int,
    device: str | None,
) -> None:
    """Generate from RUN (a folder): samples from the prior, one a line.

    With --reconstruct each text goes through the guide and back (text, tab, reconstruction); with
    --interpolate N texts lead from one text to the other.
    """
    from ..core.errors import UserError
    from ..run import load

    if reconstruct is not None and interpolate is not None:
        raise UserError("--reconstruct and --interpolate exclude each other; give one of them")
    opened = load(run, device)
    if reconstruct is not None:
        texts = read_texts(reconstruct)
        lines = [f"{a}\t{b}" for a, b in zip(texts, opened.reconstruct(texts, seed), strict=True)]
    elif interpolate is not None:
        lines = opened.interpolate(*interpolate, points=7 if number is None else number, seed=seed)
    else:
        lines = opened.generate(20 if number is None else number, seed)
    for line in lines:
        click.echo(line)


def read_texts(source: str) -> list[str]:
    """The lines of a file, or the text itself where no such file exists."""
    from ..core.errors import DataError

    path = Path(source)
    if os.path.isdir(source):
        raise DataError("a folder; give a file with one text a line, or the text itself", path)
    # os.path, unlike pathlib, takes a text that is too long for a file name for an absence.
    if not os.path.isfile(source):
        return [source]
    texts = []
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        try:
            texts += [text] if (text := line.decode().strip()) else []
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 ({error.reason}); convert the file", path, number) from error
    if not texts:
        raise DataError("no text in the file; write one text a line", path)
    return texts
