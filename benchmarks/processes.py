"""What several processes gain: the same recipe at the same global batch, by one process and by more, interleaved.

    python -m benchmarks.processes words verses-della --processes 1 2 --steps 200 --rounds 3 --json processes.json

Each is a ``fit`` as a user starts it, one thread a process; what is compared is the rate of updates between the first
record and the last one, so that neither start nor report counts. A ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.race import environment, write

QUICK = {
    "training.validate_every": 10**6,
    "training.checkpoint_every": 10**6,
    "data.validation_sentences": 16,
    "report.sentences": 4,
    "report.particles": 1,
    "report.samples": 1,
}


def rate(recipe: str, processes: int, steps: int, changes: Mapping[str, Any], device: str) -> float:
    """Updates a second of one training."""
    settings = {**QUICK, "training.log_every": max(1, steps // 10), **changes}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        line = [sys.executable, "-m", "ppl_text", "fit", recipe, "-q", "--out", str(folder), "--steps", str(steps)]
        line += ["--device", device, "--devices", str(processes)]
        line += [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["split"] == "train"]
    first, last = records[0], records[-1]
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--set", dest="changes", nargs="*", default=[], metavar="KEY=JSON")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    changes = {key: json.loads(value) for key, _, value in (each.partition("=") for each in given.changes)}
    found: dict[str, dict[str, list[float]]] = {}
    for recipe in given.recipes:
        rates = {str(number): list[float]() for number in given.processes}
        for _ in range(given.rounds):
            for number in given.processes:
                rates[str(number)].append(rate(recipe, number, given.steps, changes, given.device))
        found[recipe] = rates
    base = str(given.processes[0])
    print(f"| recipe | processes | updates a second | against {base} | range over rounds |\n|---|---:|---:|---:|---:|")
    for recipe, rates in found.items():
        for number, own in rates.items():
            ratios = [one / other for one, other in zip(own, rates[base], strict=True)]
            spread = f"{min(ratios):.2f}–{max(ratios):.2f}" if number != base else ""
            print(
                f"| {recipe} | {number} | {statistics.median(own):.2f} | {statistics.median(ratios):.2f} | {spread} |"
            )
    report = {"command": " ".join(["python -m benchmarks.processes", *sys.argv[1:]]), "rates": found}
    write(given.json, {**environment(1, given.device), **report})


if __name__ == "__main__":
    main()
