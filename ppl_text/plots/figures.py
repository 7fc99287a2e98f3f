"""Figures of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
"""Dots per inch of every figure."""


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The training and the validation records of ``metrics.jsonl``."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for r in records if r["split"] == "train"], [r for r in records if r["split"] == "valid"]


def training_figure(metrics: Path, target: Path) -> None:
    """Bound (train and validation) and KL against the step, nats per sentence, as a PNG.

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
    """An empty figure, inches, that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, target: Path) -> None:
    """Write a PNG, whole or not at all; the folder is made where it does not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: figure.savefig(file, format="png"))
