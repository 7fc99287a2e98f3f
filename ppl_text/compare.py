"""Compare guides and objectives on trained runs: every (run, guide, objective) on the same sentences.

:func:`compare_runs` is behind ``python -m ppl_text compare`` and ``Run.compare``. What is measured is defined in
``evaluation/`` (``estimates.py``, ``gradients.py``, ``memory.py``, ``representation.py``), what it means in words in
``evaluation/verdict.py``.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from . import objectives as names
from .core.batch import Batch, device_of
from .core.errors import PplTextError, UserError
from .core.protocols import Objective
from .evaluation.comparison import Row, plain_text, tables
from .evaluation.exchange import label
from .evaluation.measured import Measured, Settings, Watch
from .evaluation.measurement import Subject
from .evaluation.report import table
from .evaluation.sentences import CommonSentences, common_sentences
from .evaluation.verdict import verdict
from .recipes import build, folders
from .recipes.config import RunConfig, load_config
from .recipes.references import guide_reference
from .swap import Trained, child_parts
from .training.machine import torch_threads
from .training.progress import Quiet

OBJECTIVES = ("elbo", "elbo-analytic", "stl", "iwae:16", "dreg:16", "stepwise:5", "fivo:16")
"""What is compared where nothing else is asked for; those that a model has no methods for are left out."""


class Comparable(Trained, Protocol):
    """What is asked of a run here (:class:`ppl_text.run.Run`); its class opens its children."""

    @property
    def programs(self) -> build.Programs:
        """Model and guide with the best weights."""
        ...

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        ...

    def require_weights(self) -> None:
        """Raise where nothing has been trained yet."""
        ...

    def swap_guide(self, guide: str | type, *, steps: int | None = None, progress: Any = None) -> Any:
        """A child run with another guide on this run's model."""
        ...


@dataclass(frozen=True)
class Comparison:
    """Rows, how they were measured, what they say, and the folder in which all that is kept."""

    rows: list[Row]
    settings: dict[str, Any]
    notes: list[str]
    verdict: list[str] = field(default_factory=list)
    folder: Path | None = None

    @property
    def text(self) -> str:
        """The tables and the verdict, for a terminal."""
        return plain_text(self.rows, self.verdict)

    @property
    def next_commands(self) -> list[str]:
        """What to run next, without the ``python -m ppl_text`` before it."""
        best = max(self.rows, key=lambda row: row.bound)
        quoted = shlex.quote(best.folder)
        return [f"evaluate {quoted}", f"generate {quoted} -n 20", "list guides"]

    def as_json(self) -> dict[str, Any]:
        """Plain values, as in ``comparison.json``; what is no finite number is None."""
        folder = None if self.folder is None else str(self.folder)
        return {
            "rows": [row.as_dict() for row in self.rows],
            "verdict": self.verdict,
            "settings": self.settings,
            "notes": self.notes,
            "folder": folder,
        }


def compare_runs(
    runs: Sequence[Any],
    guides: Sequence[str | type] | None = None,
    objectives: Sequence[Any] | None = None,
    *,
    settings: Settings | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    progress: Any = None,
    watch: Watch = lambda what, done, total: None,
) -> Comparison:
    """Measure every (run, guide, objective) on common random sentences and write the result's folder.

    ``guides``: of each run its own as it is, every other refitted on the run's frozen model (``steps`` updates) unless
    a finished child with just that configuration lies in ``RUN/swaps``; None: each run's own. ``objectives``: names or
    stock ELBO instances; None: :data:`OBJECTIVES`. ``progress`` is told of refits and notes. All that can be checked is
    checked before anything is trained or measured; nothing is written before all is measured, but for children.
    """
    settings = settings or Settings()
    settings.check()
    runs = list({run.folder.resolve(): run for run in runs}.values())
    _check_runs(runs)
    place = _free_place(runs[0], out)
    made = [names.build(objective) for objective in objectives or OBJECTIVES]
    sentences = _sentences(runs[0], settings)

    def fitting(subjects: Sequence[Subject]) -> tuple[list[tuple[Subject, Objective]], list[str]]:
        wanted = {objective.name: objective for objective in made}
        return _fitting(subjects, list(wanted.values()), sentences, strict=bool(objectives))

    if guides:
        subjects = _Swaps(runs, guides, steps).subjects(fitting, progress or Quiet())
    else:
        subjects = [_subject(run, run, label(run.config.guide.name)) for run in runs]
    pairs, notes = fitting(subjects)
    for text in notes:
        (progress or Quiet()).message(text)
    with torch_threads(runs[0].config.threads):
        figures = Measured(pairs, sentences, settings, watch)
    found = Comparison(figures.rows, figures.record(), notes, verdict(figures.rows), place)
    _save(found, figures, place)
    return found


def _sentences(run: Comparable, settings: Settings) -> CommonSentences:
    data = build.evaluation_set(run.corpus, settings.split, settings.sentences, settings.seed, batch_size=64)
    return common_sentences(data, device_of(run.programs.model))


def _check_runs(runs: Sequence[Comparable]) -> None:
    """All trained, on the same data; the corpus of the first is shared, so that it is read once."""
    if not runs:
        raise UserError("give at least one run to compare: the folder of a trained run")
    for run in runs:
        run.require_weights()
    first, *others = runs
    prints = {str(run.folder): folders.read_record(run.folder / "data.json").get("fingerprint") for run in runs}
    for run in others:
        if prints[str(run.folder)] != prints[str(first.folder)]:
            raise UserError(
                f"{first.folder} was trained on corpus '{first.config.data.corpus}', {run.folder} on other data "
                f"('{run.config.data.corpus}'): bounds of different sentences do not compare; give runs on one corpus"
            )
        run.__dict__["corpus"] = first.corpus


