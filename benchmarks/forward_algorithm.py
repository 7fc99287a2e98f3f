"""Race ways to sum over all paths of a chain of codes: ln Z of each row and its gradient.

    python -m benchmarks.forward_algorithm --threads 1

Rows have a chain of their own, with transitions that differ from step to step, as the contextual codes of
``switching_language_model`` have: ln pi (B, M), ln A (B, T - 1, M, M), ln b (B, T, M). All rows have T steps, since
Pyro's ``DiscreteHMM`` knows no others. B = 32; M = 4 and 16; T = 24 and 80. Rounds are interleaved as in
:mod:`benchmarks.race`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks import race
from benchmarks.contestants import OURS
from ppl_text.nn.forward_algorithm import LogEvidence

BATCH, CODES, STEPS = 32, (4, 16), (24, 80)


class Chain(NamedTuple):
    """ln pi (B, M), ln A (B, T - 1, M, M) and ln b (B, T, M)."""

    initial: Tensor
    transitions: Tensor
    emissions: Tensor


def chain(codes: int, steps: int, *, rows: int = BATCH, seed: int = 0, dtype: torch.dtype = torch.float32) -> Chain:
    """Draw chains whose transitions are far from uniform."""
    torch.manual_seed(seed)
    initial = torch.randn(rows, codes, dtype=dtype).log_softmax(-1)
    transitions = (2 * torch.randn(rows, steps - 1, codes, codes, dtype=dtype)).log_softmax(-1)
    emissions = 3 * torch.randn(rows, steps, codes, dtype=dtype) - 5
    return Chain(*(part.requires_grad_() for part in (initial, transitions, emissions)))


def ours(given: Chain) -> Tensor:
    """The project's loop with its hand-written gradient."""
    lengths = torch.full(given.emissions.shape[:1], given.emissions.shape[1], device=given.emissions.device)
    evidence: Tensor = LogEvidence.apply(*given, lengths)[0]
    return evidence


def plain_loop(given: Chain) -> Tensor:
    """The recursion as it is written in a book, differentiated by autograd."""
    current = given.initial + given.emissions[:, 0]
    for t in range(1, given.emissions.shape[1]):
        current = torch.logsumexp(current.unsqueeze(-1) + given.transitions[:, t - 1], -2) + given.emissions[:, t]
    return current.logsumexp(-1)


def parallel_scan(given: Chain) -> Tensor:
    """Pairs of steps at once, log2 T times: each halves the number of matrices; differentiated by autograd."""
    matrices = given.transitions + given.emissions[:, 1:].unsqueeze(-2)
    while matrices.shape[1] > 1:
        pairs = matrices[:, : matrices.shape[1] // 2 * 2]
        left, right = pairs[:, ::2], pairs[:, 1::2]
        matrices = torch.cat([_log_product(left, right), matrices[:, pairs.shape[1] :]], 1)
    start = given.initial + given.emissions[:, 0]
    return (start.unsqueeze(-1) + matrices[:, 0]).logsumexp((-1, -2))


def _log_product(left: Tensor, right: Tensor) -> Tensor:
    """ln(exp(left) @ exp(right)), as a product of matrices whose largest entries are 1."""
    rows, columns = left.detach().amax(-1, keepdim=True), right.detach().amax(-2, keepdim=True)
    return ((left - rows).exp() @ (right - columns).exp()).log() + rows + columns


class _Given(dist.TorchDistribution):
    """Log-densities of observations that are known: batch (..., M), one event."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's class-level declaration
    support = dist.constraints.real

    def __init__(self, log_densities: Tensor) -> None:
        self.log_densities = log_densities
        super().__init__(log_densities.shape, torch.Size(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Given:
        return _Given(self.log_densities.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_densities


def discrete_hmm(given: Chain) -> Tensor:
    """Pyro's own, which begins a step before the first observation: from there every code leads to z_1 as pi says.

    It normalises what it is given, so that its gradient lies within the simplex.
    """
    first = given.initial.unsqueeze(-2).expand(-1, given.initial.shape[-1], -1).unsqueeze(1)
    transitions = torch.cat([first, given.transitions], 1)
    start = torch.zeros_like(given.initial)
    hmm = dist.DiscreteHMM(start, transitions, _Given(given.emissions), validate_args=False)
    evidence: Tensor = hmm.log_prob(given.emissions[..., 0])
    return evidence


WAYS: dict[str, Callable[[Chain], Tensor]] = {
    OURS: ours,
    "loop, autograd": plain_loop,
    "parallel scan, autograd": parallel_scan,
    "Pyro's DiscreteHMM": discrete_hmm,
}
"""Contestants: a chain to ln Z of each row, (B,)."""


def gradient(way: Callable[[Chain], Tensor], given: Chain) -> tuple[Tensor, ...]:
    """Sum of ln Z over the rows, differentiated."""
    return torch.autograd.grad(way(given).sum(), list(given))


def run(
    codes: int,
    steps: int,
    *,
    rounds: int,
    repeats: int = 5,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of ln Z and its gradient by contestant and round."""
    given = Chain(*(part.detach().to(device).requires_grad_() for part in chain(codes, steps)))

    def repeated(way: Callable[[Chain], Tensor]) -> Callable[[int], None]:
        def work(count: int) -> None:
            for _ in range(count):
                gradient(way, given)

        return work

    runners = {name: repeated(way) for name, way in WAYS.items()}
    return race.interleaved(
        runners, rounds=rounds, steps=repeats, warmup=3, settle=1, wait=race.waiting(device), clock=clock
    )


def table(found: dict[tuple[int, int], dict[str, list[float]]]) -> str:
    """Milliseconds and ratio to ours by size, as a Markdown table."""
    sizes = [f"M = {codes}, T = {steps}" for codes, steps in found]
    lines = ["| ln Z and its gradient, B = 32 | " + " | ".join(sizes) + " |", "| --- " + "| ---: " * len(sizes) + "|"]
    standings = [{row.name: row for row in race.standings(times)} for times in found.values()]
    for name in WAYS:
        cells = [f"{1e3 * column[name].median:.2f} ms ({column[name].ratio:.2f})" for column in standings]
        lines.append(f"| {f'**{name}**' if name == OURS else name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all sizes and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forward_algorithm", description="Race ln Z of chains.")
    parser.add_argument("--rounds", type=int, default=15, help="with every contestant each (default 15)")
    parser.add_argument("--threads", type=int, help="CPUs and threads (default: all there are)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of all contestants (default cpu)")
    parser.add_argument("--clock", choices=race.CLOCKS, default="wall", help="processor: beside other programs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write times here")
    options = parser.parse_args(arguments)
    threads = race.limit_threads(options.threads)
    sizes = [(codes, steps) for codes in CODES for steps in STEPS]
    found = {
        size: run(*size, rounds=options.rounds, device=options.device, clock=race.CLOCKS[options.clock])
        for size in sizes
    }
    where = race.environment(threads, options.device)
    print(table(found))
    place = f"{where['cpu']}, load average {where['load_average']:.1f}"
    print(f"\n{threads} threads, {options.clock} time, {place}; in brackets: ours = 1")
    if options.json:
        seconds = {f"M={codes} T={steps}": times for (codes, steps), times in found.items()}
        report = {"environment": where, "seconds": seconds}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
