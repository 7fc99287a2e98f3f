"""A code book whose codes are moving averages of what is assigned to them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import UnknownNameError, UserError
from .statistics import Figures, RunningStatistics, Total

STARTS = ("data", "uniform")
"""How a code book starts: by k-means on the first batch, or U(-1/M, 1/M)."""

_ROUNDS = 10
"""Rounds of k-means."""

_EPSILON = 1e-5
"""Added to every count, so that none is 0 (Laplace smoothing; as the public implementations have it)."""


def nearest(values: Tensor, codes: Tensor) -> Tensor:
    """argmin_k ‖v - e_k‖² of each vector, (…,), given v (…, D) and the code book e (M, D)."""
    return (codes.square().sum(-1) - 2.0 * values @ codes.t()).argmin(-1)


class CodeBook(RunningStatistics):
    """M codes e_k of width D: e_k = m_k / N_k, moving averages of sums and counts of the vectors nearest to it.

    N_k ← γ N_k + (1 - γ) n_k and m_k ← γ m_k + (1 - γ) Σ h, over the vectors of a batch that count; N_k is smoothed to
    (N_k + ε) ΣN / (ΣN + M ε). The codes get no gradient. A code whose N_k falls below ``revive`` becomes a vector of
    the batch, its sum and its count with it.

    ``forward(h (…, D), counted (…)) -> (…)`` notes a batch and returns the index of the nearest code of each vector.

    Args:
        size: M.
        width: D.
        decay: γ.
        start: ``data`` (k-means on the vectors of the first training batch) or ``uniform`` (U(-1/M, 1/M)).
        revive: smallest N_k of a code that is left alone; 0: dead codes stay dead.
    """

    estimated: ClassVar[bool] = False
    codes: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, size: int, width: int, *, decay: float = 0.99, start: str = "data", revive: float = 1.0) -> None:
        super().__init__()
        if start not in STARTS:
            raise UnknownNameError("start of a code book", start, STARTS)
        if size < 2 or not 0 <= decay < 1 or revive < 0:
            raise UserError(
                f"a code book needs 2 codes or more, 0 <= decay < 1 and revive >= 0; got {size}, {decay} and {revive}"
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
        values = values.detach()
        if self.training and not self._started:
            self._begin(values, counted)
        found = nearest(values, self.codes)
        if self.training:
            self.note(*self._figures(values, counted, found), self._some(values, counted))
        return found

    @torch.no_grad()
    def follow(self, figures: Figures, total: Total) -> None:
        """Move counts, sums and codes by one batch; a code that has died becomes a vector of it."""
        counts, sums, vectors = (total(figure) for figure in figures)
        vectors = vectors / total(torch.ones_like(self.counts[:1]))
        self.counts.lerp_(counts, 1.0 - self.decay)
        self.sums.lerp_(sums, 1.0 - self.decay)
        dead = self.counts < self.revive
        alive = max(self.revive, 1.0)
        self.counts.masked_fill_(dead, alive)
        self.sums.copy_(torch.where(dead.unsqueeze(-1), alive * vectors, self.sums))
        self._renew()

    def _renew(self) -> None:
        whole = self.counts.sum()
        smoothed = (self.counts + _EPSILON) * whole / (whole + len(self.counts) * _EPSILON)
        self.codes.copy_(self.sums / smoothed.unsqueeze(-1))

    def _figures(self, values: Tensor, counted: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many vectors are nearest to each code (M,), and their sums (M, D)."""
        shares = counted.to(values.dtype).flatten()
        flat = indices.flatten()
        counts = torch.zeros_like(self.counts).index_add_(0, flat, shares)
        weighed = values.flatten(0, -2) * shares.unsqueeze(-1)
        return counts, torch.zeros_like(self.sums).index_add_(0, flat, weighed)

    def _some(self, values: Tensor, counted: Tensor) -> Tensor:
        """Return M of the vectors that count, (M, D), at random and perhaps one twice; nothing asks the device."""
        places = counted.flatten().cumsum(0)
        wanted = torch.rand(len(self.codes), device=values.device) * places[-1]
        index = torch.searchsorted(places, wanted.long() + 1).clamp(max=len(places) - 1)
        return values.flatten(0, -2)[index]

    @torch.no_grad()
    def _begin(self, values: Tensor, counted: Tensor) -> None:
        """Start from the means of k-means on a batch: once, before any step is recorded."""
        self.codes.copy_(self._some(values, counted))
        for _ in range(_ROUNDS):
            counts, sums = self._figures(values, counted, nearest(values, self.codes))
            mean = sums / counts.clamp(min=1.0).unsqueeze(-1)
            self.codes.copy_(torch.where((counts > 0).unsqueeze(-1), mean, self.codes))
        counts, _ = self._figures(values, counted, nearest(values, self.codes))
        self.counts.copy_(counts.clamp(min=max(self.revive, 1.0)))
        self.sums.copy_(self.codes * self.counts.unsqueeze(-1))
        self.started.fill_(True)
        self._started = True


def _read_started(book: CodeBook, _keys: Any) -> None:
    book._started = bool(book.started)
