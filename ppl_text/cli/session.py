"""The state of an interactive session of ``swap``, free of terminal code: guides tried on one trained run.

Its face is :mod:`ppl_text.cli.conversation`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..comparing.exchange import GuideFigures, label
from ..core.errors import UnknownNameError, UserError
from ..core.numbers import is_whole
from ..core.places import Made, made_in, remove_made
from ..core.printing import percent
from ..core.registry import is_file_reference
from ..recipes import build, folders, swap
from ..recipes.code import absolute, class_of, is_own
from ..run import Run
from ..training.progress import Progress


class Candidate(NamedTuple):
    """A guide to choose from: its name (or ``FILE.py:CLASS``) and the first line of its docstring."""

    name: str
    density: str


@dataclass
class Tried:
    """One row of the session: a run with its guide, and what became of it.

    ``steps`` updates were made in ``seconds``, measuring included, and left the files ``made``. ``options``: those of
    this refit alone, as they were typed. ``saved``: the user asked to keep it; ``undone``: the user went back from it,
    and these files are gone unless it was saved.
    """

    run: Run
    figures: GuideFigures
    steps: int
    seconds: float
    made: Made
    options: str = ""
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

    def swap(
        self,
        guide: str,
        steps: int | None = None,
        progress: Progress | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Tried:
        """Put a guide in and refit it; it is then the current one. What fails or is stopped changes nothing here.

        ``options`` win over the session's own: ``objective``, ``seed``, ``freeze``, and under ``set`` dotted keys,
        which are added to the session's.
        """
        begun, own = time.perf_counter(), dict(options or {})
        merged = {**self._options, **own, "set": {**(self._options.get("set") or {}), **own.get("set", {})}}
        child = self.start.swap_guide(guide, steps=steps or self._steps, progress=progress, **merged)
        figures = swap.before_after(child).after
        trained = folders.read_record(child.folder / "results.json")["trained"]
        spent = time.perf_counter() - begun
        row = Tried(child, figures, trained["step"], spent, made_in(child.folder), _typed(own))
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
            folders.refuse_occupied(row.run.folder)
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
            folders.refuse_occupied(row.run.folder)
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
            *("steps", "time", *self._options_column("options"), "state"),
        ]

    def rows(self) -> list[list[str]]:
        """The table of the session: the guide that it began with, then all that were tried."""
        rows = [[*_columns(self.figures()), "", "", *self._options_column(""), self._state(None)]]
        for row in self.tried:
            made = (f"{row.steps:,}", f"{max(row.seconds, 0.0):z.1f} s", *self._options_column(row.options))
            rows.append([*_columns(row.figures), *made, self._state(row)])
        return rows

    def _options_column(self, cell: str) -> list[str]:
        """Return a cell of the column of options, which is there where a refit had some."""
        return [cell] if any(row.options for row in self.tried) else []

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


def _typed(options: Mapping[str, Any]) -> str:
    """Return options of a refit as they are typed."""
    plain = {**{key: value for key, value in options.items() if key != "set"}, **options.get("set", {})}
    return " ".join(f"{key}={value}" for key, value in plain.items())


def density(guide: type[torch.nn.Module]) -> str:
    """First line of a guide's docstring."""
    return (guide.__doc__ or "(no docstring)").strip().splitlines()[0]
