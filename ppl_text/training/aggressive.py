"""Aggressive training of the encoder: many updates of the guide before each one of the model (He et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.signals import Stopped
from .programs import Batches, to_device
from .update import Setting, Update

MOST = 99
"""Updates of the encoder before one of the decoder in aggressive training, at most (specification 0)."""

WINDOW = 15
"""Updates of the encoder between two looks at the loss."""

INFORMATION = "mutual_information"
"""What a monitor has to measure at each validation of an aggressive training."""


@dataclass
class _Inner:
    """Where the updates of the guide before one of the model stand: how many, the loss to beat, and the window."""

    number: int = 0
    before: float = math.inf
    window: list[Tensor] = field(default_factory=list)

    def stored(self) -> dict[str, Any]:
        window = [part.detach().cpu().clone() for part in self.window]
        return {"number": self.number, "before": self.before, "window": window}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> _Inner:
        return cls(stored["number"], stored["before"], list(stored["window"]))


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
        if setting.options.accumulate > 1:
            raise UserError("update: aggressive makes each update of one batch; use accumulate: 1, or update: joint")
        self._batches = batches
        decoder = self._trained("model")
        inside = set(decoder)
        self._among = {"model": decoder, "guide": [p for p in self._trained("guide") if p not in inside]}
        self._on = True
        self._information: float | None = None
        self._updates = 0
        self._inner = _Inner()

    @property
    def pauses(self) -> bool:
        """Return whether the mode lasts: a signal is obeyed between two updates of the guide."""
        return self._on or super().pauses

    def __call__(self, batches: Sequence[Batch], step: int, rate: float = 1.0) -> None:
        """Update the parameters; ``step`` calls were made before. Raises ``NonFinite``."""
        if not self._on:
            super().__call__(batches, step, rate)
            return
        (batch,) = batches
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
            **({"inner": self._inner.stored()} if self._inner.number else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self._on, self._information, self._updates = state["aggressive"], state["information"], state["updates"]
        self._batches.load_state_dict(state["batches"])
        self._inner = _Inner.of(state["inner"]) if "inner" in state else _Inner()

    def _fit_encoder(self, batch: Batch, step: int) -> None:
        """Update the guide as often as it helps; a signal in between leaves it to be gone on with."""
        inner = self._inner
        while inner.number < MOST:
            if inner.number and (signal := self._stopped()):
                raise Stopped(signal)
            chosen = batch if not inner.number else to_device(next(self._batches), self._fabric.device)
            estimate = self._descend(chosen, step, "guide")
            self._updates += 1
            inner.number += 1
            weights = chosen.weights
            inner.window.append(torch.stack((estimate.loss * weights.sum(), (weights * chosen.lengths).sum())))
            if inner.number % WINDOW == 0:
                loss, words = map(sum, zip(*torch.stack(inner.window).tolist(), strict=True))
                if not loss / words < inner.before:
                    break
                inner.before, inner.window = loss / words, []
        self._inner = _Inner()

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
