"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.optim import SGD, Adam, Optimizer

from ..core.errors import UnknownNameError

LARGEST_PRECONDITIONER = 2048
"""SOAP leaves an axis that is longer (a vocabulary) to Adam: its preconditioner is a matrix of that width."""


class Kind(NamedTuple):
    """Say how an optimizer is made of parameter groups, and the decay rates it has where none are given."""

    make: Callable[..., Optimizer]
    betas: tuple[float, float] | None


def _adam(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
    return Adam(groups, lr=lr, betas=betas, fused=True)


def _soap(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
    from pytorch_optimizer import SOAP  # two seconds, for those who use it

    return SOAP(groups, lr=lr, betas=betas, weight_decay=0.0, max_precondition_dim=LARGEST_PRECONDITIONER)


def _sgd(groups: list[dict[str, Any]], lr: float) -> Optimizer:
    return SGD(groups, lr=lr, fused=True)


OPTIMIZERS: Mapping[str, Kind] = {
    "adam": Kind(_adam, (0.9, 0.999)),
    "soap": Kind(_soap, (0.95, 0.95)),
    "sgd": Kind(_sgd, None),
}
"""``adam`` (Kingma and Ba 2015), ``soap`` (Adam in the eigenbasis of Shampoo's preconditioner, Vyas et al. 2024) and
``sgd`` (no momentum)."""


def build_optimizer(
    name: str, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float] | None = None
) -> Optimizer:
    """Make the optimizer ``name`` of parameter groups; ``betas`` None: the optimizer's own.

    Raises:
        UnknownNameError: there is no such optimizer.
        ValueError: decay rates for one that has none.
    """
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    kind = OPTIMIZERS[name]
    if kind.betas is None:
        if betas is not None:
            raise ValueError(f"optimizer '{name}' has no decay rates; leave out training.betas")
        return kind.make(groups, lr)
    return kind.make(groups, lr, betas or kind.betas)


def forget(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Drop what the optimizer has gathered of ``parameters`` (moments, preconditioners): their values are others now.

    A count of updates that a group keeps for all its parameters (SOAP's) begins anew where all of them are dropped.
    """
    dropped = set(parameters)
    for parameter in dropped:
        optimizer.state.pop(parameter, None)
    for group in optimizer.param_groups:
        if dropped.issuperset(group["params"]):
            group.pop("step", None)
