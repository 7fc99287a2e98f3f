"""A run: one model, guide and objective trained on one corpus, kept in a folder and usable from Python.

::

    import ppl_text as pt

    run = pt.fit("words")
    run.evaluate(split="test", particles=64)
    run.generate(5)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .core.atomic import finite_or_none
from .core.errors import Interrupted, RunFolderError, UnknownNameError, UserError
from .core.limits import MOST_PARTICLES, check_most
from .core.printing import html_table
from .core.processes import own_place
from .core.signals import number_of
from .data.corpus import Corpus
from .data.forms import TextForm, form_of
from .data.others import other_texts
from .evaluation.latents import LatentFigures
from .evaluation.likelihood import Likelihood
from .evaluation.neighbours import Neighbour, nearest_texts
from .evaluation.page import page
from .evaluation.report import Document, Picture, Section, values_of
from .evaluation.scores import check_storable
from .measures import measures_of
from .measures.base import Evaluation, Subject, TextSamples
from .plots.figures import training_figure
from .recipes import build, folders, start, swap
from .recipes import trust as consent
from .recipes.code import Code, name_of, named_objective, own_references, refer, references
from .recipes.config import RunConfig, load_config
from .recipes.failing import guarded
from .recipes.overview import overview
from .training.machine import torch_threads
from .training.notebook import chosen_progress, counted, watched
from .training.options import TrainingResult
from .training.progress import Progress, Working, working_of
from .training.records import read_metrics
from .training.weights import load_weights
from .writing import Writer

if TYPE_CHECKING:
    import pandas as pd

    from .recipes.compare import Comparison


class Run(Writer):
    """A run folder, live.

    The corpus is read only where its texts are needed: texts are generated, and typed ones encoded, without it.

    ``folder`` holds ``config.yaml`` (complete, re-runnable), ``data.json`` (what the corpus was),
    ``tokenizer.json``, ``environment.json``, ``metrics.jsonl``, ``checkpoints/``, ``model.safetensors``
    (the weights with the best validation bound) and, when finished, ``report.md``, ``report.html``, ``results.json``
    and ``figures/``; ``parent.json`` where it started from another run's model. Make one with :func:`fit`, open one
    with :func:`load`.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        *,
        corpus: Corpus | None = None,
        parent: Run | None = None,
        programs: build.Programs | None = None,
        code: Code | None = None,
        trust: bool = False,
    ) -> None:
        self.folder, self.config = folder, config
        self._corpus, self._parent, self._programs = corpus, parent, programs
        self._code, self._trust = code or {}, trust
        self._form: TextForm | None = None

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"<Run {self.folder} of {self.config.recipe}, guide {self.config.guide.name}, {state}>"

    def _repr_html_(self) -> str:
        """Return what the folder holds, as a notebook shows it."""
        found = overview(self.folder)
        facts = {
            "run": str(self.folder),
            "recipe": self.config.recipe,
            "model": self.config.model.family,
            "guide": self.config.guide.name,
            "objective": self.config.objective,
            "parent": "" if self.config.parent is None else os.path.relpath(self.config.parent),
            "state": found.told_state,
            "bounds, nats a text": found.told_bounds,
        }
        return html_table([], [(name, value) for name, value in facts.items() if value])

    def to_dataframe(self) -> pd.DataFrame:
        """The lines of ``metrics.jsonl``: a row for each record of the training and each validation (``split``).

        What was monitored stands in columns of its own, ``monitor.NAME``.
        """
        import pandas as pd

        return pd.json_normalize(read_metrics(self.folder / "metrics.jsonl"))

    @property
    def code(self) -> Code:
        """What may run of the user's own code: consented to, or passed in Python."""
        return self._code

    @property
    def corpus(self) -> Corpus:
        """The corpus that the run was made on; raises where it has changed since."""
        if self._corpus is None:
            self._corpus = self._load_corpus()
        return self._corpus

    @property
    def form(self) -> TextForm:
        """How typed texts are encoded for this run, and how long they may be: kept in its folder, without a corpus."""
        if self._form is None:
            kept = None if self._corpus is not None else folders.read_form(self.folder, self.config)
            self._form = kept or form_of(self.corpus)
        return self._form

    def _load_corpus(self) -> Corpus:
        try:
            corpus = build.load_data(folders.with_own_tokenizer(self.folder, self.config))
        except UnknownNameError as error:
            raise UserError(
                f"the corpus of run {self.folder} is not at {self.config.data.corpus} any more, and this reads its "
                "texts; put it back there. Texts are generated and reconstructed without it, and evaluate --data FILE "
                "scores others"
            ) from error
        record = self.folder / folders.DATA
        trained_on = folders.read_record(record).get("fingerprint") if record.is_file() else corpus.fingerprint
        if trained_on == corpus.fingerprint:
            return corpus
        raise UserError(
            f"corpus '{self.config.data.corpus}' is not what run {self.folder} was trained on (other texts, "
            "counts or vocabulary); restore the old files, or train a new run on the new ones"
        )

    @property
    def programs(self) -> build.Programs:
        """Model and guide; for a trained run with its best weights, on the run's device."""
        if self._programs is None:
            self._programs = self._load_programs()
        return self._programs

    def _load_programs(self) -> build.Programs:
        programs = build.build_programs(self.config, self.form.vocabulary, code=self._code)
        if (self.folder / folders.WEIGHTS).is_file():
            load_weights(self.folder / folders.WEIGHTS, *programs)
        device = build.build_fabric(self.config).device
        return build.Programs(programs.model.to(device).eval(), programs.guide.to(device).eval())

    @property
    def parent(self) -> Run | None:
        """The run whose model this one started from, or None; raises where it is gone."""
        if self._parent is None and self.config.parent is not None:
            parent = open_run(self.config.parent, self.config.device, self._code, trust=self._trust)
            same = parent.config.data == self.config.data
            self._parent = parent.sharing(self._corpus) if same else parent
        return self._parent

    def sharing(self, corpus: Corpus | None) -> Run:
        """Return this run on a corpus that has been loaded elsewhere and is known to be its own (None: not yet)."""
        return self._in(self.folder, corpus or self._corpus)

    def move(self, target: Path) -> Run:
        """Move the folder to ``target``, which must be free, and return the run there."""
        folders.move_folder(self.folder, target)
        return self._in(target, self._corpus)

    def _in(self, folder: Path, corpus: Corpus | None) -> Run:
        own: dict[str, Any] = {"code": self._code, "trust": self._trust}
        return Run(folder, self.config, corpus=corpus, parent=self._parent, programs=self._programs, **own)

    def child(self, folder: Path, config: RunConfig, code: Code | None = None) -> Run:
        """Return the run of a folder, trained or to be trained, that starts from this run's model.

        ``code``: what may run of the user's; None: what may run for this one.
        """
        own = self._code if code is None else code
        return Run(folder, config, corpus=self.corpus, parent=self, code=own, trust=self._trust)

    @property
    def model(self) -> nn.Module:
        """p(latents, tokens)."""
        return self.programs.model

    @property
    def guide(self) -> nn.Module:
        """q(latents | tokens)."""
        return self.programs.guide

    @property
    def subject(self) -> Subject:
        """What measures look at: model, guide and corpus, and how they were trained."""
        return build.subject_of(self.config, self.programs, self.corpus, self.folder, self._trained.get("step", 0))

    @property
    def _trained(self) -> dict[str, Any]:
        """How training ended, as the report has it; nothing before that."""
        path = self.folder / "results.json"
        found: dict[str, Any] = folders.read_record(path).get("trained", {}) if path.is_file() else {}
        return found

    @property
    def finished(self) -> bool:
        """Whether training came to the end that the configuration sets, and was reported."""
        return start.is_finished(self.folder, self.config)

    def on(self, data: str | Path, split: str = "test", column: str | None = None) -> Run:
        """Return this run with other texts in the place of its corpus's valid and test, to be measured on them.

        The corpus of the run that is returned is called by the name of the texts, and so is their split:
        ``other.evaluate(other.corpus.name)``. Its training texts, which reference models are made of, are this run's
        own; where they are gone, there is no reference.

        Args:
            data: a file, all of which is read by the run's tokenizer and options; or a folder, or ``hub:NAME``.
            split: which of a folder or a data set of the hub.
            column: of the texts, where it is another than in the run's data.
        """
        options = build.data_options(self.config)
        options = options if column is None else options.model_copy(update={"column": column})
        found = other_texts(str(data), self.config.data.unit, options, self.form, split)
        try:
            train = {"train": self.corpus.splits["train"]}
        except UserError:
            train = {}
        return self._in(self.folder, replace(found, splits={**found.splits, **train}))

    @guarded
    def evaluate(
        self,
        split: str = "test",
        particles: int = 64,
        limit: int | None = None,
        seed: int = 0,
        progress: Any = None,
        store: str | Path | None = None,
        data: str | Path | None = None,
        column: str | None = None,
        force: bool = False,
    ) -> Likelihood:
        """ELBO and importance-weighted bound of a split, nats per sentence, with standard errors.

        Every text of the split counts with its weight, or ``limit`` texts are drawn from it. ``store``: a file
        for what every sentence scored, log-weights too (:func:`~ppl_text.evaluation.scores.load_scores` reads it); it
        replaces a file of earlier scores, and another one only with ``force``.
        ``data``, ``column``: other texts than the run's own (:meth:`on`).
        """
        if particles < 1:
            raise UserError(f"particles must be 1 or more; got {particles}")
        check_most(particles, MOST_PARTICLES, "particles")
        if store is not None:
            check_storable(store, force=force)
        self.require_weights()
        if data is not None:
            other = self.on(data, split, column)
            return other.evaluate(other.corpus.name, particles, limit, seed, progress, store, force=force)
        return self.subject.evaluate(split, particles, limit, seed, progress or counted("evaluating"), store)

    @guarded
    def latents(self, split: str = "test", limit: int | None = None, seed: int = 0) -> LatentFigures | None:
        """What the latents of a split carry, site by site; None where nothing is latent but a path.

        The sentences are those of :meth:`evaluate`, and the aggregate posterior is that of all of them.
        """
        self.require_weights()
        return self.subject.latents(split, limit, seed)

    @guarded
    def bound(
        self,
        objective: Any,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
        progress: Any = None,
    ) -> tuple[float, float]:
        """The bound of one objective, e.g. ``"fivo:64"``, and its Monte-Carlo standard error; nats per sentence.

        The sentences are those of :meth:`evaluate`; each is estimated twice, the least that knows a spread.
        """
        self.require_weights()
        named = named_objective(objective)
        return self.subject.bound(named, split, limit, seed, progress or counted(named.name))

    @guarded
    def sections(self, evaluation: Evaluation, working: Working = lambda what, done, total: None) -> list[Section]:
        """What the model's measures show of an evaluation: sections for a report, with their plain values.

        ``working(what, done, total)`` is told how many measures are done.
        """
        self.require_weights()
        measures, found = measures_of(self.model, self.corpus), list[Section]()
        for done, measure in enumerate(measures):
            working("sections of the report", done, len(measures))
            found += measure.sections(self.subject, evaluation)
        working("sections of the report", len(measures), len(measures))
        return found

    @guarded
    def neighbours(
        self, text: str, n: int = 5, seed: int = 0, progress: Any = None, source: str | None = None
    ) -> list[Neighbour]:
        """The n training texts whose posterior means lie nearest to that of ``text``, each with its distance.

        ``source``: what a conditional model reads beside ``text``.
        """
        self.require_weights()
        options: dict[str, Any] = {"n": n, "max_steps": self.corpus.max_steps, "seed": seed}
        options["source"] = self._beside([text], None if source is None else [source])
        options |= {} if progress is None else {"report": progress}
        split = self.corpus.splits["train"]
        return nearest_texts(self.model, self.guide, split, self.corpus.tokenizer, self.corpus.clean(text), **options)

    def train(self, *, resume: bool = False, progress: Progress | bool | None = None) -> TrainingResult:
        """Train to the end (or go on with training), load the best weights, write the report.

        All is built, and one batch sent through it, before a new run's folder is made.
        """
        with ExitStack() as held:
            if resume and own_place().is_first:
                held.enter_context(folders.occupied(self.folder))
            return self._train(resume, chosen_progress(progress), held)

    def _train(self, resume: bool, progress: Progress, held: ExitStack) -> TrainingResult:
        told: dict[str, Any] = {"progress": progress, "held": held}
        result = start.train(self.folder, self.config, self.corpus, self._code, resume=resume, **told)
        self._programs = None
        progress.message("evaluating on the test split …")
        try:
            with torch_threads(self.config.threads):
                self.report(result, working_of(progress))
        except KeyboardInterrupt as stop:
            raise Interrupted(
                f"stopped while the report was written; training is done and saved. Write the report with: "
                f"{folders.resume_command(self.folder)}",
                exit_code=128 + number_of(stop),
            ) from None
        return result

    @guarded
    def report(self, result: TrainingResult | None = None, working: Working = lambda what, done, total: None) -> Path:
        """Evaluate on test and write ``report.md``, ``report.html``, ``results.json``; return the page's path.

        ``result``: how training ended; None: as the run's own ``results.json`` says. The page holds its figures, which
        lie in ``figures/`` too. ``working(what, done, total)`` is told how far it is.

        Raises:
            RunFolderError: the run has not come to its end.
        """
        trained = self._ended if result is None else self._end_of(result)
        options, seed = self.config.report, self.config.seed
        shown_on = partial(working, "evaluating on the test split")
        likelihood = self.evaluate("test", options.particles, options.sentences, seed, shown_on)
        evaluation = Evaluation("test", likelihood, options.sentences, seed, options.samples, pictures=True)
        sections = [*self.sections(evaluation, working), *self._course(likelihood)]
        sections += swap.report_sections(self, likelihood)
        facts = folders.report_facts(self.folder, self.config, self.corpus, self.programs, trained)
        document = Document(f"Run {self.folder.name}: {self.config.recipe}", facts, tuple(sections))
        folders.write_text(self.folder / "report.md", document.markdown())
        folders.write_text(self.folder / folders.PAGE, page(document, self.folder))
        # Last, because it says that the run is finished.
        about = {"split": "test", "noun": self.corpus.noun}
        values = {**about, **finite_or_none(values_of(sections)), "trained": trained}
        folders.write_record(self.folder / "results.json", values)
        return self.folder / folders.PAGE

    def _end_of(self, result: TrainingResult) -> dict[str, Any]:
        """Return what ``results.json`` keeps of how training ended."""
        ended = {"step": result.step, "best_step": result.best_step, "stopped": result.stopped}
        return ended | self.config.training.mark()

    @property
    def _ended(self) -> dict[str, Any]:
        """How training ended, of a run that has."""
        if not {"step", "best_step", "stopped"} <= (ended := self._trained).keys():
            raise RunFolderError(
                f"run {self.folder} is not finished, so that there is nothing to report; go on with it: "
                f"{folders.resume_command(self.folder)}"
            )
        return ended

    def _course(self, likelihood: Likelihood) -> list[Section]:
        """Return the sections on training and data that every report has, where there is something to say."""
        target, found = Path("figures/training.png"), []
        curves = "log-likelihood" if likelihood.exact else "bound and KL"
        if training_figure(self.folder / "metrics.jsonl", self.folder / target, self.corpus.noun):
            found.append(Section("Training", pictures=(Picture(f"{curves} over training", str(target)),)))
        if self.corpus.notes:
            found.append(Section("Notes on the data", items=tuple(self.corpus.notes)))
        return found

    @guarded
    def samples(self, n: int = 1000, seed: int = 0) -> TextSamples:
        """Texts drawn from the prior, with the share of them that are texts of the training list."""
        self.require_weights()
        return self.subject.samples(n, seed)

    def swap_guide(
        self,
        guide: str | type,
        *,
        steps: int | None = None,
        objective: Any = None,
        freeze: str = "model",
        set: Mapping[str, Any] | None = None,
        seed: int | None = None,
        out: str | Path | None = None,
        progress: Progress | bool | None = None,
    ) -> Run:
        """Put another guide on this run's trained model and refit it; the finished child, a run like any other.

        Args:
            guide: as for :func:`fit`, like ``objective`` and ``set``.
            steps: updates; default :data:`~ppl_text.recipes.REFIT_STEPS`.
            objective: default: the parent's.
            freeze: ``"model"`` trains the guide alone, ``"none"`` both.
            set: dotted keys to values, after all else.
            seed: default: the parent's.
            out: the child's folder; default: the next ``swaps/GUIDE-N`` of this run's.
            progress: is told of notes, steps and validations; None, True and False as for :func:`fit`.
        """
        self.require_weights()
        options = {"objective": objective, "freeze": freeze, "set": set, "seed": seed, "out": out}
        parts = swap.child_parts(self, guide, steps=steps, **options)
        child = self.child(parts.folder, parts.config, parts.code)
        progress = chosen_progress(progress)
        if objective is None and parts.config.objective != self.config.objective:
            progress.message(f"guide {parts.config.guide.name} is trained by {parts.config.objective}")
        for note in parts.notes:
            progress.message(note)
        child.train(progress=progress)
        return child

    def compare(
        self,
        guides: Sequence[str | type] | None = None,
        objectives: Sequence[Any] | None = None,
        *,
        draws: int = 128,
        sentences: int = 256,
        repeats: int = 24,
        steps: int | None = None,
        split: str = "valid",
        seed: int = 0,
        out: str | Path | None = None,
        progress: Progress | bool | None = None,
    ) -> Comparison:
        """Measure guides (this run's own, others refitted) and objectives on the same sentences.

        The tables are in ``text``, the columns in ``rows``, what they mean in ``verdict``; all is kept in ``folder``.
        See :func:`ppl_text.recipes.compare.compare_runs`, which also takes several runs at once.
        """
        from .recipes.compare import Settings, compare_runs

        settings = Settings(draws=draws, sentences=sentences, repeats=repeats, split=split, seed=seed)
        options: dict[str, Any] = {"steps": steps, "out": out, "progress": chosen_progress(progress)}
        options["watch"] = watched()
        return compare_runs([self], guides, objectives, settings=settings, **options)

    def require_weights(self) -> None:
        """Raise :class:`RunFolderError`, with the command that trains it, where nothing has been trained yet."""
        if not (self.folder / folders.WEIGHTS).is_file():
            raise RunFolderError(
                f"run {self.folder} has no weights yet; train it: {folders.resume_command(self.folder)}"
            )


