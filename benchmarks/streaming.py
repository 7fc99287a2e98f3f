"""What a corpus larger than memory costs: seconds, bytes on disk and peak memory, each phase in a process of its own.

    python -m benchmarks.streaming --lines 20000000 --json streaming.json

A file of so many lines is generated: words drawn from 50,000 with frequencies as 1/rank, 3 to 17 of them a line. Then
"nothing" imports what all phases import; "make" reads the file and writes the cache; "open" finds it there; "epoch"
goes through the batches of a training epoch (``--batches`` of them at most); "train" makes ``--steps`` updates of a
small language model, with validation and report; "memory", where ``--memory`` asks for it, loads the file without
data.stream and goes through the same batches. All that is made is removed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

WORDS, SHORTEST, LONGEST = 50_000, 3, 17
"""Different words; words of a line."""

OPTIONS: dict[str, Any] = {"unit": "sentences", "vocabulary": 20_000, "min_count": 2, "max_tokens": None}
"""Of the corpus: the same in all phases, which then share a cache."""

BATCH = 64
"""Sentences of a batch."""

VALIDATED = 500
"""Sentences of valid and of test that are looked at."""

WHAT = {
    "generate": "the file is generated",
    "nothing": "imports alone",
    "make": "first time: the cache is made",
    "open": "later: the cache is found and checked",
    "epoch": "found, and all batches of an epoch",
    "train": "found, trained for some steps, with validation and report",
    "memory": "in memory, and the same batches",
}
"""What is measured."""

PHASES = ("nothing", "make", "open", "epoch", "train")


def generate(path: Path, lines: int, seed: int = 0) -> None:
    """Write the file, 100,000 lines at a time."""
    import numpy as np

    rng = np.random.default_rng(seed)
    words = [f"{'bdfgklmnprst'[i % 12]}{'aeiou'[i // 12 % 5]}{i:x}" for i in range(WORDS)]
    edges = np.cumsum(1 / np.arange(1, WORDS + 1))
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, lines, 100_000):
            sizes = rng.integers(SHORTEST, LONGEST + 1, size=min(100_000, lines - start))
            drawn = iter(np.searchsorted(edges, rng.random(sizes.sum()) * edges[-1]).tolist())
            file.writelines(" ".join(words[i] for i in islice(drawn, n)) + "\n" for n in sizes.tolist())


def measure(phase: str, path: Path, *, batches: int = 10_000, steps: int = 100) -> dict[str, Any]:
    """Run a phase in a process of its own; the cache lies beside the file."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--phase", phase, "--file", str(path)]
    command += ["--batches", str(batches), "--steps", str(steps)]
    own = {**os.environ, "PPL_TEXT_CACHE": str(path.parent / "cache")}
    done = subprocess.run(command, env=own, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_phase(phase: str, path: Path, batches: int, steps: int) -> dict[str, Any]:
    """Run a phase here: what it found, its seconds and the process's peak memory in MiB."""
    from ppl_text import fitting
    from ppl_text.core.watching import heard_by
    from ppl_text.data.batches import default_buckets
    from ppl_text.data.blocks import epochs_over
    from ppl_text.data.catalogue import load_corpus

    start, found = time.perf_counter(), dict[str, Any]()
    if phase in ("make", "open", "epoch", "memory"):
        with heard_by(print_progress):
            corpus = load_corpus(str(path), stream=phase != "memory", **OPTIONS)
        found["sentences"] = {name: len(split) for name, split in corpus.splits.items()}
        found["tokens"] = corpus.splits["train"].target.table.scored_tokens
    if phase in ("epoch", "memory"):
        train, begun = corpus.splits["train"], time.perf_counter()
        stream = epochs_over(train, batch_size=BATCH, buckets=default_buckets(train, 4), seed=0)
        rows = sum(int(batch.weights.sum()) for batch in islice(stream, min(batches, stream.batches_per_epoch)))
        taken = time.perf_counter() - begun
        found |= {"rows": rows, "batches_per_epoch": stream.batches_per_epoch, "rows_per_second": rows / taken}
    if phase == "train":
        changes = {
            **{f"data.{name}": value for name, value in OPTIONS.items()},
            "data.stream": True,
            "data.batch_size": BATCH,
            "data.validation_sentences": VALIDATED,
            "model.embedding_dim": 64,
            "model.hidden_dim": 64,
            "training.validate_every": steps,
            "report.sentences": VALIDATED,
            "report.particles": 1,
        }
        run = fitting.fit("text-lm", data=path, set=changes, steps=steps, out=path.parent / "run", device="cpu")
        found["perplexity"] = run.evaluate(limit=VALIDATED, particles=1).perplexity
    found["seconds"] = time.perf_counter() - start
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def print_progress(what: str, done: int, total: int) -> None:
    """Say on stderr how far a pass is, a hundred times."""
    if total and done * 100 // total != print_progress.__dict__.get("last"):
        print_progress.__dict__["last"] = done * 100 // total
        print(f"{what}: {done * 100 // total} %", file=sys.stderr, flush=True)


def streaming(lines: int, folder: Path, batches: int, steps: int, memory: bool) -> dict[str, Any]:
    """Generate a file in a folder and run all phases on it."""
    path = folder / "big.txt"
    found: dict[str, Any] = {
        "benchmark": "streaming",
        "command": f"python -m benchmarks.streaming --lines {lines}" + " --memory" * memory,
        "load_average": [os.getloadavg()[0]],
        "lines": lines,
    }
    start = time.perf_counter()
    generate(path, lines)
    found |= {"file_bytes": path.stat().st_size, "generate": {"seconds": time.perf_counter() - start}}
    for phase in (*PHASES, *["memory"] * memory):
        found[phase] = measure(phase, path, batches=batches, steps=steps)
        found["load_average"].append(os.getloadavg()[0])
        print(f"{phase}: {found[phase]}", file=sys.stderr, flush=True)
    found["cache_bytes"] = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())
    # Now only: what this process holds counts as the peak of those that it starts.
    from benchmarks.race import environment

    found["environment"] = environment(threads=1)
    return found


