"""Presets: what a paper printed beside what is right, value by value and with the reason.

``--set preset=paper`` trains a recipe as its paper has it, faults included; ``corrected`` is the default. A preset is
applied before all other ``--set``, so that single values can be put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import UnknownNameError


class Choice(NamedTuple):
    """One dotted key of the configuration (or a measure), the paper's value, ours, and why they differ."""

    key: str
    paper: Any
    corrected: Any
    why: str


PRESETS = ("corrected", "paper")
"""Names that ``preset`` takes."""

CHOICES: dict[str, tuple[Choice, ...]] = {
    "deep_state_space": (
        Choice(
            "model.diagonal",
            "clip",
            "softplus+delta",
            "clipping |G_ii| at δ has no gradient inside and a jump at 0; the sign of a column does not change G Gᵀ",
        ),
        Choice(
            "model.masks",
            "paper",
            "halves",
            "Real-NVP with masks 2..7 in one order never transforms the first two coordinates (nvp, tril-nvp only)",
        ),
        Choice(
            "objective",
            "elbo",
            "elbo-analytic",
            "for Gaussian steps the KL given h_{t-1} has a closed form, which spares the noise of one sample (K = 1)",
        ),
    ),
}
"""What a family's presets set. Recipes are ``corrected`` as they stand; some set a key otherwise for a reason."""

TWO_WAYS: dict[str, tuple[Choice, ...]] = {
    "deep_state_space": (
        Choice(
            "cross-entropy",
            "prior Monte Carlo, number of trajectories unstated",
            "importance weighting through the guide",
            "the logarithm of a mean over prior paths is biased, most for rare words; reproduce prints both",
        ),
        Choice(
            "entropy gap",
            "20 draws",
            "1,000 draws",
            "the entropy of a mixture of 20 is at most ln 20 and biased low; reproduce prints both",
        ),
    ),
}
"""What ``reproduce`` measures both ways; not a matter of training, so no preset switches it."""


def preset_values(family: str, name: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key to value of what a change of a configuration's preset to ``name`` sets.

    ``paper`` sets every key of the family. Back to ``corrected`` only those are set that still have the paper's value:
    what a user put there stays. Nothing where the tree has that preset already. Raises :class:`UnknownNameError`.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", str(name), PRESETS)
    choices = CHOICES.get(family, ())
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
    """Key, the paper's value, ours, and why, as text for ``explain``."""
    return [(c.key, str(c.paper), str(c.corrected), c.why) for c in choices]
