"""Compare guides and objectives on trained runs: other guides are refitted, and the result has a folder.

:func:`compare_runs` is behind ``python -m ppl_text compare`` and ``Run.compare``. What is measured, and what it means
in words, is in :mod:`ppl_text.comparing`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..comparing.candidates import OBJECTIVES, Candidate, Pair, Settings, runnable_pairs
from ..comparing.charts import bounds_figure, khat_figure, snr_figure
from ..comparing.exchange import label
from ..comparing.measure import Measurements, Watch, measure
from ..comparing.posterior import inference_of
from ..comparing.rows import RECORD, Comparison
from ..comparing.verdict import verdict
from ..core.batch import device_of
from ..core.errors import UserError
from ..data.corpus import Corpus
from ..evaluation.page import page
from ..evaluation.sentences import CommonSentences, common_sentences
from ..plots.inference_data import save_inference
from ..training.machine import torch_threads
from ..training.progress import Quiet
from . import build, folders
from .code import Code, named_objective, refer
from .config import RunConfig, load_config
from .failing import users_programs
from .swap import ChildParts, Trained, child_parts
from .trust import same_code

LONGEST = 60
"""Characters of a guide's label that go into the name of a file."""


class Comparable(Trained, Protocol):
    """What is asked of a run here (:class:`ppl_text.run.Run`)."""

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

    def sharing(self, corpus: Corpus) -> Any:
        """The same run on a corpus that has been loaded elsewhere."""
        ...

    def swap_guide(self, guide: str | type, *, steps: int | None = None, progress: Any = None) -> Any:
        """A child run with another guide on this run's model."""
        ...


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

    All that can be checked is checked before anything is trained or measured; nothing is written before all is
    measured, but for children.

    Args:
        runs: trained runs on the same data.
        guides: a run's own is taken as it is; every other is refitted on the run's frozen model unless a finished child
            with just that configuration lies in ``RUN/swaps``. None: each run's own.
        objectives: names or stock ELBO instances; None: those of :data:`~ppl_text.comparing.candidates.OBJECTIVES`
            that run.
        settings: draws, sentences, repeats, split and seed.
        steps: updates of a refit.
        out: the result's folder, which must be free; None: the next ``RUN/compare-N``.
        progress: is told of refits and notes.
        watch: is told what is being measured.
    """
    settings = settings or Settings()
    settings.check()
    runs = list({run.folder.resolve(): run for run in runs}.values())
    runs = _check_runs(runs)
    place = _free_place(runs[0], out)
    made = {objective.name: objective for objective in map(named_objective, objectives or OBJECTIVES)}
    sentences = _sentences(runs[0], settings)
    batch = sentences.minibatch(2, seed=0)

    own = {text: piece for run in runs for text, piece in run.code.items()}

    def pairs_of(candidates: Sequence[Candidate]) -> tuple[list[Pair], list[str]]:
        with users_programs(own):
            return runnable_pairs(candidates, list(made.values()), batch, strict=bool(objectives))

    if guides:
        candidates = _Swaps(runs, guides, steps).candidates(pairs_of, progress or Quiet())
    else:
        candidates = [_candidate(run, run, label(run.config.guide.name)) for run in runs]
    pairs, notes = pairs_of(candidates)
    for text in notes:
        (progress or Quiet()).message(text)
    with torch_threads(runs[0].config.threads), users_programs(own):
        measured = measure(pairs, sentences, settings, watch)
        noun, rows = runs[0].corpus.noun, measured.rows
        found = Comparison(rows, {**measured.settings, "noun": noun}, notes, verdict(rows, noun), place)
        _save(found, measured, sentences, place, watch)
    return found


def _sentences(run: Comparable, settings: Settings) -> CommonSentences:
    data = build.evaluation_set(run.corpus, settings.split, settings.sentences, settings.seed, batch_size=64)
    return common_sentences(data, device_of(run.programs.model))


def _check_runs(runs: Sequence[Comparable]) -> list[Comparable]:
    """Return the runs, all trained and on the same data; they share the corpus of the first, which is read once."""
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
    return [first, *(run.sharing(first.corpus) for run in others)]


def _free_place(run: Comparable, out: str | Path | None) -> Path:
    """Return where the result will lie: ``out``, which must be free, or the next ``RUN/compare-N``."""
    place = folders.first_free(run.folder, "compare") if out is None else Path(out)
    folders.check_free(place)
    return place


def _candidate(run: Comparable, given: Comparable, guide_name: str) -> Candidate:
    return Candidate(str(given.folder), str(run.folder), guide_name, *run.programs)


class _Swaps:
    """Each run with each of the guides: its own as it is, a finished child taken again, or a new child.

    Raises with all that a swap objects to before the first one is trained.
    """

    def __init__(self, runs: Sequence[Comparable], guides: Sequence[str | type], steps: int | None) -> None:
        self._steps = steps
        given = {refer(guide, "guide")[0]: guide for guide in guides}
        names = list(given)
        short = [label(name) for name in names]
        # Two files may hold classes of one name.
        self._label = {name: name if short.count(label(name)) > 1 else label(name) for name in names}
        self._wanted = [(run, name) for run in runs for name in names]
        self._given = given
        self._parts: dict[tuple[Path, str], ChildParts] = {
            (run.folder, name): child_parts(run, given[name], steps=steps)
            for run, name in self._wanted
            if name != run.config.guide.name
        }

    def candidates(self, check: Callable[[Sequence[Candidate]], object], progress: Any) -> list[Candidate]:
        """Return model and guide of each; ``check`` sees them untrained first."""
        check([self._untrained(run, name) for run, name in self._wanted])
        return [_candidate(self._child(run, name, progress), run, self._label[name]) for run, name in self._wanted]

    def _untrained(self, run: Comparable, name: str) -> Candidate:
        parts = self._parts.get((run.folder, name))
        config, code = (run.config, run.code) if parts is None else (parts.config, parts.code)
        programs = build.build_programs(config, run.corpus.vocabulary, code=code)
        device = device_of(run.programs.model)
        return Candidate("", "", self._label[name], programs.model.to(device), programs.guide.to(device))

    def _child(self, run: Comparable, name: str, progress: Any) -> Comparable:
        parts = self._parts.get((run.folder, name))
        if parts is None:
            return run
        child = _finished_child(run, parts.config, parts.code)
        if child is None:
            progress.message(f"guide '{self._label[name]}': refitting it on the frozen model of {run.folder} …")
            child = run.swap_guide(self._given[name], steps=self._steps, progress=progress)
        else:
            known = f"taking {child.folder}, refitted before on this model in the same way"
            progress.message(f"guide '{self._label[name]}': {known}")
        taken: Comparable = child
        return taken


def _finished_child(run: Any, config: RunConfig, code: Code) -> Any:
    """Return a finished child of the run with just this configuration and code (weights of the parent included)."""
    for folder in sorted((run.folder / "swaps").glob("*")):
        if folders.has_run(folder) and (folder / "model.safetensors").is_file():
            stored = load_config(str(folder / "config.yaml"), {"device": config.device})
            child = run.child(folder, stored, code)
            same = build.effective(stored, code) == config
            if same and child.finished and same_code(folder, code, config.model_dump()):
                return child
    return None


def inference_files(guides: Iterable[str]) -> dict[str, str]:
    """Name the file for ArviZ of each guide: ``inference.nc`` of the first, ``inference-GUIDE.nc`` of each other.

    Example::

        >>> inference_files(["tril", "mine.py:Mine", "mine.py Mine"]).values()
        dict_values(['inference.nc', 'inference-mine.py-Mine.nc', 'inference-mine.py-Mine-2.nc'])
    """
    names: dict[str, str] = {}
    for guide in guides:
        words = re.sub(r"[^\w.]+", "-", guide[:LONGEST]).strip("-")
        stem = f"inference-{words}" if names else "inference"
        taken = sum(re.fullmatch(rf"{re.escape(stem)}(-\d+)?\.nc", name) is not None for name in names.values())
        names[guide] = f"{stem}-{taken + 1}.nc" if taken else f"{stem}.nc"
    return names


def write_comparison(found: Comparison, folder: Path) -> Path:
    """Write ``comparison.md`` and ``comparison.html``, whose figures lie in the folder; return the page's path."""
    target = folder / "comparison.html"
    folders.write_text(folder / "comparison.md", found.markdown())
    folders.write_text(target, page(found.document, folder))
    return target