def table_markdown(found: Mapping[str, Any]) -> str:
    """Return the figures as Markdown: a row for each phase, sizes, and where they were measured."""
    lines = ["| phase | seconds | peak memory, MiB |", "| --- | ---: | ---: |"]
    for phase, what in WHAT.items():
        if phase in found:
            peak = found[phase].get("peak_mib")
            lines.append(f"| {what} | {found[phase]['seconds']:,.0f} | {'' if peak is None else f'{peak:,.0f}'} |")
    size, cache = (f"{found[name] / 2**20:,.0f} MiB" for name in ("file_bytes", "cache_bytes"))
    place, load, epoch = found["environment"], found["load_average"], found["epoch"]
    return "\n".join(
        [
            *lines,
            "",
            f"{found['lines']:,} lines of {size}, {epoch['tokens']:,} training tokens; the cache has {cache}. An epoch "
            f"has {epoch['batches_per_epoch']:,} batches of {BATCH}; {epoch['rows']:,} rows came in those that were "
            f"taken. `{found['command']}`: {place['cpu']}, one process of one thread, load average {min(load):.1f} to "
            f"{max(load):.1f}, commit `{place['commit'][:7]}`, Python {place['python']}.",
        ]
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the file and the cache are made; default: a temporary one")
    parser.add_argument("--batches", type=int, default=1_000_000, help="of the epoch, at most")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--memory", action="store_true", help="also load the file without data.stream")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--phase", choices=(*PHASES, "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    """Run what is asked for."""
    given = parse()
    if given.phase:
        print(json.dumps(run_phase(given.phase, given.file, given.batches, given.steps)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="streaming-") as folder:
        found = streaming(given.lines, Path(folder), given.batches, given.steps, given.memory)
    print(table_markdown(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
