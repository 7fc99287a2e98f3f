"""The same random numbers on every device and in every precision: drawn by the CPU in float64, then moved."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class HostNoise(TorchDispatchMode):
    """Context in which what torch draws depends on the CPU's random state alone, which begins at ``seed``."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket
        if name in (aten.randn, aten.rand):
            like = torch.empty(0, dtype=kwargs.get("dtype"), device=kwargs.get("device"))
            return _drawn(torch.randn if name is aten.randn else torch.rand, args[0], like)
        if name is aten.rand_like:
            return _drawn(torch.rand, args[0].shape, args[0])
        if name is aten.randn_like:
            return _drawn(torch.randn, args[0].shape, args[0])
        if name is aten._standard_gamma:
            return torch._standard_gamma(args[0].detach().cpu().double()).to(args[0].device, args[0].dtype)
        if name is aten.normal_:
            mean, scale = (*args[1:], 0.0, 1.0)[:2] if len(args) != 2 else (args[1], 1.0)
            return args[0].copy_(mean + scale * _drawn(torch.randn, args[0].shape, args[0]))
        if torch.Tag.nondeterministic_seeded in func.tags and not _without_dropout(func, args, kwargs):
            raise NotImplementedError(f"{func} draws random numbers, and this context does not know how to")
        return func(*args, **kwargs)


def _without_dropout(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation draws for its dropout alone (attention), and has none."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    names = [argument.name for argument in func._schema.arguments]
    return "dropout_p" in names and given.get("dropout_p", 0.0) == 0.0


def _drawn(draw: Any, shape: Any, like: torch.Tensor) -> torch.Tensor:
    return draw(*shape, dtype=torch.float64).to(like.device, like.dtype)
