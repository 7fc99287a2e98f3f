"""Figures as PNG files: how they are made and saved, the training curve, entropies over training, entropy gaps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from ..core.atomic import write_atomically
from ..core.errors import DataError, RunFolderError
from ..core.reading import parse_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
"""Dots per inch of every figure."""


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the training and the validation records of ``metrics.jsonl``.

    Raises :class:`RunFolderError` where it is gone or damaged.
    """
    try:
        records = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
        damaged = [number for number, record in enumerate(records, 1) if not _is_record(record)]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); the run folder is incomplete") from error
    if damaged:
        raise RunFolderError(f"{path}, line {damaged[0]}: expected a record of training; the run folder is damaged")
    return [r for r in records if r["split"] == "train"], [r for r in records if r["split"] == "valid"]


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("split"), str)


def training_figure(metrics: Path, target: Path, noun: str = "sentence") -> bool:
    """Draw bound (train and validation) and KL against the step, nats per text, as a PNG; ``noun``: what a text is.

    What was recorded of neither has no panel, nor has a KL that is 0 throughout (nothing is latent, or q is the prior).
    Return whether there was anything to draw; if not, no file is written.
    """
    train, valid = read_metrics(metrics)
    bounds = {"train": curve_of(train, "bound"), "validation, β = 1": curve_of(valid, "bound")}
    kls = {"train": curve_of(train, "kl"), "validation": curve_of(valid, "kl")}
    panels = {"bound": bounds} if any(bounds.values()) else {}
    panels |= {"KL": kls} if any(value for curve in kls.values() for _, value in curve) else {}
    if not panels:
        return False
    figure = blank_figure(7.5, 3.2)
    for axes, (what, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, curve in curves.items():
            of_train = name == "train"
            dots = {"marker": "." if len(curve) < FEW else "", "lw": 1} if of_train else {"marker": "o", "ms": 3}
            axes.plot(*zip(*curve, strict=True), color="C0" if of_train else "C1", label=name, **dots) if curve else ()
        fit_to_later(axes, curves.values())
        axes.set(xlabel="step", ylabel=f"{what} (nats per {noun})")
        axes.legend(frameon=False)
    save_figure(figure, target)
    return True


Curve = Sequence[tuple[float, float]]
"""Steps and values, in order."""

FEW = 4
"""Points below which a curve shows each: a line through one point is not seen."""

BEGINNING = 0.1
"""Share of the steps that does not set the scale of learning curves."""


def curve_of(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return the steps and values of what was recorded by that name, without what is no finite number.

    Example::

        >>> curve_of([{"step": 1, "kl": 0.5}, {"step": 2, "kl": None}], "kl")
        [(1, 0.5)]
    """
    values = ((r["step"], r.get(key)) for r in records)
    return [(step, value) for step, value in values if isinstance(value, int | float) and math.isfinite(value)]


def fit_to_later(axes: Axes, curves: Iterable[Curve]) -> None:
    """Scale the height by what follows the first steps, where these would squeeze it; say above what is cut off.

    The first steps are the first point of all and the first tenth of the steps (:data:`BEGINNING`). They squeeze the
    rest where they lie further beyond it than it is high.
    """
    points = sorted(point for curve in curves for point in curve)
    later = [value for step, value in points[1:] if step > max(points[0][0], BEGINNING * points[-1][0])]
    if len(set(later)) < 2:
        return
    low, high = min(later), max(later)
    cut = [point for point in points if not 2 * low - high <= point[1] <= 2 * high - low]
    if not cut:
        return
    shown = [value for _, value in set(points).difference(cut)]
    margin = 0.05 * (max(shown) - min(shown))
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    step, furthest = max(cut, key=lambda point: abs(point[1] - low))
    axes.set_title(f"beyond the edge: {furthest:z.4g} at step {step:,}", loc="right", fontsize="small", color="0.35")


def blank_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches, that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, target: Path) -> None:
    """Write a PNG, whole or not at all; the folder is made where it does not exist.

    A letter that matplotlib's font lacks is drawn as a box, without a warning for each.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
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
    return [
        r
        for r in read_metrics(metrics)[1]
        if isinstance(r.get("monitor"), dict) and CURVES.keys() <= r["monitor"].keys()
    ]


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
