"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ..core.errors import UnknownNameError
from .sharding import is_part, parts_of_moments

LARGEST_PRECONDITIONER = 2048
"""SOAP leaves an axis that is longer (a vocabulary) to Adam: its preconditioner is a matrix of that width."""


MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]
"""Makes an optimizer of parameter groups."""


class Kind(NamedTuple):
    """Say how an optimizer is made of parameter groups, and which settings it knows.

    ``betas`` are the decay rates it has where none are given, None where it has none; ``weight_decay``: it takes one.
    """

    make: Callable[..., Optimizer]
    betas: tuple[float, float] | None
    weight_decay: bool = False


def _adam(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
    return Adam(groups, lr=lr, betas=betas, fused=True)


def _adamw(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> Optimizer:
    return AdamW(_shrinking(groups, weight_decay), lr=lr, betas=betas, fused=True)


def _shrinking(groups: list[dict[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
    """Divide each group into parameters that decay, those of two axes or more, and those that do not.

    A vector is a bias or the gain of a norm, which a pull towards 0 makes no simpler.
    """
    found = []
    for group in groups:
        decaying = [p for p in group["params"] if p.dim() > 1]
        others = [p for p in group["params"] if p.dim() <= 1]
        found += [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    # Optimizers refuse to have no group, and nothing may be left to train.
    return [group for group in found if group["params"]] or found[:1]


def _soap(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
    from .soap import SOAP  # two seconds, for those who use it

    return SOAP(groups, lr, betas, LARGEST_PRECONDITIONER)


def _sgd(groups: list[dict[str, Any]], lr: float) -> Optimizer:
    return SGD(groups, lr=lr, fused=True)


OPTIMIZERS: Mapping[str, Kind] = {
    "adam": Kind(_adam, (0.9, 0.999)),
    "adamw": Kind(_adamw, (0.9, 0.999), weight_decay=True),
    "soap": Kind(_soap, (0.95, 0.95)),
    "sgd": Kind(_sgd, None),
}
"""``adam`` (Kingma and Ba 2015), ``adamw`` (Adam with a weight decay of its own, Loshchilov and Hutter 2019), ``soap``
(Adam in the eigenbasis of Shampoo's preconditioner, Vyas et al. 2024) and ``sgd`` (no momentum)."""


def build_optimizer(
    name: str,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float] | None = None,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Make the optimizer ``name`` of parameter groups; ``betas`` None: the optimizer's own.

    ``weight_decay`` λ is decoupled from the gradient: an update with rate η multiplies each parameter of two axes or
    more (matrices, embeddings) by 1 - ηλ before it adds Adam's step. Biases and gains of norms do not decay.

    Raises:
        UnknownNameError: there is no such optimizer.
        ValueError: decay rates, or a weight decay, for one that has none.
    """
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    kind = OPTIMIZERS[name]
    settings: dict[str, Any] = {}
    if kind.betas is not None:
        settings["betas"] = betas or kind.betas
    elif betas is not None:
        raise ValueError(f"optimizer '{name}' has no decay rates; leave out training.betas")
    if kind.weight_decay:
        settings["weight_decay"] = weight_decay
    elif weight_decay:
        raise ValueError(f"optimizer '{name}' has no weight decay; leave out training.weight_decay, or use adamw")
    return kind.make(groups, lr, **settings)


def as_parts(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer that can update parameters of which each process holds a part, where its own are such.

    torch has no fused step of SGD for them.
    """
    if isinstance(optimizer, SGD) and any(is_part(p) for group in optimizer.param_groups for p in group["params"]):
        optimizer._step_supports_amp_scaling = False
        for group in optimizer.param_groups:
            group["fused"] = False
    return optimizer


class InTurn:
    """Hold the optimizer that each stage updates by: the first stage's, until a later one makes its own.

    Args:
        first: of the first stage.
        makes: for each stage what makes its own, of the parameters of ``first``; None: it goes on with the one before.
            That of the first stage is not asked.
    """

    def __init__(self, first: Optimizer, makes: Sequence[MakeOptimizer | None]) -> None:
        self._made, self._makes = {0: first}, makes

    def of(self, number: int) -> Optimizer:
        """Return that of the stage of this number, which counts from 0; made once."""
        if number not in self._made:
            make = self._makes[number]
            if make is None:
                return self.of(number - 1)
            groups = [{"params": group["params"]} for group in self._made[0].param_groups]
            self._made[number] = as_parts(make(groups))
        return self._made[number]


def make_capturable(optimizer: Optimizer, device: torch.device) -> None:
    """Let a recorded step hold the optimizer's: learning rates become tensors, which are changed in place."""
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        if "capturable" in group:
            group["capturable"] = True


@contextmanager
def split_update(optimizer: Any) -> Iterator[None]:
    """Context of one update, which may be recorded: what the optimizer does on the host comes before and after it.

    An optimizer that has such work says ``begin_update()`` and ``end_update()``.
    """
    own = getattr(optimizer, "optimizer", optimizer)
    begin, end = (getattr(own, name, None) for name in ("begin_update", "end_update"))
    if begin is not None:
        begin()
    yield
    if end is not None:
        end()


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Write the learning rate of all groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_state(optimizer: Optimizer, stored: dict[str, Any]) -> None:
    """Load a stored state; rates that are tensors stay where they are, since a recorded step reads them there.

    Decay rates and weight decay stay the optimizer's own: a training may go on with others.
    """
    settings = ("betas", "weight_decay")
    before = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(parts_of_moments(optimizer, stored))
    for group, own in zip(optimizer.param_groups, before, strict=True):
        group.update({name: own[name] for name in settings if name in own})
        if isinstance(own["lr"], Tensor):
            rate = own["lr"].copy_(torch.as_tensor(group["lr"]))
            group.update({name: own[name] for name in ("capturable",) if name in own}, lr=rate)


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
