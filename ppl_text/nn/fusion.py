"""Low-rank tensor fusion of two vectors, of which one (a value of attention) is changed by the other (a latent)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UnknownNameError, UserError
from .initial import GPT2_SCALE

FUSIONS = ("lmf", "sum_prod", "sum")
"""Sum of products; product of sums, in which the rank has no effect; plain sum."""

STARTS = ("identity", "normal")
"""Fused values at first: the values themselves, or a small random map of both."""


class LowRankFusion(nn.Module):
    """ṽ = f(v, z) for values v (…, T, d) and a latent z (…, p), the same for all T.

    With A_j = W_v^j [v; 1] + b_v^j and C_j = W_z^j [z; 1] + b_z^j, j = 1 … r,

    - ``lmf``: ṽ = Σ_j A_j ∘ C_j (Liu et al. 2018, "Efficient Low-rank Multimodal Fusion", equation 6);
    - ``sum_prod``: ṽ = (Σ_j A_j) ∘ (Σ_j C_j), equation 9 of Hu et al. 2022 (DELLA) and its public code: the sums are
      maps of rank 1 themselves, so that r changes nothing but the number of parameters (specification 2G3);
    - ``sum``: ṽ = v + W_z z + b: no product (the paper's ablation "-LTP", whose form it does not state).

    The constants 1 and the biases are both there because the public code has both: (d+1) d + d + (p+1) d + d
    parameters for each j.

    Args:
        width: d.
        latent_dim: p.
        rank: r.
        form: ``lmf``, ``sum_prod`` or ``sum``.
        start: ``identity`` (ṽ = v exactly, whatever z is) or ``normal`` (weights N(0, 0.02²), biases 0, as published,
            which replaces the values of a pretrained network by small noise: specification 2G4).
    """

    def __init__(
        self, width: int, latent_dim: int, *, rank: int = 4, form: str = "lmf", start: str = "identity"
    ) -> None:
        super().__init__()
        for what, name, known in (("fusion", form, FUSIONS), ("start of a fusion", start, STARTS)):
            if name not in known:
                raise UnknownNameError(what, name, known)
        if min(width, latent_dim, rank) < 1:
            raise UserError(
                f"a fusion needs width, latent_dim and rank of 1 or more; got {width}, {latent_dim}, {rank}"
            )
        self.width, self.latent_dim, self.rank, self.form = width, latent_dim, rank, form
        if form == "sum":
            self.of_latent = nn.Linear(latent_dim, width)
        else:
            self.of_value = nn.Linear(width + 1, rank * width)
            self.of_latent = nn.Linear(latent_dim + 1, rank * width)
        self._begin(start)

    @torch.no_grad()
    def _begin(self, start: str) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(0.0, GPT2_SCALE)
            else:
                parameter.zero_()
        if start == "normal":
            return
        # The latent has no say at first: C_1 = 1, all other C are 0. It gets a gradient as soon as weights move.
        nn.init.zeros_(self.of_latent.weight)
        if self.form != "sum":
            nn.init.ones_(self.of_latent.bias[: self.width])
            values = self.of_value.weight
            (values if self.form == "sum_prod" else values[: self.width]).zero_()
            values[: self.width, : self.width].fill_diagonal_(1.0)

    def forward(self, value: Tensor, latent: Tensor) -> Tensor:
        """Return ṽ (…, T, d) of values (…, T, d), given latents (…, p) with the same leading axes."""
        if self.form == "sum":
            shift: Tensor = self.of_latent(latent)
            return value + shift.unsqueeze(-2).to(value.dtype)
        weight, bias = _without_constant(self.of_value)
        of_latent = F.linear(latent, *_without_constant(self.of_latent)).unsqueeze(-2)
        shape = (self.rank, self.width)
        if self.form == "sum_prod":
            summed = F.linear(value, weight.unflatten(0, shape).sum(0), bias.unflatten(0, shape).sum(0))
            return summed * of_latent.unflatten(-1, shape).sum(-2)
        return (F.linear(value, weight, bias) * of_latent).unflatten(-1, shape).sum(-2)


def _without_constant(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return W and b with W x + b = W' [x; 1] + b' of a map that expects a 1 at the end of x."""
    return linear.weight[:, :-1], linear.bias + linear.weight[:, -1]
