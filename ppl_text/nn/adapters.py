"""Low-rank updates of frozen linear maps (LoRA)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError


class LowRankUpdate(nn.Module):
    """What is added to a map of x (…, I): ΔW x = B A x, A (r, I), B (O, r); B = 0 at first, so that nothing is.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", equation 3, with α = r.

    Args:
        inputs, outputs: I and O.
        rank: r.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise UserError(f"the rank of a low-rank update must be 1 or more; got {rank}")
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """B A x, (…, O)."""
        return F.linear(F.linear(x, self.down), self.up)

    def added(self, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Add the update to what a map has put out: a forward hook."""
        updated: Tensor = output + self(inputs[0]).to(output.dtype)
        return updated
