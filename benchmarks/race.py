"""Race one training step of all contestants side by side, so that a shared machine cannot favour one.

    python -m benchmarks.race --rounds 40 --json race.json
    python -m benchmarks.race --device cuda

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
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contestants import CONTESTANTS, OURS, available, build
from benchmarks.peers import BATCH, STATE, STEPS, Words, synthetic_words

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "pyro-ppl", "jax", "jaxlib", "numpyro", "numpy", "transformers")
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""What is timed: on a busy machine with one thread, what the processor has spent on this process alone."""

SETTLE = 2
"""Untimed steps after a change of contestant: the other's worker threads go to sleep meanwhile."""


class Entrant:
    """One contestant on one prepared batch: ``entrant(steps)`` takes so many training steps."""

    def __init__(self, peer: Any, words: Words, device: str = "cpu") -> None:
        self._peer, self._batch, self._device = peer, peer.prepare(words), device

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self._peer.step(self._batch)

    def peak_bytes(self) -> int | None:
        """Most bytes of a step beyond what was held before it; of JAX's, what JAX says, and None where it does not.

        None of a recording, too, which holds its memory between the steps.
        """
        if getattr(self._peer, "recording", False):
            return None
        own = getattr(self._peer, "peak_bytes", None)
        if own is not None:
            return own()
        from ppl_text.comparing.costs import peak_bytes

        return peak_bytes(lambda: self(1), self._device)


class Raced(NamedTuple):
    """What a race has shown, by contestant: seconds per step in each round, peak bytes (None where unknown)."""

    seconds: dict[str, list[float]]
    peaks: dict[str, int | None]


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


def run(
    names: Sequence[str],
    *,
    rounds: int,
    steps: int,
    warmup: int,
    seed: int = 0,
    device: str = "cpu",
    table: Mapping[str, str] = CONTESTANTS,
    words: Any = None,
    sizes: Sequence[Any] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Raced:
    """Race contestants of a table; words and sizes are those of the state-space model where they are not given."""
    like_for_like(device)
    words = synthetic_words(seed) if words is None else words
    entrants = {name: Entrant(build(name, seed, device, table, *sizes), words, device) for name in names}
    wait = waiting(device)
    counts = {"rounds": rounds, "steps": steps, "warmup": warmup, "settle": SETTLE}
    times = interleaved(entrants, **counts, seed=seed, wait=wait, clock=clock)
    return Raced(times, {name: entrant.peak_bytes() for name, entrant in entrants.items()})


def like_for_like(device: str) -> None:
    """Let float32 be float32 for everybody: cuDNN would round the products of recurrent networks to 10 bits."""
    import torch

    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False


def waiting(device: str) -> Callable[[], None]:
    """What waits until a device has done all that it was told; nothing where there is nothing to wait for."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def interleaved(
    runners: Mapping[str, Callable[[int], None]],
    *,
    rounds: int,
    steps: int,
    warmup: int,
    settle: int,
    seed: int = 0,
    wait: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per step of each runner ``(steps) -> None`` in each round, in shuffled order within a round.

    ``wait`` is called before the clock is read; ``time.process_time`` leaves out what other programs took.
    """
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
            wait()
            start = clock()
            runners[name](steps)
            wait()
            times[name].append((clock() - start) / steps)
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


def table(rows: Sequence[Standing], peaks: Mapping[str, int | None]) -> str:
    """The standings as a Markdown table, with the peak memory of a step."""
    lines = ["| one training step | ms | time, ours = 1 | 95 % interval | peak MB |", "| --- " + "| ---: " * 4 + "|"]
    for row in rows:
        name, peak = f"**{row.name}**" if row.name == OURS else row.name, peaks.get(row.name)
        cells = [name, f"{1e3 * row.median:.2f}", f"{row.ratio:.2f}", f"{row.low:.2f}–{row.high:.2f}"]
        lines.append(f"| {' | '.join([*cells, '' if peak is None else f'{peak / 1e6:.1f}'])} |")
    return "\n".join(lines)


def environment(threads: int, device: str = "cpu") -> dict[str, Any]:
    """What a ratio depends on besides the code."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cuda": torch.version.cuda,
        "threads": threads,
        "load_average": os.getloadavg()[0],
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "commit": commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def circumstances(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Return what a report says of its clock, rounds and machine; whoever measures adds to ``load_average``."""
    where = environment(threads, options.device)
    return {
        "clock": options.clock,
        "rounds": options.rounds,
        "load_average": [where["load_average"]],
        "environment": where,
    }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options of any race say of its run."""
    counts = {"rounds": options.rounds, "steps": options.steps, "warmup": options.warmup}
    return {**counts, "device": options.device, "clock": CLOCKS[options.clock]}


def run_kinds(
    module: str,
    tables: Mapping[str, Mapping[str, str]],
    sizes: Mapping[str, Any],
    words: Callable[[Any], Any],
    arguments: Sequence[str] | None,
    *,
    rounds: int,
    steps: int,
    warmup: int,
) -> None:
    """Run the races of a module with several, those that are named, one after the other; print the tables.

    Args:
        tables: contestants by kind.
        sizes: named tuples by name, the default first; contestants are built with them.
        words: the batch of these sizes.
    """
    first = argparse.ArgumentParser(prog=f"python -m {module}", add_help=False)
    first.add_argument("kinds", choices=tables, nargs="+")
    first.add_argument("--sizes", choices=sizes, default=next(iter(sizes)))
    named, rest = first.parse_known_args(arguments)
    own, batch = sizes[named.sizes], words(sizes[named.sizes])
    everybody = {name: place for kind in named.kinds for name, place in tables[kind].items()}
    usage = f"{module} KIND [KIND ...] [--sizes {'|'.join(sizes)}]"
    options = parse_for(usage, everybody, rest, rounds=rounds, steps=steps, warmup=warmup)
    threads, reports = limit_threads(options.threads), {}
    for kind in named.kinds:
        names = chosen(options, tables[kind])
        raced = run(names, table=tables[kind], words=batch, sizes=[own], **settings(options))
        print(f"{kind}, {named.sizes} sizes\n")
        reports[kind] = describe(options, raced, own._asdict(), threads)
        print()
    write(options.json, reports)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the race and print the table."""
    options = parse(arguments)
    threads = limit_threads(options.threads)
    names = chosen(options, CONTESTANTS)
    raced = run(names, **settings(options))
    tell(options, raced, {"B": BATCH, "T": STEPS, "D": STATE}, threads)


def begin(options: argparse.Namespace) -> int:
    """Be ready to measure as the common options say; return how many threads there are."""
    refuse_without(options.device)
    threads = limit_threads(options.threads)
    like_for_like(options.device)
    return threads


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of all that is measured."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where all is measured (default cpu)")
    parser.add_argument("--threads", type=int, help="CPUs and threads for everybody (default: all there are)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: beside other programs, one thread")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found, as data")


