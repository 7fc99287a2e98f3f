"""L4: what to build and how to train it. YAML files, typed by ``config``, built by ``build``.

A file in this folder is a recipe. ``parts/`` holds what recipes are put together from: each part with a description
that is called ``on-CORPUS`` makes a recipe ``CORPUS-PROCEDURE`` with each other part that has one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

REFIT_STEPS = 2000
"""Updates of a refit that names no number."""

_SUFFIX, _CORPUS, _DESCRIBED = ".yaml", "on-", "\ndescription:"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted([*_names(files(__name__)), *compositions()])


def part_names() -> list[str]:
    """Names of the parts that recipes are put together from."""
    return _names(files(__name__) / "parts")


@cache
def compositions() -> dict[str, tuple[str, str]]:
    """Return the recipes without a file of their own, by name: the parts for corpus and procedure."""
    described = [name for name in part_names() if _DESCRIBED in f"\n{recipe_text(name)}"]
    corpora = [name for name in described if name.startswith(_CORPUS)]
    procedures = [name for name in described if name not in corpora]
    found = {f"{corpus.removeprefix(_CORPUS)}-{name}": (corpus, name) for corpus in corpora for name in procedures}
    return {name: parts for name, parts in found.items() if name not in _names(files(__name__))}


def recipe_text(name: str) -> str:
    """YAML text of a recipe or a part that has a file."""
    folder = files(__name__)
    return ((folder if name in _names(folder) else folder / "parts") / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def _names(folder: Traversable) -> list[str]:
    return sorted(entry.name.removesuffix(_SUFFIX) for entry in folder.iterdir() if entry.name.endswith(_SUFFIX))
