"""A run: one model, guide and objective trained on one corpus, kept in a folder and usable from Python.

::

    import ppl_text as pt

    run = pt.fit("words")
    run.evaluate(split="test", particles=64)
    run.generate(5)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from . import objectives, swap
from .core.batch import device_of
from .core.errors import Interrupted, RunFolderError, UserError
from .core.protocols import Objective
from .data.corpus import Corpus
from .decoding import Strategy, as_strategy
from .evaluation.estimates import estimate_bounds
from .evaluation.generation import PATHS, interpolate_texts, reconstruct_texts, sample_texts
from .evaluation.latents import LatentFigures, latent_figures, sentence_latents
from .evaluation.likelihood import Likelihood, measuring, sentence_bounds, summarize
from .evaluation.neighbours import Neighbour, nearest_texts
from .evaluation.report import latent_section, results, run_report
from .evaluation.scores import SentenceScores, check_storable, join_scores, store_scores
from .evaluation.sentences import common_sentences
from .evaluation.words import WordReferences, WordSamples, word_references, word_samples
from .plots.figures import training_figure
from .recipes import build, folders
from .recipes.config import RunConfig, load_config
from .recipes.facts import open_folder, report_facts
from .recipes.lineage import inherit
from .recipes.rehearsal import first_batch, rehearse
from .recipes.stages import stage_objective
from .training.machine import torch_threads
from .training.options import TrainingResult
from .training.progress import Progress, Quiet
from .training.weights import load_weights

if TYPE_CHECKING:
    from .compare import Comparison


class Run:
    """A run folder, live.

    ``folder`` holds ``config.yaml`` (complete, re-runnable), ``data.json`` (what the corpus was),
    ``tokenizer.json``, ``environment.json``, ``metrics.jsonl``, ``checkpoints/``, ``model.safetensors``
    (the weights with the best validation bound) and, when finished, ``report.md``, ``results.json`` and
    ``figures/``; ``parent.json`` where it started from another run's model. Make one with :func:`fit`, open one
    with :func:`load`.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"<Run {self.folder} of {self.config.recipe}, guide {self.config.guide.name}, {state}>"

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus that the run was made on; raises where it has changed since."""
        corpus = build.load_data(self.config)
        record = self.folder / "data.json"
        if record.is_file() and folders.read_record(record).get("fingerprint") != corpus.fingerprint:
            raise UserError(
                f"corpus '{self.config.data.corpus}' is not what run {self.folder} was trained on (other texts, "
                "counts or vocabulary); restore the old files, or train a new run on the new ones"
            )
        return corpus

    @cached_property
    def programs(self) -> build.Programs:
        """Model and guide; for a trained run with its best weights, on the run's device."""
        programs = build.build_programs(self.config, self.corpus.vocabulary)
        if (self.folder / "model.safetensors").is_file():
            load_weights(self.folder / "model.safetensors", *programs)
        device = build.build_fabric(self.config).device
        return build.Programs(programs.model.to(device).eval(), programs.guide.to(device).eval())

    @cached_property
    def parent(self) -> Run | None:
        """The run whose model this one started from, or None; raises where it is gone."""
        if self.config.parent is None:
            return None
        parent = load(self.config.parent, self.config.device)
        if "corpus" in self.__dict__ and parent.config.data == self.config.data:
            parent.__dict__["corpus"] = self.corpus
        return parent

    @property
    def model(self) -> nn.Module:
        """p(latents, tokens)."""
        return self.programs.model

    @property
    def guide(self) -> nn.Module:
        """q(latents | tokens)."""
        return self.programs.guide

    @property
    def finished(self) -> bool:
        """Whether training came to the end that the configuration sets, and was reported."""
        path = self.folder / "results.json"
        trained = folders.read_record(path).get("trained", {}) if path.is_file() else {}
        early = ("patience", "decays", "untrained")
        return trained.get("stopped") in early or self.config.training.is_reached(trained)

    def evaluate(
        self,
        split: str = "test",
        particles: int = 64,
        limit: int | None = None,
        seed: int = 0,
        progress: Any = None,
        store: str | Path | None = None,
    ) -> Likelihood:
        """ELBO and importance-weighted bound of a split, nats per sentence, with standard errors.

        Every text of the split counts with its weight, or ``limit`` texts are drawn from it. ``store``: a file
        for what every sentence scored, log-weights too (:func:`~ppl_text.evaluation.scores.load_scores` reads it).
        """
        if particles < 1:
            raise UserError(f"particles must be 1 or more; got {particles}")
        if store is not None:
            check_storable(store)
        self.require_weights()
        device = device_of(self.model)
        rows = build.evaluation_set(self.corpus, split, limit, seed)
        # Decoders of sentences are wide: no filler rows.
        of_sentences = not self.corpus.weighted
        kept: list[SentenceScores] = []
        bounds = sentence_bounds(
            self.model,
            self.guide,
            common_sentences(rows) if of_sentences else rows,
            particles=particles,
            device=device,
            seed=seed,
            report=progress or (lambda done, total: None),
            keep=(lambda scores: None) if store is None else kept.append,
        )
        if store is not None:
            about = {"run": str(self.folder), "split": split, "seed": seed, "particles": particles, "limit": limit}
            store_scores(store, join_scores(kept), about)
        # A word list is drawn from with replacement, ∝ counts.
        whole = float(len(self.corpus.splits[split])) if of_sentences else math.inf
        drawn_from = None if limit is None else whole
        return summarize(bounds, particles, drawn_from=drawn_from, exact=not self.model.latents)

    def latents(self, split: str = "test", limit: int | None = None, seed: int = 0) -> LatentFigures | None:
        """KL by dimension, mutual information and active units of a split; None where no latent is of a sentence.

        The sentences are those of :meth:`evaluate`, and the aggregate posterior is that of all of them.
        """
        if not sentence_latents(self.model):
            return None
        self.require_weights()
        device = device_of(self.model)
        data = common_sentences(build.evaluation_set(self.corpus, split, limit, seed, batch_size=64), device)
        with measuring(seed, self.model, self.guide):
            return latent_figures(self.model, self.guide, data)

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
        made = objectives.build(objective)
        data = common_sentences(build.evaluation_set(self.corpus, split, limit, seed), device_of(self.model))
        done = itertools.count(1)
        report = progress or (lambda done, total: None)
        found = estimate_bounds(
            made,
            self.model,
            self.guide,
            data,
            draws=2 * made.particles,
            seed=seed,
            report=lambda: report(next(done), len(data.batches)),
        )
        return found.mean(data.share), found.standard_error(data.share)

    def references(self, split: str = "test") -> WordReferences:
        """What a word model's bounds are compared with."""
        return word_references(self.corpus, split)

    def generate(self, n: int = 10, seed: int = 0, strategy: Strategy | str = "sample") -> list[str]:
        """n texts from the prior: latents drawn, then tokens by ``strategy`` (a name or an object, :mod:`.decoding`).

        Where nothing is latent, ``greedy`` and ``beam`` know one text only, and it comes once.
        """
        if n < 1:
            raise UserError(f"the number of texts must be 1 or more; got {n}")
        self.require_weights()
        model: Any = self.model
        steps, chosen = 2 * self.corpus.max_steps, as_strategy(strategy)
        return sample_texts(
            model, self.corpus.tokenizer, n, steps=steps, seed=seed, strategy=chosen, guide=self.guide
        ).texts

    def reconstruct(self, texts: Sequence[str], seed: int = 0, strategy: Strategy | str = "greedy") -> list[str]:
        """Latents drawn from the guide for each text, then tokens by ``strategy``."""
        self.require_weights()
        options: dict[str, Any] = {"max_steps": self.corpus.max_steps, "seed": seed, "strategy": as_strategy(strategy)}
        texts = [self.corpus.clean(text) for text in texts]
        return reconstruct_texts(self.model, self.guide, self.corpus.tokenizer, texts, **options)

    def interpolate(
        self,
        first: str,
        second: str,
        points: int = 7,
        seed: int = 0,
        path: str = PATHS[0],
        strategy: Strategy | str = "greedy",
    ) -> list[str]:
        """Texts between two texts, from latents to latents, both drawn from the guide; ``path`` spherical or linear.

        Where latents are paths through the tokens, through the noise that drives the prior.
        """
        self.require_weights()
        options: dict[str, Any] = {"path": path, "strategy": as_strategy(strategy), "seed": seed}
        options |= {"points": points, "max_steps": self.corpus.max_steps}
        ends = self.corpus.clean(first), self.corpus.clean(second)
        return interpolate_texts(self.model, self.guide, self.corpus.tokenizer, *ends, **options)

    def neighbours(self, text: str, n: int = 5, seed: int = 0, progress: Any = None) -> list[Neighbour]:
        """The n training texts whose posterior means lie nearest to that of ``text``, each with its distance."""
        self.require_weights()
        options: dict[str, Any] = {"n": n, "max_steps": self.corpus.max_steps, "seed": seed}
        options |= {} if progress is None else {"report": progress}
        split = self.corpus.splits["train"]
        return nearest_texts(self.model, self.guide, split, self.corpus.tokenizer, self.corpus.clean(text), **options)

    def train(
        self, objective: Objective | None = None, *, resume: bool = False, progress: Progress | None = None
    ) -> TrainingResult:
        """Train to the end (or go on with training), load the best weights, write the report.

        All is built, and one batch sent through it, before a new run's folder is made.
        """
        progress = progress or Quiet()
        fabric = build.build_fabric(self.config)
        programs = build.build_programs(self.config, self.corpus.vocabulary)
        if not resume:
            inherit(self.config, self.corpus, programs.model)
        objective = objective or build.build_objective(self.config)
        for note in self.corpus.notes:
            progress.message(note)
        batch = first_batch(self.corpus, self.config.data.batch_size)
        stages = self.config.training.in_stages()
        rehearsed = [rehearse(*programs, stage_objective(own, objective), batch, own) for own in stages]
        for remark in dict.fromkeys(remark for found in rehearsed for remark in found.remarks):
            progress.message(remark)
        trainer = build.build_trainer(self.config, self.corpus, programs, objective, self.folder, fabric, progress)
        if not resume:
            open_folder(self.folder, self.config, self.corpus, str(fabric.device))
        folders.write_text(self.folder / "config.yaml", self.config.to_yaml())
        with torch_threads(self.config.threads):
            result = trainer.fit(resume=resume)
        self.__dict__.pop("programs", None)
        progress.message("evaluating on the test split …")
        try:
            with torch_threads(self.config.threads):
                self.report(result)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped while the report was written; training is done and saved. Write the report with: "
                f"{folders.way_on(self.folder)}",
                exit_code=130,
            ) from None
        return result

    def report(self, result: TrainingResult) -> Path:
        """Evaluate on test and write ``figures/``, ``report.md`` and ``results.json``; return the report's path."""
        options = self.config.report
        likelihood = self.evaluate("test", options.particles, options.sentences, self.config.seed)
        references = self.references("test")
        samples = self.samples(options.samples, self.config.seed)
        training_figure(self.folder / "metrics.jsonl", self.folder / "figures" / "training.png")
        facts = report_facts(self.folder, self.config, self.corpus, self.programs, result)
        latents, recipe = self.latents("test", options.sentences, self.config.seed), self.config.cures
        said = latent_section(latents, recipe)
        text = run_report(facts, "test", likelihood, references, samples, self.corpus.notes, latents=said)
        section, figures = swap.report_section(self, likelihood)
        folders.write_text(self.folder / "report.md", text + section)
        # Last, because it says that the run is finished.
        trained = {"step": result.step, "best_step": result.best_step, "stopped": result.stopped}
        trained |= self.config.training.mark()
        values = {
            "split": "test",
            **results(likelihood, references, samples, latents, recipe),
            **figures,
            "trained": trained,
        }
        folders.write_record(self.folder / "results.json", values)
        return self.folder / "report.md"

    def samples(self, n: int = 1000, seed: int = 0) -> WordSamples:
        """Words drawn from the prior, with the share of them that are words of the training list."""
        self.require_weights()
        return word_samples(self.model, self.guide, self.corpus, n, seed)

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
        progress: Progress | None = None,
    ) -> Run:
        """Put another guide on this run's trained model and refit it; the finished child, a run like any other.

        ``guide``, ``objective`` and ``set`` as for :func:`fit`; ``steps`` (default:
        :data:`~ppl_text.swap.REFIT_STEPS`) updates of the guide alone (``freeze="model"``) or of both
        (``"none"``); ``out``: its folder (default: the next ``swaps/GUIDE-N`` of this run's). See :mod:`ppl_text.swap`.
        """
        self.require_weights()
        options = {"objective": objective, "freeze": freeze, "set": set, "seed": seed, "out": out}
        parts = swap.child_parts(self, guide, steps=steps, **options)
        child = Run(parts.folder, parts.config)
        child.__dict__.update(corpus=self.corpus, parent=self)
        child.train(parts.objective, progress=progress)
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
        progress: Progress | None = None,
    ) -> Comparison:
        """Measure guides (this run's own, others refitted) and objectives on the same sentences.

        The tables are in ``text``, the columns in ``rows``, what they mean in ``verdict``; all is kept in ``folder``.
        See :func:`ppl_text.compare.compare_runs`, which also takes several runs at once.
        """
        from .compare import Settings, compare_runs

        settings = Settings(draws=draws, sentences=sentences, repeats=repeats, split=split, seed=seed)
        options: dict[str, Any] = {"steps": steps, "out": out, "progress": progress}
        return compare_runs([self], guides, objectives, settings=settings, **options)

    def require_weights(self) -> None:
        """Raise :class:`RunFolderError`, with the way on, where nothing has been trained yet."""
        if not (self.folder / "model.safetensors").is_file():
            raise RunFolderError(f"run {self.folder} has no weights yet; train it: {folders.way_on(self.folder)}")


def load(folder: str | Path, device: str | None = None) -> Run:
    """Open a run folder; raises :class:`RunFolderError` where it is none. ``device`` replaces the run's own."""
    folder = Path(folder)
    if not folders.has_run(folder):
        what = "holds no run (no config.yaml)" if folder.is_dir() else "does not exist"
        raise RunFolderError(
            f"{folder} {what}; give the folder of a run, e.g. one that 'python -m ppl_text fit' printed"
        )
    path = str(folder / "config.yaml")
    return Run(folder, load_config(path, {} if device is None else {"device": device}))


__all__ = ["Run", "load"]
