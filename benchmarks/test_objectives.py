"""Every objective against the number of particles: time of one loss and its gradient, peak memory beside it.

    pytest benchmarks/test_objectives.py --benchmark-group-by=param:particles

``python -m benchmarks.objectives`` runs the same contestants interleaved, and prints the ratios to stock Pyro.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.objectives import NAMES, PARTICLES, World
from ppl_text.comparing.costs import peak_bytes


@pytest.fixture(scope="module")
def world(threads: int) -> World:
    """One model, guide and batch for all."""
    return World()


@pytest.mark.benchmark(disable_gc=False)
@pytest.mark.parametrize("particles", PARTICLES)
@pytest.mark.parametrize("name", NAMES)
def test_gradient(name: str, particles: int, benchmark: Any, world: World, threads: int) -> None:
    work = world.gradient(name, particles)
    benchmark.extra_info.update(peak_megabytes=peak_bytes(work) / 1e6, threads=threads)
    benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    gradients = [p.grad for p in world.programs.parameters]
    assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients)
