"""One training step of DED+DAttn and VED+VAttn-h̄ at the sizes of the small recipes and of the paper.

    pytest benchmarks/test_encoder_decoder.py --benchmark-group-by=param:kind,param:size --race-threads 1

Ours and a hand-written PyTorch loop compute the same (``tests/benchmarks/test_encoder_decoder.py``). Beside
pytest-benchmark's medians each row carries its ratio to ours from an interleaved race.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

from benchmarks import contestants, encoder_decoder, race
from benchmarks.conftest import TABLES
from benchmarks.peers.encoder_decoder import pairs

TABLE = contestants.PAIR_CONTESTANTS
CASES = [
    (kind, size, name) for size in ("small", "paper") for kind in TABLE for name in contestants.available(TABLE[kind])
]


@functools.cache
def raced(kind: str, size: str) -> race.Raced:
    """The interleaved race of one kind."""
    names = contestants.available(TABLE[kind])
    own = encoder_decoder.SIZES[size]
    return race.run(names, rounds=9, steps=1, warmup=2, table=TABLE[kind], words=pairs(0, own), sizes=[own])


@pytest.mark.benchmark(disable_gc=False)
@pytest.mark.parametrize(("kind", "size", "name"), CASES)
def test_training_step(
    kind: str, size: str, name: str, benchmark: Any, request: pytest.FixtureRequest, threads: int
) -> None:
    found, sizes = raced(kind, size), encoder_decoder.SIZES[size]
    rows = race.standings(found.seconds)
    title = f"side by side: one training step of {kind}, {size} sizes"
    request.config.stash[TABLES][title] = f"{race.table(rows, found.peaks)}\n\n{threads} threads each"
    contestant = contestants.build(name, 0, "cpu", TABLE[kind], sizes)
    loss = benchmark.pedantic(contestant.step, (contestant.prepare(pairs(0, sizes)),), rounds=5, warmup_rounds=1)
    benchmark.extra_info.update({row.name: row for row in rows}[name]._asdict(), threads=threads)
    assert math.isfinite(loss)
