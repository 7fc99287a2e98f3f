"""What all sections of a configuration are made of: their base classes, numbers, schedules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from .. import schedules
from ..core.errors import PplTextError
from ..core.limits import MOST

Count = Annotated[int, Field(strict=True, gt=0, le=MOST)]
"""A whole number above 0, of at most :data:`MOST`; neither ``true`` nor ``"5"`` nor ``5.0`` is one."""

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number."""

EPOCH = "epoch"
"""An interval of as many steps as an epoch has."""

NOMINAL_EPOCH = 100
"""Steps of an epoch where a schedule is checked before the data are known."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are faults, values are fixed once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NamedSection(BaseModel):
    """A part with a name and free options; the options are checked against what the name stands for."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    @property
    def options(self) -> dict[str, Any]:
        """The options, without the section's own keys."""
        return dict(self.model_extra or {})


def as_schedule(spec: Any, steps: int, epoch: float | None = NOMINAL_EPOCH) -> schedules.Schedule:
    """The schedule of a configuration; a ``warmup`` that names no ``steps`` lasts for the whole training.

    ``epoch``: how many steps one has; None: there are none, and a schedule that counts them is a :class:`ConfigError`.
    A training that is shorter than its warm-up ends while the value still rises.
    """
    spec = schedules.in_steps(spec, epoch)
    if isinstance(spec, dict) and spec.get("name") == "warmup" and "steps" not in spec:
        warmup_steps = spec.get("warmup_steps")
        spec = {**spec, "steps": max(steps, warmup_steps) if isinstance(warmup_steps, int | float) else steps}
    return schedules.build(spec)


def as_schedules(
    spec: Any, steps: int, epoch: float | None = NOMINAL_EPOCH
) -> schedules.Schedule | dict[str, schedules.Schedule]:
    """One schedule for all sites, or one for each site or side loss of a mapping without a ``name`` of its own."""
    if isinstance(spec, dict) and spec and "name" not in spec:
        return {site: as_schedule(own, steps, epoch) for site, own in spec.items()}
    return as_schedule(spec, steps, epoch)


def _checked(spec: Any, build: Callable[[Any, int], Any]) -> Any:
    try:
        build(spec, 1)
    except (PplTextError, TypeError) as error:
        raise ValueError(str(error)) from error
    return spec


def _interval(value: Any) -> Any:
    if value != EPOCH and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST):
        raise ValueError(f"expected a number of steps from 1 to {MOST}, or the word {EPOCH}; got {value!r}")
    return value


Schedule = Annotated[
    Any, AfterValidator(partial(_checked, build=as_schedule)), WithJsonSchema({"type": "number or schedule"})
]
"""A number, or ``{name: NAME, ARGUMENT: VALUE, …}``; see :mod:`ppl_text.schedules`."""

SiteSchedules = Annotated[
    Any,
    AfterValidator(partial(_checked, build=as_schedules)),
    WithJsonSchema({"type": "number or schedule, or one by site or side loss"}),
]
"""A schedule, or ``{SITE or SIDE LOSS: schedule, …}``."""

Interval = Annotated[Any, AfterValidator(_interval), WithJsonSchema({"type": f"integer > 0, or {EPOCH}"})]
"""A number of steps, or the word ``epoch``."""
