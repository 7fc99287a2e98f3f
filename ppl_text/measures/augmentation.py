"""Language models of few texts and of generated ones beside them: what the generated ones are worth (Figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..plots.figures import augmentation_figure
from .base import Measured, Subject
from .sentences import SentenceMeasure


class AugmentationMeasure(SentenceMeasure):
    """The rows of sentence models, with the number of training texts, over which perplexities are drawn."""

    name = "augmentation"

    def row(self, subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
        """Return the figures of a sentence model, and ``train_texts``, generated ones counted."""
        found = super().row(subject, settings, report)
        return found._replace(numbers={**found.numbers, "train_texts": len(subject.corpus.splits["train"])})

    def figures(self, place: Path, results: Mapping[str, Any], baselines: Sequence[str]) -> list[tuple[str, Path]]:
        """Draw perplexity over the number of training texts, a line for each group of language models."""
        exact = [r for r in results["rows"] if r["seeds"] and r["measures"].get("ppl_elbo") is None]
        lines = {
            title.split(":")[0]: [
                (row["measures"]["train_texts"], row["measures"]["ppl"], row["spread"].get("ppl", 0.0))
                for row in exact
                if row["group"] == group
            ]
            for group, title in results["groups"].items()
        }
        lines = {title: points for title, points in lines.items() if points}
        if not lines:
            return []
        path = place / "figures" / "augmentation.png"
        augmentation_figure(lines, path)
        return [
            ("test perplexity over the number of training texts, the first of each line without generated ones", path)
        ]
