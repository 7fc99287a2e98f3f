"""The processes of a parallel training, as ``torchrun`` tells each of them who it is.

Light: a command asks this before anything else is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from .errors import UserError

VARIABLES = {"size": "WORLD_SIZE", "rank": "RANK", "local_size": "LOCAL_WORLD_SIZE", "local_rank": "LOCAL_RANK"}
"""Environment variables that ``torchrun`` sets for each process."""

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
"""Environment variables that say where the processes meet, and where they do if nobody says."""


class Place(NamedTuple):
    """Say which process this is: number ``rank`` of ``size``, and number ``local_rank`` of ``local_size`` here.

    Example:
        >>> Place(size=4, rank=3, local_size=2, local_rank=1).nodes
        2
    """

    size: int = 1
    rank: int = 0
    local_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether it is the first one of its machine."""
        return self.local_rank == 0

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.size // self.local_size

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"process {self.rank} of {self.size}"


ALONE = Place()
"""That of the only process."""

_parted: list[bool] = []


def own_place(variables: Mapping[str, str] | None = None) -> Place:
    """Return the place of this process; that of a single one where nobody has started several.

    ``variables``: the environment; default: the process's, which no longer counts once the processes have parted.
    Raises :class:`UserError` for values that contradict each other.
    """
    if variables is None and _parted:
        return ALONE
    variables = os.environ if variables is None else variables
    if not {"WORLD_SIZE", "RANK"} <= variables.keys():
        return ALONE
    given = {field: variables.get(name, "") for field, name in VARIABLES.items()}
    # Who starts processes by hand, one on each machine, may leave the local ones out.
    given["local_size"] = given["local_size"] or "1"
    given["local_rank"] = given["local_rank"] or "0"
    try:
        place = Place(**{field: int(value) for field, value in given.items()})
        sound = 0 <= place.rank < place.size and 0 <= place.local_rank < place.local_size
        if not sound or place.size % place.local_size:
            raise ValueError
    except ValueError:
        told = ", ".join(f"{name}={variables.get(name, '')}" for name in VARIABLES.values())
        raise UserError(
            f"the environment says that several processes train together, but not which: {told}; start them by "
            "torchrun --nproc-per-node=N -m ppl_text fit …, or unset these variables"
        ) from None
    return place


def own_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def complete_environment(place: Place) -> None:
    """Set what starters by hand may leave out of the environment: where to meet, and the own number here."""
    for name, value in {**MEETING, VARIABLES["local_rank"]: str(place.local_rank)}.items():
        os.environ.setdefault(name, value)


def part() -> None:
    """Say that those who trained together have parted: from now on this process is alone."""
    _parted.append(True)
