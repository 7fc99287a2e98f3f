"""Why a training stops before its time: a value that is not finite, a signal, programs that Pyro refuses."""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import Interrupted, NonFiniteLossError, PplTextError, ProcessLostError, UserError
from ..core.signals import Stopped, note
from ..objectives import sites
from .machine import Ranks
from .programs import Joint, own_random_numbers
from .sharding import whole


class NonFinite(Exception):  # noqa: N818 - caught by the trainer, which knows how to name the site
    """Say that update ``step`` (counted from 1) met a value that is not finite.

    ``what`` says which; ``random_state`` reproduces the draws of that update where it is known.
    """

    def __init__(self, step: int, what: str, random_state: Tensor | None = None) -> None:
        super().__init__(what)
        self.step, self.what, self.random_state = step, what, random_state


class Guard:
    """Look at every update; raise :class:`NonFinite` at once or when it is asked to ``verify``."""

    def begin(self, step: int) -> None:
        """Prepare for update ``step``, before the objective draws anything; the rest of it may be a replayed graph."""

    def loss(self, loss: Tensor) -> None:
        """Look at the loss, before the gradient is computed."""

    def gradient(self, loss: Tensor, norm: Tensor) -> None:
        """Look at the gradient, before the parameters change."""

    def verify(self) -> None:
        """Raise what was noticed so far."""

    def close(self) -> None:
        """Undo what was done to the optimizer; the guard can be used again."""


class EveryStepGuard(Guard):
    """Read each loss and gradient norm as a Python number, which costs nothing on a CPU."""

    def __init__(self, check_gradients: bool = True) -> None:
        self._check_gradients = check_gradients
        self._random_state: Tensor | None = None
        self._step = 0

    def begin(self, step: int) -> None:
        """Keep the random state, so that the same draws can be made again."""
        self._step, self._random_state = step, torch.get_rng_state()

    def loss(self, loss: Tensor) -> None:
        """Stop before a gradient is computed of a loss that is not finite."""
        value = loss.item()
        if not math.isfinite(value):
            raise NonFinite(self._step, f"the loss is {value}", self._random_state)

    def gradient(self, loss: Tensor, norm: Tensor) -> None:
        """Stop before the parameters change by a gradient that is not finite."""
        value = norm.item() if self._check_gradients else 0.0
        if not math.isfinite(value):
            raise NonFinite(self._step, f"the norm of the gradient is {value}", self._random_state)


class TogetherGuard(EveryStepGuard):
    """Look where all processes of a parallel training see the same: at the loss of all their texts, and the gradient.

    So all of them stop, and none waits for one that has.
    """

    def loss(self, loss: Tensor) -> None:
        """Wait for the losses of the others."""

    def gradient(self, loss: Tensor, norm: Tensor) -> None:
        """Stop before the parameters change where the loss or the gradient is not finite."""
        super().loss(loss)
        super().gradient(loss, norm)


class DeferredGuard(Guard):
    """Keep a flag on the device and read it only when asked, so that no update waits for the device.

    Fused optimizers skip an update when their ``found_inf`` says so (the interface of ``GradScaler``); the flag
    stays up, so that the parameters keep their last good values until the flag is read. Other optimizers go on
    with parameters that are lost; the checkpoints are not.
    """

    def __init__(self, device: torch.device, optimizer: Any, check_gradients: bool = True) -> None:
        self._check_gradients = check_gradients
        self._optimizer = optimizer
        self._raised = torch.zeros((), device=device)
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._present = torch.zeros_like(self._step)
        self.protects = check_gradients and bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def begin(self, step: int) -> None:
        """Show the flag to the optimizer; draws are not kept, as others are made by the time of reading."""
        self._present.fill_(step)
        if self.protects:
            self._optimizer.found_inf = self._raised

    def loss(self, loss: Tensor) -> None:
        """Wait for the gradient, which is not finite either then."""

    def gradient(self, loss: Tensor, norm: Tensor) -> None:
        """Raise the flag on the device, with the number of the first update concerned."""
        with torch.no_grad():
            wrong = ~torch.isfinite(loss.detach() + norm if self._check_gradients else loss.detach())
            self._step.add_(wrong * (self._raised == 0) * self._present)
            self._raised.copy_(torch.maximum(self._raised, wrong.to(self._raised.dtype)))

    def verify(self) -> None:
        """Read the flag: the one place that waits for the device."""
        step = int(self._step.item())
        if step:
            raise NonFinite(step, "the loss or the gradient is not finite")

    def close(self) -> None:
        """Take the flag down and off the optimizer."""
        self._raised.zero_()
        self._step.zero_()
        vars(self._optimizer).pop("found_inf", None)


def make_guard(fabric: Fabric, optimizer: Any) -> Guard:
    """Return the guard that suits the device; a gradient scaler (16-mixed) sees to the gradients itself."""
    check_gradients = getattr(fabric.strategy.precision, "scaler", None) is None
    if fabric.device.type == "cpu":
        return (TogetherGuard if fabric.world_size > 1 else EveryStepGuard)(check_gradients)
    return DeferredGuard(fabric.device, optimizer, check_gradients)


def describe_gradients(module: nn.Module) -> str:
    """Name the first parameter whose gradient is not finite, with the count of such entries; "" if none is."""
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            wrong = int(whole((~torch.isfinite(parameter.grad)).sum()))
            if wrong:
                return f"gradient of parameter '{name}' has {wrong} non-finite entries of {parameter.grad.numel()}"
    return ""


