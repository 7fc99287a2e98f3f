"""Faults of a configuration: in our words, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from ..core.errors import ConfigError, UserError, nearest

T = TypeVar("T")

_WORDS = {
    "model_type": "expected a section with keys of its own",
    "string_pattern_mismatch": "expected a name that a folder can have",
}
"""By pydantic's type of error, where its own words would not help."""


class RecipeError(ConfigError):
    """A configuration with faults; ``faults`` has one line for each."""

    def __init__(self, faults: Sequence[str], source: str = "the configuration") -> None:
        self.faults = list(faults)
        lines = "".join(f"\n- {fault}" for fault in self.faults)
        super().__init__(f"{source}: {self.faults[0]}" if len(self.faults) == 1 else f"{source} has faults:{lines}")


class Faults:
    """Collects users' mistakes from several checks, to tell all of them at once."""

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    def attempt(self, check: Callable[..., T], *arguments: Any) -> T | None:
        """What ``check`` returns, or None where it raises a :class:`UserError`, which is kept."""
        try:
            return check(*arguments)
        except UserError as error:
            self._errors.append(error)
            return None

    def raise_any(self, source: str) -> None:
        """Raise what was collected: a lone error of another kind as it is, all else as one :class:`RecipeError`.

        What several checks have found is told once.
        """
        lines = list(dict.fromkeys(line for error in self._errors for line in _lines(error)))
        if len(lines) == 1 and not isinstance(self._errors[0], RecipeError):
            raise self._errors[0]
        if lines:
            raise RecipeError(lines, source)


def _lines(error: UserError) -> list[str]:
    return error.faults if isinstance(error, RecipeError) else [str(error).replace("\n", "\n  ")]


def faults_of(error: ValidationError, known: Callable[[list[str]], Iterable[str]], keys: Iterable[str]) -> list[str]:
    """Pydantic's errors in our words: dotted key, what was expected, what came, the nearest right key.

    ``known(path)`` are the keys that exist at a place; ``keys`` are all dotted ones, for a key without its section.
    """
    return list(dict.fromkeys(_fault(fault, known, list(keys)) for fault in error.errors()))


def _fault(fault: Mapping[str, Any], known: Callable[[list[str]], Iterable[str]], keys: list[str]) -> str:
    path = [str(part) for part in fault["loc"]]
    key = ".".join(path)
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        names = list(known(path[:-1]))
        meant = next((f" (did you mean '{k}'?)" for k in keys if k.endswith(f".{key}")), nearest(path[-1], names))
        return f"unknown key '{key}'{meant}; known here: {', '.join(names) or 'none'}"
    if fault["type"] == "missing":
        return f"'{key}' is missing"
    return f"'{key}': {in_words(fault)}"


def in_words(fault: Mapping[str, Any]) -> str:
    """What was expected and what came, of one of pydantic's errors."""
    if fault["type"] == "value_error":
        return str(fault["msg"]).removeprefix("Value error, ")
    expected = _WORDS.get(fault["type"]) or fault["msg"].replace("Input should be", "expected", 1).split(", unable")[0]
    return f"{expected}; got {fault.get('input')!r}"
