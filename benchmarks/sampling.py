"""Time S latents drawn from an autoregressive prior: one step of convolutions each, or all steps again for each.

    python -m benchmarks.sampling --threads 1

The prior of codes at the sizes of the Penn Treebank (16 layers of 256 units, kernel 3, M = 512), B = 8 rows, S = 24, 48
and 96; processor time. Both ways draw from the same distribution; "again" is what a network without a state has to do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import race
from benchmarks.peers.latent_sequence import Sizes
from ppl_text.distributions.codes import CodeSequences
from ppl_text.nn.causal import CausalConvolutions, EmbeddedIndices

ROWS, STEPS = 8, (24, 48, 96)
ONE, AGAIN = "a step for each latent", "all steps again for each latent"


class Again:
    """The same network without its state: what came before is run once more at every step."""

    def __init__(self, network: EmbeddedIndices) -> None:
        self.network = network

    def __call__(self, indices: Tensor) -> Tensor:
        """Outputs of all steps."""
        outputs: Tensor = self.network(indices)
        return outputs

    def begin(self, rows: int) -> Tensor:
        """No index yet."""
        return torch.zeros(rows, 0, dtype=torch.int64)

    def output(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the last of all steps so far; no output sees its own index."""
        return self(torch.cat([state, state.new_zeros(len(state), 1)], 1))[:, -1], state

    def follow(self, state: Tensor, index: Tensor) -> Tensor:
        """One index more."""
        return torch.cat([state, index.unsqueeze(1)], 1)


def laws(steps: int, sizes: Sizes = Sizes(), rows: int = ROWS) -> dict[str, CodeSequences]:  # noqa: B008 - numbers
    """The prior of ``rows`` sequences of so many codes, by way of drawing."""
    torch.manual_seed(0)
    network = CausalConvolutions(sizes.width, sizes.codes, width=sizes.width, layers=sizes.layers, kernel=sizes.kernel)
    embedded = EmbeddedIndices(nn.Embedding(sizes.codes, sizes.width), network)
    codes, lengths = torch.randn(sizes.codes, sizes.latent), torch.full((rows,), steps)
    ways: dict[str, Any] = {ONE: embedded, AGAIN: Again(embedded)}
    return {name: CodeSequences(way, codes, lengths, steps) for name, way in ways.items()}


def run(steps: int, *, rounds: int) -> dict[str, float]:
    """Median seconds of the processor of a draw by way; rounds are interleaved."""

    def repeated(law: CodeSequences) -> Callable[[int], None]:
        def work(count: int) -> None:
            for _ in range(count):
                law.sample()

        return work

    runners = {name: repeated(law) for name, law in laws(steps).items()}
    times = race.interleaved(runners, rounds=rounds, steps=1, warmup=1, settle=0, clock=time.process_time)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all S and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description="Time draws of S latents.")
    parser.add_argument("--rounds", type=int, default=5, help="of both ways at each S (default 5)")
    parser.add_argument("--threads", type=int, help="CPUs and threads (default: all there are)")
    options = parser.parse_args(arguments)
    threads = race.limit_threads(options.threads)
    found = {steps: run(steps, rounds=options.rounds) for steps in STEPS}
    print("| S codes of 8 rows | " + " | ".join(f"S = {steps}" for steps in STEPS) + " |")
    print("| --- " + "| ---: " * len(STEPS) + "|")
    for name in (ONE, AGAIN):
        first = found[STEPS[0]][name]
        print(f"| {name} | " + " | ".join(f"{f[name]:.2f} s ({f[name] / first:.1f})" for f in found.values()) + " |")
    print(
        f"\n{threads} threads, load average {race.environment(threads)['load_average']:.1f}; in brackets: S = 24 is 1"
    )


if __name__ == "__main__":
    main()
