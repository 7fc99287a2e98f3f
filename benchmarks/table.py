"""Measure one training step of every family beside its peers and beside what the machine can do: one table.

    python -m benchmarks.table --threads 1 --json table.json
    python -m benchmarks.table latent_sequence sentence_vae --sizes paper --device cuda

Rows are our step (as it stands, in the trainer, and on a GPU captured and in bf16) and the peers of each kind of
training: the stock way in Pyro, a hand-written PyTorch loop, NumPyro jitted. Rounds are interleaved as in
:mod:`benchmarks.race`, ratios are taken within a round; the limit is that of :mod:`benchmarks.limits`. What cannot run
stands in the table with the reason or the command that would run it. The file is written after every kind of training.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import race
from benchmarks.contestants import COMPILED, ON_GPU, OURS, WAYS, available, build
from benchmarks.families import FAMILIES, SIZES, Kind, Missing, tokens_of
from benchmarks.limits import Rates, Work, measure_rates, work_of
from benchmarks.page import PEERS, table_markdown

FIRST, SETTLE = 3, 1
"""Untimed steps of a contestant that was just built, in which a graph is recorded, and after a change of contestant."""

DEFAULTS = {
    "sizes": "small",
    "rounds": 9,
    "steps": 2,
    "warmup": 2,
    "device": "cpu",
    "threads": None,
    "clock": "wall",
    "peers": list(PEERS),
}
DIGITS = 5
"""Figures of a time that are kept."""


class Settings(NamedTuple):
    """What all races of a table have in common."""

    size: str
    device: str
    rounds: int
    steps: int
    warmup: int
    clock: str
    rates: Rates
    peers: Sequence[str] = tuple(PEERS)

    @property
    def time(self) -> Callable[[], float]:
        """What reads the clock."""
        return race.CLOCKS[self.clock]


def measure(family: str, kind: Kind, settings: Settings) -> dict[str, Any]:
    """Race one kind of training; return its tokens and limit, and a row of each contestant by its name."""
    batch, given = kind.batch(kind.sizes[settings.size]), kind.given(settings.size)
    entrants, rows = enter(family, kind, batch, settings)
    seconds = _interleaved(entrants, settings)
    ours = build(OURS, 0, "cpu", kind.contestants, *given)
    work, tokens = work_of(ours, ours.prepare(batch)), tokens_of(batch)
    for name, entrant in entrants.items():
        rows[name] = {
            **row(seconds[name], entrant.peak_bytes(), tokens),
            "share": share(name, seconds, kind, work, settings.rates),
        }
        if name in (OURS, *WAYS):
            rows[name]["ratios"] = ratios(name, seconds, kind)
    return {
        "sizes": given[0]._asdict() if given else None,
        "tokens": tokens,
        "alike": kind.alike,
        "limit": work.limit(settings.rates)._asdict() | work._asdict(),
        "missing": {peer: found._asdict() for peer, found in kind.peers.items() if isinstance(found, Missing)},
        "rows": {name: rows[name] for name in raced_names(kind, settings)},
    }


def raced_names(kind: Kind, settings: Settings) -> list[str]:
    """Return who races: our step in all its ways, in a try but the one that takes a minute, and the chosen peers."""
    ways = [way for way in WAYS if way in kind.contestants and (way != COMPILED or settings.size != "try")]
    peers = [found for peer, found in kind.peers.items() if isinstance(found, str) and peer in settings.peers]
    in_bf16 = [f"{peer}, bf16" for peer in peers if f"{peer}, bf16" in kind.contestants]
    return [OURS, *ways, *peers, *in_bf16]


def enter(
    family: str, kind: Kind, batch: Any, settings: Settings
) -> tuple[dict[str, race.Entrant], dict[str, dict[str, Any]]]:
    """Build all who race here, and let them take their first steps; return them, and the rows of those who do not."""
    entrants, rows = {}, {}
    able = available(kind.contestants, settings.device)
    for name in raced_names(kind, settings):
        if name not in able:
            rows[name] = not_run(family, name, settings)
            continue
        try:
            contestant = build(name, 0, settings.device, kind.contestants, *kind.given(settings.size))
            entrant = race.Entrant(contestant, batch, settings.device)
            entrant(FIRST)
            entrants[name] = entrant
        except RuntimeError as error:
            rows[name] = {"status": "failed", "reason": str(error).splitlines()[0]}
    return entrants, rows


def _interleaved(entrants: Mapping[str, Callable[[int], None]], settings: Settings) -> dict[str, list[float]]:
    counts = {"rounds": settings.rounds, "steps": settings.steps, "warmup": settings.warmup}
    wait = race.waiting(settings.device)
    return race.interleaved(entrants, **counts, settle=SETTLE, wait=wait, clock=settings.time)


def row(seconds: Sequence[float], peak: int | None, tokens: int) -> dict[str, Any]:
    """Summarise one contestant: the median step, tokens a second, peak, and the times of all rounds."""
    median = float(np.median(seconds))
    return {
        "status": "run",
        "seconds": _rounded(median),
        "tokens_per_second": _rounded(tokens / median),
        "peak_bytes": peak,
        "rounds": [_rounded(value) for value in seconds],
    }


def share(name: str, seconds: Mapping[str, Sequence[float]], kind: Kind, work: Work, rates: Rates) -> float | None:
    """Return which part of a contestant's time our step needs at least; None for a peer that computes less."""
    if name not in (OURS, *WAYS) and not kind.alike:
        return None
    return _rounded(
        work.limit(rates, "bf16" if name.endswith("bf16") else "float32").seconds / np.median(seconds[name])
    )


