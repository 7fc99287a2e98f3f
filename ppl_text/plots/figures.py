"""Figures as PNG files: how they are made and saved, the training curve, entropies over training, entropy gaps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..core.atomic import write_atomically
from ..core.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
"""Dots per inch of every figure."""


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the training and the validation records of ``metrics.jsonl``."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for r in records if r["split"] == "train"], [r for r in records if r["split"] == "valid"]


def training_figure(metrics: Path, target: Path) -> None:
    """Draw bound (train and validation) and KL against the step, nats per sentence, as a PNG.

    A KL that is 0 throughout (nothing is latent, or q is the prior) has no panel.
    """
    train, valid = read_metrics(metrics)
    figure = blank_figure(7.5, 3.2)
    left, *others = figure.subplots(1, 2 if any(r["kl"] for r in [*train, *valid]) else 1, squeeze=False)[0]
    left.plot([r["step"] for r in train], [r["bound"] for r in train], lw=1, label="train")
    left.plot([r["step"] for r in valid], [r["bound"] for r in valid], "o-", ms=3, label="validation, β = 1")
    left.set(xlabel="step", ylabel="bound (nats per sentence)")
    left.legend(frameon=False)
    for right in others:
        right.plot([r["step"] for r in train], [r["kl"] for r in train], lw=1, label="train")
        right.plot([r["step"] for r in valid], [r["kl"] for r in valid], "o-", ms=3, label="validation")
        right.set(xlabel="step", ylabel="KL (nats per sentence)")
    save_figure(figure, target)


def blank_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches, that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, target: Path) -> None:
    """Write a PNG, whole or not at all; the folder is made where it does not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: figure.savefig(file, format="png"))


CURVES = {
    "marginal_entropy": "marginal $H[E\\,P(w_t | \\mathrm{latents})]$",
    "expected_entropy": "expected $E\\,H[P(w_t | \\mathrm{latents})]$",
    "entropy_gap": "gap",
}
"""What a run's validations record under ``monitor``, by name, and how the figure calls it."""


class Gaps(Protocol):
    """Entropy gaps by row, such as :class:`~ppl_text.evaluation.trajectories.EntropyGap`; nats."""

    @property
    def position(self) -> ArrayLike:
        """(R,) t = 1, 2, …"""

    @property
    def length(self) -> ArrayLike:
        """(R,) letters of the word."""

    @property
    def gap(self) -> ArrayLike:
        """(R,) nats."""


def gap_figure(gaps: Gaps, target: Path) -> None:
    """:func:`draw_gaps` as a PNG."""
    save_figure(draw_gaps(gaps), target)


def entropies_figure(metrics: Path, target: Path, baseline: float | None = None) -> None:
    """:func:`draw_entropies` as a PNG."""
    save_figure(draw_entropies(metrics, baseline), target)


def distances_figure(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """:func:`draw_distances` as a PNG."""
    save_figure(draw_distances(rows), target)


def augmentation_figure(lines: Mapping[str, Sequence[tuple[int, float, float]]], target: Path) -> None:
    """Draw perplexities over the number of training texts, a line by its name, as PNG.

    A point is the number of texts, the perplexity, and its standard deviation between seeds (0 for one).
    """
    figure = blank_figure(5.5, 3.4)
    axes = figure.subplots()
    for name, points in lines.items():
        places, values, errors = zip(*sorted(points), strict=True)
        axes.errorbar(places, values, errors, fmt="o-", ms=4, lw=1, capsize=2, label=name)
    axes.set(xlabel="training texts, generated ones counted", ylabel="test perplexity", xscale="log")
    axes.legend(frameon=False)
    save_figure(figure, target)


def draw_gaps(gaps: Gaps) -> Figure:
    """Box plots of H_gap by position t and by word length (figures 1 and 2 of the paper); nats, bits on the right.

    Boxes are quartiles, whiskers reach 1.5 times as far as the box is high, points lie beyond them. Raises
    :class:`DataError` where there is no row.
    """
    values = np.asarray(gaps.gap, dtype=np.float64)
    if not values.size:
        raise DataError("there is no entropy gap to draw: the measurement has no row")
    figure = blank_figure(7.5, 3.2)
    left, right = figure.subplots(1, 2, sharey=True)
    _boxes(left, np.asarray(gaps.position), values)
    _boxes(right, np.asarray(gaps.length), values)
    left.set(xlabel="position t", ylabel="entropy gap (nats)")
    right.set(xlabel="letters of the word")
    bits = right.secondary_yaxis("right", functions=(lambda y: y / math.log(2), lambda y: y * math.log(2)))
    bits.set_ylabel("bits")
    return figure


def entropy_records(metrics: Path) -> list[dict[str, Any]]:
    """Return the validations of ``metrics.jsonl`` that recorded entropies; none for a model without latent paths."""
    return [r for r in read_metrics(metrics)[1] if CURVES.keys() <= (r.get("monitor") or {}).keys()]


def draw_entropies(metrics: Path, baseline: float | None = None) -> Figure:
    """Marginal and expected entropy and their gap against the step, nats per token, out of a run's ``metrics.jsonl``.

    ``baseline``: entropy per token of another model, drawn as a dashed line. Raises :class:`DataError` where the run
    recorded no entropies.
    """
    recorded = entropy_records(metrics)
    if not recorded:
        raise DataError(
            f"{metrics} holds no entropies: they are recorded at each validation of a model with latent paths, such as "
            "deep_state_space"
        )
    figure = blank_figure(5.0, 3.2)
    axes = figure.subplots()
    steps = [r["step"] for r in recorded]
    for name, label in CURVES.items():
        axes.plot(steps, [_number(r["monitor"][name]) for r in recorded], "o-", ms=3, lw=1, label=label)
    if baseline is not None:
        axes.axhline(baseline, color="black", linestyle="--", lw=1, label="baseline")
    axes.set(xlabel="step", ylabel="nats per token")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def draw_distances(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the cross-entropy of the test words above the oracle's, nats per word: ours and the published, row by row.

    ``rows`` are those of a table's results; ones without either are left out.
    """
    shown = [row for row in rows if _distance(row, "measures") is not None or _distance(row, "published") is not None]
    shown = shown[::-1]
    figure = blank_figure(7.5, 1.2 + 0.28 * len(shown))
    axes = figure.subplots()
    for whose, marker, label in (("published", "o", "published"), ("measures", "D", "ours")):
        points = [(value, place) for place, row in enumerate(shown) if (value := _distance(row, whose)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker, label=label)
    axes.set_yticks(range(len(shown)), [f"{row['title']} ({row['name']})" for row in shown])
    axes.set_xlabel("nats per word above the oracle")
    axes.legend(frameon=False)
    return figure


def _distance(row: Mapping[str, Any], whose: str) -> float | None:
    value: float | None = row[whose].get("distance")
    return value


def _boxes(axes: Axes, keys: Any, values: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    places = np.unique(keys)
    boxes = [values[keys == place] for place in places]
    axes.boxplot(boxes, positions=places, widths=0.6, manage_ticks=False, flierprops={"ms": 2})
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _number(value: float | None) -> float:
    """Return what a line of metrics holds: null stands for a number that JSON does not know."""
    return math.nan if value is None else value
