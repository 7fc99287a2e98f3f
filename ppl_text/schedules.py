"""Schedules of β and of the learning rate: pure functions of the step, in Python numbers.

``step`` counts the updates that are already done: the first update of a run uses ``schedule(0)``.
A configuration names a schedule and its arguments, and :func:`build` makes a ``step -> float`` of it::

    >>> beta = build({"name": "linear", "start": 0.1, "end": 1.0, "steps": 100})
    >>> beta(0), beta(50), beta(1000)
    (0.1, 0.55, 1.0)
    >>> build(0.5)(7)
    0.5

Arguments that count updates may be given in epochs (``epochs``, ``period_epochs``, …: :data:`IN_EPOCHS`); whoever knows
how many updates an epoch has makes steps of them with :func:`in_steps`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .core.errors import ConfigError, UnknownNameError, nearest


def constant(step: float, *, value: float) -> float:
    """Return ``value`` at every step."""
    return value


def linear(step: float, *, start: float, end: float = 1.0, steps: float, delay: float = 0) -> float:
    """Follow a straight line from ``start`` to ``end`` over ``steps`` updates, then level.

    ``start + (end - start) · clip((step - delay) / steps, 0, 1)``; ``steps = 0`` jumps after ``delay``.
    """
    return _between(start, end, _ramp(step - delay, steps))


def logistic(
    step: float,
    *,
    midpoint: float,
    width: float,
    start: float = 0.0,
    end: float = 1.0,
    freeze_after: float | None = None,
) -> float:
    """Follow an S-shaped rise, half way at ``midpoint``.

    ``start + (end - start) · (1 + tanh((s - midpoint) / width)) / 2`` with ``s = min(step, freeze_after)``.
    ``midpoint=4500, width=1000`` is the weight λ of the variational-attention paper; its public code
    stops the update at step 3000 (``freeze_after=3000``), which leaves λ at 0.0474 for good.
    """
    reached = step if freeze_after is None else min(step, freeze_after)
    return _between(start, end, (1.0 + math.tanh((reached - midpoint) / width)) / 2.0)


def cyclical(
    step: float,
    *,
    period: float,
    hold: float = 0.0,
    rise: float = 0.5,
    start: float = 0.0,
    end: float = 1.0,
    cycles: int | None = None,
) -> float:
    """Go through cycles of ``period`` updates, each at ``start``, rising to ``end``, then level until the next begins.

    In a cycle, at ``φ = (step mod period) / period``: ``start + (end - start) · clip((φ - hold) / rise, 0, 1)``.
    ``hold`` and ``rise`` are shares of the cycle. After ``cycles`` cycles (None: for ever) it stays at ``end``.
    The papers' constants, with N updates in an epoch: ``period=10N, rise=0.45, start=0.1`` (cyclical
    annealing on PTB); ``period=2N, hold=0.5, rise=0.25, start=1e-5`` (DELLA).
    """
    if cycles is not None and step >= cycles * period:
        return end
    return _between(start, end, _ramp((step % period) / period - hold, rise))


def warmup(
    step: float,
    *,
    value: float,
    warmup_steps: float,
    steps: float,
    final: float = 0.0,
    decay: str = "cosine",
) -> float:
    """Return a learning rate that rises to ``value``, then falls to ``final`` at the end of the training.

    While ``step < warmup_steps``: ``value · (step + 1) / warmup_steps``, so that the first update is not
    wasted on a rate of zero. Then, with ``u = clip((step - warmup_steps) / (steps - warmup_steps), 0, 1)``:
    ``final + (value - final) · (1 + cos πu) / 2`` (``decay="cosine"``) or ``value + (final - value) · u``
    (``decay="linear"``).
    """
    if step < warmup_steps:
        return value * (step + 1) / warmup_steps
    fallen = _ramp(step - warmup_steps, steps - warmup_steps)
    if decay == "cosine":
        return _between(value, final, (1.0 - math.cos(math.pi * fallen)) / 2.0)
    return _between(value, final, fallen)


def exponential(step: float, *, value: float, factor: float, period: float, final: float = 0.0) -> float:
    """Return a learning rate that is multiplied by ``factor`` after each ``period`` updates, and never below ``final``.

    ``max(final, value · factor^⌊step / period⌋)``. The variational-attention paper's rate, with N updates in an epoch:
    ``value=0.005, factor=0.95, period=N`` (its public code: ``factor=0.75``), ``final=1e-5`` (specification 3C).
    """
    return max(final, value * factor ** math.floor(step / period))


def restarts(step: float, *, value: float, period: float, plateau: float = 1, final: float = 0.0) -> float:
    """Return a learning rate that falls along half a cosine, anew in each ``period`` (SGDR, Loshchilov 2017).

    With ``u = plateau · ⌊(step mod period) / plateau⌋ / period``: ``final + (value - final) · (1 + cos πu) / 2``, which
    stays the same for ``plateau`` updates. With N updates in an epoch, ``period=10N, plateau=N`` is the rate that goes
    with cyclical annealing, ``value/2 · (1 + cos π·((e-1) mod 10)/10)`` of epoch e = 1, 2, … (specification 0).
    """
    done = plateau * math.floor((step % period) / plateau) / period
    return _between(value, final, (1.0 - math.cos(math.pi * done)) / 2.0)


def _ramp(done: float, length: float) -> float:
    """0 before, 1 after, linear in between; a ramp without length is a jump at ``done = 0``."""
    if length <= 0:
        return 1.0 if done >= 0 else 0.0
    return min(max(done / length, 0.0), 1.0)


def _between(start: float, end: float, share: float) -> float:
    """Return the point at ``share`` of the way; exact at both ends, which ``start + (end - start)`` is not."""
    return end if share >= 1.0 else start + (end - start) * share


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "logistic": logistic,
    "cyclical": cyclical,
    "warmup": warmup,
    "exponential": exponential,
    "restarts": restarts,
}
"""Name in a configuration -> function of the step."""

_POSITIVE, _NOT_NEGATIVE, _SHARE = "a number above 0", "a number of 0 or more", "a share between 0 and 1"
_CHECKS: dict[str, Callable[[float], bool]] = {
    _POSITIVE: lambda x: x > 0,
    _NOT_NEGATIVE: lambda x: x >= 0,
    _SHARE: lambda x: 0 <= x <= 1,
}
_RULES = {
    "steps": _NOT_NEGATIVE,
    "delay": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "freeze_after": _NOT_NEGATIVE,
    "width": _POSITIVE,
    "period": _POSITIVE,
    "plateau": _POSITIVE,
    "cycles": _POSITIVE,
    "hold": _SHARE,
    "rise": _SHARE,
    "factor": _SHARE,
}
_DECAYS = ("cosine", "linear")

IN_EPOCHS = {
    "epochs": "steps",
    "delay_epochs": "delay",
    "warmup_epochs": "warmup_steps",
    "midpoint_epochs": "midpoint",
    "width_epochs": "width",
    "freeze_after_epochs": "freeze_after",
    "period_epochs": "period",
    "plateau_epochs": "plateau",
}
"""An argument in epochs -> the argument in updates that it stands for."""


@dataclass(frozen=True)
class Schedule:
    """A named schedule with its arguments: ``schedule(step) -> float``."""

    name: str
    arguments: tuple[tuple[str, Any], ...]

    def is_constant(self, value: float) -> bool:
        """Return whether this is ``value`` at every step by its name."""
        return self.name == "constant" and dict(self.arguments)["value"] == value

    def __call__(self, step: float) -> float:
        """Return the value for the update that follows ``step`` updates."""
        return float(SCHEDULES[self.name](step, **dict(self.arguments)))


def build(spec: Mapping[str, Any] | float) -> Schedule:
    """Make a schedule of a number (constant) or of ``{"name": NAME, ARGUMENT: VALUE, …}``.

    Raises :class:`UnknownNameError` for an unknown name and :class:`ConfigError` with *all* faults of the
    arguments: unknown, missing, of the wrong type, not finite or out of range.
    """
    if not isinstance(spec, Mapping):
        _refuse("constant", [fault for fault in [_fault("value", spec)] if fault])
        return Schedule("constant", (("value", float(spec)),))
    arguments = dict(spec)
    name = arguments.pop("name", None)
    if name is None:
        raise ConfigError(f"a schedule needs a name: {{name: linear, …}}; known: {', '.join(sorted(SCHEDULES))}")
    if name not in SCHEDULES:
        raise UnknownNameError("schedule", str(name), SCHEDULES)
    _refuse(name, _faults(name, arguments))
    return Schedule(name, tuple(arguments.items()))


def in_steps(spec: Any, epoch: float | None) -> Any:
    """Return the schedule with all arguments in updates, of which an epoch has ``epoch`` (None: no epochs).

    What is no mapping stays as it is. Raises :class:`ConfigError` for an argument that is given twice, that is no
    number, or that counts epochs where there are none.

    Example::

        >>> in_steps({"name": "linear", "start": 0.1, "epochs": 10}, 40)
        {'name': 'linear', 'start': 0.1, 'steps': 400}
    """
    if not isinstance(spec, Mapping) or spec.get("name") not in SCHEDULES:
        return spec
    name, found = spec["name"], dict(spec)
    known = inspect.signature(SCHEDULES[name]).parameters
    for key, in_updates in IN_EPOCHS.items():
        if key not in spec or in_updates not in known:
            continue
        value = found.pop(key)
        if in_updates in spec:
            _refuse(name, [f"'{key}' and '{in_updates}' are one argument in two units; give one of them"])
        if epoch is None:
            _refuse(name, [f"'{key}': a word list is drawn from without end and has no epochs; give '{in_updates}'"])
        _refuse(name, [fault for fault in [_fault(key, value)] if fault])
        found[in_updates] = value * (epoch or 0)
    return found


def _refuse(name: str, faults: list[str]) -> None:
    if faults:
        raise ConfigError(f"schedule '{name}': " + "; ".join(faults))


def _faults(name: str, arguments: dict[str, Any]) -> list[str]:
    """Return all errors of the arguments, in words."""
    known = [p for p in inspect.signature(SCHEDULES[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    names = [p.name for p in known]
    others = [key for key, in_updates in IN_EPOCHS.items() if in_updates in names]
    faults = [
        f"unknown argument '{key}'{nearest(str(key), [*names, *others])}; it takes {', '.join(names)}"
        + (f" ({', '.join(others)} in epochs)" if others else "")
        for key in arguments
        if key not in names
    ]
    faults += [f"'{p.name}' is missing" for p in known if p.default is p.empty and p.name not in arguments]
    optional = {p.name for p in known if p.default is None}
    for key, value in arguments.items():
        if key in names and not (value is None and key in optional):
            faults += [fault for fault in [_fault(key, value)] if fault]
    return faults or _joint_faults(name, arguments)


def _fault(key: str, value: Any) -> str:
    """Return what is wrong with one value, or nothing."""
    if key == "decay":
        return "" if value in _DECAYS else f"'decay' must be one of {', '.join(_DECAYS)}; got {value!r}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return f"'{key}' must be a finite number; got {value!r}"
    rule = _RULES.get(key)
    if rule and not _CHECKS[rule](value):
        return f"'{key}' must be {rule}; got {value!r}"
    if key == "cycles" and value != int(value):
        return f"'cycles' must be a whole number; got {value!r}"
    return ""


def _joint_faults(name: str, arguments: dict[str, Any]) -> list[str]:
    """Return errors of arguments that are each fine but do not go together."""
    if name == "cyclical" and arguments.get("hold", 0.0) + arguments.get("rise", 0.5) > 1:
        return ["'hold' and 'rise' are shares of one cycle and may not sum to more than 1"]
    if name == "warmup" and arguments["warmup_steps"] > arguments["steps"]:
        return [f"'warmup_steps' ({arguments['warmup_steps']}) may not exceed 'steps' ({arguments['steps']})"]
    return []
