"""Whether model and guide have room on this machine: asked of every tensor before it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..core.errors import UserError
from ..core.limits import physical_memory

MOST_TENSORS = 100_000
"""Tensors that a program makes of its own while it is built, at most: so many would take longer than any training."""

_BY_SHAPE = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full}
"""What makes a tensor of a given shape."""

_OF_A_MATRIX = {torch.eye, torch.tril_indices, torch.triu_indices}
"""What makes as many numbers as a matrix has, of which one side may stand for both."""


class Roomy(TorchFunctionMode):
    """Context in which a program is built; raises :class:`UserError` before it would not fit into the memory.

    What is made by shape is counted, which parameters are. What else a constructor computes is not: where that takes
    too much, torch's own error says so.

    Args:
        what: is built, for the message.
        memory: in bytes; None: as much as the machine has.
    """

    def __init__(self, what: str, memory: int | None = None) -> None:
        super().__init__()
        self._what = what
        self._memory = physical_memory() if memory is None else memory
        self._bytes, self._tensors = 0, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count, then make."""
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device")) != "meta":
            if func in _BY_SHAPE:
                first = args[0] if args else kwargs.get("size", ())
                self._count(first if isinstance(first, list | tuple) else _whole(args), kwargs)
            elif func in _OF_A_MATRIX:
                self._count((_whole(args) * 2)[:2], kwargs)
        return func(*args, **kwargs)

    def _count(self, shape: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        kind = kwargs.get("dtype") or torch.get_default_dtype()
        self._bytes += math.prod(max(int(size), 0) for size in shape) * kind.itemsize
        self._tensors += 1
        if self._memory is not None and self._bytes > self._memory:
            raise UserError(
                f"{self._what} would take more memory ({gibibytes(self._bytes)} and more) than this machine has "
                f"({gibibytes(self._memory)}); choose smaller sizes"
            )
        if self._tensors > MOST_TENSORS:
            raise UserError(f"{self._what} is made of at most {MOST_TENSORS:,} tensors; choose fewer layers")


def _whole(arguments: Iterable[Any]) -> list[int]:
    return [size for size in arguments if isinstance(size, int)]


def gibibytes(size: int) -> str:
    """Return a size of memory in words.

    Example::

        >>> gibibytes(3 * 2**29)
        '1.5 GiB'
    """
    return f"{size / 2**30:z,.1f} GiB"
