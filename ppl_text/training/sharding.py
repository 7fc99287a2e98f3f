"""Parameters, gradients and moments that the processes of a training hold a part of each (torch's ``fully_shard``).

Each process holds the rows of every parameter that are its own, as a ``DTensor``. A block gathers its parameters when
it is called and drops them afterwards; what is in no block is gathered for the whole of an update. What is saved holds
whole tensors, so that a run goes on however its parameters were held before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def sharded_blocks(*programs: nn.Module) -> list[nn.Module]:
    """Return the submodules that gather their parameters by themselves: the ``sharded_blocks`` that parts name."""
    parts = (part for program in programs for part in program.modules())
    return list(dict.fromkeys(block for part in parts for block in getattr(part, "sharded_blocks", ())))


def share_out(module: M, mesh: Any) -> M:
    """Share out the parameters of a module among the processes of ``mesh["data_parallel"]``, and return it.

    Its parameters are others afterwards, under the same names; those that several parts hold stay one.
    """
    from torch.distributed.fsdp import fully_shard

    processes = mesh["data_parallel"]
    for block in sharded_blocks(module):
        fully_shard(block, mesh=processes, reshard_after_forward=True)
    # The softmax comes last and first, on the way back: to drop it in between would only take time.
    fully_shard(module, mesh=processes, reshard_after_forward=False)
    return module


def is_part(value: Any) -> bool:
    """Tell whether a value is a tensor of which this process holds a part."""
    # Whoever has made one has imported its module, which takes a while.
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(value, tensors.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor, of which each process may hold a part; all processes call it together."""
    parted: Any = tensor
    return parted.full_tensor() if is_part(tensor) else tensor


def as_saved(value: Any, *, kept: bool = True) -> Any:
    """Return a value in which tensors that processes hold parts of are whole and on the CPU, in dictionaries and lists.

    All processes call it together. ``kept``: False in those that have no use for it, which get None for each.
    """
    if isinstance(value, dict):
        return {name: as_saved(item, kept=kept) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(as_saved(item, kept=kept) for item in value)
    if not is_part(value):
        return value
    # One after the other, as no device has room for all.
    gathered = whole(value.detach())
    return gathered.cpu() if kept else None


def saved_state(module: nn.Module, *, kept: bool = True) -> dict[str, Tensor]:
    """Return ``module.state_dict()`` :func:`as_saved`; what stands under two names is one tensor."""
    state = module.state_dict(keep_vars=True)
    found = {id(tensor): tensor for tensor in state.values()}
    tensors = {key: as_saved(tensor.detach(), kept=kept) for key, tensor in found.items()}
    return {name: tensors[id(tensor)] for name, tensor in state.items()}


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Return the part of a whole tensor that this process holds of ``like``; the tensor where that is whole."""
    if not is_part(like) or is_part(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    parted: Any = like
    return distribute_tensor(tensor.to(parted.device), parted.device_mesh, parted.placements)


def parts_of(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors as ``module.load_state_dict`` takes them."""
    own = module.state_dict()
    return {name: part_of(tensor, own[name]) if name in own else tensor for name, tensor in tensors.items()}


def parts_of_moments(optimizer: torch.optim.Optimizer, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of whole tensors as ``optimizer.load_state_dict`` takes it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(map(is_part, parameters)):
        return dict(stored)

    def parted(number: int, value: Any) -> Any:
        like = parameters[number]
        return part_of(value, like) if isinstance(value, Tensor) and value.shape == like.shape else value

    state = {
        number: {name: parted(number, value) for name, value in row.items()} for number, row in stored["state"].items()
    }
    return {**stored, "state": state}
