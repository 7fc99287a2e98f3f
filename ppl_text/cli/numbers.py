"""Options that are numbers take the digits 0 to 9 and no others."""

from __future__ import annotations

import copy
from typing import Any

import click

from ..core.numbers import is_real


class _Plain(click.ParamType):
    """A type of click that refuses digits of other scripts, before another one reads the text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        if isinstance(value, str) and not is_real(value):
            self.fail(f"{value!r} is not a number; write it with the digits 0 to 9.", param, ctx)
        return super().convert(value, param, ctx)


def with_plain_numbers(command: click.Command) -> click.Command:
    """Let all options of a command that are numbers refuse digits of other scripts; return the command."""
    for param in command.params:
        if isinstance(param.type, click.types.IntParamType | click.types.FloatParamType):
            kind = type(param.type)
            own = copy.copy(param.type)
            own.__class__ = type(kind.__name__, (_Plain, kind), {})
            param.type = own
    return command
