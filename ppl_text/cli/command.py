"""What every command has: ``-q``, ``-v`` and ``--json``, and how much is said by which of them.

A command prints its result on stdout, by :func:`~ppl_text.cli.output.result`; all else is said on stderr, by what
stands in :mod:`ppl_text.cli.output`, which asks :func:`voice` whether anybody wants to hear it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from ..core.printing import Pause, printable
from ..core.watching import heard_by
from .completers import COMPLETERS

_PLACE = "ppl_text.cli.voice"


class Voice(NamedTuple):
    """How much a command says beside its result, and in which form it prints that."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False


def voice() -> Voice:
    """Return how the command that runs is to speak."""
    context = click.get_current_context(silent=True)
    return Voice() if context is None else context.meta.get(_PLACE, Voice())


def _choose(context: click.Context, option: click.Parameter, chosen: bool) -> bool:
    if chosen and not context.resilient_parsing:
        now = context.meta.get(_PLACE, Voice())._replace(**{str(option.name): True})
        if now.quiet and now.verbose:
            raise click.UsageError("-q says less and -v says more; give one of them", context)
        context.meta[_PLACE] = now
    return chosen


def _flag(*names: str, meaning: str) -> click.Option:
    return click.Option(names, is_flag=True, expose_value=False, callback=_choose, help=meaning)


class Command(click.Command):
    """A command with the three options, which it need not know of, and with completion of arguments by their names."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params += [
            _flag("-q", "--quiet", meaning="Only the result: no progress, no notes, no advice."),
            _flag("-v", "--verbose", meaning="Also what is decided, and why (on stderr)."),
            _flag("--json", meaning="Print the result as one JSON object; all else goes to stderr."),
        ]
        for parameter in self.params:
            if parameter.name in COMPLETERS:
                parameter.shell_complete = COMPLETERS[parameter.name]  # type: ignore[assignment, method-assign]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; how far it is with what takes long before it trains or measures is said in lines."""
        due = Pause()

        def show(what: str, done: int, total: int) -> None:
            if not voice().quiet and due():
                click.echo(printable(f"{what} … {done:,}/{total:,}" if total else f"{what} …"), err=True)

        with heard_by(show):
            return super().invoke(ctx)
