"""YAML as recipes are written in it: plain values, of a size, a depth and a number of aliases that no recipe reaches.

What stands in a recipe, in the ``config.yaml`` of a run and in ``--set`` may come from a stranger: a text of 1 kB whose
aliases stand for each other can mean a thousand million values.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from ..core.errors import ConfigError
from ..core.printing import shortened

LONGEST = 100_000
"""Most characters of a text; the longest recipe of ours has a seventh of them."""

DEEPEST = 30
"""Most lists and mappings around a value."""

ALIASES = 50
"""Most aliases of a text."""

VALUES = 20_000
"""Most values of a text where each alias is replaced by what it stands for."""

_TAG = "tag:yaml.org,2002:"

_PLAIN = tuple(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


class _Loader(yaml.SafeLoader):
    """YAML with the floats of version 1.2: PyYAML, which knows 1.1, takes ``1e-3`` for a text. A date is a text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._aliases = 0
        self._values: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, unless it is one too many, lies too deep, or is no plain value."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._aliases += is_alias
        if self._aliases > ALIASES:
            raise ComposerError(None, None, f"more than {ALIASES} aliases; write out what they stand for", mark)
        if self._depth >= DEEPEST:
            raise ComposerError(None, None, f"lists or mappings are nested deeper than {DEEPEST}", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._values:
            raise ComposerError(None, None, "an alias stands within what it stands for", mark)
        self._values[id(node)] = 1 + sum(self._values[id(part)] for part in _parts(node))
        if self._values[id(node)] > VALUES:
            raise ComposerError(None, None, f"more than {VALUES:,} values, aliases written out", mark)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return a node's value; whatever its tag refuses is an error in YAML's own words."""
        name = str(node.tag).replace(_TAG, "!!")
        if node.tag not in _PLAIN:
            raise ConstructorError(None, None, f"{name} is no tag of a plain value; leave it out", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (LookupError, AttributeError, ValueError, TypeError) as error:
            problem = f"{shortened(str(node.value))} is no {name}"
            raise ConstructorError(None, None, problem, node.start_mark) from error


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag in _PLAIN]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _parts(node: Any) -> list[Any]:
    """Return the nodes that a list or a mapping is made of, keys too."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def parse_yaml(text: str, source: str) -> Any:
    """Return the plain values of a YAML text; raises :class:`ConfigError` that says where it is malformed.

    Example::

        >>> parse_yaml("{lr: 1e-3, hidden: [8, 8]}", "--set")
        {'lr': 0.001, 'hidden': [8, 8]}
    """
    if len(text) > LONGEST:
        raise ConfigError(f"{source} has {len(text):,} characters of YAML; expected {LONGEST:,} at most")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        place = f", line {where.line + 1}, column {where.column + 1}" if where else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{source}{place} is not valid YAML: {reason}") from error
