"""What every kind of measure shares: the subject, what was evaluated of it, and the base class of the kinds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import objectives
from ..core.batch import device_of
from ..core.errors import UserError
from ..core.protocols import Objective
from ..data.batches import EvaluationSet
from ..data.corpus import Corpus, found_among
from ..evaluation.collapse import NO_CURES, Cures
from ..evaluation.generation import sample_texts
from ..evaluation.latents import LatentFigures, latent_figures, says_more
from ..evaluation.likelihood import Likelihood, Tails, estimate_bounds, measuring, sentence_bounds, summarize
from ..evaluation.report import Section
from ..evaluation.scores import SentenceScores, join_scores, store_scores
from ..evaluation.sentences import CommonSentences, common_sentences, evaluation_set, text_units
from ..evaluation.storytelling import is_conditional
from ..metrics.words import share_in_list, share_unique
from ..plots.inference_data import FEWEST_DRAWS, khat_columns, pareto_k

if TYPE_CHECKING:
    from ..training.validation import Monitor

Report = Callable[[int, int], Any]
"""``(done, total)``: told of progress, in batches."""

Numbers = dict[str, float | int | None]

SEED = 0
"""Of the texts, draws and samples behind every figure of a table: the same for all rows and all seeds of training, so
that rows differ by what was trained."""


class Measured(NamedTuple):
    """What fills a row of a table: numbers by name, profiles, ``{name: {key: [nats, s.e., words]}}``, and texts.

    ``texts``: some to read, by what they are of.
    """

    numbers: Numbers
    profiles: dict[str, dict[str, list[float | int | None]]]
    texts: Mapping[str, list[str]] = {}


@dataclass(frozen=True)
class TextSamples:
    """Texts drawn from the model: how many, the share of them that are texts of the training list, the share of
    distinct ones, how many were cut off at the step limit, and the texts themselves.
    """

    drawn: int
    in_list: float
    unique: float
    unfinished: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A trained model and its guide on a corpus: all that a measure may look at.

    Args:
        model: p(latents, tokens), with its best weights.
        guide: q(latents | tokens).
        corpus: what both were trained on.
        objective: the name of what they were trained by.
        steps: how many updates were made.
        cures: what to advise where latents have collapsed (:class:`~ppl_text.evaluation.collapse.Cures`).
        folder: where figures and scores are put; None: they are not kept.
    """

    model: Any
    guide: Any
    corpus: Corpus
    objective: str = ""
    steps: int = 0
    cures: Cures = NO_CURES
    folder: Path | None = None

    def evaluate(
        self,
        split: str = "test",
        particles: int = 64,
        limit: int | None = None,
        seed: int = 0,
        report: Report = lambda done, total: None,
        store: str | Path | None = None,
    ) -> Likelihood:
        """ELBO and importance-weighted bound of a split, or of ``limit`` texts drawn from it.

        ``store``: a file for what every text scored, log-weights too.
        """
        rows = evaluation_set(self.corpus, split, limit, seed)
        weighted = self.corpus.weighted
        kept: list[SentenceScores] = []
        khats: list[NDArray[Any]] = []

        def keep(scores: SentenceScores) -> None:
            if not scores.exact and particles >= FEWEST_DRAWS:
                khats.append(khat_of(scores))
            if store is not None:
                kept.append(scores)

        # Decoders of sentences are wide: no filler rows.
        data = rows if weighted else common_sentences(rows)
        bounds = sentence_bounds(
            self.model,
            self.guide,
            data,
            particles=particles,
            device=device_of(self.model),
            seed=seed,
            report=report,
            keep=keep,
        )
        if store is not None:
            run = {} if self.folder is None else {"run": str(self.folder)}
            about = {**run, "split": split, "seed": seed, "particles": particles, "limit": limit}
            store_scores(store, join_scores(kept), about)
        # Weighted rows are drawn from with replacement, ∝ counts.
        whole = math.inf if weighted else float(len(self.corpus.splits[split]))
        drawn_from = None if limit is None else whole
        tails = Tails(np.concatenate(khats), bounds.weights.numpy()) if khats else None
        khat = None if tails is None else {**khat_columns(*tails), "tails": tails}
        found = summarize(bounds, particles, drawn_from=drawn_from, exact=not self.model.latents, khat=khat)
        units = text_units(data, self.corpus.tokenizer) if isinstance(data, CommonSentences) else None
        return found if units is None else replace(found, n_spaced=units.words, n_bytes=units.bytes)

    def bound(
        self,
        objective: Any,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
        report: Report = lambda done, total: None,
    ) -> tuple[float, float]:
        """Return the bound of one objective and its Monte-Carlo standard error, on the texts of :meth:`evaluate`.

        Each text is estimated twice, the least that knows a spread.
        """
        made: Objective = objectives.build(objective)
        data = common_sentences(evaluation_set(self.corpus, split, limit, seed), device_of(self.model))
        done = itertools.count(1)
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

    def latents(self, split: str = "test", limit: int | None = None, seed: int = 0) -> LatentFigures | None:
        """Read what the latents carry, on the texts of :meth:`evaluate`; None where there is nothing to say."""
        if not says_more(self.model.latents):
            return None
        rows = evaluation_set(self.corpus, split, limit, seed, batch_size=64)
        data = common_sentences(rows, device_of(self.model))
        with measuring(seed, self.model, self.guide):
            return latent_figures(self.model, self.guide, data)

    def samples(self, n: int, seed: int, length: int | None = None) -> TextSamples:
        """Draw n texts, of ``length`` tokens each where that is given.

        Otherwise the step limit is twice the longest text of the corpus, so that cutting is rare.

        A conditional model reads sources of the test split, as many texts for each as give n in all.
        """
        corpus, source = self.corpus, None
        if is_conditional(self.model):
            source = common_sentences(evaluation_set(corpus, "test", n, seed)).merged().source
        times = n if source is None else math.ceil(n / source.size)
        steps = 2 * corpus.max_steps
        options: dict[str, Any] = {"steps": steps, "seed": seed, "source": source, "length": length}
        drawn = sample_texts(self.model, corpus.tokenizer, times, guide=self.guide, **options)
        known = found_among(corpus.splits["train"].texts, drawn.texts)
        return TextSamples(
            drawn=len(drawn.texts),
            in_list=share_in_list(drawn.texts, known),
            unique=share_unique(drawn.texts),
            unfinished=drawn.unfinished,
            texts=tuple(drawn.texts),
        )


