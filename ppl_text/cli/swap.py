"""``swap``: another guide on a trained run, by one command or in a sitting."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from .output import SEED, print_table

if TYPE_CHECKING:
    from ..run import Run
    from ..sitting import Sitting

HELP = {
    "NAME|NUMBER|FILE.py:CLASS [STEPS]": "put that guide in and refit it",
    "list": "guides that fit this model, with their densities",
    "table": "all guides tried in this sitting",
    "undo": "go back to the guide before",
    "save [DIR]": "keep the current child, in DIR if one is given",
    "generate [N]": "N samples, and N test texts with their reconstructions",
    "compare [OBJECTIVE …]": "compare the run and the guides tried, estimator by estimator",
    "help": "this list",
    "quit": "leave (so does Ctrl-D); what was tried and not undone is kept",
}
COMMANDS = tuple(usage.split()[0] for usage in list(HELP)[1:])


@click.command()
@click.argument("run", type=click.Path())
@click.option("--guide", metavar="NAME|FILE.py:CLASS", help="The new guide; without it, a sitting begins.")
@click.option("--steps", type=click.IntRange(min=1), help="Updates of the refit.  [default: 1000]")
@click.option("--objective", metavar="NAME[:K]", help="Bound to refit on; default: the run's own.")
@click.option("--freeze", type=click.Choice(["model", "none"]), default="model", show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="guide.*, training.* or report.*")
@click.option("--seed", type=SEED, help="Of the guide's parameters, batches and noise; default: the run's own.")
@click.option("--out", type=click.Path(), metavar="DIR", help="Folder of the child; default: a new RUN/swaps/GUIDE-N.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the run's own.")
def swap(
    run: str, guide: str | None, assignments: tuple[str, ...], out: str | None, device: str | None, **options: Any
) -> None:
    """Swap another guide into RUN (a folder), refit it, and show before and after.

    The model is frozen unless --freeze none. The result is a child run that knows its parent. Without --guide it is
    interactive: it lists the guides that fit, and any number of them can be tried, compared, undone and saved.
    """
    from ..core.errors import UserError
    from ..recipes.reading import parse_assignments
    from ..run import load
    from ..training.progress import make_progress

    opened = load(run, device)
    options["set"] = parse_assignments(assignments)
    if guide is not None:
        print_child(opened.swap_guide(guide, out=out, progress=make_progress(), **options))
    elif out is not None:
        raise UserError("--out needs --guide; in a sitting 'save DIR' says where a child goes")
    else:
        hold(opened, options)


def print_child(child: Run) -> None:
    """Before and after, where the child is, and what to run next."""
    from ..core.errors import RunFolderError
    from ..swap import before_after

    click.echo()
    try:
        pair = before_after(child)
        print_table(pair.header(), pair.rows(), f"{child.config.recipe}, test split")
        click.echo(pair.how())
    except RunFolderError as error:
        click.echo(str(error))
    click.echo(f"The child run is in {child.folder} (report.md, results.json, parent.json). Next:")
    for command in (
        f"compare {child.config.parent} {child.folder}",
        f"evaluate {child.folder}",
        f"swap {child.config.parent}",
    ):
        click.echo(f"  python -m ppl_text {command}")


def hold(run: Run, options: dict[str, Any]) -> None:
    """A sitting, from the list of the guides to the paths of what was kept."""
    from ..core.errors import Interrupted
    from ..sitting import Sitting

    run.require_weights()
    sitting = Sitting(run, **options)
    click.echo(f"{run.folder}: {run.config.model.family}, guide {sitting.name}. 'help' lists the commands.")
    show_guides(sitting)
    try:
        Conversation(sitting).go_on()
    except Interrupted:
        show_kept(sitting)
        raise
    show_kept(sitting)


class Conversation:
    """Reads a line, does what it says, and prints what came of it, until ``quit`` or the end of the input."""

    def __init__(self, sitting: Sitting) -> None:
        self._sitting = sitting
        self._actions: dict[str, Callable[..., object]] = {
            "list": lambda: show_guides(sitting),
            "table": lambda: print_table(sitting.header(), sitting.rows()),
            "undo": self._undo,
            "save": lambda *folder: click.echo(f"saved in {sitting.save(*folder)}"),
            "generate": self._generate,
            "compare": lambda *objectives: click.echo(sitting.compare(objectives or None)),
            "help": show_help,
        }

    def go_on(self) -> None:
        """The loop; no mistake and no Ctrl-C leaves it."""
        read = reader([*COMMANDS, *(choice.name for choice in self._sitting.choices())])
        while True:
            try:
                words = split(read(f"{self._sitting.name}> "))
                if words[:1] == ["quit"]:
                    return
                if words:
                    self.obey(*words)
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo("\nstopped; the guide in place stays ('quit' or Ctrl-D leaves)")

    def obey(self, word: str, *arguments: str) -> None:
        """Do what one line says; a mistake is told and changes nothing."""
        from ..core.errors import Interrupted, PplTextError, UserError

        try:
            if word not in self._actions:
                self._swap(word, *arguments)
            elif len(arguments) > most(word):
                raise UserError(f"'{word}' takes no {'more' if most(word) else 'argument'}: {usage(word)}")
            else:
                self._actions[word](*arguments)
        except Interrupted as stopped:
            if stopped.exit_code != 130:
                raise
            click.echo(f"{stopped}\nThe guide before stays: {self._sitting.name}")
        except (PplTextError, OSError) as error:
            click.echo(f"error: {error}")

    def _swap(self, word: str, *arguments: str) -> None:
        from ..core.errors import UserError
        from ..swap import before_after
        from ..training.progress import make_progress

        if len(arguments) > 1:
            raise UserError(f"after a guide comes at most its number of steps; got {' '.join(arguments)!r}")
        guide = self._sitting.resolve(word, COMMANDS)
        steps = None if not arguments else count(arguments[0], "steps")
        row = self._sitting.swap(guide, steps, make_progress())
        pair = before_after(row.run)
        print_table(pair.header(), pair.rows())
        click.echo(pair.how())
        click.echo(f"current: {self._sitting.name}, in {row.run.folder} ('undo' goes back, 'save' keeps it)")

    def _undo(self) -> None:
        row = self._sitting.undo()
        gone = "is kept, since it was saved" if row.saved else "was removed"
        click.echo(f"{row.run.folder} {gone}; current: {self._sitting.name}")

    def _generate(self, number: str = "5") -> None:
        samples, pairs = self._sitting.texts(count(number, "texts"))
        click.echo("samples from the model: " + " ".join(text or "∅" for text in samples))
        if pairs:
            print_table(["test text", f"reconstruction by {self._sitting.name}"], pairs)


def show_guides(sitting: Sitting) -> None:
    """Number, name and density of each guide that fits, a star at the current one."""
    from ..comparing.exchange import label

    current = sitting.current.config.guide.name
    rows = [
        ("*" if choice.name == current else "", str(number), label(choice.name), choice.density)
        for number, choice in enumerate(sitting.choices(), 1)
    ]
    print_table(["", "no.", "guide", "density"], rows)


def show_help() -> None:
    """All that can be typed."""
    print_table(["command", "what it does"], list(HELP.items()))


def show_kept(sitting: Sitting) -> None:
    """What the sitting leaves behind."""
    kept = sitting.kept()
    for folder in kept:
        click.echo(f"kept: {folder}")
    if kept:
        click.echo(f"Next:\n  python -m ppl_text compare {' '.join(map(str, [sitting.start.folder, *kept]))}")


def usage(word: str) -> str:
    """How a command is written."""
    return next(text for text in HELP if text.split()[0] == word)


def most(word: str) -> int:
    """How many arguments a command takes."""
    return {"save": 1, "generate": 1, "compare": sys.maxsize}.get(word, 0)


def count(text: str, what: str) -> int:
    """A whole number above 0."""
    from ..core.errors import UserError

    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"the number of {what} must be a whole number of 1 or more; got {text!r}")
    return int(text)


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
