"""The tree of a recipe, before it is checked: YAML files, what they extend, ``--set``, presets, absolute paths.

::

    extends: [ptb, fbp]        # names of recipes, or of the parts in ppl_text/recipes/parts/
    without: [model.tied]      # options of what stands before it that it does not have
    with: {fbp: {training: …}} # in the part of a corpus: what is otherwise in its recipe of that procedure
    description: …

A recipe ``CORPUS-PROCEDURE`` needs no file: it extends the two parts, with what the corpus has for the procedure.

Later names win over earlier ones and the recipe's own values over all. Sections (``model``, ``training``, …) are merged
key by key; any other value, a schedule or a list too, is replaced as a whole.

Presets: what a paper printed beside what is right, value by value and with the reason. ``--set preset=paper`` trains a
recipe as its paper has it, errors included; ``corrected`` is the default. A preset is applied before all other
``--set``, so that single values can be put back. Each model class names its own, as ``presets``; recipes are
``corrected`` as they stand, and some set a key otherwise for a reason.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from ..core.errors import ConfigError, UnknownNameError
from ..core.printing import shortened
from ..core.protocols import Choice
from ..core.reading import read_regular
from ..data.catalogue import CORPORA
from . import Composition, compositions, is_named, part_names, recipe_names, recipe_text
from .code import KEYS, absolute
from .plain_yaml import LONGEST, parse_yaml

EXTENDS, WITHOUT, WITH = "extends", "without", "with"

PRESETS = ("corrected", "paper")
"""Names that ``preset`` takes."""

Read = Callable[[str], Mapping[str, Any]]
"""The tree of a recipe, or of a part of one, by name, as it is written."""


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs of ``--set``: dotted keys, YAML values."""
    changes: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"--set {shortened(text)}: expected KEY=VALUE, for example --set training.steps=500")
        changes[key.strip()] = parse_yaml(value, f"--set {shortened(text)}")
    return changes


def source_of(recipe: str) -> str:
    """Return the recipe's name for error messages."""
    return f"recipe '{recipe}'"


def read_recipe(recipe: str) -> dict[str, Any]:
    """Read a recipe by name or from a ``.yaml`` file, merge what it extends, and put its name under ``recipe``."""
    if not is_recipe_file(recipe):
        if recipe not in recipe_names():
            raise UnknownNameError("recipe", recipe, recipe_names(), "A recipe file (.yaml) is accepted too.")
        return extended({"recipe": recipe, **_named(recipe)}, source_of(recipe), _named)
    path = Path(os.path.expanduser(recipe))  # pathlib raises for an unknown user
    try:
        text = read_regular(path, LONGEST).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe file '{path}' is not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        names = ", ".join(recipe_names())
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise ConfigError(f"recipe file '{path}' {reason}; give a file or one of {names}") from error
    tree = parse_yaml(text, source_of(recipe))
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{source_of(recipe)} must be a mapping with model, guide, objective, data and training; "
            "the config.yaml of a run is an example"
        )
    return extended({"recipe": path.stem, **tree}, source_of(recipe), _named)


def is_recipe_file(recipe: str) -> bool:
    """Tell a path of a recipe file from a recipe's name."""
    return recipe.endswith((".yaml", ".yml"))


def _named(name: str) -> Mapping[str, Any]:
    """Read a recipe that comes with the package, or a part of one, as it is written."""
    if not is_named(name):
        raise UnknownNameError("recipe", name, [*recipe_names(), *part_names()])
    if name in compositions():
        return _composed(compositions()[name])
    return copy.deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> Mapping[str, Any]:
    """Parse the file of a recipe or a part; a hundred recipes share two dozen of them."""
    tree: Mapping[str, Any] = parse_yaml(recipe_text(name), source_of(name))
    return tree


def _composed(parts: Composition) -> Mapping[str, Any]:
    """Put a recipe together from the parts for a corpus and for a procedure."""
    corpus, procedure = (f"{parts.folder}/{name}" for name in (parts.corpus, parts.procedure))
    whole = extended(_named(corpus), source_of(corpus), _named, (corpus,))
    said = ": ".join(str(_named(part)["description"]) for part in (corpus, procedure))
    return {EXTENDS: [corpus, procedure], "description": said, **whole.get(WITH, {}).get(parts.procedure, {})}


