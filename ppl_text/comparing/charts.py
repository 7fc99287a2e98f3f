"""Charts of ``compare``: bounds with their Monte-Carlo error, Pareto k̂ by guide, signal-to-noise against K.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers too; colour never speaks alone:
a marker or a panel says the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.printing import percent
from ..plots.figures import blank_figure, save_figure
from ..plots.inference_data import GOOD, OK, khat_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PlainRow = Mapping[str, Any]
"""A row of ``compare`` as plain values, as ``comparison.json`` holds them."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""Nine markers and eight colours: 72 pairs before one comes back."""

WIDTH = 7.5
"""Inches; 900 pixels, what a README shows without shrinking."""

KHAT_RANGE = (-0.5, 1.5)
"""Values beyond are counted in the outermost bins, and the figure says how many."""

KHAT_BIN = 0.05
"""So that 0.5 and 0.7 lie between bins."""


def bounds_figure(rows: Sequence[PlainRow], target: Path, noun: str = "sentence") -> None:
    """Draw each bound ± its Monte-Carlo standard error, nats per text; guides one below the other.

    The axis is broken where bounds far below the others would squeeze these (:func:`parts_of`).

    Args:
        rows: of ``compare``: ``run``, ``guide``, ``objective``, ``bound``, ``bound_se``. A bound that is None or
            not finite has no point, and the guide's label counts such rows.
        target: the PNG.
        noun: what a text is called.
    """
    groups = _by_guide(rows)
    objectives = list(dict.fromkeys(row["objective"] for row in rows))
    figure = blank_figure(WIDTH, 0.9 + max(len(groups) * (0.25 + 0.1 * len(objectives)), 0.17 * len(objectives)))
    parts = parts_of([span for row in rows if (span := _span(row)) is not None])
    shares = [*[1.0] * (len(parts) - 1), WIDEST]
    panels = figure.subplots(1, len(parts), sharey=True, squeeze=False, gridspec_kw={"width_ratios": shares})[0]
    members = [of_guide for _, of_guide in groups]
    for axes in panels:
        handles = [_bounds_of(axes, members, index, objectives) for index in range(len(objectives))]
        for between in range(1, len(groups)):
            axes.axhline(between - 0.5, color="0.8", lw=0.8)
        axes.grid(axis="x", color="0.92", lw=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(groups)), [_label(names) + _gaps(of_guide) for names, of_guide in groups])
    panels[0].set(ylim=(len(groups) - 0.5, -0.5), ylabel="guide")
    panels[-1].locator_params(axis="x", nbins=7)
    label = f"bound ± Monte-Carlo standard error (nats per {noun})"
    if len(parts) == 1:
        panels[0].set_xlabel(label)
    else:
        _break_axis(panels, parts)
        figure.supxlabel(f"{label}; the axis is broken where none lies", fontsize="medium")
    figure.legend(handles, objectives, loc="outside right center", frameon=False, title="objective", fontsize=8)
    save_figure(figure, target)


Span = tuple[float, float]
"""Where an error bar begins and ends."""

GAP = 2 / 3
"""Share of an axis without a bound from which it is broken there."""

PARTS = 3
"""Parts of a broken axis at most."""

WIDEST = 3.0
"""Times the width of the others: the part of the highest bounds."""


def parts_of(spans: Sequence[Span]) -> list[Span]:
    """Return the parts of an axis that show all spans, lowest first: one, or several with wide gaps between them.

    A gap of :data:`GAP` of the whole squeezes what is apart on one of its sides; where all is together on either, there
    is nothing to squeeze. Each part is as long as what lies in it.

    Example::

        >>> parts_of([(-40.0, -39.9), (-12.4, -12.3), (-12.1, -12.0)])
        [(-40.0, -39.9), (-12.4, -12.0)]
        >>> parts_of([(-40.0, -39.9), (-12.4, -12.3)])
        [(-40.0, -12.3)]
    """
    groups = [sorted(spans)] if spans else []
    while len(groups) < PARTS and (cut := _widest_gap(groups)) is not None:
        index, place = cut
        groups[index : index + 1] = [groups[index][:place], groups[index][place:]]
    return [(group[0][0], max(high for _, high in group)) for group in groups] or [(0.0, 1.0)]


def _widest_gap(groups: Sequence[Sequence[Span]]) -> tuple[int, int] | None:
    """Return the group with the widest gap that squeezes others, and which of its spans stands behind the gap."""
    found = []
    for index, group in enumerate(groups):
        ends = [max(high for _, high in group[: place + 1]) for place in range(len(group))]
        for place in range(1, len(group)):
            gap = group[place][0] - ends[place - 1]
            apart = any(len(set(side)) > 1 for side in (group[:place], group[place:]))
            if apart and gap >= GAP * (ends[-1] - group[0][0]) > 0:
                found.append((gap, index, place))
    return max(found)[1:] if found else None


