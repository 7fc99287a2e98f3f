"""``explain``: what a recipe would train, without training it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .list import summary
from .output import TRUST, print_table

if TYPE_CHECKING:
    from torch import nn


@click.command()
@click.argument("recipe", default="words")
@click.option("--data", metavar="NAME|PATH", help="Corpus: a built-in name, a file, a folder, or hub:NAME.")
@click.option("--model", metavar="NAME|FILE.py:CLASS", help="Model family. FILE.py:CLASS runs the code of that file.")
@click.option("--guide", metavar="NAME|FILE.py:CLASS", help="FILE.py:CLASS runs the code of that file.")
@click.option("--objective", metavar="NAME[:K]|FILE.py:NAME", help="Bound to train on.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change one value of the recipe.")
@TRUST
def explain(
    recipe: str,
    data: str | None,
    model: str | None,
    guide: str | None,
    objective: str | None,
    assignments: tuple[str, ...],
    trust: bool,
) -> None:
    """Explain RECIPE: the generative story, the guide's density, sites, shapes, parameters. Trains nothing."""
    from ..objectives import OBJECTIVES
    from ..recipes import build
    from ..recipes.errors import Errors
    from ..recipes.start import checked_parts, dry_run, first_batch, model_remarks
    from ..recipes.tree import described, parse_assignments
    from ..recipes.trust import of_recipe

    chosen = {"data.corpus": data, "model.family": model, "guide.name": guide, "objective": objective}
    changes = {**parse_assignments(assignments), **{k: v for k, v in chosen.items() if v is not None}}
    code = of_recipe(recipe, changes, {}, trust=trust)
    notes: list[str] = []
    config, corpus, bound, _ = checked_parts(recipe, changes, code, Errors(), notes)
    programs = build.build_programs(config, corpus.vocabulary, code=code)
    batch = first_batch(corpus, config.data.batch_size)
    shown = dry_run(*programs, bound, batch, config.training)
    for note in (*notes, *model_remarks(programs.model, corpus)):
        click.echo(note, err=True)
    click.echo(f"{config.recipe}: {config.description}\n")
    click.echo("Model   " + "\n        ".join(getattr(programs.model, "story", (summary(programs.model),))))
    click.echo("Guide   " + summary(programs.guide))
    about = OBJECTIVES.get(bound.name.partition(":")[0], "")
    click.echo("Bound   " + "\n        ".join([f"{bound.name}: {about}", *shown.remarks]))
    lines = [*config.training.described(config.objective), *config.training.one_optimizer]
    click.echo("Trained " + "\n        ".join(lines) + "\n")
    click.echo(f"A batch of {batch.size} sentences, {batch.steps} steps, vocabulary {corpus.tokenizer.size}:")
    click.echo(shown.sites)
    click.echo(f"observed: tokens {tuple(batch.tokens.shape)}\n")
    print_table(["parameter", "shape", "numbers"], parameter_rows(programs.model, programs.guide))
    presets = getattr(programs.model, "presets", ())
    for trained, title in (
        (True, f"Preset {config.preset} (change with --set preset=NAME):"),
        (False, "Measured both ways by reproduce:"),
    ):
        if found := [choice for choice in presets if choice.trained is trained]:
            print_table(["what", "paper", "corrected", "why"], described(found), f"\n{title}")
    click.echo("\nConfiguration (change with --set KEY=VALUE):")
    click.echo(config.to_yaml())


def parameter_rows(model: nn.Module, guide: nn.Module) -> list[tuple[str, str, str]]:
    """Every parameter of model and guide with shape and size, and the two sums."""
    rows = []
    for role, module in (("model", model), ("guide", guide)):
        named = list(module.named_parameters())
        rows += [(f"{role}.{name}", str(tuple(p.shape)), f"{p.numel():,}") for name, p in named]
        rows.append((f"{role}, all", "", f"{sum(p.numel() for _, p in named):,}"))
    return rows
