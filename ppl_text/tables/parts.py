"""Tables that print the same rows for several corpora: one YAML file, of which one part is filled at a time.

The file's ``parts`` name the corpora. ``{part}`` in a text stands for the part's name, and a mapping whose keys are
all ``in PART`` or ``else`` for the value of the part that is filled::

    recipe: "{part}-vae"
    published: {in ptb: {rec: 101.27}, in snli: {rec: 33.08}, else: {}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import ConfigError, UnknownNameError, UserError

_IN, _ELSE = "in ", "else"


class Chosen(NamedTuple):
    """Which part of a table to fill (None: it has none), and on what data (None: the part's own)."""

    part: str | None
    data: str | None


def choose_part(table: str, parts: Mapping[str, Any], data: str | None) -> Chosen:
    """What ``--data [PART=]PATH`` means for a table; its first part where nothing is given.

    Without ``PART=`` the last name of the path tells, or the data are the name of a part that has its own corpus.
    Raises :class:`UserError` where neither does, and where a part needs data that were not given.
    """
    if not parts:
        return Chosen(None, data)
    if data is None:
        return Chosen(next(iter(parts)), None)
    name, equals, path = data.partition("=")
    if not equals:
        name, path = (data, "") if data in parts else (Path(data).name, data)
    if name not in parts:
        raise UserError(
            f"--data {data}: table {table} is printed for {', '.join(parts)}; say which of them that is, "
            f"e.g. --data {list(parts)[-1]}={path or data}"
        )
    return Chosen(name, path or None)


def of_part(tree: Any, part: str, parts: Sequence[str]) -> Any:
    """A tree with every choice made and every ``{part}`` replaced; raises :class:`ConfigError` for an unknown part."""
    if isinstance(tree, str):
        return tree.replace("{part}", part)
    if isinstance(tree, list):
        return [of_part(item, part, parts) for item in tree]
    if not isinstance(tree, Mapping):
        return tree
    if tree and all(isinstance(key, str) and (key == _ELSE or key.startswith(_IN)) for key in tree):
        unknown = [key for key in tree if key != _ELSE and key.removeprefix(_IN) not in parts]
        if unknown:
            raise ConfigError(f"'{unknown[0]}' is no part of the table; its parts: {', '.join(parts)}")
        return of_part(tree.get(f"{_IN}{part}", tree.get(_ELSE)), part, parts)
    return {key: of_part(value, part, parts) for key, value in tree.items()}


def check_part(table: str, part: str | None, parts: Mapping[str, Any]) -> str | None:
    """The part to fill, its first where none is named; raises :class:`UnknownNameError`."""
    if part is None:
        return next(iter(parts), None)
    if part not in parts:
        raise UnknownNameError(f"part of table {table}", part, parts)
    return part
