"""How one update is made: objective, gradient, clipping, optimizer. Nothing in it asks the device.

An update may gather the gradients of several batches. The other rule is :mod:`~ppl_text.training.aggressive`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from ..core.batch import Batch
from ..core.protocols import Estimate
from ..nn.statistics import Figures, commit, discard, set_aside, statistics_of
from .beta import Beta, Schedules, averaged
from .capture import Captured, Graphs, of_whole_steps
from .machine import Ranks
from .optimizers import set_rate, split_update
from .options import TrainingOptions
from .programs import Inputs
from .sharding import whole
from .stopping import Guard


class _Differentiated(NamedTuple):
    """An estimate, the gradient of its loss by parameter, and what each part with running statistics has noted."""

    estimate: Estimate
    gradient: tuple[Tensor | None, ...]
    noted: tuple[Figures | None, ...]


class Meters:
    """Sum up since the last record, on the device: Σ w·bound, Σ w·KL, Σ w·log-likelihood, Σ w, Σ loss."""

    def __init__(self, device: torch.device) -> None:
        # Metal has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(5, dtype=dtype, device=device)
        self._terms, self._weight, self._loss = self.sums[:3], self.sums[3], self.sums[4]
        self.updates = 0

    def add(self, estimate: Estimate, weights: Tensor, updates: int = 1) -> None:
        """Add one batch; shapes (B,). ``updates`` is 0 for one whose gradient waits for that of the next batch."""
        with torch.no_grad():
            terms = torch.stack((estimate.bound, estimate.kl, estimate.log_likelihood))
            self._terms += terms @ weights.to(terms.dtype)
            self._weight += weights.sum()
            self._loss += estimate.loss
        self.updates += updates

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


@dataclass(frozen=True)
class Setting:
    """Hold what an update rule works with.

    ``module`` and ``optimizer`` are those that :func:`~ppl_text.training.programs.set_up` returned; ``guard`` stops an
    update whose loss or gradient is not finite; ``parameters`` are those that the stage trains. The schedules of
    ``options`` count from ``began``, the step at which the stage began. ``graphs`` records updates where it is given,
    whole ones with an optimizer that :func:`~ppl_text.training.optimizers.make_capturable` was shown; ``report`` is
    told where they cannot be recorded. ``leaving`` is a context that a signal leaves by ``Stopped``.
    """

    fabric: Fabric
    module: nn.Module
    optimizer: Any
    guard: Guard
    options: TrainingOptions
    parameters: Sequence[nn.Parameter]
    began: int = 0
    graphs: Graphs | None = None
    report: Callable[[str], Any] = print
    stopped: Callable[[], int] = lambda: 0
    leaving: Callable[[], AbstractContextManager[None]] = nullcontext


class Update:
    """Make one update after the other: ``update(batches, step)``, of one batch or of several.

    ``beta``, ``lr``, ``norm`` and ``meters`` tell of the last update; ``batch`` is what the programs were last run on.
    """

    def __init__(self, setting: Setting) -> None:
        self._fabric, self._module, self._optimizer = setting.fabric, setting.module, setting.optimizer
        self._guard, self._parameters, self._began = setting.guard, setting.parameters, setting.began
        self._clip, self._clip_value = setting.options.clip_norm, setting.options.clip_value
        self._schedule = setting.options.learning_rate
        self._stopped = setting.stopped
        self._accumulate, self._report, self._records = setting.options.accumulate, setting.report, bool(setting.graphs)
        self._statistics, self._ranks = statistics_of(setting.module), Ranks(setting.fabric)
        graphs, report = setting.graphs, setting.report
        steps = of_whole_steps(graphs)
        self._step = Captured(self._compute, steps, report)
        self._gradient: Captured | None = None
        if graphs is not None and steps is None:
            self._gradient = Captured(self._differentiate, graphs, report, setting.leaving)
        self._among: dict[str, Sequence[nn.Parameter]] = {}
        self.batch: Batch
        self.beta = Beta(self._schedules_of_beta(setting), setting.fabric.device)
        self.meters = Meters(setting.fabric.device)
        self.norm = torch.zeros((), device=setting.fabric.device)

    @staticmethod
    def _schedules_of_beta(setting: Setting) -> Schedules:
        if setting.options.kl_sites == "sum":
            return setting.options.beta
        model: Any = setting.module.model
        return averaged(setting.options.beta, [spec.name for spec in model.latents])

    @property
    def pauses(self) -> bool:
        """Return whether an update may raise ``Stopped`` within, to be gone on with on the same batches later."""
        return self._gradient is not None

    @property
    def lr(self) -> float:
        """Return the learning rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def __call__(self, batches: Sequence[Batch], step: int, rate: float = 1.0) -> None:
        """Update the parameters once, as if the texts of ``batches`` were one batch. Raises ``NonFinite``.

        ``step`` updates were made before; ``rate`` multiplies the learning rate of the schedule.
        """
        self._follow_schedules(step, rate)
        if len(batches) > 1:
            self._descend_together(batches, step)
        else:
            (batch,) = batches
            self.meters.add(self._descend(batch, step), batch.weights)

    def begin(self, monitored: bool) -> None:
        """Prepare for a fit; ``monitored``: each validation will be :meth:`observed`."""
        if self._records and self._accumulate > 1:
            self._report(
                "not captured as a graph, step by step instead: each update gathers the gradients of "
                f"{self._accumulate} batches"
            )

    def observed(self, values: Mapping[str, Any]) -> str:
        """Take note of what the monitor measured at a validation; return what there is to say of it, "" for nothing."""
        return ""

    def counted(self) -> dict[str, int]:
        """Return what else was counted since the last record, by name; counting begins anew."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be stored beside parameters and meters, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    @property
    def recorded(self) -> Collection[Hashable]:
        """Return the kinds of updates that are replayed: shapes of the batch, and what is updated."""
        return self._step.recorded if self._gradient is None else self._gradient.recorded

    def forget_recordings(self) -> None:
        """Record updates anew: what they read or write has been put elsewhere."""
        self._step.forget()
        if self._gradient is not None:
            self._gradient.forget()

    def _descend(self, batch: Batch, step: int, among: str = "") -> Estimate:
        """Take one step down the gradient, of the parameters of that name in ``_among`` alone where one is given.

        What the host has to do is done here, around what the device does, which may be a recording.
        """
        self.batch = batch
        self._guard.begin(step + 1)
        with split_update(self._optimizer):
            estimate, self.norm = self._step(batch, among)
        return estimate

    def _compute(self, batch: Batch, among: str) -> tuple[Estimate, Tensor]:
        """Make an update without asking the device; return the estimate and the norm of the gradient.

        Running statistics move once, by this batch, however often the objective has run the programs on it.
        """
        discard(self._statistics)
        self._optimizer.zero_grad()
        estimate = self._add_gradient(batch, among, None if self._ranks.size == 1 else self._share(batch, [batch]))
        return estimate, self._move(estimate.loss)

    def _descend_together(self, batches: Sequence[Batch], step: int) -> None:
        """Take one step down the gradient of the mean loss of all texts, running the programs on a batch at a time."""
        loss = torch.zeros((), device=self._fabric.device)
        with split_update(self._optimizer):
            discard(self._statistics)
            self._optimizer.zero_grad()
            for number, batch in enumerate(batches, 1):
                self.batch, last = batch, number == len(batches)
                self._guard.begin(step + 1)
                with nullcontext() if last else self._by_itself():
                    estimate = self._add_gradient(batch, share=self._share(batch, batches))
                set_aside(self._statistics)
                self.meters.add(estimate, batch.weights, updates=int(last))
                loss = loss + estimate.loss
            self.norm = self._move(loss)

    def _share(self, batch: Batch, batches: Sequence[Batch]) -> Tensor:
        """Return what the loss of one of the batches of an update counts for, where gradients are then averaged.

        The loss of a batch is a mean over its texts by their weights, and its share is theirs of the weights of all
        texts, those in other processes too; times the number of processes, over which the gradient is a mean. What an
        objective or a network does with a batch as a whole, it does with each of these by itself.
        """
        total = self._ranks.total(torch.stack([batch.weights.sum() for batch in batches]).sum())
        return self._ranks.size * batch.weights.sum() / total

    def _by_itself(self) -> AbstractContextManager[None]:
        """Context in which processes that train together do not yet wait for each other's gradients.

        Those that share out the parameters do, since each has room for its part of the gradients alone.
        """
        context: AbstractContextManager[None] = nullcontext()
        if self._ranks.size > 1 and not self._ranks.sharded:
            context = self._fabric.no_backward_sync(self._module)
        return context

    def _add_gradient(self, batch: Batch, among: str = "", share: Tensor | None = None) -> Estimate:
        """Add the gradient of a batch's loss, or of its ``share`` of it, to those that are there."""
        if self._gradient is not None and self._gradient.graphs is not None and share is None:
            return self._take_gradient(self._gradient(batch, among), among)
        estimate: Estimate = self._module(Inputs(batch, self.beta.tensors))
        loss = estimate.loss if share is None else share * estimate.loss
        self._guard.loss(loss)
        self._fabric.backward(loss, **({"inputs": self._among[among]} if among else {}))
        return estimate._replace(loss=loss.detach())

    def _differentiate(self, batch: Batch, among: str) -> _Differentiated:
        """Return the estimate of a batch, the gradient of its loss and what statistics note; change nothing."""
        estimate: Estimate = self._module(Inputs(batch, self.beta.tensors))
        reached = self._reached(among)
        self._fabric.backward(estimate.loss, inputs=list(reached))
        gradient = tuple(parameter.grad for parameter in reached)
        for parameter in reached:
            parameter.grad = None
        noted = tuple(part.noted for part in self._statistics)
        return _Differentiated(estimate._replace(loss=estimate.loss.detach()), gradient, noted)

    def _take_gradient(self, found: _Differentiated, among: str) -> Estimate:
        """Let the gradient, of which there was none, be the parameters', and what was noted the statistics'."""
        self._guard.loss(found.estimate.loss)
        for parameter, gradient in zip(self._reached(among), found.gradient, strict=True):
            parameter.grad = gradient
        for part, figures in zip(self._statistics, found.noted, strict=True):
            if figures is not None:
                part.note(*figures)
        return found.estimate

    def _reached(self, among: str) -> Sequence[nn.Parameter]:
        return self._among[among] if among else self._parameters

    def _move(self, loss: Tensor) -> Tensor:
        """Change the parameters by the gradients that are there, and the statistics; return the gradients' norm."""
        norm = whole(get_total_norm(self._gradients()))
        # Before clipping, which would spread one bad entry over all gradients and hide where it arose.
        self._guard.gradient(self._ranks.mean(loss), norm)
        if self._clip is not None:
            clip_grads_with_norm_(self._parameters, self._clip, norm)
        if self._clip_value is not None:
            clip_grad_value_(self._parameters, self._clip_value)
        self._optimizer.step()
        commit(self._statistics, self._ranks.total)
        return norm

    def _gradients(self) -> list[Tensor]:
        """Return the gradients in their own scale (16-mixed computes them in a larger one)."""
        self._fabric.strategy.precision.unscale_gradients(self._optimizer.optimizer)
        return [p.grad for p in self._parameters if p.grad is not None]

    def _follow_schedules(self, step: int, rate: float) -> None:
        done = step - self._began
        self.beta.set(done)
        if self._schedule is None:
            return
        set_rate(self._optimizer, float(self._schedule(done)) * rate)