def _span(row: PlainRow) -> Span | None:
    if not _is_finite(row["bound"]):
        return None
    error = row["bound_se"] if _is_finite(row["bound_se"]) else 0.0
    return row["bound"] - error, row["bound"] + error


def _break_axis(panels: Sequence[Axes], parts: Sequence[Span]) -> None:
    """Give each panel its part of the axis, and draw where it is broken."""
    longest = max(high - low for low, high in parts)
    for axes, (low, high) in zip(panels, parts, strict=True):
        margin = 0.08 * (high - low) or 0.1 * longest
        axes.set_xlim(low - margin, high + margin)
    mark: dict[str, Any] = {"marker": [(-1, -1), (1, 1)], "ms": 7, "ls": "none", "color": "black", "clip_on": False}
    for left, right in itertools.pairwise(panels):
        left.spines.right.set_visible(False)
        right.spines.left.set_visible(False)
        right.tick_params(axis="y", left=False)
        left.plot([1, 1], [0, 1], transform=left.transAxes, **mark)
        right.plot([0, 0], [0, 1], transform=right.transAxes, **mark)
        left.locator_params(axis="x", nbins=1, min_n_ticks=1)
        left.ticklabel_format(axis="x", useOffset=False)


def khat_figure(
    khats: Mapping[str, NDArray[Any]], target: Path, noun: str = "sentence", weights: NDArray[Any] | None = None
) -> None:
    """Draw a histogram of k̂ over texts, one panel a guide, with the limits 0.5 and 0.7 and the shares between them.

    Args:
        khats: by guide, (N,) k̂. Values beyond -0.5 and 1.5, ±inf included, are counted in the outermost bins,
            and the panel says how many they are; NaN is in no bin, but counted too.
        target: the PNG.
        noun: what a text is called.
        weights: (N,) what each text counts for; None: all alike.
    """
    figure = blank_figure(WIDTH, 0.7 + 1.2 * len(khats))
    panels = figure.subplots(len(khats), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, khat) in zip(panels, khats.items(), strict=True):
        _histogram(axes, label, np.asarray(khat, dtype=np.float64), weights)
    low, high = KHAT_RANGE
    ticks = {low: f"≤ −{-low}", 0.0: "0", GOOD: f"{GOOD}", OK: f"{OK}", 1.0: "1", high: f"≥ {high}"}
    panels[-1].set_xticks(list(ticks), list(ticks.values()))
    panels[-1].set_xlabel("Pareto k̂ of the importance weights (no unit)")
    figure.supylabel(f"{noun}s", fontsize="medium")
    save_figure(figure, target)


def snr_figure(rows: Sequence[PlainRow], target: Path) -> None:
    """Draw the gradient's signal-to-noise ratio against K, log-log, for the model's (left) and the guide's parameters.

    One row of panels a guide, one line a family of objectives. What to look for (Rainforth et al. 2018, Tucker et
    al. 2019): with K the ratio of the guide falls as 1/√K under ``iwae`` and rises as √K under ``dreg``.

    Args:
        rows: of ``compare``: ``run``, ``guide``, ``family``, ``particles``, ``snr_model``, ``snr_guide``. None
            (nothing to differentiate), zero and what is not finite have no point on a logarithmic axis; below
            ``snr_floor``, a dotted line where the rows have it, a ratio is not told from 0.
        target: the PNG.
    """
    groups = _by_guide(rows)
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure = blank_figure(WIDTH, 1.0 + max(1.6 * len(groups), 0.2 * len(families)))
    panels = figure.subplots(len(groups), 2, sharex=True, sharey=True, squeeze=False)
    for pair, (names, members) in zip(panels, groups, strict=True):
        pair[0].set_title(_label(names), loc="left", fontsize="small")
        for axes, of in zip(pair, ("model", "guide"), strict=True):
            axes.set_title(f"{of} parameters", loc="right", fontsize="small")
            _ratios(axes, [(row["family"], row["particles"], row[f"snr_{of}"]) for row in members], families)
    ratios = [row[f"snr_{of}"] for row in rows for of in ("model", "guide") if _has_logarithm(row[f"snr_{of}"])]
    for axes in panels.flat if rows and rows[0].get("snr_floor") else ():
        axes.axhline(rows[0]["snr_floor"], color="0.4", lw=1, ls=":")
    _log_log(panels[0, 0], sorted({row["particles"] for row in rows}), ratios)
    figure.supxlabel("particles K", fontsize="medium")
    figure.supylabel("signal-to-noise ratio\nof the gradient (no unit)", fontsize="medium", multialignment="center")
    _legend(figure, families)
    save_figure(figure, target)


def _by_guide(rows: Sequence[PlainRow]) -> list[tuple[tuple[str, ...], list[PlainRow]]]:
    """Group rows by guide, in their order; also by run, and named by both, where there are several runs."""
    several = len({row["run"] for row in rows}) > 1
    groups: dict[tuple[str, ...], list[PlainRow]] = {}
    for row in rows:
        groups.setdefault((row["guide"], row["run"]) if several else (row["guide"],), []).append(row)
    return list(groups.items())


