"""``list``: what there is."""

from __future__ import annotations

import click

from .output import TRUST, print_table


@click.command(name="list")
@click.argument("kind", type=click.Choice(["recipes", "guides", "objectives", "corpora", "options"]))
@click.argument("recipe", required=False)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Of RECIPE, as for fit.")
@TRUST
def list_(kind: str, recipe: str | None, assignments: tuple[str, ...], trust: bool) -> None:
    """List recipes, guides, objectives, corpora, or the options that --set changes, with a line each.

    Options come with type, default and meaning; with RECIPE those that it has, and their values in it.
    """
    if kind == "options":
        list_options(recipe, assignments, trust=trust)
        return
    if recipe is not None or assignments:
        raise click.UsageError(f"only 'list options' takes a recipe; leave out {recipe or '--set'}")
    {"recipes": list_recipes, "guides": list_guides, "objectives": list_objectives, "corpora": list_corpora}[kind]()


def list_options(recipe: str | None, assignments: tuple[str, ...], *, trust: bool = False) -> None:
    """Every key of a configuration; of a recipe, those that apply to it and their values."""
    from ..core.errors import UserError
    from ..recipes import build
    from ..recipes.config import load_config
    from ..recipes.keys import all_keys_of
    from ..recipes.tree import parse_assignments
    from ..recipes.trust import of_recipe

    if recipe is None and assignments:
        raise UserError("--set changes a recipe; name it: list options RECIPE --set KEY=VALUE")
    changes, config, code = parse_assignments(assignments), None, {}
    if recipe is not None:
        code = of_recipe(recipe, changes, {}, trust=trust)
        config = build.effective(load_config(recipe, changes), code)
    header = ["key", "type", "default", *([] if config is None else ["here"]), "meaning"]
    for title, keys in all_keys_of(config, code):
        rows = [(k.name, k.kind, k.default, *([] if config is None else [k.value]), k.meaning) for k in keys]
        print_table(header, rows, f"{title}:")


def list_recipes() -> None:
    """Name and description of every recipe."""
    from ..recipes import recipe_names
    from ..recipes.config import load_config

    rows = [(name, load_config(name).description) for name in recipe_names()]
    print_table(["recipe", "what it trains"], rows)


def list_guides() -> None:
    """Name and density of every guide, by model family."""
    from ..recipes.build import families_guides, guide_registry
    from ..recipes.code import model_registry

    for family in model_registry().names():
        registry = guide_registry(family)
        rows = [(name, summary(registry.load(name))) for name in families_guides(family)]
        print_table(["guide", "density"], rows, f"for {family}:")
    click.echo("Your own: --guide FILE.py:CLASS (start from the base class in guides/<family>.py).")


def list_objectives() -> None:
    """Name and meaning of every objective."""
    from ..objectives import OBJECTIVES

    print_table(["objective", "what it is"], list(OBJECTIVES.items()))


def list_corpora() -> None:
    """Name and content of every built-in corpus."""
    from ..data.catalogue import CORPORA

    print_table(["corpus", "what it is"], [[name, found.description] for name, found in CORPORA.items()])
    click.echo("Your own: --data FILE or DIR (word<TAB>count lines, text or tables whose words are counted); with")
    click.echo("data.unit=sentences text, csv, JSON or parquet with sentences, or hub:NAME.")


def summary(thing: object) -> str:
    """First line of a docstring; for guides this is the density."""
    return (thing.__doc__ or "(no docstring)").strip().splitlines()[0]
