"""Time and peak memory of every objective against the number of particles, beside stock Pyro.

    python -m benchmarks.objectives --threads 1 --json objectives.json

The work that is timed is one loss and its gradient on the state-space word model of the race (B=128, T=13, D=8):
what an optimiser adds is the same for all. Stock Pyro runs on the very same model and guide, with its particles
vectorised. Every round runs all contestants of one K, in shuffled order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
from pyro import infer

from benchmarks import race
from benchmarks.ours import Ours
from benchmarks.peers import synthetic_words
from ppl_text import objectives
from ppl_text.comparing.costs import peak_bytes
from ppl_text.core.batch import Batch

PARTICLES = (1, 4, 16, 64)

OBJECTIVES = {
    "elbo": "elbo:{k}",
    "elbo-analytic": "elbo-analytic:{k}",
    "stl": "stl:{k}",
    "free-bits": "free-bits:2:sentence:{k}",
    "iwae": "iwae:{k}",
    "iwae, 16 at a time": "iwae:{k}/16",
    "renyi": "renyi:0.5:{k}",
    "dreg": "dreg:{k}",
    "stepwise": "stepwise:{k}",
    "fivo": "fivo:{k}",
}
"""Rows of ours: name to the spec for K particles."""

STOCK: dict[str, Callable[..., infer.ELBO]] = {
    "stock Trace_ELBO": infer.Trace_ELBO,
    "stock RenyiELBO(0)": lambda **options: infer.RenyiELBO(alpha=0.0, **options),
    "stock RenyiELBO(0.5)": lambda **options: infer.RenyiELBO(alpha=0.5, **options),
}
"""Rows of Pyro's own, run as its documentation says."""

COUNTERPART = {"elbo": "stock Trace_ELBO", "iwae": "stock RenyiELBO(0)", "renyi": "stock RenyiELBO(0.5)"}
"""Which stock class computes what our objective computes."""

NAMES = (*OBJECTIVES, *STOCK)


class Cell(NamedTuple):
    """One contestant at one K: seconds of a loss and its gradient, round by round; peak bytes of live tensors."""

    seconds: list[float]
    peak: int

    def over(self, other: Cell) -> float:
        """How many times longer this one takes: the median over rounds of the ratio within a round."""
        return float(np.median(np.asarray(self.seconds) / np.asarray(other.seconds)))


class World:
    """Model, guide and batch of the race."""

    def __init__(self, seed: int = 0) -> None:
        self.programs = Ours(seed)
        self.batch: Batch = self.programs.prepare(synthetic_words(seed))

    def gradient(self, name: str, particles: int) -> Callable[[], Any]:
        """A function that computes one loss and its gradient."""
        if name in STOCK:
            return self._stock(STOCK[name], particles)
        objective, ours = objectives.build(OBJECTIVES[name].format(k=particles)), self.programs

        def work() -> None:
            ours.optimizer.zero_grad(set_to_none=True)
            with pyro.validation_enabled(False):
                objective(ours.model, ours.guide, self.batch).loss.backward()

        return work

    def _stock(self, kind: Callable[..., infer.ELBO], particles: int) -> Callable[[], Any]:
        stock = kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
        ours = self.programs

        def program(name: str, module: Any) -> Callable[[Batch], Any]:
            def run(batch: Batch) -> Any:
                pyro.module(name, module)
                return module(batch)

            return run

        model, guide = program("model", ours.model), program("guide", ours.guide)

        def work() -> None:
            ours.optimizer.zero_grad(set_to_none=True)
            with pyro.validation_enabled(False), pyro.get_param_store().scope():
                stock.loss_and_grads(model, guide, self.batch)

        return work


def measure(particles: int, *, rounds: int, names: Sequence[str] = NAMES, seed: int = 0) -> dict[str, Cell]:
    """Seconds by round and peak bytes of each contestant at one K."""
    world = World(seed)
    works = {name: world.gradient(name, particles) for name in names}
    runners = {name: _repeated(work) for name, work in works.items()}
    times = race.interleaved(runners, rounds=rounds, steps=1, warmup=1, settle=1, seed=seed)
    return {name: Cell(list(map(float, times[name])), peak_bytes(work)) for name, work in works.items()}


def _repeated(work: Callable[[], Any]) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            work()

    return run


def time_table(cells: dict[int, dict[str, Cell]]) -> str:
    """Milliseconds by K, and how many times longer stock Pyro takes at equal K."""
    header = ["one loss and gradient, ms", *(f"K = {k}" for k in cells), *(f"stock / ours, {k}" for k in cells)]
    rows = []
    for name in NAMES:
        times = [f"{1e3 * np.median(column[name].seconds):.1f}" for column in cells.values()]
        peer = COUNTERPART.get(name)
        ratios = [f"{c[peer].over(c[name]):.2f}" if peer else "" for c in cells.values()]
        rows.append([f"`{name}`" if name in OBJECTIVES else name, *times, *ratios])
    return _markdown(header, rows)


def memory_table(cells: dict[int, dict[str, Cell]]) -> str:
    """Peak megabytes by K."""
    header = ["peak of live tensors, MB", *(f"K = {k}" for k in cells)]
    rows = [[name, *(f"{column[name].peak / 1e6:.1f}" for column in cells.values())] for name in NAMES]
    return _markdown(header, rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of this program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objectives", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--particles", type=int, nargs="+", default=list(PARTICLES), help="values of K")
    parser.add_argument("--rounds", type=int, default=9, help="rounds for each K (default 9)")
    parser.add_argument("--threads", type=int, help="CPUs and threads (default: all there are)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print both tables."""
    options = parse(arguments)
    threads = race.limit_threads(options.threads)
    cells = {k: measure(k, rounds=options.rounds) for k in options.particles}
    print(time_table(cells))
    print()
    print(memory_table(cells))
    where = race.environment(threads)
    print(f"\n{threads} threads, {where['cpu']}, {options.rounds} rounds, load average {where['load_average']:.1f}")
    if options.json:
        figures = {k: {name: cell._asdict() for name, cell in column.items()} for k, column in cells.items()}
        options.json.write_text(json.dumps({"environment": where, "cells": figures}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
