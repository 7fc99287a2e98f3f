"""An interactive session of ``swap``: guides tried one after the other on one trained run.

:class:`Session` is its state, free of terminal code; :class:`Conversation` reads commands and prints what comes back.
"""

from __future__ import annotations

import contextlib
import importlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from ..comparing.exchange import GuideFigures, label
from ..core.errors import Interrupted, PplTextError, UnknownNameError, UserError
from ..core.limits import MOST_TEXTS, check_most, out_of_memory
from ..core.numbers import is_whole
from ..core.places import Made, made_in, remove_made
from ..core.printing import percent, printable, quoted_path
from ..core.registry import is_file_reference
from ..core.signals import number_of
from ..recipes import build, folders, swap
from ..recipes.code import absolute, class_of, is_own
from ..run import Run
from ..training.progress import Progress, make_progress
from .output import print_table

HELP = {
    "NAME|NUMBER|FILE.py:CLASS [STEPS]": "put that guide in and refit it",
    "list": "guides that fit this model, with their densities",
    "table": "all guides tried in this session",
    "undo": "go back to the guide before",
    "save [DIR]": "keep the current child, in DIR if one is given",
    "generate [N]": "N samples, and N test texts with their reconstructions",
    "compare [OBJECTIVE …]": "compare the run and the guides tried, estimator by estimator",
    "help": "this list",
    "quit": "leave (so does Ctrl-D); what was tried and not undone is kept",
}
COMMANDS = tuple(usage.split()[0] for usage in list(HELP)[1:])


class Candidate(NamedTuple):
    """A guide to choose from: its name (or ``FILE.py:CLASS``) and the first line of its docstring."""

    name: str
    density: str


@dataclass
class Tried:
    """One row of the session: a run with its guide, and what became of it.

    ``steps`` updates were made in ``seconds``, measuring included, and left the files ``made``. ``saved``: the user
    asked to keep it; ``undone``: the user went back from it, and these files are gone unless it was saved.
    """

    run: Run
    figures: GuideFigures
    steps: int
    seconds: float
    made: Made
    saved: bool = False
    undone: bool = False