def _save(found: Comparison, measured: Measurements, sentences: CommonSentences, place: Path, watch: Watch) -> None:
    """Write the result's folder under another name and put it into its place when it is whole."""
    partial = place.with_name(f".compare-{os.getpid()}.partial")
    folders.make_folder(partial)
    try:
        rows = [row.as_dict() for row in found.rows]
        folders.write_record(partial / RECORD, found.as_json())
        attributes = {f"setting_{key}": value for key, value in found.settings.items()}
        khats = {guide: figures.khat for guide, figures in measured.guides.items()}
        for number, (guide, name) in enumerate(inference_files(measured.guides).items(), start=1):
            candidate = measured.candidates[guide]
            content = inference_of(candidate, measured.guides[guide], sentences, found.settings["seed"])
            of_guide = {"guide": candidate.guide_name, "run": candidate.folder, **attributes}
            save_inference(partial / name, content, of_guide)
            watch("draws of the posterior, for ArviZ", number, len(measured.guides))
        bounds_figure(rows, partial / "figures" / "bounds.png", found.noun)
        khat_figure(khats, partial / "figures" / "khat.png", found.noun)
        snr_figure(rows, partial / "figures" / "snr.png")
        write_comparison(found, partial)
        folders.move_folder(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


__all__ = ["OBJECTIVES", "Comparison", "Settings", "compare_runs"]