def extended(tree: Mapping[str, Any], source: str, read: Read, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Merge a tree with what it extends.

    Args:
        tree: the recipe as it is written.
        source: its name for error messages.
        read: reads what it extends.
        above: the names on the way to it, so that a circle is found.

    Raises:
        ConfigError: it cannot be extended.
    """
    own = {key: value for key, value in tree.items() if key != EXTENDS}
    names = _names(tree, EXTENDS, source, "the name of a recipe")
    if WITHOUT in own:
        own[WITHOUT] = _names(tree, WITHOUT, source, "the name of an option, e.g. model.tied,")
    merged: dict[str, Any] = {}
    for name in names:
        if name in above:
            raise ConfigError(f"{source}: 'extends' goes in a circle: {' -> '.join([*above, name])}")
        merged = _over(merged, extended(read(name), source_of(name), read, (*above, name)))
    merged = _over(merged, own)
    return merged if above else {key: value for key, value in merged.items() if key not in (WITHOUT, WITH)}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees, section by section."""
    merged = dict(below)
    for dotted in above.get(WITHOUT, ()):
        section, _, option = dotted.partition(".")
        if isinstance(merged.get(section), Mapping):
            merged[section] = {key: value for key, value in merged[section].items() if key != option}
    for key, value in above.items():
        under = merged.get(key)
        if not (isinstance(under, Mapping) and isinstance(value, Mapping)):
            merged[key] = value
        elif key == WITH:
            merged[key] = {name: _over(under.get(name, {}), value.get(name, {})) for name in {**under, **value}}
        else:
            merged[key] = {**under, **value}
    return merged


def _names(tree: Mapping[str, Any], key: str, source: str, what: str) -> list[str]:
    """Return the names under a key that is no section: of one alone, or of a list."""
    found = tree.get(key, [])
    names = [found] if isinstance(found, str) else found
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ConfigError(f"{source}: '{key}' must be {what} or a list of names; got {found!r}")
    return names


def assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one dotted key of a tree, making the sections that it lacks."""
    *path, last = dotted.split(".")
    for part in path:
        child = tree.get(part)
        if not isinstance(child, dict | NoneType):
            raise ConfigError(f"--set {dotted}: '{part}' is a value ({child!r}), it has no keys of its own")
        tree[part] = child = dict(child or {})
        tree = child
    tree[last] = value


def sized(tree: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Return a tree with the sizes for so many training tokens: the values of the last row that they reach.

    Example::

        >>> rows = [{"tokens": 10, "set": {"model.width": 2}}, {"tokens": 100, "set": {"model.width": 4}}]
        >>> [sized({"model": {"width": 1}, "sizes": rows}, n)["model"]["width"] for n in (9, 10, 100)]
        [1, 2, 4]
    """
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    reached = [row for row in found.pop("sizes", ()) if row["tokens"] <= tokens]
    for dotted, value in (max(reached, key=lambda row: row["tokens"])["set"] if reached else {}).items():
        assign(found, dotted, value)
    return found


def preset_values(presets: Sequence[Choice], name: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key to value of what a change of a configuration's preset to ``name`` sets.

    ``paper`` sets every key that the model's ``presets`` train. Back to ``corrected`` only those are set that still
    have the paper's value: what a user put there stays. Nothing where the tree has that preset already. Raises
    :class:`UnknownNameError`.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", str(name), PRESETS)
    choices = [choice for choice in presets if choice.trained]
    if name == tree.get("preset", PRESETS[0]):
        return {}
    if name == "paper":
        return {choice.key: choice.paper for choice in choices}
    return {choice.key: choice.corrected for choice in choices if value_at(tree, choice.key) == choice.paper}


def value_at(tree: Any, dotted: str) -> Any:
    """Return the value of a dotted key; None where there is none."""
    for part in dotted.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def described(choices: Sequence[Choice]) -> list[tuple[str, str, str, str]]:
    """Return key, the paper's value, ours, and why, as text for ``explain``."""
    return [(c.key, str(c.paper), str(c.corrected), c.why) for c in choices]


def with_absolute_paths(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a tree whose files are named by their absolute paths, so that a run finds them from any folder.

    Names of corpora, pretrained models, models, guides and objectives stay as they are.
    """
    places: dict[str, Callable[[str], str]] = {
        "data.corpus": corpus_reference,
        "data.extra": _absolute_file,
        "data.pretrained": path_or_name,
        "model.backbone": path_or_name,
        **dict.fromkeys(KEYS, absolute),
    }
    for dotted, replaced in places.items():
        section, _, key = dotted.rpartition(".")
        part = tree.get(section) if section else tree
        if isinstance(part, dict) and isinstance(part.get(key), str):
            part = {**part, key: replaced(part[key])}
            tree = {**tree, section: part} if section else part
    training = tree.get("training")
    if isinstance(training, dict) and isinstance(training.get("stages"), list):
        stages = [with_absolute_paths(stage) if isinstance(stage, dict) else stage for stage in training["stages"]]
        tree = {**tree, "training": {**training, "stages": stages}}
    return tree


def _absolute_file(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def path_or_name(name: str) -> str:
    """Return the absolute path of a file or folder; what does not exist is a name, and stays as it is."""
    # os.path, because pathlib raises for a user that does not exist and for names that are too long.
    path = os.path.abspath(os.path.expanduser(name))
    return path if name.startswith("~") or (name and os.path.exists(path)) else name


def corpus_reference(name: str) -> str:
    """Return a corpus's name, or the absolute path of a file or folder; what does not exist stays as it is."""
    return name if name in CORPORA else path_or_name(name)
