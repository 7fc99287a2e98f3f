"""L4: what to build and how to train it. YAML files, typed by ``config``, built by ``build``.

A file in this folder is a recipe. The folders in ``parts/`` hold what recipes are put together from: in each, every
part with a description that is called ``on-CORPUS`` makes a recipe ``CORPUS-PROCEDURE`` with each other part that has
one. Texts, pairs of texts and Transformers have a folder each, since no procedure is for two of them. A part is named
with its folder, ``texts/on-verses``, where another folder has one of the same name; without it, it is the first one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

REFIT_STEPS = 2000
"""Updates of a refit that names no number."""

_SUFFIX, _PARTS, _CORPUS, _DESCRIBED = ".yaml", "parts", "on-", "\ndescription:"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted([*_names(""), *compositions()])


def part_names() -> list[str]:
    """Names of the parts that recipes are put together from, with their folders."""
    return [f"{kind.rpartition('/')[2]}/{name}" for kind in _kinds() for name in _names(kind)]


def is_named(name: str) -> bool:
    """Return whether there is a recipe or a part of that name, with its folder or without."""
    return name in recipe_names() or any(name in (part, part.rpartition("/")[2]) for part in part_names())


class Composition(NamedTuple):
    """Two parts in one folder that make a recipe: for a corpus, ``on-verses``, and for a procedure, ``anneal``."""

    folder: str
    corpus: str
    procedure: str


@cache
def compositions() -> dict[str, Composition]:
    """Return the recipes without a file of their own, by name: what they are put together from."""
    found: dict[str, Composition] = {}
    for kind in _kinds():
        folder = kind.rpartition("/")[2]
        described = [name for name in _names(kind) if _DESCRIBED in f"\n{recipe_text(f'{folder}/{name}')}"]
        corpora = [name for name in described if name.startswith(_CORPUS)]
        procedures = [name for name in described if name not in corpora]
        found |= {
            f"{corpus.removeprefix(_CORPUS)}-{name}": Composition(folder, corpus, name)
            for corpus in corpora
            for name in procedures
        }
    return {name: parts for name, parts in found.items() if name not in _names("")}


def recipe_text(name: str) -> str:
    """YAML text of a recipe or a part that has a file."""
    folder, _, own = name.rpartition("/")
    inner = f"{_PARTS}/{folder}" if folder else next(inner for inner in ("", *_kinds()) if own in _names(inner))
    return _folder(inner).joinpath(f"{own}{_SUFFIX}").read_text(encoding="utf-8")


@cache
def _kinds() -> tuple[str, ...]:
    """Folders of parts, in this folder."""
    return tuple(sorted(f"{_PARTS}/{entry.name}" for entry in _folder(_PARTS).iterdir() if entry.is_dir()))


@cache
def _names(inner: str) -> tuple[str, ...]:
    """Names of the YAML files of this folder, or of one in it."""
    found = (entry.name for entry in _folder(inner).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def _folder(inner: str) -> Traversable:
    return files(__name__) / inner if inner else files(__name__)
