"""``generate``: texts out of a trained run."""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import Command
from .output import SEED, TEXTS, TRUST, counter, detail, result, say

if TYPE_CHECKING:
    from ..evaluation.decoding import Strategy
    from ..run import Run

FLAGS = {
    "temperature": "--temperature",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "width": "--beam",
    "length_penalty": "--length-penalty",
    "repetition_penalty": "--repetition-penalty",
    "min_length": "--min-length",
}
"""Fields of the strategies, and how they are set here."""

EACH = "each"
"""As a site of an interpolation: each of them, one after the other."""

NUMBERS = {None: 20, "--interpolate": 7, "--neighbours": 5}
"""Texts by default, by what is asked for."""


@click.command(cls=Command)
@click.argument("run", type=click.Path())
@click.option("-n", "number", type=TEXTS, help="How many texts: 20, from A to B 7, neighbours 5.")
@click.option("--length", type=int, metavar="L", help="Tokens of every text, EOS not counted. Default: as they come.")
@click.option("--strategy", metavar="NAME", help="sample (from the prior the default), greedy (elsewhere) or beam.")
@click.option("--temperature", type=float, help="sample: divides the logits; below 1 likelier texts.")
@click.option("--top-k", type=int, help="sample: from the K likeliest tokens only.")
@click.option("--top-p", type=float, help="sample: from the fewest likeliest tokens of that mass together.")
@click.option("--beam", "width", type=int, help="beam: unfinished texts kept in each step (5).")
@click.option("--length-penalty", type=float, metavar="ALPHA", help="beam: score ln p / length^ALPHA (0).")
@click.option("--repetition-penalty", type=float, metavar="THETA", help="Any: makes tokens rarer that a text has (1).")
@click.option("--min-length", type=int, metavar="L", help="Any: tokens of a text at least, EOS not counted (0).")
@click.option("--reconstruct", metavar="FILE|TEXT", help="Encode each line of FILE (or TEXT) and decode it again.")
@click.option("--source", metavar="FILE|TEXT", help="What a conditional model reads: a text, or one a line of FILE.")
@click.option("--latents", metavar="NAME", help="sample (default) or mean: posterior means, if texts are made from q.")
@click.option("--interpolate", nargs=2, metavar="A B", help="Texts on the way from A to B.")
@click.option("--path", metavar="NAME", help="Of --interpolate: spherical (default) or linear.")
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Of --interpolate: what moves; each: one by one.")
@click.option("--neighbours", metavar="TEXT", help="Training texts with the nearest posterior means, and distances.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the draws.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the run's own.")
@TRUST
def generate(
    run: str,
    number: int | None,
    length: int | None,
    strategy: str | None,
    reconstruct: str | None,
    source: str | None,
    latents: str | None,
    interpolate: tuple[str, str] | None,
    path: str | None,
    sites: tuple[str, ...],
    neighbours: str | None,
    seed: int,
    device: str | None,
    trust: bool,
    **options: float | None,
) -> None:
    """Generate from RUN (a folder): samples from the prior, one a line; with --length L of exactly L tokens.

    With --reconstruct each text goes through the guide and back (text, tab, reconstruction); with
    --interpolate N texts lead from one text to the other: all latents move, or with --site NAME those that
    are named, the others staying at A's (--site each: one after the other; name, tab, text); with
    --neighbours N training texts follow one text (distance, tab, text). A conditional model reads --source:
    N texts for each, or one beside each text; --latents mean takes posterior means for draws.
    """
    from ..run import load

    asked = {"--reconstruct": reconstruct, "--interpolate": interpolate, "--neighbours": neighbours}
    mode = the_one_given(asked)
    given = {name: value for name, value in options.items() if value is not None}
    alone = {"--length": length, "--latents": latents}
    check_belonging(
        mode,
        number,
        alone,
        {"--path": path, "--site": sites or None},
        [*(["--strategy"] if strategy else []), *(FLAGS[name] for name in given)],
    )
    chosen = chosen_strategy(strategy or ("greedy" if mode else "sample"), given)
    sources = None if source is None else read_texts(source)
    opened, count = load(run, device, trust=trust), number or NUMBERS.get(mode, 1)
    detail(f"strategy: {chosen} ({chosen_because(mode, strategy)}); seed {seed}")
    about: dict[str, Any] = {"run": str(opened.folder), "seed": seed, "strategy": chosen.name}
    if reconstruct is not None:
        texts = read_texts(reconstruct)
        written = opened.reconstruct(texts, seed, chosen, sources, counter("reconstructing", "texts"))
        pairs = list(zip(texts, written, strict=True))
        show_rows(about, "reconstructions", ("text", "reconstruction"), pairs)
    elif interpolate is not None:
        way: dict[str, Any] = {"points": count, "path": path or "spherical", "source": the_only_one(sources, mode)}
        moved = interpolated(opened, interpolate, sites, {**way, "seed": seed, "strategy": chosen})
        show_rows(about, "texts", ("site", "text") if sites == (EACH,) and len(moved[0]) > 1 else ("text",), moved)
    elif neighbours is not None:
        own = the_only_one(sources, mode)
        found = opened.neighbours(neighbours, count, seed, progress=counter("encoding"), source=own)
        near = [(f"{distance:z.4f}", text) for text, distance in found]
        show_rows({**about, "text": neighbours}, "neighbours", ("distance", "text"), near)
    else:
        texts = from_prior(opened, count, seed, chosen, sources, length, latents or "sample")
        show_rows(about, "texts", ("text",), [(text,) for text in texts])


