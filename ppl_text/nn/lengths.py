"""How long texts are: a table of lengths that follows the training texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .statistics import Figures, RunningStatistics, Total


class LengthTable(RunningStatistics):
    """p(n) = (N_n + 1)/(ΣN + L) for lengths 1..L, N their counts in training texts; a text beyond L is geometric.

    The last place stands for every length from L on: p(n) = p(L) 2^{-(n - L + 1)}, so that the whole sums to 1. Counts
    are moving averages (weight γ of what was before) while training goes on, and are counted anew over training texts
    for weights that are judged.

    ``forward(lengths (…), weights (…)) -> (…)``: ln p(n), nats; in training the batch is noted.

    Args:
        longest: L.
        decay: γ.
    """

    counts: Tensor

    def __init__(self, longest: int = 128, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("counts", torch.zeros(longest))

    def forward(self, lengths: Tensor, weights: Tensor) -> Tensor:
        """ln p(n) of each length."""
        last = len(self.counts)
        places = lengths.clamp(1, last) - 1
        self.note(torch.zeros_like(self.counts).index_add_(0, places.flatten(), weights.to(self.counts).flatten()))
        beyond = (lengths - last + 1).clamp(min=0)
        return self.log_shares()[places] - beyond * math.log(2.0)

    def log_shares(self) -> Tensor:
        """ln p of the L places, the last of which is all lengths from L on."""
        return (self.counts + 1.0).log() - (self.counts.sum() + len(self.counts)).log()

    @torch.no_grad()
    def draw(self, n: int, most: int) -> Tensor:
        """Draw n lengths (n,) of at most ``most``."""
        shares = self.log_shares().exp()
        return (torch.multinomial(shares, n, replacement=True) + 1).clamp(max=most)

    def pool(self, batches: Sequence[Figures]) -> Figures:
        """Return the counts of all batches."""
        return (torch.stack([counts for (counts,) in batches]).sum(0),)

    @torch.no_grad()
    def follow(self, figures: Figures, total: Total) -> None:
        """Move the counts by one batch: they are those of the last 1 / (1 - γ) batches or so."""
        self.counts.mul_(self.decay).add_(total(figures[0]))

    @torch.no_grad()
    def estimate(self, batches: Sequence[Figures], total: Total) -> None:
        """Set the counts to those of these batches."""
        self.counts.copy_(total(torch.stack([figures[0] for figures in batches]).sum(0)))
