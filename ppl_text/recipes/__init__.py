"""L4: what to build and how to train it. One YAML file per recipe, typed by ``config``, built by ``build``.

``parts/`` holds what several recipes ``extend`` and none is by itself.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

REFIT_STEPS = 2000
"""Updates of a refit that names no number."""

_SUFFIX = ".yaml"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return _names(files(__name__))


def part_names() -> list[str]:
    """Names of the parts that recipes are put together from."""
    return _names(files(__name__) / "parts")


def recipe_text(name: str) -> str:
    """YAML text of a recipe or a part; the name must be one of :func:`recipe_names` or :func:`part_names`."""
    folder = files(__name__)
    return ((folder if name in recipe_names() else folder / "parts") / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def _names(folder: Traversable) -> list[str]:
    return sorted(entry.name.removesuffix(_SUFFIX) for entry in folder.iterdir() if entry.name.endswith(_SUFFIX))
