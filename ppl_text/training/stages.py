"""A training procedure as data: the stages that a run goes through, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from ..core.protocols import Objective
from .options import TrainingOptions
from .update import Update


def nothing() -> Mapping[str, nn.Module]:
    """No program is made anew."""
    return {}


@dataclass(frozen=True)
class Stage:
    """What is trained, how, and from where.

    ``update`` makes the update rule: :class:`~ppl_text.training.update.Update`, or another with the same arguments.
    ``fresh`` is called when the stage begins after another one, and returns programs by name (``model``, ``guide``)
    whose parameters and buffers replace those of the run.
    """

    objective: Objective
    options: TrainingOptions
    name: str = "joint"
    update: Callable[..., Update] = Update
    fresh: Callable[[], Mapping[str, nn.Module]] = field(default=nothing)

    @property
    def criterion(self) -> str:
        """The number of a validation that is compared, larger is better: ``bound``, or what the objective names."""
        return str(getattr(self.objective, "criterion", "bound"))
