"""What a shell is offered for an argument: names, and the folders of runs. Nothing heavy is imported here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Items = list[CompletionItem]
Completer = Callable[[click.Context, str], Items]

DEEPEST = 4
"""Folders below the typed one that are looked into for runs."""

NOT_WITHIN = {"checkpoints", "figures", "code"}
"""Folders of a run that hold no other runs."""


def recipes(_context: click.Context, typed: str) -> Items:
    """Names of recipes; files where something with a dot or a slash is typed."""
    from ..recipes import recipe_names

    return names(recipe_names(), typed)


def models(_context: click.Context, typed: str) -> Items:
    """Names of model families."""
    from ..models import MODELS

    return names(MODELS, typed)


def guides(context: click.Context, typed: str) -> Items:
    """Names of guides: those of the model that is named, of the run or of the recipe; of all where none is."""
    from guides import GUIDES

    family = family_of(context)
    tables = [GUIDES[family]] if family in GUIDES else list(GUIDES.values())
    return names(dict.fromkeys(name for table in tables for name in table), typed)


def objectives(_context: click.Context, typed: str) -> Items:
    """Names of objectives, each with what it is."""
    from ..objectives import OBJECTIVES

    return names(OBJECTIVES, typed) if typed else [CompletionItem(k, help=v) for k, v in OBJECTIVES.items()]


def corpora(context: click.Context, typed: str) -> Items:
    """Names of built-in corpora, where one can be trained on; files where none begins so."""
    from ..data.catalogue import CORPORA

    return names(CORPORA if context.info_name in ("fit", "explain") else (), typed)


def tables(_context: click.Context, typed: str) -> Items:
    """Names of published tables."""
    from ..tables import table_names

    return names(table_names(), typed)


def listed(context: click.Context, typed: str) -> Items:
    """What ``list`` takes behind its kind: a recipe for options, a folder for runs."""
    if context.params.get("kind") == "runs":
        return [CompletionItem(typed, type="dir")]
    return recipes(context, typed) if context.params.get("kind") == "options" else []


def runs(_context: click.Context, typed: str) -> Items:
    """Folders of runs that begin as typed, at first those in ``runs``; folders where there is none."""
    found = [CompletionItem(folder) for folder in sorted(_runs_from(typed))]
    return found or [CompletionItem(typed, type="dir")]


def several(one: Completer) -> Completer:
    """Complete the last of names with commas between them."""

    def complete(context: click.Context, typed: str) -> Items:
        before, comma, last = typed.rpartition(",")
        found = one(context, last)
        return [
            CompletionItem(f"{before}{comma}{item.value}", help=item.help) for item in found if item.type == "plain"
        ]

    return complete


def names(known: Iterable[str], typed: str) -> Items:
    """Those that begin as typed; files where none does."""
    found = [CompletionItem(name) for name in known if name.startswith(typed)]
    return found or [CompletionItem(typed, type="file")]


def family_of(context: click.Context) -> str | None:
    """Return the model family that the words typed so far name, if it can be known without running any code."""
    given = context.params
    if given.get("model") is not None:
        return str(given["model"])
    # Where the option's own value is missing, click leaves arguments before it among the rest.
    words = [given.get("run"), *(given.get("runs") or ()), given.get("recipe"), *context.args]
    return next((family for word in words if word and (family := _family_in(str(word)))), None)


def _family_in(word: str) -> str | None:
    """Return the model family of a run's folder or of a recipe; None where it is neither, or cannot be read."""
    import yaml

    from ..recipes import recipe_names, recipe_text

    try:
        text = recipe_text(word) if word in recipe_names() else (Path(word) / "config.yaml").read_text(encoding="utf-8")
        return str(yaml.safe_load(text)["model"]["family"])
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None


def _runs_from(typed: str) -> Iterator[str]:
    """Yield the run folders whose paths begin as typed."""
    if not typed:
        yield from (name for name in _folders(".") if _is_run(name))
        yield from _below("runs", DEEPEST)
        return
    place, begun = os.path.split(os.path.expanduser(typed))
    for name in _folders(place or "."):
        if name.startswith(begun):
            yield from _below(os.path.join(place, name), DEEPEST)


def _below(folder: str, deep: int) -> Iterator[str]:
    if _is_run(folder):
        yield folder
    for name in _folders(folder) if deep else ():
        if name not in NOT_WITHIN and not name.startswith("."):
            yield from _below(os.path.join(folder, name), deep - 1)


def _is_run(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "config.yaml"))


def _folders(place: str) -> list[str]:
    """Names of the folders in a folder; none where it cannot be read."""
    try:
        with os.scandir(place) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


COMPLETERS: dict[str | None, Completer] = {
    "recipe": recipes,
    "data": corpora,
    "model": models,
    "guide": guides,
    "guides": several(guides),
    "objective": objectives,
    "objectives": several(objectives),
    "run": runs,
    "runs": runs,
    "resume": runs,
    "table": tables,
    "name": listed,
}
"""By the name of the argument or option."""