def explain_non_finite(
    error: NonFinite, joint: Joint, batch: Batch, fabric: Fabric, checkpoint: Path | None
) -> NonFiniteLossError:
    """Return the error that names step, site and last good checkpoint; nothing is restored.

    The programs run once more on ``batch``, with the same draws where the error knows them.
    """
    # Of parallel processes, which all have come here, the first whose own texts show where it arose knows best.
    found = Ranks(fabric).gather(_locate(error, joint, batch, fabric))
    where = "; ".join(filter(None, (next(filter(None, found), ""), describe_gradients(joint))))
    saved = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was written before it"
    return NonFiniteLossError(
        f"step {error.step:,}: {error.what}; {where}. Training stopped and nothing was restored; {saved}. "
        "Try a lower learning rate, a longer warm-up, a smaller clip_norm, or bounds on the scales of this site; "
        "resuming with unchanged settings meets the same error again"
    )


def _locate(error: NonFinite, joint: Joint, batch: Batch, fabric: Fabric) -> str:
    with own_random_numbers(fabric.device), fabric.autocast():
        if error.random_state is not None:
            torch.set_rng_state(error.random_state)
        return joint.do(lambda model, guide, _: sites.locate_non_finite(model, guide, batch))


def interrupted(number: int, step: int, total: int, path: Path) -> Interrupted:
    """Return the error for a run that signal ``number`` stopped after its state was saved in ``path``."""
    return Interrupted(
        f"stopped by {signal.Signals(number).name} after step {step:,} of {total:,}; the state is saved in {path}",
        exit_code=128 + number,
    )


def ended_at_once(stop: Stopped, step: int, newest: Path | None) -> Interrupted:
    """Return the error for a run that a second signal has ended where it was, with its newest checkpoint."""
    saved = f"the last checkpoint is {newest}" if newest else "no checkpoint was written before it"
    name = signal.Signals(stop.number).name
    return Interrupted(f"stopped at once by a second signal, {name}, after step {step:,}; {saved}", 128 + stop.number)


def process_lost(step: int, newest: Path | None) -> ProcessLostError:
    """Return the error of a parallel training that has lost a process after ``step`` updates."""
    saved = f"what was saved last stands: {newest}" if newest else "nothing was saved before"
    return ProcessLostError(
        f"another process of this training is gone (killed, out of memory, or ended by an error of its own), so that "
        f"all end after step {step:,}; {saved}."
    )


@contextmanager
def pyro_validated() -> Iterator[None]:
    """Context with Pyro's validation on, in which what it objects to becomes a message for the user."""
    try:
        with pyro.validation_enabled(True):
            yield
    except PplTextError:
        raise
    except ValueError as error:
        # Pyro prints the whole tensor that it objects to.
        text = re.sub(r"tensor\(.*\)", "…", str(error), flags=re.DOTALL)
        raise UserError(f"model, guide or data do not pass Pyro's validation: {text}") from error


class Agreement:
    """Ask all processes of a training for signals about every :data:`SECONDS`, at the same steps in each of them.

    How many steps that is follows from the pace of the slowest, which they tell each other by the way.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._next, self._last = ranks, 0, (0, time.monotonic())

    def __call__(self, step: int, number: int) -> int:
        """Return the signal that all obey after this step, or 0; ``number``: that which this process has heard."""
        if step < self._next:
            return 0
        (before, then), now = self._last, time.monotonic()
        made = max(1, step - before)
        number, slowest = self._ranks.largest(number, int(1e6 * (now - then) / made))
        self._next = step + max(1, min(2 * made, int(1e6 * SECONDS) // max(1, slowest)))
        self._last = step, now
        return number


SECONDS = 5.0
"""Between two agreements of parallel processes, about."""


class StopSignals:
    """Context in which a first SIGINT or SIGTERM only sets ``number``; the handlers before it come back at the end.

    Whoever works asks for ``number`` between two batches, or is interrupted where it says so (:meth:`raising`). A
    second signal raises :class:`Stopped` at once, also while a checkpoint is being written, which is whole or not
    there; those after it do nothing. The handlers are set even where a background job inherited "ignored" for SIGINT: a
    signal that someone sends is meant. ``grace``: seconds in which the same signal, come again, is the same one, since
    who starts several processes passes on what they have had already. Outside of the main thread, where Python allows
    no handlers, the context does nothing.
    """

    def __init__(self, grace: float = 0.0) -> None:
        self.number, self.at_once, self._raises = 0, False, False
        self._grace, self._heard = grace, 0.0
        self._previous: dict[int, Any] = {}

    def polled(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Give the batches, and raise :class:`Stopped` before the next one where a signal has come."""
        for batch in batches:
            if self.number:
                raise Stopped(self.number)
            yield batch

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Context in which the first signal raises :class:`Stopped`, too: for what leaves no trace when abandoned."""
        if self.number:
            raise Stopped(self.number)
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def __enter__(self) -> StopSignals:
        self.number, self.at_once = 0, False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_raised: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        again = number == self.number and time.monotonic() - self._heard < self._grace
        if self.at_once or again:
            return
        self._heard = time.monotonic()
        self.at_once = bool(self.number)
        self.number = self.number or number
        if self.at_once or self._raises:
            note(number)
            raise Stopped(number)
