"""One update of the parameters: objective, gradient, clipping, optimizer. Nothing in it asks the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import Precision
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from ..core.batch import Batch
from ..core.protocols import Estimate, Objective
from ..nn.statistics import commit, discard, statistics_of
from ..schedules import Schedule
from .guard import Guard
from .options import StepSchedule, TrainingOptions
from .ranks import Ranks


class Inputs:
    """Batch and β on their way through the wrappers of ``Fabric``.

    An object that they do not know passes untouched; a frozen dataclass such as ``Batch`` is refused by the
    one for mixed precision, and β would be rounded by the one for half precision.
    """

    __slots__ = ("batch", "beta")

    def __init__(self, batch: Batch, beta: Any) -> None:
        self.batch, self.beta = batch, beta


class Joint(nn.Module):
    """Model, guide and objective as one module: what ``Fabric`` wraps and whose ``state_dict`` is saved."""

    def __init__(self, model: nn.Module, guide: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.guide, self.objective = model, guide, objective

    def train(self, mode: bool = True) -> Joint:
        """Set the mode; a frozen program (parameters, but none to train) stays in evaluation mode.

        Neither its running statistics nor dropout may move what is frozen. Recurrent layers take part in training
        all the same, since cuDNN refuses a gradient through them otherwise.
        """
        super().train(mode)
        for program in (self.model, self.guide):
            parameters = list(program.parameters())
            if mode and parameters and not any(p.requires_grad for p in parameters):
                for part in program.modules():
                    part.training = isinstance(part, nn.RNNBase)
        return self

    def forward(self, inputs: Inputs) -> Estimate:
        """Return the objective's estimate for one batch."""
        return self.objective(self.model, self.guide, inputs.batch, inputs.beta)


class Beta:
    """β as tensors that keep their place in memory while their values follow the schedules.

    A β that is 1 throughout is the plain number 1, so that objectives may leave its terms out.
    """

    def __init__(self, schedule: StepSchedule | Mapping[str, StepSchedule], device: torch.device) -> None:
        self._always_one = isinstance(schedule, Schedule) and schedule.is_constant(1.0)
        self._by_site = isinstance(schedule, Mapping)
        self._schedules = dict(schedule) if isinstance(schedule, Mapping) else {"": schedule}
        self._tensors = {site: torch.full((), math.nan, device=device) for site in self._schedules}
        self._values = dict.fromkeys(self._schedules, math.nan)

    @property
    def tensors(self) -> float | Tensor | dict[str, Tensor]:
        """What the objective is given."""
        if self._always_one:
            return 1.0
        return self._tensors if self._by_site else self._tensors[""]

    @property
    def values(self) -> float | dict[str, float]:
        """The same as Python numbers."""
        return dict(self._values) if self._by_site else self._values[""]

    def set(self, step: int) -> None:
        """Write the values for the update that follows ``step`` updates."""
        for site, schedule in self._schedules.items():
            value = float(schedule(step))
            if value != self._values[site]:
                self._values[site] = value
                self._tensors[site].fill_(value)


class Meters:
    """Sums since the last record, kept on the device: Σ w·bound, Σ w·KL, Σ w·log-likelihood, Σ w, Σ loss."""

    def __init__(self, device: torch.device) -> None:
        # Metal has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(5, dtype=dtype, device=device)
        self._terms, self._weight, self._loss = self.sums[:3], self.sums[3], self.sums[4]
        self.updates = 0

    def add(self, estimate: Estimate, weights: Tensor) -> None:
        """Add one batch; shapes (B,)."""
        with torch.no_grad():
            terms = torch.stack((estimate.bound, estimate.kl, estimate.log_likelihood))
            self._terms += terms @ weights.to(terms.dtype)
            self._weight += weights.sum()
            self._loss += estimate.loss
        self.updates += 1

    def reset(self) -> None:
        """Begin a new interval."""
        self.sums.zero_()
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, since a run may stop in the middle of an interval."""
        return {"sums": self.sums.cpu().clone(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with stored sums."""
        self.sums.copy_(state["sums"])
        self.updates = state["updates"]


