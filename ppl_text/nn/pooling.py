"""From the states of a text to one vector."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UnknownNameError
from .initial import normal_linear

POOLINGS = ("attention", "first", "attention-unmasked")
"""Ways to pool states: a learned mean of those that count; the first one; a learned mean of all, padding included."""


class StatePooling(nn.Module):
    """x = Σ_s α_s h_s, α = softmax_s(gelu(wᵀ h_s)) over the states h (…, S, H) that count.

    Source: the public code of DELLA, which leaves padding in (specification 2G5): ``attention-unmasked``, whose x
    depends on how long the other texts of a batch are. ``first``: x = h_1.

    Args:
        width: H.
        kind: a name of :data:`POOLINGS`.
    """

    def __init__(self, width: int, kind: str = "attention") -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise UnknownNameError("pooling", kind, POOLINGS)
        self.kind = kind
        self.score = None if kind == "first" else normal_linear(width, 1, bias=False)

    def forward(self, states: Tensor, counted: Tensor) -> Tensor:
        """X (…, H) of states (…, S, H), of which ``counted`` (…, S) are no padding."""
        if self.score is None:
            return states[..., 0, :]
        scores = F.gelu(cast(Tensor, self.score(states)).squeeze(-1)).float()
        if self.kind == "attention":
            # A row of nothing but padding weighs its padding, rather than being NaN.
            none = ~counted.any(-1, keepdim=True)
            scores = scores.masked_fill(~(counted | none), -torch.inf)
        shares = scores.softmax(-1).to(states.dtype)
        return (shares.unsqueeze(-2) @ states).squeeze(-2)
