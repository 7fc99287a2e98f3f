"""The state of a training run: what is saved is exactly what is resumed."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.batch import Batch
from ..core.errors import RunFolderError
from .ranks import Ranks
from .update import Meters


class Batches(Protocol):
    """Endless iterator over training batches that can say and take back its position."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position as tensors and plain Python values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


@dataclass
class Counters:
    """Where a run stands.

    ``step`` updates were made in ``seconds`` of training; the best validation had ``best_bound`` (nats per
    sentence; None before the first) at ``best_step``, and ``stale`` validations after it were no better.
    """

    stage: str = "joint"
    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_bound: float | None = None
    stale: int = 0


@dataclass
class TrainingState:
    """The parts of a run that change, bound together: ``capture()`` and ``restore(stored, path)``.

    What each process of a parallel run has of its own (random states, sampler position, running sums) is
    stored once for each.
    """

    fabric: Fabric
    joint: nn.Module
    optimizer: Optimizer
    batches: Batches
    meters: Meters
    counters: Counters

    def capture(self) -> dict[str, Any]:
        """Return the state as tensors and plain values, fit for ``torch.load(weights_only=True)``."""
        own = {"random": random_states(), "batches": self.position(), "meters": self.meters.state_dict()}
        return {
            "counters": asdict(self.counters),
            "parameters": self.joint.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "processes": Ranks(self.fabric).gather(own),
        }

    def restore(self, stored: dict[str, Any], path: Path) -> None:
        """Put a stored state in the place of the present one; raises :class:`RunFolderError` if it does not fit."""
        ranks = Ranks(self.fabric)
        if len(stored["processes"]) != ranks.size:
            raise RunFolderError(
                f"{path} was written by {len(stored['processes'])} processes and this run has {ranks.size}; "
                "resume it with as many as it was trained with"
            )
        try:
            self.joint.load_state_dict(stored["parameters"])
            _load_optimizer(self.optimizer, stored["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise RunFolderError(
                f"{path} does not fit this model, guide and optimizer ({' '.join(str(error).split())}); resume it with "
                "the configuration and the version of ppl_text that it was trained with"
            ) from error
        self.fabric.strategy.precision.load_state_dict(stored["precision"])
        self.counters = Counters(**stored["counters"])
        own = stored["processes"][ranks.index]
        self.meters.load_state_dict(own["meters"])
        self.batches.load_state_dict(own["batches"])
        set_random_states(own["random"])

    def position(self) -> dict[str, Any]:
        """Return a copy of the sampler's position; raises ``TypeError`` if it could not be read back."""
        position = copy.deepcopy(self.batches.state_dict())
        _check_plain(position, "batches.state_dict()")
        return position


def random_states() -> dict[str, Any]:
    """Return the states of all generators that a program may draw from: torch on each device, and Python's."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}


def set_random_states(states: dict[str, Any]) -> None:
    """Take back what :func:`random_states` returned, for the devices that are still there."""
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    for index, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, index)


def _load_optimizer(optimizer: Optimizer, stored: dict[str, Any]) -> None:
    """Load the state, and keep rates that are tensors where they are: a captured step reads them there."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(stored)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"] = rate.copy_(torch.as_tensor(group["lr"]))


def _check_plain(value: Any, where: str) -> None:
    """Refuse, when it is saved and not when it is missed, what ``torch.load`` would not read back."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif value is not None and type(value) not in (bool, int, float, str, bytes, Tensor):
        raise TypeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}; checkpoints hold tensors and plain "
            "Python values only, so convert it (e.g. with torch.as_tensor or .tolist())"
        )
