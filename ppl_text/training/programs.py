"""What a training works on: both programs as one module, the submodules that a stage trains, and the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import Precision
from torch import nn
from torch.optim import Optimizer

from ..core.batch import Batch
from ..core.errors import UserError, nearest
from ..core.protocols import Estimate, Objective
from .machine import Ranks
from .optimizers import as_parts
from .random_numbers import random_numbers_kept

T = TypeVar("T")

Work = Callable[[nn.Module, nn.Module, Objective], T]
"""What is done with model, guide and objective."""

EVERYTHING = ("model", "guide")
"""The names of both programs: what is trained where nothing else is said."""


class Sizes(NamedTuple):
    """Number of parameters of the two programs; what both hold is the model's and counts once."""

    model: int
    guide: int

    def __str__(self) -> str:
        """Write ``model + guide``; what has no parameters is not named."""
        return " + ".join(f"{size:,}" for size in self if size)


def count_parameters(model: nn.Module, guide: nn.Module) -> Sizes:
    """Return how many parameters model and guide have, trained or not; buffers are none."""
    own = list(model.parameters())
    shared = {id(parameter) for parameter in own}
    others = [parameter for parameter in guide.parameters() if id(parameter) not in shared]
    return Sizes(*(sum(parameter.numel() for parameter in found) for found in (own, others)))


class Batches(Protocol):
    """Iterate over training batches without end; a stream that can say and take back its position."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position as tensors and plain Python values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


class Inputs:
    """Carry batch and β through the wrappers of ``Fabric``, to the objective.

    An object that they do not know passes untouched; a frozen dataclass such as ``Batch`` is refused by the
    one for mixed precision, and β would be rounded by the one for half precision.
    """

    __slots__ = ("batch", "beta")

    def __init__(self, batch: Batch, beta: Any) -> None:
        self.batch, self.beta = batch, beta

    def __call__(self, model: nn.Module, guide: nn.Module, objective: Objective) -> Estimate:
        """Return the objective's estimate for the batch."""
        return objective(model, guide, self.batch, self.beta)


