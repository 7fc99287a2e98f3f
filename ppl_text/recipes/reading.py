"""YAML of recipes and of ``--set``: plain values only, and numbers as users write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from ..core.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML with the floats of version 1.2: PyYAML, which knows 1.1, takes ``1e-3`` for a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, source: str) -> Any:
    """Plain values of a YAML text; raises :class:`ConfigError` that says in one line where it is malformed.

    Example::

        >>> parse_yaml("{lr: 1e-3, hidden: [8, 8]}", "--set")
        {'lr': 0.001, 'hidden': [8, 8]}
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        place = f", line {where.line + 1}, column {where.column + 1}" if where else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{source}{place} is not valid YAML: {reason}") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs of ``--set``: dotted keys, YAML values."""
    changes: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"--set {text!r}: expected KEY=VALUE, for example --set training.steps=500")
        changes[key.strip()] = parse_yaml(value, f"--set {text!r}")
    return changes
