"""Generated texts: how near they are to real ones, how varied, and how fluent; of stated lengths, or as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.atomic import finite_or_none
from ..core.errors import UserError
from ..core.printing import decimal
from ..data.corpus import Corpus, Split
from ..data.stored import StoredSplit
from ..evaluation.report import Section
from ..metrics.diversity import diversity
from ..metrics.fluency import NgramJudge, PretrainedJudge, fluency
from .base import SEED, Evaluation, Measure, Measured, Numbers, Subject
from .written import SHOWN, texts_as_read, written_notes, written_numbers

SCORES = {"ngram": "n-grams", "judge": "judge"}
"""Judges by the key of their scores."""

Judge = Callable[[Sequence[str]], NDArray[np.float64]]
"""Nats per token (N,) of each text."""


class GenerationMeasure(Measure):
    """Generated texts: rows of tables, or columns beside what another kind fills; nothing of a run's own report."""

    name = "generation"
    alone = False

    def applies(self, corpus: Corpus) -> bool:
        """Apply to texts that count once."""
        return not corpus.weighted

    def sections(self, subject: Subject, evaluation: Evaluation) -> list[Section]:
        """Return nothing: reports show samples of their own."""
        return []

    def beside(self, subject: Subject, settings: Mapping[str, Any]) -> Numbers:
        """Return figures of texts as they come, where the ``settings`` ask for some ``metrics``."""
        return written_numbers(subject, settings)[0]

    def row(self, subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
        """Figures of texts of stated lengths, of texts as they come, or of both: whatever the ``settings`` ask for.

        ``lengths``: :meth:`of_lengths`; ``metrics``: :func:`~ppl_text.measures.written.written_numbers`.
        """
        found: Numbers = {"steps": subject.steps}
        shown: dict[str, list[str]] = {}
        if "lengths" in settings:
            of_lengths = self.of_lengths(subject, settings, report)
            found, shown = {**found, **of_lengths.numbers}, {**of_lengths.texts}
        numbers, texts = written_numbers(subject, settings, report)
        return Measured(finite_or_none({**found, **numbers}), {}, {**shown, **texts})

    def of_lengths(self, subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
        """Diversity and fluency of texts from the prior, by length L: ``ent_L``, ``dist1_L``, ``ngram_L``, ….

        Source: the DAVAM paper, section IV-C. ``settings``: ``lengths`` L in tokens, EOS not counted; ``samples`` of
        each; ``judge``, the pretrained model that scores them beside the n-grams of the training texts, None for no
        such; ``order`` of the n-grams. The same figures of the test texts that have that length, at most as many, are
        ``real_…``.
        """
        number, corpus = settings["samples"], subject.corpus
        report("the n-gram model of the training texts")
        judges: dict[str, Callable[[Sequence[str]], Any]] = {
            "ngram": _ngrams(corpus.splits["train"], settings["order"])
        }
        if settings["judge"] is not None:
            report(f"the judge {settings['judge']}")
            judges["judge"] = PretrainedJudge(settings["judge"])
        found: Numbers = {}
        shown: dict[str, list[str]] = {}
        for length in settings["lengths"]:
            report(f"{number} texts of {length} {corpus.symbol}s")
            # By a seed for each length: with one for all, a text would begin as the shorter ones of its row do.
            drawn = subject.samples(number, SEED + length, length)
            found |= {f"{key}_{length}": value for key, value in figures_of(drawn.texts, judges).items()}
            found[f"in_list_{length}"] = drawn.in_list
            shown[f"{length} {corpus.symbol}s"] = list(drawn.texts[:SHOWN])
            real = texts_of_length(corpus.splits["test"], length, number)
            found[f"real_{length}"] = len(real)
            if len(real) > 1:
                found |= {f"real_{key}_{length}": value for key, value in figures_of(real, judges).items()}
        return Measured(found, {}, shown)

    def notes(self, results: Mapping[str, Any]) -> list[str]:
        """Say what the columns are, and what they are of real texts."""
        rows = [row["measures"] for row in results["rows"] if row["seeds"]]
        settings = results["settings"]
        if "lengths" not in settings:
            return written_notes(results)
        notes = [
            *written_notes(results),
            f"{settings['samples']} texts of each length a row, words and pairs of words counted over all of them "
            "together; Ent and the judges' scores in nats: of a judge the mean over the texts of -ln p per token, ± "
            "between the texts, and the exponential of that mean.",
        ]
        for length in settings["lengths"] if rows else ():
            real = {key: rows[0].get(f"real_{key}_{length}") for key in ("ent", "dist1", "dist2", *SCORES)}
            if real["ent"] is not None:
                scores = [f"{SCORES[key]} {decimal(real[key], 2)} nats" for key in SCORES if real[key] is not None]
                variety = f"Ent {decimal(real['ent'], 2)}, Dist-1 {decimal(real['dist1'], 3)}"
                number = f"{rows[0][f'real_{length}']:z,.0f} test texts of length {length}"
                notes.append(f"The {number}: {variety}, Dist-2 {decimal(real['dist2'], 3)}, {', '.join(scores)}.")
        return notes


def figures_of(texts: Sequence[str], judges: Mapping[str, Judge]) -> Numbers:
    """Return diversity of texts taken together, and their fluency to each judge."""
    found: Numbers = dict(zip(("ent", "dist1", "dist2"), diversity([text.split() for text in texts]), strict=True))
    for name, judge in judges.items():
        said = fluency(judge(texts))
        found |= {name: said.nats, f"{name}_sd": said.deviation, f"{name}_ppl": said.perplexity}
    return found


def texts_of_length(split: Split, length: int, most: int) -> list[str]:
    """Return the first ``most`` texts of a split that have ``length`` tokens, as its tokenizer reads them."""
    target = split.target
    rows = [row for row, n in enumerate(target.lengths.tolist()) if n == length + 1]
    return [target.tokenizer.decode(target.table.tokens(row)) for row in rows[:most]]


@lru_cache(maxsize=4)
def _ngrams(split: Split, order: int) -> NgramJudge:
    """Return the n-gram model of a split's texts as its tokenizer reads them; rows of one table share it.

    Raises :class:`UserError` for texts that are not held in memory, as all their n-grams would be.
    """
    if isinstance(split, StoredSplit):
        raise UserError(
            "the n-gram judge counts all training texts in memory, and data.stream is for texts that are not held "
            "there; train without data.stream (data.limit takes fewer texts), or leave out the setting 'lengths'"
        )
    return NgramJudge(texts_as_read(split), order)
