"""The state of one sitting with a trained run: which guides were tried on it, and which one is current.

Free of terminal code: :mod:`ppl_text.cli.swap` reads the commands and prints what comes back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import swap
from .comparing.exchange import GuideFigures, label
from .core.errors import UnknownNameError, UserError
from .core.registry import is_file_reference
from .recipes import build, folders
from .recipes.references import guide_reference
from .run import Run, load
from .training.progress import Progress


class Choice(NamedTuple):
    """A guide to choose from: its name (or ``FILE.py:CLASS``) and the first line of its docstring."""

    name: str
    density: str


@dataclass
class Tried:
    """One row of the sitting: a run with its guide, and what became of it.

    ``steps`` updates were made in ``seconds``, measuring included. ``saved``: the user asked to keep it; ``undone``:
    the user went back from it, and its folder is gone unless it was saved.
    """

    run: Run
    figures: GuideFigures
    steps: int
    seconds: float
    saved: bool = False
    undone: bool = False


class Sitting:
    """Guides tried one after the other on the model of one trained run.

    Every guide is swapped in on the run that the sitting began with, so that all rows compare. ``options`` are
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

    def choices(self) -> list[Choice]:
        """The guides that fit the model: registered ones of its family, then the files that were tried."""
        family = self.start.config.model.family
        registry = build.guide_registry(family)
        names = [name for name in registry.names() if getattr(registry.load(name), "family", family) == family]
        runs = [self.start, *(row.run for row in self.tried)]
        files = [run.config.guide.name for run in runs if is_file_reference(run.config.guide.name)]
        return [Choice(name, density(registry.load(name))) for name in dict.fromkeys([*names, *files])]

    def resolve(self, text: str, others: Iterable[str] = ()) -> str:
        """The guide that a name, a number of :meth:`choices` or a ``FILE.py:CLASS`` stands for.

        Raises :class:`UserError`, with the nearest name for one that is unknown; ``others`` are what else could have
        been meant.
        """
        known = [choice.name for choice in self.choices()]
        if text.isdecimal():
            if not 1 <= int(text) <= len(known):
                raise UserError(f"there is no guide number {text}; the list has 1 to {len(known)}")
            return known[int(text) - 1]
        if is_file_reference(text):
            return guide_reference(text)
        if text not in known:
            raise UnknownNameError("guide or command", text, [*known, *others])
        return text

    def swap(self, guide: str, steps: int | None = None, progress: Progress | None = None) -> Tried:
        """Put a guide in and refit it; it is then the current one. What fails or is stopped changes nothing here."""
        begun = time.perf_counter()
        child = self.start.swap_guide(guide, steps=steps or self._steps, progress=progress, **self._options)
        figures = swap.before_after(child).after
        trained = folders.read_record(child.folder / "results.json")["trained"]
        row = Tried(child, figures, trained["step"], time.perf_counter() - begun)
        self.tried.append(row)
        self._order.append(row)
        return row

    def undo(self) -> Tried:
        """Go back to the guide before; the folder of what is undone is removed unless it was saved."""
        if not self._order:
            raise UserError("nothing to undo: the guide in place is the one that the sitting began with")
        row = self._order.pop()
        row.undone = True
        if not row.saved:
            shutil.rmtree(row.run.folder)
        return row

    def save(self, target: str | Path | None = None) -> Path:
        """Keep the current child where it is, or in ``target``, and return its folder."""
        if not self._order:
            raise UserError(f"nothing to save: the current guide is that of the run {self.start.folder} itself")
        row = self._order[-1]
        if target is not None:
            folder = Path(target).expanduser()
            folders.move_folder(row.run.folder, folder)
            moved = load(folder, row.run.config.device)
            moved.__dict__.update({k: v for k, v in row.run.__dict__.items() if k in ("corpus", "parent", "programs")})
            row.run = moved
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
        """Those of the guide that the sitting began with, on the sentences of all rows."""
        config = self.tried[0].run.config if self.tried else self.start.config
        return swap.measure(self.start, config.report, config.seed)

    def header(self) -> list[str]:
        """Heads of :meth:`rows`."""
        particles = self.start.config.report.particles
        return [
            *("guide", "ELBO", f"IW bound, K = {particles}", "gap", "KL", "k̂ < 0.5", "to 0.7", "above"),
            *("steps", "time", "state"),
        ]

    def rows(self) -> list[list[str]]:
        """The table of the sitting: the guide that it began with, then all that were tried."""
        rows = [[*_columns(self.figures()), "", "", self._state(None)]]
        for row in self.tried:
            rows.append([*_columns(row.figures), f"{row.steps:,}", f"{row.seconds:.1f} s", self._state(row)])
        return rows

    def _state(self, row: Tried | None) -> str:
        words = ["start"] if row is None else []
        words += ["current"] if (self._order[-1] if self._order else None) is row else []
        if row is not None:
            words += [word for word, true in (("saved", row.saved), ("undone", row.undone)) if true]
        return ", ".join(words)

    def compare(self, objectives: Sequence[str] | None = None) -> str:
        """What :mod:`ppl_text.compare` says of the run and of the children that are there."""
        from .compare import compare_runs

        there = [row.run for row in self.tried if row.saved or not row.undone]
        return str(compare_runs([self.start, *there], objectives=objectives).text)


def _columns(figures: GuideFigures) -> list[str]:
    return [label(figures.guide), *figures.bounds(), *(f"{share:.0%}" for share in figures.khat)]


def density(guide: type[torch.nn.Module]) -> str:
    """First line of a guide's docstring."""
    return (guide.__doc__ or "(no docstring)").strip().splitlines()[0]
