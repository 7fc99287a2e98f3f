"""What every command has: ``-q``, ``-v`` and ``--json``, and how much is said by which of them.

A command prints its result on stdout, by :func:`~ppl_text.cli.output.result`; all else is said on stderr, by what
stands in :mod:`ppl_text.cli.output`, which asks :func:`voice` whether anybody wants to hear it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from ..core.errors import UserError
from ..core.printing import Pause, printable
from ..core.processes import own_place
from ..core.watching import heard_by
from .completers import COMPLETERS

_PLACE, _WORDS = "ppl_text.cli.voice", "ppl_text.cli.words"


class Voice(NamedTuple):
    """How much a command says beside its result, and in which form it prints that."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False


def voice() -> Voice:
    """Return how the command that runs is to speak."""
    context = click.get_current_context(silent=True)
    return Voice() if context is None else context.meta.get(_PLACE, Voice())


def own_words() -> list[str]:
    """Return the words behind ``python -m ppl_text`` by which the command that runs was called."""
    context = click.get_current_context()
    return [str(context.command.name), *context.meta[_WORDS]]


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
    """A command with the three options, which it need not know of, and with completion of arguments by their names.

    ``together``: several processes may run it as one.
    """

    def __init__(self, *arguments: Any, together: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._together = together
        self.params += [
            _flag("-q", "--quiet", meaning="Only the result: no progress, no notes, no advice."),
            _flag("-v", "--verbose", meaning="Also what is decided, and why (on stderr)."),
            _flag("--json", meaning="Print the result as one JSON object; all else goes to stderr."),
        ]
        for parameter in self.params:
            if parameter.name in COMPLETERS:
                parameter.shell_complete = COMPLETERS[parameter.name]  # type: ignore[assignment, method-assign]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words behind the command's name, for processes that are to run the same."""
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; how far it is with what takes long before it trains or measures is said in lines.

        Raises :class:`UserError` in one of several processes, where it is for one alone.
        """
        place, due = own_place(), Pause()
        if place.size > 1 and not self._together:
            raise UserError(
                f"{self.name} runs in one process, and {place.size} have been started; start it without torchrun "
                "(fit alone trains in several)"
            )

        def show(what: str, done: int, total: int) -> None:
            if place.is_first_here and not voice().quiet and due():
                click.echo(printable(f"{what} … {done:,}/{total:,}" if total else f"{what} …"), err=True)

        with heard_by(show):
            return super().invoke(ctx)