def _label(names: Sequence[str]) -> str:
    """Write names of guide and run one below the other."""
    return "\n".join(_short(name, 24) for name in names)


def _short(name: str, longest: int) -> str:
    """Keep the end of a long name, which tells more of a path than its beginning; the whole would leave its panel."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def _is_finite(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def _has_logarithm(value: Any) -> bool:
    return _is_finite(value) and value > 0


def _gaps(members: Sequence[PlainRow]) -> str:
    """Say how many of a guide's bounds cannot be drawn."""
    gaps = sum(not _is_finite(row["bound"]) for row in members)
    return f"\n({gaps} not finite)" if gaps else ""


def _bounds_of(axes: Axes, groups: Sequence[Sequence[PlainRow]], index: int, objectives: Sequence[str]) -> Any:
    """Draw one objective's points, each in its own lane of the guide's strip; return what the legend shows."""
    lane = (index + 1) / (len(objectives) + 1) - 0.5
    points = [
        (row["bound"], place + lane, row["bound_se"] if _is_finite(row["bound_se"]) else 0.0)
        for place, members in enumerate(groups)
        for row in members
        if row["objective"] == objectives[index] and _is_finite(row["bound"])
    ]
    bound, height, error = np.array(points, dtype=np.float64).reshape(-1, 3).T
    style: dict[str, Any] = {"color": _colour(index), "marker": _marker(index), "ms": 4.5}
    return axes.errorbar(bound, height, xerr=error, ls="none", lw=1.2, capsize=2.5, **style)


def _histogram(axes: Axes, label: str, khat: NDArray[np.float64], weights: NDArray[Any] | None) -> None:
    low, high = KHAT_RANGE
    edges = np.linspace(low, high, round((high - low) / KHAT_BIN) + 1)
    counts, _ = np.histogram(np.clip(khat, low, high), edges, weights=weights)
    middle = (edges[:-1] + edges[1:]) / 2
    colours = np.select([middle < GOOD, middle < OK], COLOURS[0:1] + COLOURS[4:5], COLOURS[1])
    axes.bar(middle, counts, width=0.9 * KHAT_BIN, color=colours)
    for limit, style in ((GOOD, "--"), (OK, "-")):
        axes.axvline(limit, color="0.3", lw=1, ls=style)
    shares = khat_shares(khat, weights)
    axes.set_title(_short(label, 30), loc="left", fontsize="medium")
    good, fair, bad = map(percent, shares)
    parts = f"< {GOOD}: {good}   to {OK}: {fair}   > {OK}: {bad}"
    axes.set_title(parts + _beyond(khat), loc="right", fontsize="small")
    axes.locator_params(axis="y", integer=True, nbins=3)
    axes.margins(x=0.01)


def _beyond(khat: NDArray[np.float64]) -> str:
    """Say what the outermost bins hide."""
    low, high = KHAT_RANGE
    hidden = {f"below −{-low}": khat < low, f"above {high}": khat > high, "no number": np.isnan(khat)}
    parts = [f"{of.sum()} {where}" for where, of in hidden.items() if of.any()]
    return f"   ({', '.join(parts)})" if parts else ""


def _ratios(axes: Axes, points: Sequence[tuple[str, int, Any]], families: Sequence[str]) -> None:
    """Draw the lines of one panel; ``points`` are (family, K, ratio)."""
    points = [(family, k, ratio) for family, k, ratio in points if _has_logarithm(ratio)]
    for index, family in enumerate(families):
        line = np.array(sorted((k, ratio) for name, k, ratio in points if name == family), dtype=np.float64)
        axes.plot(*line.reshape(-1, 2).T, color=_colour(index), marker=_marker(index), ms=4.5, lw=1.1)
    axes.grid(color="0.92", lw=0.6)
    if not points:
        axes.text(0.5, 0.5, "no gradient", transform=axes.transAxes, ha="center", color="0.4")


def _log_log(axes: Axes, particles: Sequence[int], ratios: Sequence[float]) -> None:
    """Make the axes of all panels logarithmic: every K is named, and the height is a decade or more."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set(xscale="log", yscale="log")
    axes.set_xlim(particles[0] / 1.3, particles[-1] * 1.3)
    axes.set_xticks(particles, [str(k) for k in particles])
    low, high = min(ratios, default=1.0) / 1.3, max(ratios, default=1.0) * 1.3
    widen = max(1.0, (10 * low / high) ** 0.5)
    axes.set_ylim(low / widen, high * widen)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high < 1e3 * low else (1.0,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


def _legend(figure: Figure, families: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_colour(i), marker=_marker(i), ms=4.5, lw=1.1) for i in range(len(families))]
    figure.legend(lines, families, loc="outside right center", frameon=False, title="objective", fontsize="small")


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]
