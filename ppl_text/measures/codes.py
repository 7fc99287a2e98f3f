"""Latents of a code book: which codes are used, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.batch import device_of
from ..core.printing import decimal
from ..data.batches import EvaluationSet
from ..data.corpus import Corpus
from ..evaluation.codes import CodeFigures, CodeMonitor, code_figures
from ..evaluation.likelihood import measuring
from ..evaluation.report import Section
from ..evaluation.sentences import common_sentences, evaluation_set
from .base import SEED, Evaluation, Measure, Numbers, Subject

if TYPE_CHECKING:
    from ..training.validation import Monitor

_HEADER = ("site", "codes", "used", "dead", "perplexity", "nats a code", "codes a text", "nats a text")


class CodeMeasure(Measure):
    """Latents of a code book, beside the bounds of the texts; nothing where no latent is one of codes."""

    name = "codes"
    alone = False

    def applies(self, corpus: Corpus) -> bool:
        """Apply to every corpus: whether there are codes is a matter of the model."""
        return True

    def sections(self, subject: Subject, evaluation: Evaluation) -> list[Section]:
        """Usage of each code book and nats a code, over the texts of the evaluation."""
        found = figures_of(subject, evaluation.split, evaluation.limit, evaluation.seed)
        if not found:
            return []
        rows = tuple(_row(name, figures) for name, figures in found.items())
        said = (
            f"Of one draw of the guide for each {subject.corpus.noun}. A code is dead where none of them has it; the "
            "perplexity is exp of the entropy of the codes drawn, the number of codes at most; the nats are KL(q ‖ p).",
        )
        values = {"codes": {name: figures.as_dict() for name, figures in found.items()}}
        return [Section(f"Codes of the {evaluation.split} {subject.corpus.noun}s", _HEADER, rows, said, (), values)]

    def monitor(self, subject: Subject, validation: EvaluationSet, *, everything: bool = False) -> Monitor | None:
        """Return what records the usage at each validation."""
        return CodeMonitor(validation) if subject.model.latents else None

    def beside(self, subject: Subject, settings: Mapping[str, Any]) -> Numbers:
        """Return usage and nats a code of a lone site of codes, over ``sentences`` of the test split (None: all)."""
        found = figures_of(subject, "test", settings.get("sentences"), SEED)
        if len(found) != 1:
            return {}
        (figures,) = found.values()
        numbers: Numbers = figures.as_dict()
        return numbers


def figures_of(subject: Subject, split: str, limit: int | None, seed: int) -> dict[str, CodeFigures]:
    """Return the figures of each site of codes on a split, or on ``limit`` texts drawn from it by ``seed``."""
    data = common_sentences(evaluation_set(subject.corpus, split, limit, seed), device_of(subject.model))
    with measuring(seed, subject.model, subject.guide):
        return code_figures(subject.model, subject.guide, data)


def _row(name: str, figures: CodeFigures) -> tuple[str, ...]:
    usage = figures.usage
    numbers = (f"{usage.size:,}", f"{usage.used:,}", f"{usage.dead:,}", decimal(usage.perplexity, 1))
    return (name, *numbers, decimal(figures.kl_per_step), decimal(figures.steps, 2), decimal(figures.kl))
