"""Pictures of attention: what each token of a text reads of its source, and how sure that is where it is drawn; and
how much of it each layer pays to a memory.
"""

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

    ``spread``: standard deviations, of what a step reads (T,), or of each weight (T, S); None: nothing is drawn.
    """

    target: Sequence[str]
    source: Sequence[str]
    weights: NDArray[np.floating]
    spread: NDArray[np.floating] | None = None


def attention_figure(pair: Pair, target: Path) -> None:
    """:func:`draw_attention` as a PNG."""
    save_figure(draw_attention(pair), target)


def draw_attention(pair: Pair) -> Figure:
    """Heat map of the mean weights, source tokens across and target tokens down; beside it how wide each step is.

    That is a bar for a spread a step, and a second heat map for one a weight; without a spread the first map is alone.
    """
    steps, places = pair.weights.shape
    widths = [places] if pair.spread is None else [places, places if pair.spread.ndim == 2 else 4]
    figure = blank_figure(2.5 + CELL * sum(widths), 1.8 + CELL * steps)
    left, *others = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    _heat(left, pair.weights, 1.0, pair)
    left.set_title("attention" if pair.spread is None else "mean attention")
    if pair.spread is not None:
        _draw_spread(others[0], pair.spread, pair)
    left.set_yticks(range(steps), [_plain(token) for token in pair.target])
    return figure


def _draw_spread(axes: Axes, spread: NDArray[np.floating], pair: Pair) -> None:
    if spread.ndim == 2:
        _heat(axes, spread, None, pair)
        axes.set_title("standard deviation")
    else:
        axes.barh(range(len(spread)), spread, color="C0")
        axes.set_title("scale")


def _heat(axes: Axes, values: NDArray[np.floating], most: float | None, pair: Pair) -> None:
    image = axes.imshow(values, vmin=0.0, vmax=most, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(pair.source)), [_plain(token) for token in pair.source], rotation=90)
    axes.figure.colorbar(image, ax=axes, fraction=0.05)


def _plain(token: str) -> str:
    """Return a token as it is: a dollar sign begins no formula."""
    return token.replace("$", r"\$")


class MemoryShares(NamedTuple):
    """Of a text of T tokens the share of its attention that each step of L layers pays to a memory, ``shares`` (L, T).

    Means over heads. ``tokens``: what is written at each step; ``equal`` (T,): the share if all that it reads had the
    same, 1/(t + 2) at step t, from 0, of a text alone: beside the memory it reads BOS and t tokens.
    """

    tokens: Sequence[str]
    shares: NDArray[np.floating]
    equal: NDArray[np.floating]


def memory_figure(seen: MemoryShares, target: Path) -> None:
    """:func:`draw_memory` as a PNG."""
    save_figure(draw_memory(seen), target)


def draw_memory(seen: MemoryShares) -> Figure:
    """Heat map of the shares, tokens across and layers down; a last row has what the memory would have among equals."""
    layers, steps = seen.shares.shape
    figure = blank_figure(2.5 + CELL * steps, 1.8 + CELL * (layers + 1))
    axes = figure.subplots()
    image = axes.imshow(np.vstack([seen.shares, seen.equal]), vmin=0.0, cmap="Blues", aspect="auto")
    axes.axhline(layers - 0.5, color="k", lw=0.8)
    axes.set_yticks(range(layers + 1), [*(f"layer {layer + 1}" for layer in range(layers)), "if all are equal"])
    axes.set_xticks(range(steps), [_plain(token) for token in seen.tokens], rotation=90)
    axes.set_title("attention on the memory, mean over heads")
    figure.colorbar(image, ax=axes, fraction=0.05)
    return figure
