"""Peak memory of a computation: bytes of live tensors on the CPU, what the allocator held on a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of tensors made in it and still alive; ``peak`` is their greatest sum.

    ::

        with LiveBytes() as memory:
            loss(batch).backward()
        memory.peak

    Storages are followed by weak references: views share one, in-place results make none, and what autograd keeps
    for the backward pass counts for as long as it is kept. What was alive before does not count. Not seen: the
    workspace inside a single operator, and gradients that are accumulated without a new tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._follow(tensor, counted=False)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._follow(tensor, counted=True)
        return result

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        for finalizer in self._known.values():
            finalizer.detach()
        self._known.clear()

    def _follow(self, tensor: torch.Tensor, *, counted: bool) -> None:
        """Note a storage when it is first seen; as an operand it was there before and counts nothing."""
        if tensor.device.type == "meta" or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counted else 0
        self._known[key] = weakref.finalize(storage, self._release, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _release(self, key: int, size: int) -> None:
        self.live -= size
        self._known.pop(key, None)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def peak_bytes(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Most bytes that ``work()`` held at one time beyond what was held before it."""
    if torch.device(device).type != "cuda":
        with LiveBytes() as memory:
            work()
        return memory.peak
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