def ratios(name: str, seconds: Mapping[str, Sequence[float]], kind: Kind) -> dict[str, dict[str, float]]:
    """Return each peer's time over that of one of our rows, within a round, by kind of peer; of those that have run.

    In bf16 the peer is the one in bf16, where there is one.
    """
    found = {}
    for peer, who in kind.peers.items():
        lower = f"{who}, bf16"
        other = lower if name.endswith("bf16") and lower in seconds else who
        if isinstance(other, str) and other in seconds:
            pair = race.standings({name: seconds[name], other: seconds[other]}, name)
            (standing,) = (entry for entry in pair if entry.name == other)
            found[peer] = {key: _rounded(getattr(standing, key)) for key in ("ratio", "low", "high")}
    return found


def not_run(family: str, name: str, settings: Settings) -> dict[str, Any]:
    """Say what would run a contestant that this machine cannot: a GPU, or a package."""
    command = f"python -m benchmarks.table {family} --sizes {settings.size}"
    if name in ON_GPU and settings.device == "cpu":
        return {"status": "not run", "command": f"{command} --device cuda"}
    packages = "numpyro 'jax[cuda13]'" if settings.device == "cuda" else "numpyro jax"
    return {"status": "not run", "command": f"pip install {packages} && {command} --device {settings.device}"}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def report_of(options: argparse.Namespace, threads: int, rates: Rates) -> dict[str, Any]:
    """Begin a report: what was asked for, where, and what the machine can do."""
    given = ("sizes", "rounds", "steps", "warmup", "device", "threads", "clock")
    asked = [f"--{name} {getattr(options, name)}" for name in given if getattr(options, name) != DEFAULTS[name]]
    asked += [] if options.peers == DEFAULTS["peers"] else [f"--peers {' '.join(options.peers)}"]
    return {
        "benchmark": "table",
        "command": " ".join(["python -m benchmarks.table", *options.families, *asked]),
        "sizes": options.sizes,
        **race.circumstances(options, threads),
        "rates": {"operations": dict(rates.operations), "bytes": rates.bytes},
        "families": {},
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"{', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--sizes", choices=SIZES, help="of the small recipes (default), of the papers, or a try")
    parser.add_argument("--rounds", type=int, help="with every contestant each (default 9)")
    parser.add_argument("--steps", type=int, help="timed steps in a round (default 2)")
    parser.add_argument("--warmup", type=int, help="more steps before the clock starts (default 2)")
    race.add_common(parser)
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="of these kinds (default: all)")
    parser.set_defaults(**DEFAULTS)
    options = parser.parse_args(arguments)
    race.refuse_unknown(parser, "FAMILY", options.families, FAMILIES)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all that was asked for and print the table."""
    options = parse(arguments)
    threads = race.begin(options)
    rates = measure_rates(options.device, race.CLOCKS[options.clock], race.waiting(options.device))
    report = report_of(options, threads, rates)
    counts = (options.rounds, options.steps, options.warmup)
    settings = Settings(options.sizes, options.device, *counts, options.clock, rates, options.peers)
    for family in options.families or FAMILIES:
        report["families"][family] = {}
        for name, kind in FAMILIES[family].items():
            report["families"][family][name] = measure(family, kind, settings)
            report["load_average"].append(os.getloadavg()[0])
            race.write(options.json, report)
            print(f"{family}, {name}: measured", file=sys.stderr, flush=True)
    print(table_markdown(report))


if __name__ == "__main__":
    main()
