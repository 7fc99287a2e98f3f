"""What guide and model of a step both need: computed by the guide, handed to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..core.batch import Batch

T = TypeVar("T")


class Left(Generic[T]):
    """What one program leaves for another, under a key: any object, of a batch or of what was drawn.

    It is handed over once, and only where key, mode, the need of gradients and all parameters of ``owner`` are as they
    were. So nothing outlives a step.

    Args:
        owner: the module whose parameters and mode the value depends on.
    """

    def __init__(self, owner: nn.Module) -> None:
        self._owner = (owner,)
        self._left: tuple[tuple[Any, ...], Any, T] | None = None

    def put(self, key: Any, value: T) -> T:
        """Leave a value under a key, in the place of what was left before; return it."""
        self._left = (self._mark(), key, value)
        return value

    def get(self, key: Any) -> T | None:
        """Return what was left under this key, which nobody gets a second time, else None."""
        left, self._left = self._left, None
        return left[2] if left is not None and left[1] is key and left[0] == self._mark() else None

    def __getstate__(self) -> dict[str, Any]:
        """Copies have nothing left: it may be part of a graph."""
        return {**self.__dict__, "_left": None}

    def _mark(self) -> tuple[Any, ...]:
        owner = self._owner[0]
        changes = tuple((id(parameter), parameter._version) for parameter in owner.parameters())
        return owner.training, torch.is_grad_enabled(), changes


class HandedOn(Left[T]):
    """``compute(batch)``, which a guide makes and leaves for the model that is run after it: the dropped units, too.

    What was not left, or is out of date, the model computes itself.

    Args:
        owner: the module whose parameters and mode the value depends on.
        compute: makes the value.
    """

    def __init__(self, owner: nn.Module, compute: Callable[[Batch], T]) -> None:
        super().__init__(owner)
        self._compute = compute

    def leave(self, batch: Batch) -> T:
        """Compute the value, and leave it for :meth:`take`."""
        return self.put(batch, self._compute(batch))

    def take(self, batch: Batch) -> T:
        """Return what was left for this batch, else compute it."""
        left = self.get(batch)
        return self._compute(batch) if left is None else left
