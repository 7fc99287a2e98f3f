"""What may be said of one refit behind a guide's name: a number of steps, and ``KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.errors import UserError
from ..core.numbers import is_whole
from ..recipes.procedures import Procedure
from ..recipes.tree import parse_assignments

OWN = ("objective", "seed", "freeze", "steps")
"""Keys that are no keys of a configuration."""


def parse_refit(words: Sequence[str]) -> tuple[int | None, dict[str, Any]]:
    """Return steps, if they are given, and the options of :meth:`ppl_text.run.Run.swap_guide`.

    A key without a section is one of ``training`` where that has it, and of the guide otherwise.

    Example::

        >>> parse_refit(["200", "objective=iwae:8", "lr=0.001", "gru_dim=8"])
        (200, {'objective': 'iwae:8', 'set': {'training.lr': 0.001, 'guide.gru_dim': 8}})
    """
    plain = [word for word in words if "=" not in word]
    if len(plain) > 1:
        raise UserError(
            f"after a guide come at most its number of steps, and KEY=VALUE without spaces; got {' '.join(plain)!r}"
        )
    assigned = [word for word in words if "=" in word]
    for word in assigned:
        if not all(part.strip() for part in word.partition("=")[0].split(".")):
            raise UserError(f"expected KEY=VALUE, for example lr=0.001; got {word!r}")
    given = parse_assignments(assigned)
    steps = [*map(number, plain), *([number(given.pop("steps"))] if "steps" in given else [])]
    if len(steps) > 1:
        raise UserError(f"the number of steps is given twice: {steps[0]} and {steps[1]}; give one")
    own = {key: given.pop(key) for key in OWN if key in given}
    if "objective" in own and not isinstance(own["objective"], str):
        raise UserError(f"objective={own['objective']}: expected a name, such as iwae:8; 'list objectives' has them")
    if "seed" in own and (isinstance(own["seed"], bool) or not isinstance(own["seed"], int) or own["seed"] < 0):
        raise UserError(f"seed={own['seed']}: expected a whole number of 0 or more")
    sections = {in_section(key): value for key, value in given.items()}
    return (steps[0] if steps else None), {**own, **({"set": sections} if sections else {})}


def number(text: Any) -> int:
    """A number of steps: a whole number above 0."""
    if not is_whole(str(text)) or int(text) < 1:
        raise UserError(f"the number of steps must be a whole number of 1 or more; got {str(text)!r}")
    return int(text)


def in_section(key: str) -> str:
    """The key with its section in front."""
    if "." in key:
        return key
    return f"training.{key}" if key in Procedure.model_fields else f"guide.{key}"
