"""Measure how the cost of a training step grows: with particles, steps, vocabulary, codes, layers; an epoch with texts.

    python -m benchmarks.growth --threads 1 --json growth.json --figure growth.png
    python -m benchmarks.growth layers codes --device cuda

Time is the median over interleaved rounds of one step, both programs, backward, clipping and the optimiser; memory the
peak of what a step holds beyond what was held before. An epoch is reading a file of texts and one step of a small
language model for each of its batches, on the CPU; its memory is what Python and NumPy hold while the file is read.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks import latent_sequences, layerwise_transformer, ours, race
from benchmarks.page import growth_markdown
from benchmarks.peers import Words, lstm_vae, synthetic_words
from benchmarks.peers.gpt2 import Sizes as Layered
from benchmarks.peers.gpt2 import texts
from benchmarks.peers.latent_sequence import Sizes as Sequences
from benchmarks.steps import Contestant
from guides.language_model import ExactGuide
from guides.switching_language_model import ExactGuide as ExactCodes
from ppl_text import objectives
from ppl_text.core.protocols import Objective
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.language_model import LanguageModel
from ppl_text.models.switching_language_model import SwitchingLanguageModel
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config

RATE = 1e-3
NARROW = Sequences(1_000, 64, 64, 16, 64, 64, 4)
LAYERED = Layered(layers=2, width=64, heads=2, vocabulary=1_000, latent=16, batch=16, steps=24)


class Grown(Contestant):
    """Any model and guide under an objective, by Adam."""

    def __init__(self, model: nn.Module, guide: nn.Module, objective: Objective, device: str) -> None:
        self.compete(model, guide, objective, device)
        self.optimizer = torch.optim.Adam(self.parameters, RATE, fused=True)


Step = tuple[Contestant, Words]
"""A contestant and its batch."""


class Axis(NamedTuple):
    """What grows: its name on an axis, its values, and a line by name, ``line(value, device)``."""

    label: str
    values: Sequence[int]
    lines: Mapping[str, Callable[[int, str], Step]]


def sentences(steps: int = 24, vocabulary: int = NARROW.vocabulary) -> Words:
    """32 texts of so many tokens."""
    return lstm_vae.sentences(0, lstm_vae.Sizes(vocabulary=vocabulary), steps=steps)


def state_space(particles: int, device: str) -> Step:
    """K importance-weighted particles of the state-space word model."""
    contestant = ours.Ours(0, device)
    contestant.objective = objectives.build(f"iwae:{particles}")
    return contestant, synthetic_words()


def state_space_steps(steps: int, device: str) -> Step:
    """Words in a frame of T letters, the longest of which fill it."""
    letters = np.random.default_rng(0).integers(3, 29, (128, steps))
    letters[:, -1] = 2
    return ours.Ours(0, device), Words(letters, np.full(128, steps))


def layered(kind: str, objective: str = "elbo", **changes: int) -> Callable[[int, str], Step]:
    """A Transformer of which one size, or the number of particles, is the value."""

    def line(value: int, device: str) -> Step:
        sizes = LAYERED._replace(**dict.fromkeys(changes, value))
        made = layerwise_transformer.Ours(kind, 0, device, sizes, objective=objective.format(k=value))
        return made, texts(0, sizes)

    return line


def latent(kind: str, *changed: str) -> Callable[[int, str], Step]:
    """A latent sequence of which one size is the value; ``steps``: that of the batch."""

    def line(value: int, device: str) -> Step:
        sizes = NARROW._replace(**{name: value for name in changed if name != "steps"})
        words = sentences(value) if "steps" in changed else sentences()
        return latent_sequences.Ours(kind, 0, device, sizes), words

    return line


def language(vocabulary: int, device: str) -> Step:
    """An LSTM language model over V words."""
    model = LanguageModel(Vocabulary(vocabulary), embedding_dim=64, hidden_dim=64, cell="lstm")
    return Grown(model, ExactGuide(model), objectives.build("elbo"), device), sentences(vocabulary=vocabulary)


def switched(codes: int, device: str) -> Step:
    """A language model switched by M contextual codes, which are summed out."""
    model = SwitchingLanguageModel(Vocabulary(NARROW.vocabulary), codes=codes, embedding_dim=64, hidden_dim=64)
    return Grown(model, ExactCodes(model), objectives.build("elbo"), device), sentences()


AXES = {
    "particles": Axis(
        "particles K",
        (1, 2, 4, 8, 16, 32, 64),
        {"state space, iwae": state_space, "Transformer, iwae": layered("value", "iwae:{k}")},
    ),
    "steps": Axis(
        "tokens T",
        (8, 16, 32, 64, 128),
        {
            "state space": state_space_steps,
            "attention to z": latent("vae-attn", "steps"),
            "Transformer": layered("value", steps=0),
        },
    ),
    "vocabulary": Axis(
        "vocabulary V",
        (1_000, 4_000, 16_000, 64_000),
        {"language model": language, "attention to z": latent("vae-attn", "vocabulary")},
    ),
    "codes": Axis(
        "codes M",
        (16, 64, 256, 1_024, 4_096),
        {"nearest of a book": latent("davam-codes", "codes"), "prior of codes": latent("davam-prior", "codes")},
    ),
    "switched": Axis("codes M, summed out", (2, 4, 8, 16, 32), {"switched softmax": switched}),
    "layers": Axis(
        "layers L",
        (1, 2, 4, 8, 16),
        {"Transformer, value": layered("value", layers=0), "prior of codes": latent("davam-prior", "layers")},
    ),
}
"""By name, in the order of the figure."""

TEXTS = (1_000, 4_000, 16_000, 64_000)
EPOCH = "epoch"


def measure(axis: Axis, options: argparse.Namespace) -> dict[str, Any]:
    """Race the values of every line against each other; return seconds and peak bytes by line."""
    values, lines = axis.values[: options.values], {}
    for name, line in axis.lines.items():
        torch.manual_seed(0)
        lines[name] = raced([race.Entrant(*line(value, options.device), options.device) for value in values], options)
    return {"label": axis.label, "values": list(values), "lines": lines}


def measure_epochs(options: argparse.Namespace) -> dict[str, Any]:
    """Race epochs of files of texts; return seconds and peak bytes."""
    values = TEXTS[: options.values]
    with tempfile.TemporaryDirectory() as folder:
        line = raced([Epoch(Path(folder) / f"{count}.txt", count) for count in values], options, warmup=0, settle=0)
    return {"label": "texts N, an epoch", "values": list(values), "lines": {"language model": line}}


def raced(entrants: Sequence[Any], options: argparse.Namespace, *, warmup: int = 2, settle: int = 1) -> dict[str, Any]:
    """Race what stands at the values of a line."""
    named = {str(place): entrant for place, entrant in enumerate(entrants)}
    counts = {"rounds": options.rounds, "steps": 1, "warmup": warmup, "settle": settle}
    times = race.interleaved(named, **counts, wait=race.waiting(options.device), clock=race.CLOCKS[options.clock])
    return {
        "seconds": [float(f"{np.median(seconds):.4g}") for seconds in times.values()],
        "peak_bytes": [entrant.peak_bytes() for entrant in entrants],
    }


class Epoch:
    """Reading a file of sentences of ten words, and a step of a small language model for each batch of it."""

    def __init__(self, file: Path, count: int) -> None:
        words = np.random.default_rng(0).integers(0, 900, (count, 10))
        file.write_text("".join(" ".join(f"w{word}" for word in row) + "\n" for row in words), encoding="utf-8")
        self.config = load_config("text-lm", {"data.corpus": str(file), "data.batch_size": 64})
        model = LanguageModel(Vocabulary(1_000), embedding_dim=16, hidden_dim=16, cell="lstm")
        self.contestant = Grown(model, ExactGuide(model), objectives.build("elbo"), "cpu")

    def __call__(self, epochs: int) -> None:
        for _ in range(epochs):
            batches = build.training_batches(self.config, build.load_data(self.config))
            for _ in range(build.epoch_length(batches) or 0):
                self.contestant.step(next(batches))

    def peak_bytes(self) -> int:
        """Most bytes that Python and NumPy have held while the file was read."""
        tracemalloc.start()
        build.load_data(self.config)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak


def figure_of(report: Mapping[str, Any], target: Path) -> None:
    """Draw time above and memory below over each axis, both logarithmic, with a slope of 1 for reference, as PNG."""
    from ppl_text.plots.figures import blank_figure, save_figure

    axes = list(report["axes"].values())
    figure = blank_figure(2.2 * len(axes), 4.8)
    grid = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        for places, key, scale in zip(grid[:, column], ("seconds", "peak_bytes"), (1e3, 1e-6), strict=True):
            drawn = [scale * np.asarray(line[key]) for line in axis["lines"].values()]
            for name, values in zip(axis["lines"], drawn, strict=True):
                places.plot(axis["values"], values, "o-", ms=3, lw=1, label=name)
            first, last = axis["values"][0], axis["values"][-1]
            low = min(float(values.min()) for values in drawn)
            places.plot([first, last], [low, low * last / first], color="0.6", ls="--", lw=1, label="slope 1")
            places.set(xscale="log", yscale="log")
            _label(places, axis["values"])
        grid[0, column].legend(frameon=False, fontsize="x-small")
        grid[1, column].set_xlabel(axis["label"])
    grid[0, 0].set_ylabel("ms a step; an epoch")
    grid[1, 0].set_ylabel("peak MB")
    save_figure(figure, target)


def _label(places: Any, values: Sequence[int]) -> None:
    """Put plain numbers at the values below, a few of them, and at 1, 2 and 5 times the powers of ten beside."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    shown = values[:: 2 if len(values) > 4 else 1]
    places.xaxis.set_major_locator(FixedLocator(shown))
    places.xaxis.set_minor_locator(NullLocator())
    places.set_xticklabels([f"{value // 1_000}k" if value >= 1_000 else str(value) for value in shown])
    places.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    places.yaxis.set_minor_locator(NullLocator())
    places.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,g}"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of this program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=(__doc__ or "").split("\n")[0])
    names = [*AXES, EPOCH]
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"{', '.join(names)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="with every value each (default 5)")
    parser.add_argument("--values", type=int, help="so many of each axis, from the smallest (default: all)")
    race.add_common(parser)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw them, as PNG")
    options = parser.parse_args(arguments)
    race.refuse_unknown(parser, "AXIS", options.axes, names)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all that was asked for, print the table and draw the figure."""
    options = parse(arguments)
    threads = race.begin(options)
    shown = {name: getattr(options, name) for name in ("threads", "rounds", "clock", "device")}
    command = ["python -m benchmarks.growth", *options.axes, *(f"--{name} {value}" for name, value in shown.items())]
    report = {"benchmark": "growth", "command": " ".join(command), **race.circumstances(options, threads), "axes": {}}
    for name in options.axes or [*AXES, EPOCH]:
        report["axes"][name] = measure_epochs(options) if name == EPOCH else measure(AXES[name], options)
        report["load_average"].append(os.getloadavg()[0])
        race.write(options.json, report)
        print(f"{name}: measured", file=sys.stderr, flush=True)
    print(growth_markdown(report))
    if options.figure is not None:
        figure_of(report, options.figure)


if __name__ == "__main__":
    main()
