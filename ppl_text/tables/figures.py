"""Figures of a reproduction: ours beside the published figures, and the entropies over training of every row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plots.entropies import entropies_figure, entropy_records
from ..plots.figures import blank_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINES = ("gru8", "alt-gru8")
"""Rows whose entropy per letter is the dashed line of the paper's Figure 2, in the figures of their group."""


def reproduction_figures(place: Path, results: Mapping[str, Any]) -> str:
    """Draw ``figures/distance.png`` in the reproduction's folder and ``figures/entropies.png`` in the rows' own.

    Returns the Markdown that shows them, and the entropy gaps that were drawn when the rows were measured; "" where
    there is no figure.
    """
    if any(_value(row, "distance") is not None for row in results["rows"]):
        save_figure(draw_distances(results), place / "figures" / "distance.png")
    baselines = {
        row["group"]: row["measures"].get("test_per_token") for row in results["rows"] if row["name"] in BASELINES
    }
    for row in results["rows"]:
        for seed in row["seeds"]:
            metrics = place / f"{row['name']}-s{seed}" / "metrics.jsonl"
            if metrics.is_file() and entropy_records(metrics):
                entropies_figure(metrics, metrics.parent / "figures" / "entropies.png", baselines.get(row["group"]))
    links = _links(place, results)
    return "\n\n".join(["**Figures**", *links]) if links else ""


def _links(place: Path, results: Mapping[str, Any]) -> list[str]:
    """One line for each figure that there is."""
    titles = {f"{row['name']}-s{seed}": row["title"] for row in results["rows"] for seed in row["seeds"]}
    files = {"distance.png": "test cross-entropy above the entropy of the words, ours and published"}
    named = [(place / "figures" / name, about) for name, about in files.items()]
    abouts = {"entropy-gap.png": "entropy gap by position and word length", "entropies.png": "entropies over training"}
    named += [(place / r / "figures" / n, f"{title}: {a}") for r, title in titles.items() for n, a in abouts.items()]
    return [f"![{about}]({path.relative_to(place).as_posix()})" for path, about in named if path.is_file()]


def draw_distances(results: Mapping[str, Any]) -> Figure:
    """Cross-entropy of the test words above their entropy, nats per word: ours and the published, row by row."""
    rows = [row for row in results["rows"] if _value(row, "distance") is not None or "distance" in row["published"]][
        ::-1
    ]
    figure = blank_figure(7.5, 1.2 + 0.28 * len(rows))
    axes = figure.subplots()
    for what, marker in (("published", "o"), ("ours", "D")):
        points = [(_of(row, what), place) for place, row in enumerate(rows) if _of(row, what) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker, label=what)
    axes.set_yticks(range(len(rows)), [f"{row['title']} ({row['name']})" for row in rows])
    axes.set_xlabel("nats per word above the entropy of the test words")
    axes.legend(frameon=False)
    return figure


def _of(row: Mapping[str, Any], what: str) -> float | None:
    return _value(row, "distance") if what == "ours" else row["published"].get("distance")


def _value(row: Mapping[str, Any], key: str) -> float | None:
    value: float | None = row["measures"].get(key)
    return value
