"""How a training run is set, when its learning rate decays, and what comes out of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.errors import ConfigError
from ..schedules import build

StepSchedule = Callable[[int], float]
"""Value for the update that follows ``step`` updates."""

Stop = Literal["steps", "patience", "decays", "untrained"]
"""Why a training ended."""

Keep = Literal["best", "last"]
"""Which weights a training leaves: those of its best validation, or of its last."""

KlSites = Literal["sum", "mean"]
"""What the loss has of the KLs of several latent sites."""

_ALWAYS_ONE = build(1.0)


@dataclass(frozen=True)
class Decay:
    """Lower the learning rate where the validation no longer improves: the LSTM-VAE papers' rule (specification 0).

    After ``patience`` validations in a row that were worse than the reference, from update ``from_step`` on, the rate
    is multiplied by ``factor`` and the best parameters are taken up again; ``limit`` decays end the training.

    ``from_step`` counts from the beginning of the stage. One validation an epoch makes ``patience`` a number of epochs.
    """

    factor: float = 0.5
    patience: int = 5
    from_step: int = 0
    limit: int = 5

    def __post_init__(self) -> None:
        counts = {"patience": self.patience, "limit": self.limit}
        errors = [f"{name} must be 1 or more; got {value}" for name, value in counts.items() if value < 1]
        if not 0 < self.factor < 1:
            errors.append(f"factor must lie between 0 and 1; got {self.factor}")
        if self.from_step < 0:
            errors.append(f"from_step must be 0 or more; got {self.from_step}")
        if errors:
            raise ConfigError("decay: " + "; ".join(errors))


@dataclass(frozen=True)
class TrainingOptions:
    """Say how long, how often and how fast a training goes; of one in stages, one of these.

    ================ =============================================================================
    steps            updates in all
    clip_norm        largest norm of the whole gradient; None: not clipped
    clip_value       largest absolute value of each entry of the gradient; None: not clipped
    log_every        updates between two lines of progress and of ``metrics.jsonl``
    validate_every   updates between two validations; the last update is always validated
    checkpoint_every updates between two checkpoints; the last update always has one
    patience         validations without a better bound after which training ends; None: never
    beta             weight of the KL in the loss as a schedule of the step, or one by name of site or side loss
    accumulate       batches whose gradients are gathered for one update, which weighs their texts as one batch of all
    kl_sites         KL of several latent sites in the loss: their ``"sum"``, or their ``"mean"``
    learning_rate    schedule for all parameter groups; None: the optimizer's own rates stay
    decay            when the rate falls for want of progress; None: never
    keep             which weights are left: ``"best"``, of the best validation, or ``"last"``
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
    keep: Keep = "best"
    clip_value: float | None = None
    kl_sites: KlSites = "sum"
    accumulate: int = 1

    def __post_init__(self) -> None:
        counts = ("steps", "log_every", "validate_every", "checkpoint_every", "accumulate")
        errors = [f"{name} must be 1 or more; got {getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if self.patience is not None and self.patience < 1:
            errors.append(f"patience must be 1 or more, or None for no early stopping; got {self.patience}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            errors.append(f"clip_norm must be above 0, or None for no clipping; got {self.clip_norm}")
        if self.clip_value is not None and not self.clip_value > 0:
            errors.append(f"clip_value must be above 0, or None for no clipping; got {self.clip_value}")
        if self.clip_value is not None and self.clip_norm is not None:
            errors.append("clip_norm and clip_value are two ways to clip a gradient; give None (null) for one of them")
        if self.decay is not None and self.learning_rate is None:
            errors.append("decay lowers a learning_rate: give its schedule, too")
        if self.keep == "last" and not (self.patience is None and self.decay is None):
            errors.append("keep: last looks for no best validation; leave out patience and decay, or keep: best")
        if errors:
            raise ConfigError("training options: " + "; ".join(errors))


@dataclass
class Plateau:
    """Remember what the rule goes by: the score to beat, the worse validations since then, and the decays so far.

    A score that equals the reference does not count as worse. With a decay the present score becomes the reference:
    what follows has to beat that and not the best of all, whose parameters are back (specification 0).
    """

    reference: float | None = None
    waited: int = 0
    decays: int = 0

    def see(self, rule: Decay, score: float, step: int) -> bool:
        """Note the validation after ``step`` updates of the stage; return whether the rate decays now."""
        if not math.isnan(score) and (self.reference is None or score >= self.reference):
            self.reference, self.waited = score, 0
            return False
        self.waited += 1
        if self.waited < rule.patience or step < rule.from_step:
            return False
        self.reference = self.reference if math.isnan(score) else score
        self.waited, self.decays = 0, self.decays + 1
        return True


@dataclass(frozen=True)
class TrainingResult:
    """Say where a training ended: last update, best validation of its last stage (nats per sentence), why it stopped.

    Where the last weights are kept, the last validation stands for the best. ``best_step`` is 0 and ``best_bound`` None
    when nothing was validated. ``stopped`` is ``"steps"`` when all updates were made, ``"patience"`` when the
    validation no longer improved, ``"decays"`` when the learning rate had decayed as often as it may, and
    ``"untrained"`` when there was no parameter to train.
    """

    step: int
    best_step: int
    best_bound: float | None
    stopped: Stop
