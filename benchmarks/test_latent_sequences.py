"""One training step of VAE+Attn, GAVAM and both stages of DAVAM at PTB sizes: ours and a hand-written PyTorch loop.

    pytest benchmarks/test_latent_sequences.py --benchmark-group-by=param:kind

Both compute the same (``tests/benchmarks/test_latent_sequences.py``). Beside pytest-benchmark's medians each row
carries its ratio to ours from an interleaved race.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

from benchmarks import contestants, latent_sequences, race
from benchmarks.conftest import TABLES
from benchmarks.peers.lstm_vae import sentences

TABLE = contestants.LATENT_CONTESTANTS
CASES = [(kind, name) for kind in TABLE for name in contestants.available(TABLE[kind])]


@functools.cache
def raced(kind: str) -> race.Raced:
    """The interleaved race of one kind of training."""
    own, names = latent_sequences.SIZES["paper"], contestants.available(TABLE[kind])
    words = latent_sequences.sentences(own)
    return race.run(names, rounds=9, steps=1, warmup=2, table=TABLE[kind], words=words, sizes=[own])


@pytest.mark.benchmark(disable_gc=False)
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_training_step(kind: str, name: str, benchmark: Any, request: pytest.FixtureRequest, threads: int) -> None:
    found = raced(kind)
    rows = race.standings(found.seconds)
    title = f"side by side: one training step of {kind}, PTB sizes"
    request.config.stash[TABLES][title] = f"{race.table(rows, found.peaks)}\n\n{threads} threads each"
    contestant = contestants.build(name, table=TABLE[kind])
    loss = benchmark.pedantic(contestant.step, (contestant.prepare(sentences()),), rounds=5, warmup_rounds=1)
    benchmark.extra_info.update({row.name: row for row in rows}[name]._asdict(), threads=threads)
    assert math.isfinite(loss)
