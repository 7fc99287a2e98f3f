"""From ``training`` of a configuration to the stages that the trainer goes through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from torch import nn

from ..core.protocols import Objective
from ..data.batches import BatchStream
from ..data.options import OPTIONS
from ..training.aggressive import Aggressive
from ..training.optimizers import MakeOptimizer, build_optimizer
from ..training.state import Stage
from ..training.update import Update
from .code import Code, objective_of
from .config import RunConfig
from .errors import Errors
from .procedures import StageSection, TrainingSection

Fresh = Callable[[int, Collection[str]], Mapping[str, nn.Module]]
"""``(number of the stage, names of programs)`` -> those programs with parameters of their own."""


def build_stages(
    training: TrainingSection,
    objective: Objective,
    epoch: int | None,
    fresh: Fresh,
    others: Callable[[], BatchStream],
    code: Code | None = None,
) -> list[Stage]:
    """Return the stages of a training.

    Args:
        training: the configuration's section.
        objective: that of a stage that names none.
        epoch: batches of an epoch; None for a word list.
        fresh: makes programs anew.
        others: makes the random batches of aggressive training.
        code: of the user's, which stages may name.

    Raises:
        ConfigError: epochs are counted and there are none.
    """

    def update(own: StageSection) -> Callable[..., Update]:
        return partial(Aggressive, batches=others()) if own.update == "aggressive" else Update

    def optimizer(number: int) -> MakeOptimizer | None:
        before, own = (
            (stage.optimizer, stage.betas, stage.weight_decay) for stage in (stages[max(number - 1, 0)], stages[number])
        )
        return None if before == own else optimizer_of(stages[number], epoch)

    stages = training.in_stages()
    return [
        Stage(
            objective=stage_objective(own, objective, code),
            options=own.in_steps(epoch),
            name=own.name,
            update=update(own),
            fresh=partial(fresh, number, own.reset),
            train=own.train,
            optimizer=optimizer(number),
        )
        for number, own in enumerate(stages)
    ]


def stage_objective(own: StageSection, objective: Objective, code: Code | None = None) -> Objective:
    """Return the objective that a stage names, else the run's."""
    if own.objective is None:
        return objective
    return objective_of(own.objective, code or {})


def optimizer_of(own: StageSection, epoch: int | None) -> MakeOptimizer:
    """Return what makes a stage's optimizer of parameter groups, at the learning rate of its first update."""
    schedule: Any = own.in_steps(epoch).learning_rate
    settings: dict[str, Any] = {"betas": own.betas, "weight_decay": own.weight_decay}
    return partial(build_optimizer, own.optimizer, lr=float(schedule(0)), **settings)


def check_stages(config: RunConfig, code: Code | None = None) -> None:
    """Raise where a training of words counts epochs, and where a stage names an objective that there is not."""
    errors = Errors()
    for own in config.training.in_stages():
        if own.objective is not None:
            errors.attempt(objective_of, own.objective, code or {})
        if not OPTIONS[config.data.unit].epochs:
            errors.attempt(own.in_steps, None)
    errors.raise_any("training")
