"""How long a training is: epochs in updates, and a new length in the place of an old one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import ConfigError

NO_EPOCHS = "a word list is drawn from without end and has no epochs"


class Epoch(NamedTuple):
    """Say how many batches have each training text once, and how many of them make an update."""

    batches: int
    accumulate: int = 1

    def updates(self, epochs: int) -> int:
        """Return the updates after which each text was seen ``epochs`` times; the last one may begin another epoch."""
        return -(-epochs * self.batches // self.accumulate)

    @property
    def length(self) -> float:
        """Return the updates of an epoch, for schedules: a fraction where epochs end within an update."""
        whole, rest = divmod(self.batches, self.accumulate)
        return self.batches / self.accumulate if rest else whole


def updates_of(key: str, epochs: int, epoch: Epoch | None) -> int:
    """Return so many epochs in updates; raises :class:`ConfigError`, which names ``key``, where there are no epochs."""
    if epoch is None:
        raise ConfigError(f"training.{key}: {NO_EPOCHS}; give a number of steps")
    return epoch.updates(epochs)


def replace_length(training: dict[str, Any], changed: Mapping[str, Any]) -> None:
    """Let a new length (``steps`` or ``epochs``) take the place of the old one in a tree that is not checked yet.

    Stages that were given before take their shares of it, each at least 1 and the last one what is left.
    """
    units = [unit for unit in ("steps", "epochs") if changed.get(unit) is not None]
    if len(units) != 1:
        return
    (unit,), other = units, {"steps": "epochs", "epochs": "steps"}[units[0]]
    if other not in changed:
        training.pop(other, None)
    stages = training.get("stages")
    if stages and "stages" not in changed:
        training["stages"] = _in_shares(stages, unit, changed[unit])


def _in_shares(stages: Any, unit: str, whole: Any) -> Any:
    """Return stages of ``whole`` in all; as they are where their lengths are no numbers, or cannot be in ``unit``.

    Stages in epochs share so many steps as those in steps leave; where these leave too few, all have the same share.
    """
    lengths = [_length_in(stage) for stage in stages]
    units, numbers = {given for given, _ in lengths}, [number for _, number in lengths]
    mixed = units == {"steps", "epochs"} and unit == "steps"
    if not (mixed or len(units) == 1) or not isinstance(whole, int) or whole < len(stages):
        return stages
    shares = _divided(whole, [1] * len(stages) if mixed else numbers)
    others = [number for given, number in lengths if given != unit]
    left = whole - sum(numbers) + sum(others)
    if mixed and left >= len(others):
        rest = iter(_divided(left, others))
        shares = [number if given == unit else next(rest) for given, number in lengths]
    return [
        {**{k: v for k, v in stage.items() if k not in ("steps", "epochs")}, unit: share}
        for stage, share in zip(stages, shares, strict=True)
    ]


def _divided(whole: int, weights: Sequence[int]) -> list[int]:
    """Return shares of ``whole`` by weight, each at least 1 and the last one what is left."""
    left, shares = whole, list[int]()
    for place, weight in enumerate(weights[:-1], 1):
        shares.append(max(1, min(round(whole * weight / sum(weights)), left - (len(weights) - place))))
        left -= shares[-1]
    return [*shares, left]


def _length_in(stage: Any) -> tuple[str, int]:
    """Return unit and number; the unit is "" where there is none."""
    given = [(u, stage[u]) for u in ("steps", "epochs") if stage.get(u) is not None] if isinstance(stage, dict) else []
    if len(given) != 1 or not isinstance(given[0][1], int) or given[0][1] < 1:
        return repr(stage), 1
    return given[0]
