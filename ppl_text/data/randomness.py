"""Random streams of the data: one for each purpose, stored and taken up again bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

TRAINING, EVALUATION, DROPOUT = 1, 2, 3
"""Purposes of random streams: the same seed must not make one follow the draws of another."""


def random_stream(seed: int, purpose: int) -> np.random.Generator:
    """The generator of a seed for one of the purposes."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose])))


def generator_in(state: Any) -> np.random.Generator:
    """A generator that goes on from a stored state."""
    bits = np.random.PCG64()
    bits.state = state
    return np.random.Generator(bits)
