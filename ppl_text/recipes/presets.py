"""Presets: what a paper printed beside what is right, value by value and with the reason.

``--set preset=paper`` trains a recipe as its paper has it, faults included; ``corrected`` is the default. A preset is
applied before all other ``--set``, so that single values can be put back. Each model class names its own, as
``presets``; recipes are ``corrected`` as they stand, and some set a key otherwise for a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import UnknownNameError
from ..core.protocols import Choice

PRESETS = ("corrected", "paper")
"""Names that ``preset`` takes."""


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
    return {choice.key: choice.corrected for choice in choices if _value(tree, choice.key) == choice.paper}


def _value(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def described(choices: Sequence[Choice]) -> list[tuple[str, str, str, str]]:
    """Return key, the paper's value, ours, and why, as text for ``explain``."""
    return [(c.key, str(c.paper), str(c.corrected), c.why) for c in choices]
