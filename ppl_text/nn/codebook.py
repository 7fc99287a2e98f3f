"""A code book whose codes are moving averages of what is assigned to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import UnknownNameError, UserError
from .statistics import Figures, RunningStatistics, Total

STARTS = ("data", "uniform")
"""How a code book starts: by k-means on the first batch, or U(-1/M, 1/M)."""

EVEN = 0.7
"""Share of the mean count below which a code is dead by default."""

_ROUNDS = 10
"""Rounds of k-means."""

_EPSILON = 1e-5
"""Added to every count, so that none is 0 (Laplace smoothing; as the public implementations have it)."""


def distances(values: Tensor, codes: Tensor) -> Tensor:
    """‖v - e_k‖² - ‖v‖² of each vector and code, (…, M), given v (…, D) and the code book e (M, D)."""
    if torch.is_autocast_enabled(values.device.type):
        # In bf16 a code would not always be nearest to itself.
        with torch.autocast(values.device.type, enabled=False):
            return distances(values, codes)
    return codes.square().sum(-1) - 2.0 * values.to(codes.dtype) @ codes.t()


def nearest(values: Tensor, codes: Tensor) -> Tensor:
    """argmin_k ‖v - e_k‖² of each vector, (…,), given v (…, D) and the code book e (M, D)."""
    return distances(values, codes).argmin(-1)


class CodeBook(RunningStatistics):
    """M codes e_k of width D: e_k = m_k / N_k, moving averages of sums and counts of the vectors nearest to it.

    N_k ← γ N_k + (1 - γ) n_k and m_k ← γ m_k + (1 - γ) Σ h, over the vectors of a batch that count; N_k is smoothed to
    (N_k + ε) ΣN / (ΣN + M ε). The codes get no gradient. A code is dead where N_k is below ``revive`` times the mean
    count ΣN / M: it becomes a vector of the batch, with that least count and the sum that goes with it, so that it
    becomes another one unless it is chosen soon: while states still move, a code that waited would be left behind. No
    vector revives two codes; what a small batch has no vector for waits for the next.

    ``forward(h (…, D), counted (…)) -> (…)`` notes a batch and returns the index of the nearest code of each vector.
    Where codes are chosen otherwise, call ``begin`` before and ``assign`` after.

    Args:
        size: M.
        width: D.
        decay: γ.
        start: ``data`` (k-means on the vectors of the first training batch; codes that it has no vector for are dead)
            or ``uniform`` (U(-1/M, 1/M)).
        revive: smallest N_k of a code that is left alone, as a share of the mean count; 0: dead codes stay dead.
    """

    estimated: ClassVar[bool] = False
    codes: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(
        self, size: int, width: int, *, decay: float = 0.99, start: str = "data", revive: float = EVEN
    ) -> None:
        super().__init__()
        if start not in STARTS:
            raise UnknownNameError("start of a code book", start, STARTS)
        if size < 2 or not 0 <= decay < 1 or not 0 <= revive < 1:
            raise UserError(
                f"a code book needs 2 codes or more, 0 <= decay < 1 and 0 <= revive < 1; got {size}, {decay} and "
                f"{revive}"
            )
        self.decay, self.revive = decay, revive
        codes = torch.empty(size, width).uniform_(-1.0 / size, 1.0 / size)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", codes.clone())
        self.register_buffer("started", torch.tensor(start != "data"))
        self._started = start != "data"
        self.register_load_state_dict_post_hook(_read_started)

    def forward(self, values: Tensor, counted: Tensor) -> Tensor:
        """Return the indices of the nearest codes, (…,); in training the batch is noted."""
        self.begin(values, counted)
        found = nearest(values.detach(), self.codes)
        self.assign(values, counted, found)
        return found

    def begin(self, values: Tensor, counted: Tensor) -> None:
        """Start the codes from the first batch of a training, where they start from data."""
        if self.training and not self._started:
            self._begin(values.detach(), counted)

    def assign(self, values: Tensor, counted: Tensor, indices: Tensor) -> None:
        """Note the codes that the vectors (B, S, D) of a batch went to, (…, B, S); axes in front share a vector."""
        if self.training:
            values = values.detach()
            self.note(*self._figures(values, counted, indices), *self._some(values, counted))

    @torch.no_grad()
    def follow(self, figures: Figures, total: Total) -> None:
        """Move counts, sums and codes by one batch; codes that have died become vectors of it."""
        counts, sums, vectors, there = (total(figure) for figure in figures)
        processes = total(torch.ones_like(self.counts[:1]))
        self.counts.lerp_(counts, 1.0 - self.decay)
        self.sums.lerp_(sums, 1.0 - self.decay)
        least = self.revive * self.counts.mean()
        dead = self.counts < least
        # The code that has been dead for longest becomes the first vector, and so on, as far as each process has one.
        place = self.counts.argsort(stable=True).argsort(stable=True)
        revived = dead & (there == processes)[place]
        self.counts.copy_(torch.where(revived, least, self.counts))
        vectors = least * (vectors / processes)[place]
        self.sums.copy_(torch.where(revived.unsqueeze(-1), vectors, self.sums))
        self._renew()

    @torch.no_grad()
    def pool(self, batches: Sequence[Figures]) -> Figures:
        """Return counts and sums of all batches; at each place the vector of the first batch that has one there."""
        counts, sums, vectors, there = (torch.stack(column) for column in zip(*batches, strict=True))
        first = there.argmax(0)
        places = torch.arange(len(first), device=first.device)
        return counts.sum(0), sums.sum(0), vectors[first, places], there[first, places]

    def _renew(self) -> None:
        whole = self.counts.sum()
        smoothed = (self.counts + _EPSILON) * whole / (whole + len(self.counts) * _EPSILON)
        self.codes.copy_(self.sums / smoothed.unsqueeze(-1))

    def _figures(self, values: Tensor, counted: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many vectors went to each code (M,), and their sums (M, D)."""
        shares = counted.to(values.dtype).expand(indices.shape) * (counted.numel() / max(1, indices.numel()))
        weighed = values.expand(*indices.shape, -1) * shares.unsqueeze(-1)
        flat = indices.flatten()
        counts = torch.zeros_like(self.counts).index_add_(0, flat, shares.flatten())
        return counts, torch.zeros_like(self.sums).index_add_(0, flat, weighed.flatten(0, -2))

    def _some(self, values: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Return M different vectors that count, (M, D), at random, and for each 1 if there is one, else 0, (M,)."""
        size, vectors = len(self.codes), values.flatten(0, -2)
        order = torch.rand(len(vectors), device=values.device).masked_fill(~counted.flatten(), 2.0).argsort()[:size]
        lacking = (0, size - len(order))
        there = nn.functional.pad(counted.flatten()[order].to(values.dtype), lacking)
        return nn.functional.pad(vectors[order], (0, 0, *lacking)), there

    @torch.no_grad()
    def _begin(self, values: Tensor, counted: Tensor) -> None:
        """Start from the means of k-means on a batch: once, before any step is recorded."""
        vectors, there = self._some(values, counted)
        self.codes.copy_(torch.where(there.bool().unsqueeze(-1), vectors, self.codes))
        for _ in range(_ROUNDS):
            counts, sums = self._figures(values, counted, nearest(values, self.codes))
            mean = sums / counts.clamp(min=1.0).unsqueeze(-1)
            self.codes.copy_(torch.where((counts > 0).unsqueeze(-1), mean, self.codes))
        counts, _ = self._figures(values, counted, nearest(values, self.codes))
        # Those that the batch has no vector for are to die, or to stay where they are.
        self.counts.copy_(counts.clamp(min=0.5 * self.revive * counts.mean() if self.revive else 1.0))
        self.sums.copy_(self.codes * self.counts.unsqueeze(-1))
        self.started.fill_(True)
        self._started = True


def _read_started(book: CodeBook, _keys: Any) -> None:
    book._started = bool(book.started)
