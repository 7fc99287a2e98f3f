"""One training step of Transformers with latents at the sizes of the small recipes, beside plain GPT-2.

    pytest benchmarks/test_layerwise_transformer.py --benchmark-group-by=param:kind --race-threads 1

With nothing latent both compute the same (``tests/benchmarks/test_layerwise_transformer.py``). Beside
pytest-benchmark's medians each row carries its ratio to ours from an interleaved race.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

from benchmarks import contestants, layerwise_transformer, race
from benchmarks.conftest import TABLES
from benchmarks.peers.gpt2 import texts

TABLE = contestants.LAYERED_CONTESTANTS
SMALL = layerwise_transformer.SIZES["small"]
CASES = [(kind, name) for kind in TABLE for name in contestants.available(TABLE[kind])]


@functools.cache
def raced(kind: str) -> race.Raced:
    """The interleaved race of one kind."""
    names = contestants.available(TABLE[kind])
    return race.run(names, rounds=9, steps=1, warmup=2, table=TABLE[kind], words=texts(0, SMALL), sizes=[SMALL])


@pytest.mark.benchmark(disable_gc=False)
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_training_step(kind: str, name: str, benchmark: Any, request: pytest.FixtureRequest, threads: int) -> None:
    found = raced(kind)
    rows = race.standings(found.seconds)
    title = f"side by side: one training step of {kind}, small sizes"
    request.config.stash[TABLES][title] = f"{race.table(rows, found.peaks)}\n\n{threads} threads each"
    contestant = contestants.build(name, 0, "cpu", TABLE[kind], SMALL)
    loss = benchmark.pedantic(contestant.step, (contestant.prepare(texts(0, SMALL)),), rounds=5, warmup_rounds=1)
    benchmark.extra_info.update({row.name: row for row in rows}[name]._asdict(), threads=threads)
    assert math.isfinite(loss)
