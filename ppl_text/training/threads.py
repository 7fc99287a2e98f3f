"""How many threads torch uses for one operation on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Context in which torch uses ``count`` threads (None: as many as before), restored afterwards.

    At the sizes of a word model a second thread gains little on an idle machine, and on a busy one the two
    wait for each other at every operation: a step can take thirty times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
