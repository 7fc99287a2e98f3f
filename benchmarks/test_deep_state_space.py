"""One training step of the deep state-space word model, B=128, T=13, D=8: ours and the peers.

    pytest benchmarks/test_deep_state_space.py

A step is both programs, loss, backward, clipping at norm 5, and Adam; all contestants compute the same
(``tests/benchmarks/test_peers.py``).
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks import contestants, race
from benchmarks.peers import synthetic_words


@pytest.mark.benchmark(group="training step B=128 T=13 D=8", disable_gc=False)
@pytest.mark.parametrize("name", contestants.available())
def test_training_step(name: str, benchmark: Any, standings: dict[str, race.Standing], threads: int) -> None:
    peer = contestants.build(name)
    batch = peer.prepare(synthetic_words())
    loss = benchmark.pedantic(peer.step, (batch,), rounds=60, warmup_rounds=10)
    benchmark.extra_info.update(standings[name]._asdict(), threads=threads)
    assert math.isfinite(loss)