def set_up(fabric: Fabric, joint: Joint, optimizer: Optimizer) -> tuple[nn.Module, Any]:
    """Return module and optimizer as ``fabric.setup`` wraps them.

    The wrapper of the module is left off where it would only take time: one process, plain precision.
    """
    module, wrapped = fabric.setup(joint, optimizer)
    plain = fabric.world_size == 1 and type(fabric.strategy.precision) is Precision
    return (joint if plain else module), wrapped


class Update:
    """Makes one update after the other: ``update(batch, step)``.

    ``module`` and ``optimizer`` are those that :func:`set_up` returned; ``guard`` stops an update whose loss
    or gradient is not finite. ``beta``, ``lr``, ``norm`` and ``meters`` tell of the last update. The schedules count
    from ``began``, the step at which the stage began. ``batch`` is what the programs were last run on.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: nn.Module,
        optimizer: Any,
        options: TrainingOptions,
        guard: Guard,
        began: int = 0,
    ) -> None:
        self._fabric, self._module, self._optimizer, self._guard = fabric, module, optimizer, guard
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._statistics, self._total = statistics_of(module), Ranks(fabric).total
        self._clip = options.clip_norm
        self._schedule = options.learning_rate
        self._began = began
        self.batch: Batch
        self.beta = Beta(options.beta, fabric.device)
        self.meters = Meters(fabric.device)
        self.norm = torch.zeros((), device=fabric.device)

    @property
    def lr(self) -> float:
        """Learning rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def __call__(self, batch: Batch, step: int, rate: float = 1.0) -> None:
        """Update the parameters once; ``step`` updates were made before. Raises ``NonFinite``.

        ``rate`` multiplies the learning rate of the schedule.
        """
        self._follow_schedules(step, rate)
        self.meters.add(self._descend(batch, step), batch.weights)

    def begin(self, monitored: bool) -> None:
        """Called before the first update of a fit, with whether each validation will be :meth:`observed`."""

    def observed(self, values: Mapping[str, Any]) -> str:
        """Take note of what the monitor measured at a validation; return what there is to say of it, "" for nothing."""
        return ""

    def counted(self) -> dict[str, int]:
        """What else was counted since the last record, by name; counting begins anew."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be stored beside parameters and meters, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    def _descend(self, batch: Batch, step: int, **backward: Any) -> Estimate:
        """One step down the gradient; ``inputs=[…]``: of these parameters alone.

        Running statistics move once, by this batch, however often the objective has run the programs on it.
        """
        self.batch = batch
        discard(self._statistics)
        self._guard.begin()
        estimate: Estimate = self._module(Inputs(batch, self.beta.tensors))
        self._guard.loss(estimate.loss, step + 1)
        self._optimizer.zero_grad()
        self._fabric.backward(estimate.loss, **backward)
        self.norm = get_total_norm(self._gradients())
        # Before clipping, which would spread one bad entry over all gradients and hide where it arose.
        self._guard.gradient(estimate.loss, self.norm, step + 1)
        if self._clip is not None:
            clip_grads_with_norm_(self._parameters, self._clip, self.norm)
        self._optimizer.step()
        commit(self._statistics, self._total)
        return estimate

    def _gradients(self) -> list[Tensor]:
        """Return the gradients in their own scale (16-mixed computes them in a larger one)."""
        self._fabric.strategy.precision.unscale_gradients(self._optimizer.optimizer)
        return [p.grad for p in self._parameters if p.grad is not None]

    def _follow_schedules(self, step: int, rate: float) -> None:
        done = step - self._began
        self.beta.set(done)
        if self._schedule is None:
            return
        value = float(self._schedule(done)) * rate
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch without waiting for the device (``Batch.to`` waits for each of its copies)."""
    if batch.tokens.device == device:
        return batch
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    source = values.pop("source")
    moved = {name: value.to(device, non_blocking=True) for name, value in values.items()}
    return Batch(**moved, source=None if source is None else to_device(source, device))
