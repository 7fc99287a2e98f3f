"""L4: what to build and how to train it. One YAML file per recipe, typed by ``config``, built by ``build``."""

from __future__ import annotations

from importlib.resources import files


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = files(__name__)
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """YAML text of a recipe; the name must be one of :func:`recipe_names`."""
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
