"""What may change when a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .config import RunConfig, load_config


def resumed_config(folder: Path, config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The stored configuration; only how and where training goes on, and the report, may change."""
    path = str(folder / "config.yaml")
    sections = ("training.", "report.", "device", "threads")
    free = {k: v for k, v in changes.items() if k.startswith(sections)}
    fixed = {k: v for k, v in changes.items() if k not in free}
    blocked = sorted(k for k, v in fixed.items() if load_config(path, {k: v}) != config)
    if blocked:
        raise UserError(
            f"{folder} is resumed with the configuration it was started with; {', '.join(blocked)} cannot change. "
            "Resume without it, or start a new run"
        )
    if config.training.stages and not {"training.steps", "training.epochs"}.isdisjoint(free):
        raise UserError(
            f"{folder} is trained in stages, some of which may be over; give the lengths of those to come in "
            f"training.stages of {path}, and resume without --steps"
        )
    return load_config(path, free)
