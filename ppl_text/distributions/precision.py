"""Densities stay in float32 (or better) whatever precision the networks run in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def at_least_float32(x: Tensor) -> Tensor:
    """Lift half-precision network outputs to float32; leave float32 and float64 alone."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def full_precision(method: Callable[..., T]) -> Callable[..., T]:
    """Run a method outside autocast: its first argument after ``self`` is a tensor.

    log-densities, log-determinants and log-weights lose their meaning in bf16 (3 significant digits).
    """

    @functools.wraps(method)
    def wrapped(self: Any, x: Tensor, *args: Any) -> T:
        kind = x.device.type
        if not torch.is_autocast_enabled(kind):
            return method(self, x, *args)
        with torch.autocast(kind, enabled=False):
            return method(self, at_least_float32(x), *args)

    return wrapped
