"""Race one training step of all contestants side by side, so that a shared machine cannot favour one.

    python -m benchmarks.race --rounds 40 --json race.json

Each round runs every contestant for a few steps, in shuffled order. A ratio is taken within a round and
then the median over rounds, so that whatever slows the machine for seconds slows both sides of it.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contestants import CONTESTANTS, OURS, available, build
from benchmarks.peers import BATCH, STATE, STEPS, synthetic_words

PACKAGES = ("torch", "pyro-ppl", "jax", "jaxlib", "numpyro", "numpy")
SETTLE = 2
"""Untimed steps after a change of contestant: the other's worker threads go to sleep meanwhile."""


class Standing(NamedTuple):
    """One row of the table: seconds per step, and the ratio to ours with its 95 % bootstrap interval."""

    name: str
    median: float
    ratio: float
    low: float
    high: float


def limit_threads(threads: int | None) -> int:
    """Give this process ``threads`` CPUs and torch as many threads; return how many there are.

    JAX sizes its pool by the CPUs that the process may use, when it is first imported: so all
    contestants get the same number, if this is called before.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if threads is not None:
        os.sched_setaffinity(0, cpus[:threads])
    import torch

    count = len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count


def run(names: Sequence[str], *, rounds: int, steps: int, warmup: int, seed: int = 0) -> dict[str, list[float]]:
    """Seconds per step of each contestant in each round."""
    words = synthetic_words(seed)
    runners = {name: _runner(name, words, seed) for name in names}
    return interleaved(runners, rounds=rounds, steps=steps, warmup=warmup, settle=SETTLE, seed=seed)


def interleaved(
    runners: Mapping[str, Callable[[int], None]], *, rounds: int, steps: int, warmup: int, settle: int, seed: int = 0
) -> dict[str, list[float]]:
    """Seconds per step of each runner ``(steps) -> None`` in each round, in shuffled order within a round."""
    for runner in runners.values():
        runner(warmup)
    gc.collect()
    gc.freeze()  # modules and compiled code need not be walked again by collections during the race
    order, times = list(runners), {name: [] for name in runners}
    shuffle = random.Random(seed)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            runners[name](settle)
            start = time.perf_counter()
            runners[name](steps)
            times[name].append((time.perf_counter() - start) / steps)
    gc.unfreeze()
    return times


def standings(times: dict[str, list[float]], reference: str = OURS, draws: int = 2000) -> list[Standing]:
    """Medians and ratios to the reference, slowest first; the bootstrap resamples rounds."""
    base = np.asarray(times[reference])
    picks = np.random.default_rng(0).integers(0, len(base), (draws, len(base)))
    rows = []
    for name, values in times.items():
        ratios = np.asarray(values) / base
        low, high = np.quantile(np.median(ratios[picks], axis=1), [0.025, 0.975])
        rows.append(Standing(name, float(np.median(values)), float(np.median(ratios)), float(low), float(high)))
    return sorted(rows, key=lambda row: -row.median)


def table(rows: Sequence[Standing]) -> str:
    """The standings as a Markdown table."""
    lines = ["| one training step | ms | time, ours = 1 | 95 % interval |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        name = f"**{row.name}**" if row.name == OURS else row.name
        lines.append(f"| {name} | {1e3 * row.median:.2f} | {row.ratio:.2f} | {row.low:.2f}–{row.high:.2f} |")
    return "\n".join(lines)


def environment(threads: int) -> dict[str, Any]:
    """What a ratio depends on besides the code."""
    return {
        "sizes": {"B": BATCH, "T": STEPS, "D": STATE},
        "threads": threads,
        "load_average": os.getloadavg()[0],
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the race and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description="Race one training step.")
    parser.add_argument("--rounds", type=int, default=40, help="rounds, each with every contestant (default 40)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a contestant per round (default 10)")
    parser.add_argument("--warmup", type=int, default=20, help="steps before the clock starts (default 20)")
    parser.add_argument("--threads", type=int, help="CPUs and threads for everybody (default: all there are)")
    parser.add_argument("--only", action="append", choices=[*CONTESTANTS], help="race this one and ours; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write times, ratios and versions here")
    options = parser.parse_args(arguments)
    threads = limit_threads(options.threads)
    names = [name for name in available() if not options.only or name in {OURS, *options.only}]
    times = run(names, rounds=options.rounds, steps=options.steps, warmup=options.warmup)
    rows, where = standings(times), environment(threads)
    print(table(rows))
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    print(f"\n{threads} threads each (torch and JAX), {where['cpu']}, {options.rounds} rounds of {options.steps} steps")
    print(f"Python {where['python']}, {packages}")
    if options.json:
        report = {"environment": where, "standings": [row._asdict() for row in rows], "seconds_per_step": times}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _runner(name: str, words: Any, seed: int) -> Callable[[int], None]:
    peer = build(name, seed)
    batch = peer.prepare(words)

    def steps(count: int) -> None:
        for _ in range(count):
            peer.step(batch)

    return steps


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
