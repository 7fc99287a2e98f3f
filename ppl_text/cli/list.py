"""``list``: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from .command import Command, voice
from .list_runs import list_runs
from .output import TRUST, print_table, result

Table = tuple[Sequence[str], Sequence[Sequence[str]], str]
"""Header, rows, and a title or nothing."""


@click.command(name="list", cls=Command)
@click.argument("kind", type=click.Choice(["recipes", "guides", "objectives", "corpora", "options", "runs"]))
@click.argument("name", required=False, metavar="[RECIPE|DIR]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Of RECIPE, as for fit.")
@TRUST
def list_(kind: str, name: str | None, assignments: tuple[str, ...], trust: bool) -> None:
    """List recipes, guides, objectives, corpora, or the options that --set changes, with a line each; or runs.

    Options come with type, default and meaning; with RECIPE those that it has, and their values in it. Runs are those
    in DIR (default: runs) and below it, with recipe, guide, bounds and state; none of their code is run.
    """
    if kind == "options":
        list_options(name, assignments, trust=trust)
        return
    if assignments or (name is not None and kind != "runs"):
        raise click.UsageError(f"only 'list options' takes a recipe; leave out {name or '--set'}")
    if kind == "runs":
        list_runs(name)
        return
    {"recipes": list_recipes, "guides": list_guides, "objectives": list_objectives, "corpora": list_corpora}[kind]()


def show_tables(kind: str, tables: Sequence[Table], *remarks: str) -> None:
    """Print tables and remarks; as JSON one list of rows, each with the title that it stands under."""

    def values() -> dict[str, Any]:
        named = [
            {**dict(zip(header, row, strict=True)), **({"of": title.rstrip(":")} if title else {})}
            for header, rows, title in tables
            for row in rows
        ]
        return {kind: named}

    def show() -> None:
        for header, rows, title in tables:
            print_table(header, rows, title)
        if not voice().quiet:
            for remark in remarks:
                click.echo(remark)

    result(values, show)


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
    tables = []
    for title, keys in all_keys_of(config, code):
        rows = [(k.name, k.kind, k.default, *([] if config is None else [k.value]), k.meaning) for k in keys]
        tables.append((header, rows, f"{title}:"))
    show_tables("options", tables)


def list_recipes() -> None:
    """Name and description of every recipe."""
    from ..recipes import recipe_names
    from ..recipes.config import load_config

    rows = [(name, load_config(name).description) for name in recipe_names()]
    show_tables("recipes", [(["recipe", "what it trains"], rows, "")])


def list_guides() -> None:
    """Name and density of every guide, by model family."""
    from ..recipes.build import families_guides, guide_registry
    from ..recipes.code import model_registry

    tables = []
    for family in model_registry().names():
        registry = guide_registry(family)
        rows = [(name, summary(registry.load(name))) for name in families_guides(family)]
        tables.append((["guide", "density"], rows, f"for {family}:"))
    own = "Your own: --guide FILE.py:CLASS (start from the base class in guides/<family>.py)."
    show_tables("guides", tables, own)


def list_objectives() -> None:
    """Name and meaning of every objective."""
    from ..objectives import OBJECTIVES

    show_tables("objectives", [(["objective", "what it is"], list(OBJECTIVES.items()), "")])


def list_corpora() -> None:
    """Name and content of every built-in corpus, and of those that recipes are named after and a user brings."""
    from ..data.catalogue import CORPORA, ELSEWHERE

    rows = [[name, found.description] for name, found in CORPORA.items()]
    others = [[name, what, files] for name, (what, files) in ELSEWHERE.items()]
    show_tables(
        "corpora",
        [
            (["corpus", "what it is"], rows, ""),
            (["corpus", "what it is", "files"], others, "to be brought, --data DIR, for the recipes named after them:"),
        ],
        "Your own: --data FILE or DIR (word<TAB>count lines, text or tables whose words are counted); with",
        "data.unit=sentences text, csv, JSON or parquet with sentences, or hub:NAME.",
    )


def summary(thing: object) -> str:
    """First line of a docstring; for guides this is the density."""
    return (thing.__doc__ or "(no docstring)").strip().splitlines()[0]
