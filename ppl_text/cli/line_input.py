"""How a session asks for a line: with history and completion on a terminal, and from a pipe."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click


def split(line: str) -> list[str]:
    """Words of a line; quotes hold together what has spaces in it."""
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is not closed
        return line.split()


def reader(words: Sequence[str]) -> Callable[[str], str]:
    """What asks for a line: with history and completion on a terminal; from a pipe, what was read is shown."""
    getattr(sys.stdin, "reconfigure", lambda **_: None)(errors="replace")
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # no readline: a plain line will do
            complete_with(importlib.import_module("readline"), words)
        return input

    def read(prompt: str) -> str:
        line = input(prompt)
        click.echo(line)
        return line

    return read


def complete_with(readline: Any, words: Sequence[str]) -> None:
    """Let the tabulator complete commands and guides."""

    def complete(text: str, state: int) -> str | None:
        fitting = [word for word in words if word.startswith(text)]
        return fitting[state] if state < len(fitting) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
