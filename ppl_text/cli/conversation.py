"""The dialogue of an interactive session of ``swap``: reads a line, does what it says, prints what came of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from ..comparing.exchange import label
from ..core.errors import Interrupted, PplTextError, UnknownNameError, UserError
from ..core.limits import MOST_TEXTS, check_most, out_of_memory
from ..core.numbers import is_whole
from ..core.printing import printable, quoted_path
from ..core.signals import number_of
from ..recipes import folders, swap
from ..run import Run
from .line_input import reader, split
from .output import command_progress, print_table
from .refit_options import parse_refit
from .session import Session

HELP = {
    "[fit] GUIDE [STEPS] [KEY=VALUE …]": "put that guide in and refit it",
    "list": "guides that fit this model, with their densities",
    "table": "all guides tried in this session",
    "undo": "go back to the guide before",
    "save [DIR]": "keep the current child, in DIR if one is given",
    "generate [N]": "N samples, and N test texts with their reconstructions",
    "compare [OBJECTIVE …]": "compare the run and the guides tried, estimator by estimator",
    "help [COMMAND]": "this list, or more on one of them; ? is the same",
    "quit": "leave (so do exit and Ctrl-D); what was tried and not undone is kept",
}
"""What can be typed, and what it does."""

MORE = {
    "fit": (
        "GUIDE is a name or a number of the list, or FILE.py:CLASS. Of the refit may be said, for this once:",
        "  steps=N objective=NAME[:K] seed=N freeze=model|none",
        "  KEY=VALUE of training (lr=0.001, optimizer=adam) or of the guide (guide.gru_dim=32); list options has all",
        "e.g. fit tril 500, or: tril objective=iwae:8 lr=0.001 steps=200",
    ),
    "list": ("A star stands at the guide in place; FILE.py:CLASS joins the list once it was tried.",),
    "table": ("Bounds of the same test texts for every row, k̂, steps, time, and the options of refits that had some.",),
    "undo": ("The folder of the child is removed, unless it was saved. Again: one guide further back.",),
    "save": ("Without DIR it stays where it is, below the run. A saved child outlives 'undo'.",),
    "generate": ("5 where no number is given. Where nothing is latent there are samples only.",),
    "compare": ("Without objectives those of 'python -m ppl_text compare'. The result lies in RUN/compare-N.",),
    "help": ("e.g. help save",),
    "quit": ("The folders of what is kept are printed, with the command that compares them.",),
}
"""What ``help COMMAND`` adds."""

SAME = {"?": "help", "exit": "quit"}
"""Other words for commands."""

COMMANDS = (*MORE, *SAME)


def hold_session(run: Run, options: dict[str, Any]) -> None:
    """A session, from the list of the guides to the paths of what was kept."""
    run.require_weights()
    session = Session(run, **options)
    click.echo(f"{run.folder}: {run.config.model.family}, guide {session.name}. 'help' lists the commands.")
    show_guides(session)
    try:
        Conversation(session).go_on()
    except (Interrupted, KeyboardInterrupt):
        show_kept(session)
        raise
    show_kept(session)


class Conversation:
    """Reads a line, does what it says, and prints what came of it, until ``quit`` or the end of the input."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._actions: dict[str, Callable[..., object]] = {
            "list": lambda: show_guides(session),
            "table": lambda: print_table(session.header(), session.rows()),
            "undo": self._undo,
            "save": lambda *folder: click.echo(f"saved in {session.save(*folder)}"),
            "generate": self._generate,
            "compare": lambda *objectives: click.echo(session.compare(objectives or None)),
            "help": show_help,
            "fit": self._swap,
        }

    def go_on(self) -> None:
        """The loop; no mistake and no Ctrl-C leaves it."""
        read = reader([*COMMANDS, *(choice.name for choice in self._session.choices())])
        while True:
            try:
                words = split(read(printable(f"{self._session.name}> ")))
                if words and SAME.get(words[0], words[0]) == "quit" and len(words) == 1:
                    return
                if words:
                    self.obey(*words)
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt as stop:
                if number_of(stop) != signal.SIGINT:
                    raise
                click.echo("\nstopped; the guide in place stays ('quit' or Ctrl-D leaves)")

    def obey(self, word: str, *arguments: str) -> None:
        """Do what one line says; a mistake is told and changes nothing."""
        word = SAME.get(word, word)
        try:
            if word not in MORE:
                self._swap(word, *arguments)
            elif len(arguments) > most(word):
                raise UserError(f"'{word}' takes no {'more' if most(word) else 'argument'}: {usage(word)}")
            else:
                self._actions[word](*arguments)
        except Interrupted as stopped:
            if stopped.exit_code != 130:
                raise
            click.echo(f"{stopped}\nThe guide before stays: {self._session.name}")
        except (PplTextError, OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, PplTextError | OSError) and not out_of_memory(error):
                raise
            click.echo(f"error: {out_of_memory(error) or error}")

    def _swap(self, *words: str) -> None:
        if not words:
            raise UserError(f"fit which guide? {usage('fit')}")
        guide = self._session.resolve(words[0], COMMANDS)
        steps, options = parse_refit(words[1:])
        row = self._session.swap(guide, steps, command_progress(), options)
        pair = swap.before_after(row.run)
        print_table(pair.header(), pair.rows())
        click.echo(pair.how())
        click.echo(f"current: {self._session.name}, in {row.run.folder} ('undo' goes back, 'save' keeps it)")

    def _undo(self) -> None:
        row = self._session.undo()
        left = "was removed but for what others have put there" if row.run.folder.exists() else "was removed"
        gone = "is kept, since it was saved" if row.saved else left
        click.echo(f"{row.run.folder} {gone}; current: {self._session.name}")

    def _generate(self, number: str = "5") -> None:
        samples, pairs = self._session.texts(count(number, "texts"))
        click.echo("samples from the model: " + " ".join(text or "∅" for text in samples))
        if pairs:
            print_table(["test text", f"reconstruction by {self._session.name}"], pairs)


