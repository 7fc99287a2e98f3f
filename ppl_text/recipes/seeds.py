"""Seeds of a run's further random streams, none of which follows the draws of another."""

from __future__ import annotations

import numpy as np

RESET, AGGRESSIVE, STATISTICS = 11, 12, 13
"""Purposes: parameters of a program that begins anew; the random batches of aggressive training; the batches that
running statistics are estimated on."""


def derived_seed(seed: int, purpose: int, number: int = 0) -> int:
    """A seed below 2^63 that depends on the run's seed, the purpose, and the number of the stream."""
    return int(np.random.SeedSequence([seed, purpose, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))