def khat_of(scores: SentenceScores) -> NDArray[Any]:
    """Pareto k̂ (N,) of the K log-weights of each sentence; NaN where one of them is no number."""
    log_weights = scores.log_weights.numpy()
    broken = (np.isnan(log_weights) | (log_weights == np.inf)).any(axis=1)
    khat = np.full(len(log_weights), np.nan)
    khat[~broken] = pareto_k(log_weights[~broken])
    return khat


class ObjectiveBound(NamedTuple):
    """The bound of one objective beside the others: its name, nats per text, and Monte-Carlo standard error."""

    name: str
    bound: float
    error: float


@dataclass(frozen=True)
class Evaluation:
    """What was evaluated of a subject: ``limit`` texts of ``split`` drawn by ``seed`` (None: all), and their bounds.

    ``samples``: how many texts to draw beside (0: none); ``other``: the bound of a further objective; ``pictures``:
    whether figures are put into the subject's folder.
    """

    split: str
    likelihood: Likelihood
    limit: int | None = None
    seed: int = 0
    samples: int = 0
    other: ObjectiveBound | None = None
    pictures: bool = False


class Measure:
    """One kind of figures, of the corpora that it applies to: base of the kinds.

    To add one: write a file in this room with a subclass, give it its ``name`` (its key in
    :data:`~ppl_text.measures.MEASURES`, by which models and tables name it), and define

    - ``applies(corpus)``: whether the corpus has what is measured;
    - ``sections(subject, evaluation)``: what report and command line show, and ``results.json`` keeps.

    Where they make sense also ``monitor``, for what a trainer records at each validation, and ``row`` for a published
    table, with ``version`` raised whenever a figure is measured otherwise than before, so that finished rows are
    re-measured; ``data_row`` fills a row that trains nothing, ``notes`` and ``figures`` stand below the table. A kind
    without bounds of its own says ``alone = False``: it stands beside one that has some, and ``beside`` is what it adds
    to that one's row. Whoever asks renders what comes back and knows no kind.
    :class:`~ppl_text.measures.texts.TextMeasure` has the sections of any text.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    alone: ClassVar[bool] = True
    """Whether a run needs no other kind beside this one: its first section is on bounds."""

    def applies(self, corpus: Corpus) -> bool:
        """Return whether the corpus has what is measured."""
        raise NotImplementedError(f"{type(self).__name__}: define applies(corpus)")

    def sections(self, subject: Subject, evaluation: Evaluation) -> list[Section]:
        """Return what report and command line show."""
        raise NotImplementedError(f"{type(self).__name__}: define sections(subject, evaluation)")

    def monitor(self, subject: Subject, validation: EvaluationSet, *, everything: bool = False) -> Monitor | None:
        """Return what is recorded at each validation beside the bound; None: nothing.

        ``everything``: of all validation texts, however costly, since training goes by it.
        """
        return None

    def row(self, subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
        """Fill a row of a table; ``settings`` are the table's, ``report`` is told what is being measured."""
        raise UserError(f"measures '{self.name}' fill no table")

    def beside(self, subject: Subject, settings: Mapping[str, Any]) -> Numbers:
        """Return what it adds to a row that another kind fills, where the model names this one; nothing by default."""
        return {}

    def data_row(
        self, corpus: Corpus, settings: Mapping[str, Any], seed: int, report: Callable[[str], None]
    ) -> Measured:
        """Fill a row that trains nothing, from the data alone."""
        raise UserError(f"a row of a table of {self.name} needs a recipe")

    def notes(self, results: Mapping[str, Any]) -> list[str]:
        """Return what must be known of a filled table; ``results`` as in its ``results.json``."""
        return []

    def figures(self, place: Path, results: Mapping[str, Any], baselines: Sequence[str]) -> list[tuple[str, Path]]:
        """Draw what belongs to a filled table that lies in ``place``; return what each figure shows, and its file.

        ``baselines``: names of the rows that others are compared with.
        """
        return []
