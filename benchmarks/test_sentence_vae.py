"""One training step of the sentence VAE at PTB sizes: ours, stock Pyro, a hand-written PyTorch loop, NumPyro jitted.

    pytest benchmarks/test_sentence_vae.py

E = H = 256, D = 32, V = 10,000, B = 32, T = 24; both compute the same (``tests/benchmarks/test_lstm_vae.py``). Beside
pytest-benchmark's medians each row carries its ratio to ours from an interleaved race.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks import contestants, race, sentence_vae
from benchmarks.conftest import TABLES
from benchmarks.peers.lstm_vae import sentences

TABLE = contestants.SENTENCE_CONTESTANTS


@pytest.fixture(scope="module")
def sentence_standings(request: pytest.FixtureRequest, threads: int) -> dict[str, race.Standing]:
    """Ratios of the interleaved race, which the terminal summary prints."""
    raced = sentence_vae.run(contestants.available(TABLE), rounds=15, steps=2)
    rows = race.standings(raced.seconds)
    title = "side by side: one training step of the sentence VAE, PTB sizes"
    request.config.stash[TABLES][title] = f"{race.table(rows, raced.peaks)}\n\n{threads} threads each"
    return {row.name: row for row in rows}


@pytest.mark.benchmark(group="training step of the sentence VAE, B=32 T=24 V=10,000", disable_gc=False)
@pytest.mark.parametrize("name", contestants.available(TABLE))
def test_training_step(name: str, benchmark: Any, sentence_standings: dict[str, race.Standing], threads: int) -> None:
    contestant = contestants.build(name, table=TABLE)
    loss = benchmark.pedantic(contestant.step, (contestant.prepare(sentences()),), rounds=12, warmup_rounds=2)
    benchmark.extra_info.update(sentence_standings[name]._asdict(), threads=threads)
    assert math.isfinite(loss)
