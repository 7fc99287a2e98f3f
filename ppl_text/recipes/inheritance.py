"""``extends``: a recipe that is others with a few values changed.

::

    extends: [ptb, fbp]        # names of recipes, or of the parts in ppl_text/recipes/parts/
    description: …

Later names win over earlier ones and the recipe's own values over all. Sections (``model``, ``training``, …) are merged
key by key; any other value, a schedule or a list too, is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import ConfigError

KEY = "extends"

Read = Callable[[str], Mapping[str, Any]]
"""The tree of a recipe, or of a part of one, by name, as it is written."""


def extended(tree: Mapping[str, Any], source: str, read: Read, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A tree with what it extends beneath it; raises :class:`ConfigError` for what cannot be extended.

    ``source`` is what messages call the tree; ``above`` the names on the way to it.
    """
    own = {key: value for key, value in tree.items() if key != KEY}
    names = tree.get(KEY, [])
    names = [names] if isinstance(names, str) else names
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ConfigError(f"{source}: 'extends' must be the name of a recipe or a list of names; got {names!r}")
    merged: dict[str, Any] = {}
    for name in names:
        if name in above:
            raise ConfigError(f"{source}: 'extends' goes in a circle: {' -> '.join([*above, name])}")
        merged = _over(merged, extended(read(name), f"recipe '{name}'", read, (*above, name)))
    return _over(merged, own)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees as one, sections merged."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = {**under, **value} if both else value  # type: ignore[dict-item]
    return merged
