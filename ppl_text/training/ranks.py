"""The processes of a parallel run, as the trainer needs them; with one process all of it is free."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor


class Ranks:
    """Sums, agreement and gathering over the processes of a ``Fabric``."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.size: int = fabric.world_size
        self.index: int = fabric.global_rank
        self.is_first: bool = fabric.is_global_zero

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        return values if self.size == 1 else self._fabric.all_reduce(values.clone(), reduce_op="sum")

    def largest(self, number: int) -> int:
        """Return the largest number that any process holds."""
        if self.size == 1:
            return number
        return int(self._fabric.all_reduce(torch.tensor(number, device=self._fabric.device), reduce_op="max").item())

    def gather(self, value: Any) -> list[Any]:
        """Collect one object of each process, in order, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def first_goes_first(self) -> AbstractContextManager[None]:
        """Context that the first process leaves before the others enter it."""
        return nullcontext() if self.size == 1 else self._fabric.rank_zero_first()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self._fabric.barrier()