def load(
    folder: str | Path,
    device: str | None = None,
    *,
    model: str | type | None = None,
    guide: str | type | None = None,
    objective: Any = None,
    trust: bool = False,
) -> Run:
    """Open a run folder.

    A run with code of its own runs that code only where it is consented to, whoever made the run. Consent covers the
    runs that this one started from, too.

    Args:
        folder: of the run.
        device: replaces the run's own.
        model: the run's own class once more, or ``FILE.py:CLASS`` with the text that the run keeps.
        guide: the same for the guide.
        objective: the same for an objective.
        trust: run the code that the folder keeps.

    Raises:
        RunFolderError: it is no run folder.
        TrustError: the run needs code that may not run; says which files would.
    """
    given: dict[str, Any] = {}
    for kind, thing in (("model", model), ("guide", guide), ("objective", objective)):
        given |= {} if thing is None else refer(thing, kind)[1]
    opened = open_run(folder, device, given, trust=trust)
    tree = opened.config.model_dump()
    needed = {name_of(text) for text in own_references(tree)}
    # An objective of ours or of Pyro's was passed as an object and is kept by its name.
    texts = dict(references(tree))
    unused = [own.name for text, own in given.items() if text not in texts and own.name not in needed]
    if unused:
        raise UserError(
            f"{', '.join(unused)} is no code that {folder} needs ({', '.join(needed) or 'it needs none'}); leave it out"
        )
    return opened


def open_run(folder: str | Path, device: str | None, given: Code, *, trust: bool) -> Run:
    """Open a run folder with what was named or passed of the user's code; what it does not need is left alone."""
    folder = Path(folder)
    folders.require_run(folder)
    config = load_config(str(folder / folders.CONFIG), {} if device is None else {"device": device})
    code = consent.opened(folder, own_references(config.model_dump()), given, trust=trust)
    return Run(folder, config, code={**given, **code}, trust=trust)
