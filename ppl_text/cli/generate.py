"""``generate``: texts out of a trained run."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path())
@click.option("-n", "number", type=click.IntRange(min=1), default=20, show_default=True, help="How many texts.")
@click.option("--reconstruct", metavar="FILE|TEXT", help="Encode each line of FILE (or TEXT) and decode it again.")
@click.option("--interpolate", nargs=2, metavar="A B", help="Texts on the way from A to B.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the run's own.")
def generate(
    run: str,
    number: int,
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
        lines = opened.interpolate(*interpolate, points=max(number, 2) if number != 20 else 7, seed=seed)
    else:
        lines = opened.generate(number, seed)
    for line in lines:
        click.echo(line)


def read_texts(source: str) -> list[str]:
    """The lines of a file, or the text itself where no such file exists."""
    from ..core.errors import DataError

    path = Path(source)
    if not path.is_file():
        return [source]
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason} at byte {error.start}); convert the file", path) from error
    texts = [line for line in lines if line]
    if not texts:
        raise DataError("no text in the file; write one text a line", path)
    return texts