def show_guides(session: Session) -> None:
    """Number, name and density of each guide that fits, a star at the current one."""
    current = session.current.config.guide.name
    rows = [
        ("*" if choice.name == current else "", str(number), label(choice.name), choice.density)
        for number, choice in enumerate(session.choices(), 1)
    ]
    print_table(["", "no.", "guide", "density"], rows)


def show_help(command: str | None = None) -> None:
    """All that can be typed, or what there is to say of one command."""
    if command is None:
        print_table(["command", "what it does"], list(HELP.items()))
        return
    word = SAME.get(command, command)
    if word not in MORE:
        raise UnknownNameError("command", command, COMMANDS, "A guide is refitted by its name alone; see help fit")
    click.echo(f"{usage(word)}: {HELP[usage(word)]}")
    for line in MORE[word]:
        click.echo(f"  {line}")


def show_kept(session: Session) -> None:
    """What the session leaves behind."""
    kept = session.kept()
    for folder in kept:
        click.echo(f"kept: {folder}")
    if kept:
        runs = [session.start.folder, *kept]
        own = max(map(folders.trusting, runs))
        click.echo(f"Next:\n  python -m ppl_text compare {' '.join(map(quoted_path, runs))}{own}")


def usage(word: str) -> str:
    """How a command is written."""
    return next(text for text in HELP if text.split()[0].strip("[]") == word)


def most(word: str) -> int:
    """How many arguments a command takes."""
    return {"save": 1, "generate": 1, "help": 1, "compare": sys.maxsize, "fit": sys.maxsize}.get(word, 0)


def count(text: str, what: str) -> int:
    """A whole number above 0."""
    if not is_whole(text) or int(text) < 1:
        raise UserError(f"the number of {what} must be a whole number of 1 or more; got {text!r}")
    check_most(int(text), MOST_TEXTS, f"the number of {what}")
    return int(text)
