"""Ways to sum over the paths of a chain: ln Z and its gradient by M and T.

pytest benchmarks/test_forward_algorithm.py --benchmark-group-by=param:codes,param:steps
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.forward_algorithm import CODES, STEPS, WAYS, chain, gradient


@pytest.mark.benchmark(disable_gc=False)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("name", WAYS)
def test_evidence_and_gradient(name: str, codes: int, steps: int, benchmark: Any, threads: int) -> None:
    given = chain(codes, steps)
    benchmark.extra_info.update(threads=threads)
    found = benchmark.pedantic(gradient, (WAYS[name], given), rounds=20, iterations=5, warmup_rounds=1)
    assert all(bool(part.isfinite().all()) for part in found)
