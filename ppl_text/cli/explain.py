"""``explain``: what a recipe would train, without training it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .command import Command
from .list import summary
from .output import TRUST, print_table, result, say

if TYPE_CHECKING:
    from torch import nn

    from ..recipes.config import RunConfig


@click.command(cls=Command)
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
    from ..recipes.tree import parse_assignments
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
        say(note)
    about = OBJECTIVES.get(bound.name.partition(":")[0], "")
    explained = Explained(
        config=config,
        story=tuple(getattr(programs.model, "story", (summary(programs.model),))),
        guide=summary(programs.guide),
        bound=(f"{bound.name}: {about}", *shown.remarks),
        trained=(*config.training.described(config.objective), *config.training.one_optimizer),
        batch=f"A batch of {batch.size} sentences, {batch.steps} steps, vocabulary {corpus.tokenizer.size}:",
        sites=f"{shown.sites}\nobserved: tokens {tuple(batch.tokens.shape)}",
        parameters=parameter_rows(programs.model, programs.guide),
        presets=tuple(getattr(programs.model, "presets", ())),
    )
    result(explained.as_json, lambda: show(explained))


class Explained(NamedTuple):
    """What a recipe would train: its parts in words, sites and parameters as tables."""

    config: RunConfig
    story: tuple[str, ...]
    guide: str
    bound: tuple[str, ...]
    trained: tuple[str, ...]
    batch: str
    sites: str
    parameters: list[tuple[str, str, str]]
    presets: tuple[Any, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        numbers = [(name, shape, int(size.replace(",", ""))) for name, shape, size in self.parameters]
        return {
            "recipe": self.config.recipe,
            "description": self.config.description,
            "model": list(self.story),
            "guide": self.guide,
            "bound": list(self.bound),
            "trained": list(self.trained),
            "sites": self.sites.splitlines(),
            "parameters": [dict(zip(("parameter", "shape", "numbers"), row, strict=True)) for row in numbers],
            "configuration": self.config.model_dump(mode="json"),
        }


def show(found: Explained) -> None:
    """Print it for a reader."""
    from ..recipes.tree import described

    config = found.config
    click.echo(f"{config.recipe}: {config.description}\n")
    click.echo("Model   " + "\n        ".join(found.story))
    click.echo("Guide   " + found.guide)
    click.echo("Bound   " + "\n        ".join(found.bound))
    click.echo("Trained " + "\n        ".join(found.trained) + "\n")
    click.echo(found.batch)
    click.echo(f"{found.sites}\n")
    print_table(["parameter", "shape", "numbers"], found.parameters)
    for trained, title in (
        (True, f"Preset {config.preset} (change with --set preset=NAME):"),
        (False, "Measured both ways by reproduce:"),
    ):
        if chosen := [choice for choice in found.presets if choice.trained is trained]:
            print_table(["what", "paper", "corrected", "why"], described(chosen), f"\n{title}")
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
