"""Texts in two dimensions as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figures import blank_figure, save_figure

LABELLED = 12
"""Texts that are written beside their points: a figure cannot be hovered over."""

LONGEST = 24
"""Characters of a text that are written."""


def points_figure(
    x: Sequence[float], y: Sequence[float], texts: Sequence[str], axes: tuple[str, str], target: Path
) -> None:
    """Draw texts at their coordinates as PNG, some of them with their first words; ``axes``: what these are."""
    figure = blank_figure(7.5, 5.0)
    place = figure.subplots()
    place.scatter(x, y, s=14, alpha=0.6, linewidths=0)
    middle = (min(x) + max(x)) / 2 if x else 0.0
    for index in range(0, len(texts), max(1, len(texts) // LABELLED)):
        text = texts[index] if len(texts[index]) <= LONGEST else texts[index][: LONGEST - 1] + "…"
        left = x[index] <= middle
        style: dict[str, Any] = {"ha": "left" if left else "right", "fontsize": 7, "parse_math": False}
        place.annotate(text, (x[index], y[index]), (3 if left else -3, 3), textcoords="offset points", **style)
    place.set(xlabel=axes[0], ylabel=axes[1])
    save_figure(figure, target)
