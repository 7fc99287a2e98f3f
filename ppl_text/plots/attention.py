"""A picture of attention: what each token of a text reads of its source, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .figures import blank_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.3
"""Inches of a token."""


class Pair(NamedTuple):
    """A text of T tokens and its source of S: ``weights`` (T, S), mean attention, each row of sum 1.

    ``spread``: standard deviations, of what a step reads (T,), or of each weight (T, S).
    """

    target: Sequence[str]
    source: Sequence[str]
    weights: NDArray[np.floating]
    spread: NDArray[np.floating]


def attention_figure(pair: Pair, target: Path) -> None:
    """:func:`draw_attention` as a PNG."""
    save_figure(draw_attention(pair), target)


def draw_attention(pair: Pair) -> Figure:
    """Heat map of the mean weights, source tokens across and target tokens down; beside it how wide each step is.

    That is a bar for a spread a step, and a second heat map for one a weight.
    """
    steps, places = pair.weights.shape
    by_weight = pair.spread.ndim == 2
    widths = (places, places if by_weight else 4)
    figure = blank_figure(2.5 + CELL * sum(widths), 1.8 + CELL * steps)
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": widths})
    _heat(left, pair.weights, 1.0, pair)
    left.set_title("mean attention")
    if by_weight:
        _heat(right, pair.spread, None, pair)
        right.set_title("standard deviation")
    else:
        right.barh(range(steps), pair.spread, color="C0")
        right.set_title("scale")
    left.set_yticks(range(steps), [_plain(token) for token in pair.target])
    return figure


def _heat(axes: Axes, values: NDArray[np.floating], most: float | None, pair: Pair) -> None:
    image = axes.imshow(values, vmin=0.0, vmax=most, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(pair.source)), [_plain(token) for token in pair.source], rotation=90)
    axes.figure.colorbar(image, ax=axes, fraction=0.05)


def _plain(token: str) -> str:
    """Return a token as it is: a dollar sign begins no formula."""
    return token.replace("$", r"\$")
