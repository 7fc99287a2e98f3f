"""β of a training: the weight of the KL in the loss, of all latent sites or by name, as it goes from step to step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..objectives.estimate import beta_of
from ..schedules import Schedule
from .options import StepSchedule

Schedules = StepSchedule | Mapping[str, StepSchedule]
"""One schedule for all latent sites, or one by name of site or side loss, or by a pattern of names."""


class Beta:
    """Hold β as tensors that keep their place in memory while their values follow the schedules.

    A β that is 1 throughout is the plain number 1, so that objectives may leave its terms out.
    """

    def __init__(self, schedule: Schedules, device: torch.device) -> None:
        self._always_one = isinstance(schedule, Schedule) and schedule.is_constant(1.0)
        self._by_site = isinstance(schedule, Mapping)
        self._schedules = dict(schedule) if isinstance(schedule, Mapping) else {"": schedule}
        self._tensors = {site: torch.full((), math.nan, device=device) for site in self._schedules}
        self._values = dict.fromkeys(self._schedules, math.nan)

    @property
    def tensors(self) -> float | Tensor | dict[str, Tensor]:
        """Return what the objective is given."""
        if self._always_one:
            return 1.0
        return self._tensors if self._by_site else self._tensors[""]

    @property
    def values(self) -> float | dict[str, float]:
        """Return the same as Python numbers."""
        return dict(self._values) if self._by_site else self._values[""]

    def set(self, step: int) -> None:
        """Write the values for the update that follows ``step`` updates."""
        for site, schedule in self._schedules.items():
            value = float(schedule(step))
            if value != self._values[site]:
                self._values[site] = value
                self._tensors[site].fill_(value)


def averaged(beta: Schedules, sites: Sequence[str]) -> Schedules:
    """Return the schedules by which the loss has the mean of the sites' KLs, β_l(t) / L, in place of their sum.

    ``sites`` are the L latent sites of the model. Side losses keep what they have.
    """
    if len(sites) < 2:
        return beta
    if not isinstance(beta, Mapping):
        return _divided(beta, len(sites))
    found = {site: beta_of(site, beta) for site in sites}
    own = {site: _divided(_one if given is None else given, len(sites)) for site, given in found.items()}
    return {**own, **{name: schedule for name, schedule in beta.items() if name not in own}}


def _divided(schedule: StepSchedule, number: int) -> StepSchedule:
    return lambda step: schedule(step) / number


def _one(step: int) -> float:
    return 1.0
