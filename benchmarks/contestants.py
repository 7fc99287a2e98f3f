"""Who races: names to builders, imported on demand, so that a missing extra costs only its own row."""

from __future__ import annotations

import importlib
import importlib.util

from benchmarks.peers import Peer

OURS = "ours"

CONTESTANTS = {
    OURS: "benchmarks.ours:build",
    "ours, in the trainer": "benchmarks.ours:build_in_trainer",
    "ours, Pyro taken out": "benchmarks.ours:build_without_pyro",
    "stock Pyro, a site per step": "benchmarks.peers.stock_pyro:build",
    "PyTorch loop": "benchmarks.peers.torch_loop:build",
    "PyTorch loop, parallel densities": "benchmarks.peers.torch_loop:build_parallel",
    "NumPyro/JAX, jitted": "benchmarks.peers.numpyro_jax:build",
}

REQUIRES = {"NumPyro/JAX, jitted": "numpyro"}
"""Contestants that need a package of the extra ``bench``."""


def available() -> list[str]:
    """Names whose packages are installed."""
    return [name for name in CONTESTANTS if importlib.util.find_spec(REQUIRES.get(name, "torch")) is not None]


def build(name: str, seed: int = 0) -> Peer:
    """Build one contestant with its initial parameters."""
    module, _, attribute = CONTESTANTS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)(seed)
