"""How one update is made: objective, gradient, clipping, optimizer; of all at once, or aggressively of the guide first.

Nothing in a joint update asks the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.protocols import Estimate
from ..nn.statistics import commit, discard, statistics_of
from .beta import Beta, Schedules, averaged
from .capture import Captured, Graphs
from .machine import Ranks
from .optimizers import set_rate, split_update
from .options import TrainingOptions
from .programs import Batches, Inputs, to_device
from .stopping import Guard

MOST = 99
"""Updates of the encoder before one of the decoder in aggressive training, at most (specification 0)."""

WINDOW = 15
"""Updates of the encoder between two looks at the loss."""

INFORMATION = "mutual_information"
"""What a monitor has to measure at each validation of an aggressive training."""


class Meters:
    """Sum up since the last record, on the device: Σ w·bound, Σ w·KL, Σ w·log-likelihood, Σ w, Σ loss."""

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


@dataclass(frozen=True)
class Setting:
    """Hold what an update rule works with.

    ``module`` and ``optimizer`` are those that :func:`~ppl_text.training.programs.set_up` returned; ``guard`` stops an
    update whose loss or gradient is not finite; ``parameters`` are those that the stage trains. The schedules of
    ``options`` count from ``began``, the step at which the stage began. ``graphs`` records updates where it is given,
    with an optimizer that :func:`~ppl_text.training.optimizers.make_capturable` was shown; ``report`` is told where
    they cannot be recorded.
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