class Session:
    """Guides tried one after the other on the model of one trained run.

    Every guide is swapped in on the run that the session began with, so that all rows compare. ``options`` are
    those of :meth:`ppl_text.run.Run.swap_guide` (freeze, objective, set, seed). ``tried`` are the rows in order.
    """

    def __init__(self, run: Run, **options: Any) -> None:
        self._steps: int | None = options.pop("steps", None)
        self.start, self._options = run, options
        self.tried: list[Tried] = []
        self._order: list[Tried] = []

    @property
    def current(self) -> Run:
        """The run whose guide is in place."""
        return self._order[-1].run if self._order else self.start

    @property
    def name(self) -> str:
        """The current guide, as tables name it."""
        return label(self.current.config.guide.name)

    def choices(self) -> list[Candidate]:
        """The guides that fit the model: registered ones of its family, then the files that were tried."""
        family = getattr(self.start.model, "family", self.start.config.model.family)
        registry = build.guide_registry(family)
        packages = {name: registry.package(name) for name in registry.names()}
        # A package is imported once its guide is chosen.
        found = {
            name: f"of the installed package {own.name} {own.version}" if own else density(registry.load(name))
            for name, own in packages.items()
        }
        for run in (self.start, *(row.run for row in self.tried)):
            name = run.config.guide.name
            if is_own(name) or packages.get(name) is not None:
                found[name] = density(class_of(name, "guide", registry, run.code))
        return [Candidate(name, about) for name, about in found.items()]

    def resolve(self, text: str, others: Iterable[str] = ()) -> str:
        """The guide that a name, a number of :meth:`choices` or a ``FILE.py:CLASS`` stands for.

        Raises :class:`UserError`, with the nearest name for one that is unknown; ``others`` are what else could have
        been meant.
        """
        known = [choice.name for choice in self.choices()]
        if is_whole(text):
            if not 1 <= int(text) <= len(known):
                raise UserError(f"there is no guide number {text}; the list has 1 to {len(known)}")
            return known[int(text) - 1]
        if is_file_reference(text):
            return absolute(text)
        if text not in known:
            raise UnknownNameError("guide or command", text, [*known, *others])
        return text

    def swap(self, guide: str, steps: int | None = None, progress: Progress | None = None) -> Tried:
        """Put a guide in and refit it; it is then the current one. What fails or is stopped changes nothing here."""
        begun = time.perf_counter()
        child = self.start.swap_guide(guide, steps=steps or self._steps, progress=progress, **self._options)
        figures = swap.before_after(child).after
        trained = folders.read_record(child.folder / "results.json")["trained"]
        row = Tried(child, figures, trained["step"], time.perf_counter() - begun, made_in(child.folder))
        self.tried.append(row)
        self._order.append(row)
        return row

    def undo(self) -> Tried:
        """Go back to the guide before; what was made of what is undone is removed unless it was saved.

        What has been put into its folder, or changed there, since it was made is left.
        """
        if not self._order:
            raise UserError("nothing to undo: the guide in place is the one that the session began with")
        row = self._order[-1]
        if not row.saved:
            remove_made(row.run.folder, row.made)
        self._order.pop()
        row.undone = True
        return row

    def save(self, target: str | Path | None = None) -> Path:
        """Keep the current child where it is, or in ``target``, and return its folder."""
        if not self._order:
            raise UserError(f"nothing to save: the current guide is that of the run {self.start.folder} itself")
        row = self._order[-1]
        if target is not None:
            row.run = row.run.move(Path(target).expanduser())
        row.saved = True
        return row.run.folder

    def kept(self) -> list[Path]:
        """Folders of the children that are there: all that were tried and not undone, and all that were saved."""
        return [row.run.folder for row in self.tried if row.saved or not row.undone]

    def texts(self, n: int, seed: int = 0) -> tuple[list[str], list[tuple[str, str]]]:
        """``n`` samples from the model, and up to ``n`` test texts with their reconstructions by the current guide.

        Where nothing is latent there is nothing to reconstruct from, and no such text.
        """
        samples = self.current.generate(n, seed)
        if not self.current.model.latents:
            return samples, []
        drawn = build.evaluation_set(self.start.corpus, "test", n, seed)
        texts = [text for batch in drawn.texts for text in batch]
        return samples, list(zip(texts, self.current.reconstruct(texts, seed), strict=True))

    def figures(self) -> GuideFigures:
        """Those of the guide that the session began with, on the sentences of all rows."""
        config = self.tried[0].run.config if self.tried else self.start.config
        return swap.measure(self.start, config.report, config.seed)

    def header(self) -> list[str]:
        """Heads of :meth:`rows`."""
        particles = self.start.config.report.particles
        return [
            *("guide", "ELBO", f"IW bound, K = {particles}", "gap", "KL", "k̂ < 0.5", "to 0.7", "above", "parameters"),
            *("steps", "time", "state"),
        ]

    def rows(self) -> list[list[str]]:
        """The table of the session: the guide that it began with, then all that were tried."""
        rows = [[*_columns(self.figures()), "", "", self._state(None)]]
        for row in self.tried:
            rows.append([*_columns(row.figures), f"{row.steps:,}", f"{max(row.seconds, 0.0):z.1f} s", self._state(row)])
        return rows

    def _state(self, row: Tried | None) -> str:
        words = ["start"] if row is None else []
        words += ["current"] if (self._order[-1] if self._order else None) is row else []
        if row is not None:
            words += [word for word, true in (("saved", row.saved), ("undone", row.undone)) if true]
        return ", ".join(words)

    def compare(self, objectives: Sequence[str] | None = None) -> str:
        """What :mod:`ppl_text.recipes.compare` says of the run and of the children that are there."""
        from ..recipes.compare import compare_runs

        there = [row.run for row in self.tried if row.saved or not row.undone]
        return str(compare_runs([self.start, *there], objectives=objectives).text)


def _columns(figures: GuideFigures) -> list[str]:
    return [label(figures.guide), *figures.bounds(), *map(percent, figures.khat), figures.size]


def density(guide: type[torch.nn.Module]) -> str:
    """First line of a guide's docstring."""
    return (guide.__doc__ or "(no docstring)").strip().splitlines()[0]


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
        }

    def go_on(self) -> None:
        """The loop; no mistake and no Ctrl-C leaves it."""
        read = reader([*COMMANDS, *(choice.name for choice in self._session.choices())])
        while True:
            try:
                words = split(read(printable(f"{self._session.name}> ")))
                if words[:1] == ["quit"]:
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
            click.echo(f"{stopped}\nThe guide before stays: {self._session.name}")
        except (PplTextError, OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, PplTextError | OSError) and not out_of_memory(error):
                raise
            click.echo(f"error: {out_of_memory(error) or error}")

    def _swap(self, word: str, *arguments: str) -> None:
        if len(arguments) > 1:
            raise UserError(f"after a guide comes at most its number of steps; got {' '.join(arguments)!r}")
        guide = self._session.resolve(word, COMMANDS)
        steps = None if not arguments else count(arguments[0], "steps")
        row = self._session.swap(guide, steps, make_progress())
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


def show_help() -> None:
    """All that can be typed."""
    print_table(["command", "what it does"], list(HELP.items()))


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
    return next(text for text in HELP if text.split()[0] == word)


def most(word: str) -> int:
    """How many arguments a command takes."""
    return {"save": 1, "generate": 1, "compare": sys.maxsize}.get(word, 0)


def count(text: str, what: str) -> int:
    """A whole number above 0."""
    if not is_whole(text) or int(text) < 1:
        raise UserError(f"the number of {what} must be a whole number of 1 or more; got {text!r}")
    check_most(int(text), MOST_TEXTS, f"the number of {what}")
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