def _free_place(run: Comparable, out: str | Path | None) -> Path:
    """Where the result will lie: ``out``, which must be free, or the next ``RUN/compare-N``."""
    if out is not None:
        folders.check_free(Path(out))
        return Path(out)
    number = 1
    while (run.folder / f"compare-{number}").exists():
        number += 1
    return run.folder / f"compare-{number}"


def _subject(run: Comparable, given: Comparable, guide_name: str) -> Subject:
    return Subject(str(given.folder), str(run.folder), guide_name, *run.programs)


class _Swaps:
    """Each run with each of the guides: its own as it is, a finished child taken again, or a new child.

    Raises with all that a swap objects to before the first one is trained.
    """

    def __init__(self, runs: Sequence[Comparable], guides: Sequence[str | type], steps: int | None) -> None:
        self._steps = steps
        names = list(dict.fromkeys(guide_reference(guide) for guide in guides))
        short = [label(name) for name in names]
        # Two files may hold classes of one name.
        self._label = {name: name if short.count(label(name)) > 1 else label(name) for name in names}
        self._wanted = [(run, name) for run in runs for name in names]
        self._configs = {
            (run.folder, name): child_parts(run, name, steps=steps).config
            for run, name in self._wanted
            if name != run.config.guide.name
        }

    def subjects(self, check: Callable[[Sequence[Subject]], object], progress: Any) -> list[Subject]:
        """Model and guide of each; ``check`` sees them untrained first."""
        check([self._untrained(run, name) for run, name in self._wanted])
        return [_subject(self._child(run, name, progress), run, self._label[name]) for run, name in self._wanted]

    def _untrained(self, run: Comparable, name: str) -> Subject:
        config = self._configs.get((run.folder, name), run.config)
        programs = build.build_programs(config, run.corpus.vocabulary)
        device = device_of(run.programs.model)
        return Subject("", "", self._label[name], programs.model.to(device), programs.guide.to(device))

    def _child(self, run: Comparable, name: str, progress: Any) -> Comparable:
        config = self._configs.get((run.folder, name))
        if config is None:
            return run
        child = _finished_child(run, config)
        if child is None:
            progress.message(f"guide '{self._label[name]}': refitting it on the frozen model of {run.folder} …")
            child = run.swap_guide(name, steps=self._steps, progress=progress)
        else:
            known = f"taking {child.folder}, refitted before on this model in the same way"
            progress.message(f"guide '{self._label[name]}': {known}")
        taken: Comparable = child
        return taken


def _finished_child(run: Any, config: RunConfig) -> Any:
    """A finished child of the run that was made with just this configuration (weights of the parent included)."""
    for folder in sorted((run.folder / "swaps").glob("*")):
        if folders.has_run(folder) and (folder / "model.safetensors").is_file():
            stored = load_config(str(folder / "config.yaml"), {"device": config.device})
            child = type(run)(folder, stored)
            if stored == config and child.finished:
                child.__dict__.update(corpus=run.corpus, parent=run)
                return child
    return None


def _fitting(
    subjects: Sequence[Subject], wanted: Sequence[Objective], sentences: CommonSentences, strict: bool
) -> tuple[list[tuple[Subject, Objective]], list[str]]:
    """The pairs in which the objective runs; where it does not: an error if it was asked for, else a note."""
    batch = sentences.minibatch(2, seed=0)
    pairs, notes = [], []
    for subject in subjects:
        for objective in wanted:
            fault = _fault(subject, objective, batch)
            if fault is None:
                pairs.append((subject, objective))
            elif strict:
                raise fault
            else:
                notes.append(f"left out for guide '{subject.guide_name}': {fault}")
    if not pairs:
        raise UserError("no objective runs on these programs: " + "; ".join(notes))
    return pairs, notes


def _fault(subject: Subject, objective: Objective, batch: Batch) -> PplTextError | None:
    """What an objective has against model and guide, or None."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        try:
            objective(subject.model.train(False), subject.guide.train(False), batch)
        except PplTextError as error:
            return error
    return None


def _save(found: Comparison, figures: Measured, place: Path) -> None:
    """Write the result's folder under another name and put it into its place when it is whole."""
    from .plots.comparison import bounds_figure, khat_figure, snr_figure
    from .plots.inference_data import save_comparison

    partial = place.with_name(f".{place.name}-{os.getpid()}.partial")
    folders.make_folder(partial)
    try:
        rows = [row.as_dict() for row in found.rows]
        folders.write_record(partial / "comparison.json", found.as_json())
        folders.write_text(partial / "comparison.md", markdown(found))
        attributes = {f"setting_{key}": value for key, value in found.settings.items()}
        save_comparison(partial / "inference.nc", figures.tables, rows, attributes)
        (partial / "figures").mkdir()
        bounds_figure(rows, partial / "figures" / "bounds.png")
        khat_figure({t.label: t.khat for t in figures.tables}, partial / "figures" / "khat.png")
        snr_figure(rows, partial / "figures" / "snr.png")
        folders.move_folder(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def markdown(found: Comparison) -> str:
    """``comparison.md``: verdict, tables, figures, settings."""
    parts = ["# Comparison", "\n".join(f"- {line}" for line in found.verdict)]
    for title, header, cells in tables(found.rows):
        parts += [f"## {title}", table(header, cells)]
    parts += [f"![{name}](figures/{name}.png)" for name in ("bounds", "khat", "snr")]
    parts += ["## How it was measured", table(["what", "value"], [[k, str(v)] for k, v in found.settings.items()])]
    if found.notes:
        parts += ["## Notes", "\n".join(f"- {line}" for line in found.notes)]
    return "\n\n".join(parts) + "\n"


__all__ = ["OBJECTIVES", "Comparison", "Settings", "compare_runs"]