class Update:
    """Make one update after the other: ``update(batch, step)``.

    ``beta``, ``lr``, ``norm`` and ``meters`` tell of the last update; ``batch`` is what the programs were last run on.
    """

    def __init__(self, setting: Setting) -> None:
        self._fabric, self._module, self._optimizer = setting.fabric, setting.module, setting.optimizer
        self._guard, self._parameters, self._began = setting.guard, setting.parameters, setting.began
        self._clip, self._clip_value = setting.options.clip_norm, setting.options.clip_value
        self._schedule = setting.options.learning_rate
        self._statistics, self._total = statistics_of(setting.module), Ranks(setting.fabric).total
        self._step = Captured(self._compute, setting.graphs, setting.report)
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
    def lr(self) -> float:
        """Return the learning rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def __call__(self, batch: Batch, step: int, rate: float = 1.0) -> None:
        """Update the parameters once; ``step`` updates were made before. Raises ``NonFinite``.

        ``rate`` multiplies the learning rate of the schedule.
        """
        self._follow_schedules(step, rate)
        self.meters.add(self._descend(batch, step), batch.weights)

    def begin(self, monitored: bool) -> None:
        """Prepare for a fit; ``monitored``: each validation will be :meth:`observed`."""

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
        return self._step.recorded

    def forget_recordings(self) -> None:
        """Record updates anew: what they read or write has been put elsewhere."""
        self._step.forget()

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
        estimate: Estimate = self._module(Inputs(batch, self.beta.tensors))
        self._guard.loss(estimate.loss)
        self._optimizer.zero_grad()
        self._fabric.backward(estimate.loss, **({"inputs": self._among[among]} if among else {}))
        norm = get_total_norm(self._gradients())
        # Before clipping, which would spread one bad entry over all gradients and hide where it arose.
        self._guard.gradient(estimate.loss, norm)
        if self._clip is not None:
            clip_grads_with_norm_(self._parameters, self._clip, norm)
        if self._clip_value is not None:
            clip_grad_value_(self._parameters, self._clip_value)
        self._optimizer.step()
        commit(self._statistics, self._total)
        return estimate._replace(loss=estimate.loss.detach()), norm

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


class Aggressive(Update):
    """Train the encoder aggressively (He et al. 2019): many updates of the guide before each one of the model.

    While the mode lasts, one call makes up to :data:`MOST` updates of the guide alone, then one of the model alone.

    The first of them is on the batch itself, the others on ``batches``, a stream of its own. After every
    :data:`WINDOW` of them the loss per word over the window, Σ loss / Σ scored tokens (EOS counted) at the present β,
    is compared with that of the window before, and the guide is left where it did not fall. The model is then updated
    on the batch itself; the meters are of that update. Clipping is by the norm of what is updated.

    The mode ends for good after the first validation whose mutual information I(z; text) is lower than at the
    validation before; from then on each call is one update of everything.
    """

    def __init__(self, setting: Setting, *, batches: Batches) -> None:
        super().__init__(setting)
        if setting.fabric.world_size > 1:
            raise UserError("update: aggressive trains in one process only; use one device, or update: joint")
        self._batches = batches
        decoder = self._trained("model")
        inside = set(decoder)
        self._among = {"model": decoder, "guide": [p for p in self._trained("guide") if p not in inside]}
        self._on = True
        self._information: float | None = None
        self._updates = 0

    def __call__(self, batch: Batch, step: int, rate: float = 1.0) -> None:
        """Update the parameters; ``step`` calls were made before. Raises ``NonFinite``."""
        if not self._on:
            super().__call__(batch, step, rate)
            return
        self._follow_schedules(step, rate)
        self._fit_encoder(batch, step)
        self.meters.add(self._descend(batch, step, "model"), batch.weights)

    def begin(self, monitored: bool) -> None:
        """Raise :class:`UserError` where nobody would tell when the mode has to end."""
        if self._on and not monitored:
            raise UserError(
                f"update: aggressive ends by the '{INFORMATION}' of the validation data, which nobody measures here; "
                "give the trainer validation data and a monitor of it, or use update: joint"
            )

    def observed(self, values: Mapping[str, Any]) -> str:
        """End the mode where the mutual information fell; raises :class:`UserError` where there is none."""
        if not self._on:
            return ""
        if INFORMATION not in values:
            raise UserError(
                f"update: aggressive ends by the '{INFORMATION}' of the validation data, which is not among what this "
                f"model's monitor measures ({', '.join(values) or 'nothing'}); use update: joint"
            )
        before, now = self._information, float(values[INFORMATION])
        self._information = now
        if before is None or not now < before:
            return ""
        self._on = False
        return (
            f"aggressive training of the encoder ends: mutual information {before:z.4g} -> {now:z.4g}; joint from here"
        )

    def counted(self) -> dict[str, int]:
        """Return the ``encoder_updates`` since the last record."""
        made, self._updates = self._updates, 0
        return {"encoder_updates": made}

    def state_dict(self) -> dict[str, Any]:
        """Return mode, last mutual information, count, and the position in the random batches."""
        return {
            "aggressive": self._on,
            "information": self._information,
            "updates": self._updates,
            "batches": self._batches.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self._on, self._information, self._updates = state["aggressive"], state["information"], state["updates"]
        self._batches.load_state_dict(state["batches"])

    def _fit_encoder(self, batch: Batch, step: int) -> None:
        before, window = math.inf, []
        for number, chosen in enumerate(self._chosen(batch), 1):
            estimate = self._descend(chosen, step, "guide")
            self._updates += 1
            weights = chosen.weights
            window.append(torch.stack((estimate.loss * weights.sum(), (weights * chosen.lengths).sum())))
            if number % WINDOW == 0:
                loss, words = map(sum, zip(*torch.stack(window).tolist(), strict=True))
                if not loss / words < before:
                    return
                before, window = loss / words, []

    def _chosen(self, batch: Batch) -> Iterator[Batch]:
        """Give the batch itself, then others; each is drawn when it is asked for."""
        yield batch
        for _ in range(MOST - 1):
            yield to_device(next(self._batches), self._fabric.device)

    def _trained(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of one program that are trained; raises :class:`UserError` where there are none."""
        held = set(self._parameters)
        program: Any = getattr(self._module, name)
        found = [p for p in program.parameters() if p in held]
        if not found:
            raise UserError(
                f"update: aggressive trains the guide before the model, and the {name} has no parameter to train; use "
                "update: joint"
            )
        return found
