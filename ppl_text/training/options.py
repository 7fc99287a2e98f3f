"""The knobs of a training run, and what comes out of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.errors import ConfigError
from ..schedules import build
from .decay import Decay

StepSchedule = Callable[[int], float]
"""Value for the update that follows ``step`` updates."""

Stop = Literal["steps", "patience", "decays", "untrained"]
"""Why a training ended."""

_ALWAYS_ONE = build(1.0)


@dataclass(frozen=True)
class TrainingOptions:
    """How long, how often, how fast; of a training in stages, in one of them.

    ================ =============================================================================
    steps            updates in all
    clip_norm        largest norm of the whole gradient; None: not clipped
    log_every        updates between two lines of progress and of ``metrics.jsonl``
    validate_every   updates between two validations; the last update is always validated
    checkpoint_every updates between two checkpoints; the last update always has one
    patience         validations without a better bound after which training ends; None: never
    beta             weight of the KL in the loss as a schedule of the step, or one by site name
    learning_rate    schedule for all parameter groups; None: the optimizer's own rates stay
    decay            when the rate falls for want of progress; None: never
    ================ =============================================================================
    """

    steps: int
    clip_norm: float | None = 5.0
    log_every: int = 100
    validate_every: int = 500
    checkpoint_every: int = 500
    patience: int | None = None
    beta: StepSchedule | Mapping[str, StepSchedule] = _ALWAYS_ONE
    learning_rate: StepSchedule | None = None
    decay: Decay | None = None

    def __post_init__(self) -> None:
        counts = ("steps", "log_every", "validate_every", "checkpoint_every")
        faults = [f"{name} must be 1 or more; got {getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if self.patience is not None and self.patience < 1:
            faults.append(f"patience must be 1 or more, or None for no early stopping; got {self.patience}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            faults.append(f"clip_norm must be above 0, or None for no clipping; got {self.clip_norm}")
        if self.decay is not None and self.learning_rate is None:
            faults.append("decay lowers a learning_rate: give its schedule, too")
        if faults:
            raise ConfigError("training options: " + "; ".join(faults))


@dataclass(frozen=True)
class TrainingResult:
    """Where a training run ended: last update, best validation of its last stage (nats per sentence), why it stopped.

    ``best_step`` is 0 and ``best_bound`` None when nothing was validated. ``stopped`` is ``"steps"`` when all
    updates were made, ``"patience"`` when the validation no longer improved, ``"decays"`` when the learning rate had
    decayed as often as it may, and ``"untrained"`` when there was no parameter to train.
    """

    step: int
    best_step: int
    best_bound: float | None
    stopped: Stop
