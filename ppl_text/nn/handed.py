"""What guide and model of a step both need of a batch: computed by the guide, handed to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..core.batch import Batch

T = TypeVar("T")


class HandedOn(Generic[T]):
    """``compute(batch)``, which a guide makes and leaves for the model that is run after it: the dropped units, too.

    What was left is handed over once, and only where batch, mode, the need of gradients and all parameters of ``owner``
    are as they were; otherwise the model computes its own. So nothing outlives a step.

    Args:
        owner: the module whose parameters and mode the value depends on.
        compute: makes the value.
    """

    def __init__(self, owner: nn.Module, compute: Callable[[Batch], T]) -> None:
        self._owner, self._compute = (owner,), compute
        self._left: tuple[tuple[Any, ...], Batch, T] | None = None

    def leave(self, batch: Batch) -> T:
        """Compute the value, and leave it for :meth:`take`."""
        value = self._compute(batch)
        self._left = (self._mark(), batch, value)
        return value

    def take(self, batch: Batch) -> T:
        """Return what was left for this batch, else compute it."""
        left, self._left = self._left, None
        if left is not None and left[1] is batch and left[0] == self._mark():
            return left[2]
        return self._compute(batch)

    def __getstate__(self) -> dict[str, Any]:
        """Copies have nothing left: it may be part of a graph."""
        return {**self.__dict__, "_left": None}

    def _mark(self) -> tuple[Any, ...]:
        owner = self._owner[0]
        changes = tuple((id(parameter), parameter._version) for parameter in owner.parameters())
        return owner.training, torch.is_grad_enabled(), changes