class Joint(nn.Module):
    """Hold model, guide and objective as one module: what ``Fabric`` wraps and whose ``state_dict`` is saved.

    Parameters that get no gradient when it is made never get one.
    """

    def __init__(self, model: nn.Module, guide: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.guide, self.objective = model, guide, objective
        trainable = set(trained_parameters(model, guide, EVERYTHING))
        # By name: parameters that are shared out are others.
        self._trainable = [name for name, parameter in self.named_parameters() if parameter in trainable]
        self.choose(EVERYTHING)

    def choose(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Train the submodules of these names and nothing else; return their parameters.

        All others get no gradient, so that the backward pass leaves them out. The mode of the parts is not touched:
        the next :meth:`train` sets it. Raises :class:`UserError` for names that there are not.
        """
        parts = find_submodules(self.model, self.guide, names)
        parameters = self.trained(names)
        chosen = set(parameters)
        for parameter in self._candidates():
            parameter.requires_grad_(parameter in chosen)
        moving = [part for part in parts if _moves(part)]
        inside = {inner for part in moving for inner in part.modules()}
        self._active = {part for part in self.modules() if not inside.isdisjoint(part.modules())}
        return parameters

    def trained(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Return the parameters that are trained where the submodules of these names are."""
        parts = find_submodules(self.model, self.guide, names)
        chosen = {parameter for part in parts for parameter in part.parameters()}
        return [parameter for parameter in self._candidates() if parameter in chosen]

    def _candidates(self) -> list[nn.Parameter]:
        present = dict(self.named_parameters())
        return [present[name] for name in self._trainable]

    def train(self, mode: bool = True) -> Joint:
        """Set the mode; what is not trained (or has parameters, but none to train) stays in evaluation mode.

        Neither its running statistics nor dropout may move what is frozen. Recurrent layers take part in training
        all the same, since cuDNN refuses a gradient through them otherwise.
        """
        super().train(mode)
        if mode:
            for part in (*self.model.modules(), *self.guide.modules()):
                part.training = part in self._active or isinstance(part, nn.RNNBase)
        return self

    def forward(self, work: Work[T]) -> T:
        """Do what is to be done with the programs, within what has been wrapped around them: :class:`Inputs`, say."""
        return work(self.model, self.guide, self.objective)

    @torch.no_grad()
    def do(self, work: Work[T]) -> T:
        """Do, without gradients, what is no update. Where parameters are shared out, all processes do it together."""
        done: T = self(work)
        self.reshard()
        return done

    def reshard(self) -> None:
        """Drop what other processes hold of the parameters; this is torch's where they are shared out, else nothing."""


def find_submodules(model: nn.Module, guide: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Return the submodules of these names, in their order.

    ``model`` and ``guide`` are the programs themselves, ``guide.reader`` is a part of one by its dotted path, and
    ``reader`` that of whichever program has one.

    Raises:
        UserError: both programs have a part of that name, or none; all such names at once.
    """
    programs, found, errors = {"model": model, "guide": guide}, [], []
    known = [f"{own}.{path}".rstrip(".") for own, program in programs.items() for path, _ in program.named_modules()]
    for name in names:
        first, _, rest = name.partition(".")
        places = {first: rest} if first in programs else dict.fromkeys(programs, name)
        parts = (_part(programs[program], path) for program, path in places.items())
        own = list(dict.fromkeys(part for part in parts if part is not None))
        found += own
        if len(own) > 1:
            errors.append(f"'{name}' is in both programs; write model.{name} or guide.{name}")
        elif not own:
            errors.append(f"there is no '{name}'{nearest(name, known)}")
    if errors:
        there = ", ".join(path for path in known if path.count(".") < 2)
        raise UserError(f"train: {'; '.join(errors)}. Submodules are {there} and what lies below these")
    return found


def trained_parameters(model: nn.Module, guide: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    """Return the parameters below these names that get a gradient, each once, in the order of the programs."""
    chosen = {parameter for part in find_submodules(model, guide, names) for parameter in part.parameters()}
    everything = dict.fromkeys([*model.parameters(), *guide.parameters()])
    return [parameter for parameter in everything if parameter in chosen and parameter.requires_grad]


def set_up(fabric: Fabric, joint: Joint, optimizer: Optimizer) -> tuple[nn.Module, Any]:
    """Return module and optimizer as ``fabric.setup`` wraps them.

    The wrapper of the module is left off where it would only take time: one process, plain precision.
    """
    names = {parameter: name for name, parameter in joint.named_parameters()}
    # What is shared out goes to the device part by part.
    module = fabric.setup_module(joint, move_to_device=not Ranks(fabric).sharded)
    present = dict(joint.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [present[names[old]] if old in names else old for old in group["params"]]
    wrapped = fabric.setup_optimizers(as_parts(optimizer))
    plain = fabric.world_size == 1 and type(fabric.strategy.precision) is Precision
    return (joint if plain else module), wrapped


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch without waiting for the device (``Batch.to`` waits for each of its copies)."""
    if batch.tokens.device == device:
        return batch
    return batch.map(lambda tensor: tensor.to(device, non_blocking=True))


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Context after which all random states, torch's on the CPU and on ``device``, are as before."""
    with random_numbers_kept([device] if device.type == "cuda" else []):
        yield


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Context after which each submodule is in the mode, training or evaluation, that it was in before."""
    before = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _part(program: nn.Module, path: str) -> nn.Module | None:
    try:
        return program.get_submodule(path)
    except AttributeError:
        return None


def _moves(part: nn.Module) -> bool:
    """Return whether a part takes part in training: it has a parameter to train, or none at all."""
    parameters = list(part.parameters())
    return not parameters or any(parameter.requires_grad for parameter in parameters)