def chosen_because(mode: str | None, named: str | None) -> str:
    """Say why the strategy is what it is."""
    if named is not None:
        return "--strategy"
    return "from the prior texts are sampled" if mode is None else f"{mode} decodes given latents greedily"


def show_rows(about: dict[str, Any], what: str, names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows, their cells with a tabulator between them; as JSON a list, of texts or of objects, under ``what``."""

    def values() -> dict[str, Any]:
        if len(names) == 1:
            return {**about, what: [row[0] for row in rows]}
        return {**about, what: [dict(zip(names, map(plain, names, row), strict=True)) for row in rows]}

    def show() -> None:
        for row in rows:
            click.echo("\t".join(row))

    result(values, show)


def plain(name: str, cell: str) -> str | float:
    """A cell as a plain value: a distance is a number."""
    return float(cell) if name == "distance" else cell


def from_prior(
    run: Run, count: int, seed: int, strategy: Strategy, sources: list[str] | None, length: int | None, latents: str
) -> list[str]:
    """Texts from the prior, for each source if there are any; says on stderr where they are fewer than asked for."""
    texts = run.generate(count, seed, strategy, sources, length, latents, counter("writing", "texts"))
    if len(texts) < count * len(sources or [""]):
        why = "latents are at their means" if latents == "mean" else "nothing is latent"
        most = "there is one text only" if sources is None else "there is one text for each source"
        say(f"{why} and {strategy.name} leaves nothing to chance: {most}")
    return texts


def interpolated(run: Run, ends: tuple[str, str], sites: tuple[str, ...], way: dict[str, Any]) -> list[tuple[str, ...]]:
    """Texts from the one end to the other; where each latent is asked for, its name in front of those that it makes."""
    if sites != (EACH,):
        return [(text,) for text in run.interpolate(*ends, sites=sites or None, **way)]
    names = [spec.name for spec in run.model.latents]  # type: ignore[union-attr]
    moved = [(name, text) for name in names for text in run.interpolate(*ends, sites=[name], **way)]
    # Without a latent the run itself says what is missing.
    return [*moved] or [(text,) for text in run.interpolate(*ends, **way)]


def the_only_one(sources: list[str] | None, mode: str | None) -> str | None:
    """The source, if any, of what is asked for; raises where there are several."""
    from ..core.errors import UserError

    if sources is not None and len(sources) > 1:
        raise UserError(f"{mode} takes one source; --source has {len(sources)}")
    return None if sources is None else sources[0]


def the_one_given(options: dict[str, Any]) -> str | None:
    """Name of the option that was given, or None; raises where there are several."""
    from ..core.errors import UserError

    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other; give one of them")
    return given[0] if given else None


def check_belonging(
    mode: str | None, number: int | None, alone: dict[str, Any], ways: dict[str, Any], decoding: list[str]
) -> None:
    """Raise for options that what is asked for has no use for.

    ``alone``: those of texts from the prior, by name; ``ways``: those of interpolations; ``decoding``: those of
    strategies.
    """
    from ..core.errors import UserError

    for name, value in ways.items():
        if value is not None and mode != "--interpolate":
            raise UserError(f"{name} belongs to --interpolate A B; leave it out, or give two texts to lead from and to")
    for name, value in alone.items():
        if value is not None and mode is not None:
            raise UserError(f"{name} belongs to texts from the prior; leave it out with {mode}")
    if number is not None and mode == "--reconstruct":
        raise UserError("-n does not belong to --reconstruct: every text has one reconstruction; leave it out")
    if decoding and mode == "--neighbours":
        raise UserError(f"{' and '.join(decoding)}: --neighbours decodes nothing; leave them out")


def chosen_strategy(name: str, given: dict[str, Any]) -> Strategy:
    """The strategy of that name with these fields; raises for fields of another one."""
    from dataclasses import fields

    from ..core.errors import UserError
    from ..evaluation.decoding import STRATEGIES, as_strategy

    kind: Any = type(as_strategy(name))
    owners = {field.name: owner for owner, strategy in STRATEGIES.items() for field in fields(strategy)}
    own = [FLAGS[field.name] for field in fields(kind)]
    for field in given:
        if FLAGS[field] not in own:
            raise UserError(
                f"{FLAGS[field]} belongs to --strategy {owners[field]}; the strategy here is {name}, which takes "
                f"{', '.join(own) or 'no option'}"
            )
    strategy: Strategy = kind(**given)
    return strategy


def read_texts(source: str) -> list[str]:
    """The lines of a file, or the text itself where no such file exists."""
    from ..core.errors import DataError
    from ..core.reading import read_regular

    path = Path(source)
    if os.path.isdir(source):
        raise DataError("a folder; give a file with one text a line, or the text itself", path)
    # os.path, unlike pathlib, takes a text that is too long for a file name for an absence.
    if not os.path.exists(source):
        return [source]
    try:
        content = read_regular(path)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}; give a file, or the text itself", path) from error
    texts = []
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        try:
            texts += [text] if (text := line.decode().strip()) else []
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 ({error.reason}); convert the file", path, number) from error
    if not texts:
        raise DataError("no text in the file; write one text a line", path)
    return texts
