"""L3: what is measured of a model on a corpus, one file per kind; report, command line and tables render it.

A model names the kinds that apply to it as its class attribute ``measures``. To add one: write a file with a subclass
of :class:`~ppl_text.measures.base.Measure`, whose docstring is the recipe, and name it in :data:`MEASURES`. Nothing
heavy is imported here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.registry import Registry

if TYPE_CHECKING:
    from ..data.batches import EvaluationSet
    from ..data.corpus import Corpus
    from ..training.validation import Monitor
    from .base import Measure, Subject

MEASURES = {
    "words": "ppl_text.measures.words:WordMeasure",
    "sentences": "ppl_text.measures.sentences:SentenceMeasure",
    "codes": "ppl_text.measures.codes:CodeMeasure",
    "layers": "ppl_text.measures.layers:LayerMeasure",
    "pairs": "ppl_text.measures.pairs:PairMeasure",
    "augmentation": "ppl_text.measures.augmentation:AugmentationMeasure",
    "generation": "ppl_text.measures.generation:GenerationMeasure",
}
"""Kinds by name."""


def load_measure(name: str) -> Measure:
    """Make the measure of that name; raises :class:`UnknownNameError`."""
    made: Measure = Registry("measure", MEASURES).load(name)()
    return made


def measures_of(model: Any, corpus: Corpus) -> list[Measure]:
    """Return the measures that the model names and that apply to the corpus.

    Where none of them can stand alone, the first of all that applies and can stands before them, so that no run goes
    without bounds.
    """
    named = [load_measure(name) for name in getattr(model, "measures", ())]
    found = [measure for measure in named if measure.applies(corpus)]
    if any(measure.alone for measure in found):
        return found
    others = (measure for measure in map(load_measure, MEASURES) if measure.alone and measure.applies(corpus))
    return [*itertools.islice(others, 1), *found]


def monitor_of(subject: Subject, validation: EvaluationSet, *, everything: bool = False) -> Monitor | None:
    """Return what a trainer records of the subject at each validation: what all measures that its model names ask for.

    It depends on the model alone, whatever the corpus. ``everything``: of all validation texts.
    """
    named = [load_measure(name) for name in getattr(subject.model, "measures", MEASURES)]
    asked = [measure.monitor(subject, validation, everything=everything) for measure in named]
    monitors = [monitor for monitor in asked if monitor is not None]
    if len(monitors) < 2:
        return monitors[0] if monitors else None
    return _Several(monitors)


class _Several:
    """Several monitors as one."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self._monitors = monitors

    def __call__(self, model: Any, guide: Any) -> dict[str, Any]:
        """Return the numbers of all."""
        return {name: value for monitor in self._monitors for name, value in monitor(model, guide).items()}

    def remark(self, values: Mapping[str, Any]) -> str:
        """Return what they say of them, one after the other."""
        remarks = [monitor.remark(values) for monitor in self._monitors if hasattr(monitor, "remark")]
        return " ".join(filter(None, remarks))
