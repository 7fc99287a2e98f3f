"""What pydantic finds wrong with options, in our words and all at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import ConfigError, nearest

M = TypeVar("M", bound=BaseModel)

WORDS = {
    "model_type": "expected a section with keys of its own",
    "string_pattern_mismatch": "expected a name that a folder can have",
    "string_too_short": "expected a name",
}
"""By pydantic's type of error, where its own words would not help."""


LONGEST = 200
"""Most characters of a value in a message."""


class OptionsError(ConfigError):
    """Options with errors; ``lines`` has one line for each."""

    def __init__(self, lines: Sequence[str], source: str) -> None:
        self.lines = list(lines)
        listed = "".join(f"\n- {line}" for line in self.lines)
        super().__init__(f"{source}:{listed}" if len(self.lines) > 1 else f"{source}: {self.lines[0]}")


def checked(
    model: type[M],
    given: Mapping[str, Any],
    source: str,
    *,
    section: str = "",
    others: Collection[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> M:
    """Return the options that ``given`` makes of a pydantic model without nested sections.

    Args:
        model: refuses unknown keys; the descriptions of its fields end the messages about them.
        given: values by name.
        source: what messages call the options.
        section: the place in a recipe, which messages put before each name.
        others: what else may be given at that place.
        elsewhere: names that are options of something else, with the advice for each.

    Raises:
        OptionsError: all that is wrong with them.
    """
    known, prefix = [*others, *model.model_fields], f"{section}." if section else ""
    lines = []
    for name in given:
        if name not in model.model_fields:
            advice = (elsewhere or {}).get(name, "")
            known_here = f"known here: {', '.join(known)}"
            lines.append(f"unknown key '{prefix}{name}'{nearest(name, known)}; {known_here}{advice and f' ({advice})'}")
    try:
        found = model.model_validate({name: value for name, value in given.items() if name in model.model_fields})
    except ValidationError as error:
        for one in error.errors():
            name = str(one["loc"][0])
            meaning = model.model_fields[name].description
            lines.append(f"'{prefix}{name}': {in_words(one)}" + (f" ({meaning})" if meaning else ""))
    if lines:
        raise OptionsError(lines, source)
    return found


def in_words(found: Mapping[str, Any]) -> str:
    """Say what was expected and what came, for one of pydantic's errors."""
    if found["type"] == "value_error":
        return str(found["msg"]).removeprefix("Value error, ")
    expected = WORDS.get(found["type"]) or found["msg"].replace("Input should be", "expected", 1).split(", unable")[0]
    return f"{expected}; got {_shown(found.get('input'))}"


def _shown(value: object) -> str:
    """Return a value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
