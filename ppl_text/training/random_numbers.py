"""The generators that a program may draw from without one of its own: torch's, NumPy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Let torch, on every device, NumPy's legacy functions and Python's ``random`` draw from a seed."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_of(*numbers: int) -> int:
    """Return a seed below 2^63 that depends on these numbers of 0 or more, and on their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def random_numbers_kept(devices: Iterable[Any] = ()) -> Iterator[None]:
    """Context after which all these generators, of torch the CPU's and those of ``devices``, are as before."""
    numpy, python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        np.random.set_state(numpy)
        random.setstate(python)


def random_states() -> dict[str, Any]:
    """Return their states as tensors and plain values."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    name, keys, *rest = np.random.get_state(legacy=True)
    numpy = [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest]
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate(), "numpy": numpy}


def set_random_states(states: dict[str, Any]) -> None:
    """Take back what :func:`random_states` returned, for the devices that are still there.

    NumPy's is missing from checkpoints of older versions.
    """
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    if "numpy" in states:
        name, keys, *rest = states["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    for index, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, index)