def refuse_unknown(parser: argparse.ArgumentParser, what: str, given: Sequence[str], known: Iterable[str]) -> None:
    """End the program, with status 2, where one of the names that were given is not known."""
    known = list(known)
    for name in given:
        if name not in known:
            parser.error(f"{what}: expected one of {', '.join(known)}; got '{name}'")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of this race."""
    return parse_for("benchmarks.race", CONTESTANTS, arguments, rounds=40, steps=10, warmup=20)


def parse_for(
    module: str, table: Mapping[str, str], arguments: Sequence[str] | None, *, rounds: int, steps: int, warmup: int
) -> argparse.Namespace:
    """Options of a race with its own defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="Race one training step.")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"with every contestant each (default {rounds})")
    parser.add_argument("--steps", type=int, default=steps, help=f"timed steps in a round (default {steps})")
    parser.add_argument("--warmup", type=int, default=warmup, help=f"steps before the clock starts (default {warmup})")
    add_common(parser)
    parser.add_argument("--only", action="append", choices=[*table], help="race this one and ours; repeatable")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace, table: Mapping[str, str]) -> list[str]:
    """Those who race: available ones, or ours and those that ``--only`` names; ends the program without the device."""
    refuse_without(options.device)
    names = available(table, options.device)
    return [name for name in names if not options.only or name in {OURS, *options.only}]


def refuse_without(device: str) -> None:
    """End the program, with status 2, where there is no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: no CUDA GPU is visible to torch; leave it out to race on the CPU", file=sys.stderr)
        raise SystemExit(2)


def tell(options: argparse.Namespace, raced: Raced, sizes: dict[str, int], threads: int) -> None:
    """Print the table and where it was made; write the file if one is wanted."""
    write(options.json, describe(options, raced, sizes, threads))


def write(file: Path | None, report: dict[str, Any]) -> None:
    """Write a report if a file is wanted."""
    if file is not None:
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def describe(options: argparse.Namespace, raced: Raced, sizes: dict[str, int], threads: int) -> dict[str, Any]:
    """Print the table and where it was made; return all of it."""
    rows, where = standings(raced.seconds), environment(threads, options.device)
    print(table(rows, raced.peaks))
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    place = f"on {where['device']}, CUDA {where['cuda']}; " if options.device == "cuda" else ""
    rounds = f"{options.rounds} rounds of {options.steps} steps, {options.clock} time"
    print(f"\n{place}{threads} threads each, {where['cpu']}, {rounds}")
    print(f"Python {where['python']}, {packages}")
    return {
        "sizes": sizes,
        "environment": where,
        "standings": [row._asdict() for row in rows],
        "peak_bytes": raced.peaks,
        "seconds_per_step": raced.seconds,
    }


def commit() -> str:
    """Return the commit of this copy: what the variable ``COMMIT`` says, else git; ``unknown`` without either."""
    return os.environ.get("COMMIT") or said("git", "-C", str(ROOT), "rev-parse", "HEAD") or "unknown"


def said(*command: str) -> str | None:
    """Return the first line that a program prints; None where there is no such program or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


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
