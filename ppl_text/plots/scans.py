"""Figures of a table's rows: quantities over a number that the rows differ in, and validations over training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import Curve, blank_figure, curve_of, fit_to_later, read_metrics, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
"""Rows of a table's results: ``at``, ``measures``, ``spread``."""

Panels = Sequence[Mapping[str, Any]]
"""Of a table's drawing: the ``label`` of an axis, and the ``lines`` on it, by the key of a measure their names."""


def scan_figure(rows: Rows, label: str, panels: Panels, target: Path, beside: Mapping[str, Any] | None = None) -> None:
    """Draw ``panels`` over the number ``at`` which the rows stand, on a logarithmic axis called ``label``, as PNG.

    Several seeds have a bar of a standard deviation to both sides. A row ``beside`` has a dashed line at its value. No
    file is written where no row has any of the panels' measures.
    """
    figure = draw_scan(rows, label, panels, beside)
    if figure.axes:
        save_figure(figure, target)


def draw_scan(rows: Rows, label: str, panels: Panels, beside: Mapping[str, Any] | None = None) -> Figure:
    """Return the figure of :func:`scan_figure`; rows that were not measured are left out, and panels of no row."""
    rows = sorted((row for row in rows if row["seeds"]), key=lambda row: row["at"])
    panels = [p for p in panels if any(row["measures"].get(key) is not None for row in rows for key in p["lines"])]
    levels = {} if beside is None else beside["measures"]
    figure = blank_figure(1.0 + 2.8 * len(panels), 3.0)
    places = figure.subplots(1, len(panels), squeeze=False)[0] if panels else ()
    for axes, panel in zip(places, panels, strict=True):
        for place, (key, name) in enumerate(panel["lines"].items()):
            if levels.get(key) is not None:
                axes.axhline(levels[key], color=f"C{place}", ls="--", lw=1)
            points = [row for row in rows if row["measures"].get(key) is not None]
            values = [row["measures"][key] for row in points]
            errors = [row["spread"].get(key, 0.0) for row in points]
            axes.errorbar([row["at"] for row in points], values, errors, fmt="o-", ms=4, lw=1, capsize=2, label=name)
        if any(levels.get(key) is not None for key in panel["lines"]) and beside is not None:
            axes.plot([], [], color="grey", ls="--", lw=1, label=beside["title"])
        axes.set(ylabel=panel["label"], xscale="log")
        axes.ticklabel_format(axis="y", useOffset=False)
        _plain_ticks(axes, [row["at"] for row in rows])
        axes.legend(edgecolor="none")
    if figure.axes:
        figure.supxlabel(label, fontsize="medium")
    return figure


def curves_figure(metrics: Mapping[str, Path], target: Path, noun: str = "text") -> None:
    """Draw Rec and KL of the validations over the steps, nats per text, a line for each run by name, as PNG.

    Runs too short to be validated have no line, and where all are, no file is written.

    The first steps do not set the scale (:func:`~ppl_text.plots.figures.fit_to_later`). A dotted line stands where a
    stage of a training begins that is not its first.
    """
    validated = {name: path for name, path in metrics.items() if read_metrics(path)[1]}
    if validated:
        save_figure(draw_curves(validated, noun), target)


def draw_curves(metrics: Mapping[str, Path], noun: str = "text") -> Figure:
    """Return the figure of :func:`curves_figure`; ``metrics``: the ``metrics.jsonl`` of each run."""
    figure = blank_figure(7.5, 3.2)
    left, right = figure.subplots(1, 2)
    panels: dict[str, tuple[Any, list[Curve]]] = {"log_likelihood": (left, []), "kl": (right, [])}
    for place, (name, path) in enumerate(metrics.items()):
        _, records = read_metrics(path)
        for key, (axes, drawn) in panels.items():
            sign = -1 if key == "log_likelihood" else 1
            drawn.append([(step, sign * value) for step, value in curve_of(records, key)])
            axes.plot(*np.reshape(drawn[-1], (-1, 2)).T, "o-", ms=3, color=f"C{place}", label=name)
        for before, after in itertools.pairwise(records):
            if before.get("stage") != after.get("stage"):
                for axes in (left, right):
                    axes.axvline(before["step"], color=f"C{place}", ls=":", lw=1)
    for axes, drawn in panels.values():
        fit_to_later(axes, drawn)
    left.set(xlabel="step", ylabel=f"Rec (nats per {noun})")
    right.set(xlabel="step", ylabel=f"KL (nats per {noun})")
    left.legend(frameon=False)
    return figure


def _plain_ticks(axes: Axes, places: Sequence[float]) -> None:
    """Put a tick at each of the places, as a plain number."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{place:g}" for place in places])
