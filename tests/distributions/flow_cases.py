"""The registry of flows that every property test runs over, and the plain algebra that they are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ppl_text.distributions.transforms import (
    ConditionalFlow,
    Diagonal,
    FlowFamily,
    RealNVP,
    Stack,
    Triangular,
    conditional_flow,
)
from ppl_text.nn.conditioner import Conditioner


@dataclass(frozen=True)
class FlowCase:
    """A family of flows by width, and the widths that the tests use."""

    make: Callable[[int], FlowFamily]
    affine: bool
    dims: tuple[int, ...] = (1, 2, 3)

    def family(self, dim: int | None = None, dtype: torch.dtype = torch.float64) -> FlowFamily:
        """A family whose own networks (Real-NVP's) are far from the identity."""
        torch.manual_seed(0)
        family = self.make(self.dims[-1] if dim is None else dim)
        return randomised(family, 0.5).to(dtype)


def _triangular(inverse: bool, diagonal: str = "softplus+delta", times: int = 1) -> Callable[[int], FlowFamily]:
    def make(dim: int) -> FlowFamily:
        families = [Triangular(dim, inverse=inverse, diagonal=diagonal, delta=0.2) for _ in range(times)]
        return families[0] if times == 1 else Stack(families)

    return make


def _tril_nvp(inverse: bool) -> Callable[[int], FlowFamily]:
    return lambda dim: conditional_flow("tril-nvp", dim, layers=3, inverse=inverse, delta=0.2).family


CASES = {
    "diag": FlowCase(lambda d: Diagonal(d), affine=True),
    "diag clip": FlowCase(lambda d: Diagonal(d, diagonal="clip", delta=0.2), affine=True),
    "diag x2": FlowCase(lambda d: Stack([Diagonal(d), Diagonal(d)]), affine=True),
    "tril": FlowCase(_triangular(False), affine=True),
    "tril clip": FlowCase(_triangular(False, "clip"), affine=True),
    "tril inverse": FlowCase(_triangular(True), affine=True),
    "tril inverse clip": FlowCase(_triangular(True, "clip"), affine=True),
    "tril x2": FlowCase(_triangular(False, times=2), affine=True),
    "tril inverse x2": FlowCase(_triangular(True, times=2), affine=True),
    "tril inverse x3": FlowCase(_triangular(True, times=3), affine=True),
    "nvp halves": FlowCase(lambda d: RealNVP(d, layers=3, hidden=4), affine=False, dims=(2, 3)),
    "nvp paper": FlowCase(lambda d: RealNVP(d, hidden=4, masks="paper"), affine=False, dims=(4,)),
    "tril, nvp, diag": FlowCase(
        lambda d: Stack([Triangular(d, inverse=True), RealNVP(d, layers=2, hidden=4), Diagonal(d)]),
        affine=False,
        dims=(2, 3),
    ),
    "tril-nvp": FlowCase(_tril_nvp(inverse=True), affine=False, dims=(2, 3)),
    "tril-nvp direct": FlowCase(_tril_nvp(inverse=False), affine=False, dims=(2, 3)),
}
"""Every property runs over all of these."""

AFFINE = {name: case for name, case in CASES.items() if case.affine}


def randomised(module: nn.Module, scale: float) -> nn.Module:
    """Draw all parameters anew, N(0, scale²): what starts near the identity would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=scale)
    return module


def conditional(
    case: FlowCase, dim: int, *, context_dim: int = 0, dtype: torch.dtype = torch.float64
) -> ConditionalFlow:
    """The case behind a small network with weights of order one."""
    family = case.family(dim)
    conditioner = Conditioner(dim, family.param_dim, context_dim=context_dim, hidden=(5,))
    return ConditionalFlow(family, randomised(conditioner, 0.5)).to(dtype)


def mlp(flow: ConditionalFlow, state: Tensor, context: Tensor | None = None) -> Tensor:
    """θ = MLP([h; c]) from the network's weights, written out (one state, no leading axes)."""
    net = flow.conditioner
    x = net.bias.clone()
    if net.state is not None:
        x = x + net.state.weight @ state
    if net.context is not None:
        x = x + net.context.weight @ context
    for layer in net.layers:
        x = layer.weight @ torch.tanh(x) + layer.bias
    return x


def affine_by_hand(family: FlowFamily, params: Tensor) -> tuple[Tensor, Tensor]:
    """(m, C) with f(ξ) = m + C ξ for one θ (P,), from the definition of each family, entry by entry."""
    if isinstance(family, Stack):
        mean, matrix = params.new_zeros(family.dim), torch.eye(family.dim, dtype=params.dtype)
        for part, piece in zip(family.families, params.split(family.sizes), strict=True):
            loc, factor = affine_by_hand(part, piece)
            mean, matrix = loc + factor @ mean, factor @ matrix
        return mean, matrix
    dim = family.dim
    loc, raw, lower = params[:dim], params[dim : 2 * dim], iter(params[2 * dim :])
    rows = []
    for i in range(dim):
        entries = [next(lower) for _ in range(i)] if isinstance(family, Triangular) else [raw.new_zeros(())] * i
        rows.append(torch.stack([*entries, diagonal_by_hand(family, raw[i]), *[raw.new_zeros(())] * (dim - 1 - i)]))
    matrix = torch.stack(rows)
    if not getattr(family, "inverse", False):
        return loc, matrix
    # The LU that `inv` takes may leave rounding above the diagonal, where the inverse of a lower triangle has zeros.
    return loc, torch.linalg.inv(matrix).tril()


def diagonal_by_hand(family: FlowFamily, raw: Tensor) -> Tensor:
    """softplus(raw + c) + δ with c = ln(e^{1-δ} - 1), or raw + 1 pushed out of (-δ, δ)."""
    delta = family.positive.delta
    if type(family.positive).__name__ == "SoftplusDelta":
        return torch.log1p(torch.exp(raw) * torch.expm1(torch.tensor(1.0 - delta, dtype=raw.dtype))) + delta
    value = raw + 1.0
    if value.abs() >= delta:
        return value
    return value * 0 + (delta if value >= 0 else -delta)
