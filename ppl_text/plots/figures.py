"""Figures of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.atomic import write_atomically


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The training and the validation records of ``metrics.jsonl``."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for r in records if r["split"] == "train"], [r for r in records if r["split"] == "valid"]


def training_figure(metrics: Path, target: Path) -> None:
    """Bound (train and validation) and KL against the step, nats per sentence, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train, valid = read_metrics(metrics)
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([r["step"] for r in train], [r["bound"] for r in train], lw=1, label="train")
    left.plot([r["step"] for r in valid], [r["bound"] for r in valid], "o-", ms=3, label="validation, β = 1")
    left.set(xlabel="step", ylabel="bound (nats per sentence)")
    left.legend(frameon=False)
    right.plot([r["step"] for r in train], [r["kl"] for r in train], lw=1, label="train")
    right.plot([r["step"] for r in valid], [r["kl"] for r in valid], "o-", ms=3, label="validation")
    right.set(xlabel="step", ylabel="KL (nats per sentence)")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: figure.savefig(file, format="png", dpi=120))
