"""One of M choices at each place: looked up in a table, or drawn from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import at_least_float32


def picked(table: Tensor, indices: Tensor) -> Tensor:
    """Return the entry of each place's row of a table (…, M) that ``indices`` (…) name; leading axes broadcast."""
    shape = torch.broadcast_shapes(indices.shape, table.shape[:-1])
    return table.expand(*shape, -1).gather(-1, indices.expand(shape).unsqueeze(-1)).squeeze(-1)


def draw_index(logits: Tensor) -> Tensor:
    """Draw from softmax(logits) (…, M), (…,): as the largest of logits with Gumbel noise, which asks no device."""
    logits = at_least_float32(logits)
    return (logits - (-torch.rand_like(logits).log()).log()).argmax(-1)
