"""``evaluate``: bounds of a trained run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .command import Command
from .output import COUNT, PARTICLES, SEED, TRUST, counter, detail, print_table, result, say

if TYPE_CHECKING:
    from ..evaluation.report import Section


@click.command(cls=Command)
@click.argument("run", type=click.Path())
@click.option("--data", metavar="PATH", help="Other texts, by the run's tokenizer: a file, a folder, or hub:NAME.")
@click.option("--column", metavar="NAME", help="Of --data: the column of the texts, if not that of the run's data.")
@click.option("--split", default="test", show_default=True, help="train, valid or test; not of a file.")
@click.option("--particles", type=PARTICLES, default=64, show_default=True, help="K draws per sentence.")
@click.option(
    "--objective",
    metavar="NAME[:K]|FILE.py:NAME",
    help="Also this objective's bound, e.g. fivo:64.",
)
@click.option("--limit", type=COUNT, help="Draw that many sentences instead of scoring all.")
@click.option("--store", type=click.Path(), metavar="FILE", help="Keep every sentence's log-weights (.safetensors).")
@click.option("--force", is_flag=True, help="Let --store replace a file that holds something else.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the draws.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the run's own.")
@TRUST
def evaluate(
    run: str,
    data: str | None,
    column: str | None,
    split: str,
    particles: int,
    objective: str | None,
    limit: int | None,
    store: str | None,
    force: bool,
    seed: int,
    device: str | None,
    trust: bool,
) -> None:
    """Evaluate RUN (a folder): ELBO, importance-weighted bound, KL, each with its standard error.

    For sentences also the perplexities that follow, the shares of <unk> and of texts that were truncated or dropped,
    and what the latents carry: mutual information, active units.
    """
    from dataclasses import replace

    from ..core.atomic import finite_or_none
    from ..core.batch import device_of
    from ..core.errors import UserError
    from ..evaluation.report import values_of
    from ..evaluation.scores import check_storable
    from ..measures.base import Evaluation, ObjectiveBound
    from ..run import load

    if store is not None:
        check_storable(store, force=force)
    elif force:
        raise UserError("--force belongs to --store; leave it out, or name the file")
    opened, other = load(run, device, trust=trust), None
    about: dict[str, Any] = {"run": str(opened.folder), "split": split, "seed": seed}
    if column is not None and data is None:
        raise UserError("--column belongs to --data; leave it out, or name the data")
    if data is not None:
        opened = opened.on(data, split, column)
        about |= {"data": opened.corpus.name, "split": None}
        split = opened.corpus.name
        for note in opened.corpus.notes:
            say(note)
    part = "every text" if limit is None else f"{limit:,} texts drawn by seed {seed} (--limit)"
    detail(f"texts: {part} of {split}; {particles} draws of each (--particles), by seed {seed}")
    detail(f"device: {device_of(opened.model)} ({'--device' if device else 'of the run'}: {opened.config.device})")
    if objective is not None:
        found = opened.bound(objective, split, limit, seed, progress=counter(objective))
        other = ObjectiveBound(objective, *found)
    told, shown = counter("evaluating"), counter("what the latents carry", "measures")
    likelihood = opened.evaluate(split, particles, limit, seed, progress=told, store=store, force=force)
    sections = opened.sections(Evaluation(split, likelihood, limit, seed, other=other), lambda _, *far: shown(*far))
    of = f"{split} split" if data is None else split
    result(
        lambda: {**about, **finite_or_none(values_of(sections))},
        lambda: print_sections([replace(sections[0], title=f"{opened.folder}, {of}"), *sections[1:]]),
    )
    if store is not None:
        say(f"What every sentence scored is in {store} (read it with ppl_text.evaluation.scores.load_scores)")


def print_sections(sections: list[Section]) -> None:
    """Tables and lines, one section after the other."""
    for section in sections:
        if section.header:
            print_table(section.header, section.rows, section.title)
        for line in (*section.lines, *section.terminal):
            click.echo(line)
