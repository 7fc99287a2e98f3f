"""Bijections with given parameters: value and log-determinant of f(ξ) in one pass, either way.

Source: deep state-space models, eq. (10) and section 2.4; Real-NVP: Dinh et al. 2017.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import Transform
from torch.nn import functional as F

from .precision import full_precision


class Flow(Transform):
    """A bijection of R^D, last axis D, any leading axes.

    To add one: inherit, set ``affine`` (whether f is affine in ξ, which makes p(h_t | h_{t-1}) Gaussian
    and its KL closed-form), and write :meth:`forward_and_ladj` and :meth:`inverse_and_ladj`. Both return
    the log-determinant of the *forward* map, ln|det ∂f/∂ξ|, shape (…,), in nats.
    """

    bijective = True
    domain = constraints.real_vector
    codomain = constraints.real_vector
    affine = False

    def inverse_energy(self, scale: Tensor) -> Tensor | None:
        """‖J_f^{-1} diag(scale)‖_F² for scale (…, D), where an affine flow has it cheaply; else None."""
        return None

    @abstractmethod
    def forward_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x) and ln|det J_f(x)|."""

    @abstractmethod
    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return f^{-1}(y) and ln|det J_f(f^{-1}(y))|."""

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """ln|det J_f(x)|, shape (…,); ``y`` is not needed."""
        return self.forward_and_ladj(x)[1]


class ScaledFlow(Flow):
    """Base of the affine flows whose log-determinant is that of ``diagonal``, the same for every ξ."""

    affine = True
    loc: Tensor
    diagonal: Tensor

    def _ladj(self, x: Tensor) -> Tensor:
        return self.diagonal.abs().log().sum(-1).expand(torch.broadcast_shapes(x.shape, self.loc.shape)[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """± Σ_k ln|diagonal_k|: no product, no solve."""
        return self._ladj(x)


class DiagonalAffine(ScaledFlow):
    """f(ξ) = loc + diagonal ∘ ξ."""

    def __init__(self, loc: Tensor, diagonal: Tensor) -> None:
        super().__init__()
        self.loc, self.diagonal = loc, diagonal

    def _call(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.loc, self.diagonal, x)

    def inverse_energy(self, scale: Tensor) -> Tensor:
        """See :class:`Flow`."""
        return (scale / self.diagonal).square().sum(-1)

    def forward_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Flow`."""
        return self._call(x), self._ladj(x)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Flow`."""
        return (y - self.loc) / self.diagonal, self._ladj(y)


class TriangularAffine(ScaledFlow):
    """f(ξ) = loc + G ξ, G lower-triangular; the inverse is a forward substitution.

    ``diagonal`` (…, D) holds G's diagonal, ``lower`` (…, D(D-1)/2) its strictly lower entries, row by row.
    """

    def __init__(self, loc: Tensor, diagonal: Tensor, lower: Tensor, layout: TriangularLayout) -> None:
        super().__init__()
        self.loc, self.diagonal, self.lower, self.layout = loc, diagonal, lower, layout

    @full_precision
    def forward_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Flow`."""
        return self.loc + self.layout.multiply(x, self.diagonal, self.lower), self._ladj(x)

    @full_precision
    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Flow`."""
        return self.layout.solve(y - self.loc, self.diagonal, self.lower), self._ladj(y)


class InverseTriangularAffine(TriangularAffine):
    """f^{-1}(h) = A (h - loc), A lower-triangular: the inverse is parametrised, so densities need no solve.

    ``diagonal`` and ``lower`` are those of A. ln|det J_f| = -Σ_k ln|A_kk|. Sampling solves A u = ξ.
    """

    def _ladj(self, x: Tensor) -> Tensor:
        return -super()._ladj(x)

    @full_precision
    def inverse_energy(self, scale: Tensor) -> Tensor:
        """See :class:`Flow`: Σ_ij A_ij² scale_j², one product with the squared entries."""
        return self.layout.multiply(scale.square(), self.diagonal.square(), self.lower.square()).sum(-1)

    @full_precision
    def forward_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Flow`."""
        return self.loc + self.layout.solve(x, self.diagonal, self.lower), self._ladj(x)

    @full_precision
    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Flow`."""
        return self.layout.multiply(y - self.loc, self.diagonal, self.lower), self._ladj(y)


class FlowStack(Flow):
    """f = f_n ∘ … ∘ f_1; log-determinants add up along the way."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        super().__init__()
        self.flows = tuple(flows)
        self.affine = all(flow.affine for flow in self.flows)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum over the flows; affine ones are asked without running them."""
        if not self.affine:
            return super().log_abs_det_jacobian(x, y)
        return torch.stack([flow.log_abs_det_jacobian(x, y) for flow in self.flows]).sum(0)

    def forward_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply f_1 first."""
        x, total = self.flows[0].forward_and_ladj(x)
        for flow in self.flows[1:]:
            x, ladj = flow.forward_and_ladj(x)
            total = total + ladj
        return x, total

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Undo f_n first."""
        y, total = self.flows[-1].inverse_and_ladj(y)
        for flow in reversed(self.flows[:-1]):
            y, ladj = flow.inverse_and_ladj(y)
            total = total + ladj
        return y, total


class Coupling(Flow):
    """Real-NVP layer: the kept coordinates pass, the others become u ∘ exp(s) + t with (s, t) = net(kept, θ).

    ``context`` (…, H) is the conditioning added to the net's first layer; ``net`` maps kept coordinates
    and context to s and t. ``keep_first`` says whether the first or the last ``keep`` coordinates pass.
    """

    def __init__(self, net: CouplingNet, context: Tensor) -> None:
        super().__init__()
        self.net, self.context = net, context

    @full_precision
    def forward_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Flow`."""
        kept, changed = self.net.split(x)
        log_scale, shift = self.net(kept, self.context)
        return self.net.join(kept, changed * log_scale.exp() + shift), log_scale.sum(-1)

    @full_precision
    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Flow`."""
        kept, changed = self.net.split(y)
        log_scale, shift = self.net(kept, self.context)
        return self.net.join(kept, (changed - shift) * (-log_scale).exp()), log_scale.sum(-1)


class TriangularLayout(nn.Module):
    """Products and solves with lower-triangular matrices kept as (diagonal, strictly lower) vectors.

    A product is Σ_j L_ij x_j = diagonal ∘ x + ((x C) ∘ lower) R with constant 0/1 matrices C (D, P) and
    R (P, D): two thin matrix products, no (…, D, D) copy.
    """

    columns: Tensor
    rows: Tensor
    index: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        i, j = torch.tril_indices(dim, dim, offset=-1)
        self.dim, self.size = dim, len(i)
        self.register_buffer("columns", F.one_hot(j, dim).T.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("rows", F.one_hot(i, dim).to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("index", i * dim + j, persistent=False)

    def multiply(self, x: Tensor, diagonal: Tensor, lower: Tensor) -> Tensor:
        """L x for x (…, D)."""
        return diagonal * x + (x.matmul(self.columns) * lower).matmul(self.rows)

    def matrix(self, diagonal: Tensor, lower: Tensor) -> Tensor:
        """L as (…, D, D)."""
        flat = lower.new_zeros(*lower.shape[:-1], self.dim * self.dim).index_copy(-1, self.index, lower)
        return flat.unflatten(-1, (self.dim, self.dim)) + torch.diag_embed(diagonal)

    def solve(self, y: Tensor, diagonal: Tensor, lower: Tensor) -> Tensor:
        """L^{-1} y for y (…, D)."""
        matrix = self.matrix(diagonal, lower)
        shape = torch.broadcast_shapes(y.shape[:-1], matrix.shape[:-2])
        y, matrix = y.expand(*shape, -1), matrix.expand(*shape, -1, -1)
        return torch.linalg.solve_triangular(matrix, y.unsqueeze(-1), upper=False).squeeze(-1)


class CouplingNet(nn.Module):
    """(s, t) of one Real-NVP layer: two tanh layers of width H over the kept coordinates and a context.

    s is bounded by ``max_log_scale`` (nats per coordinate) through tanh, so that extreme contexts keep
    finite densities and gradients.
    """

    max_log_scale = 2.0

    def __init__(self, dim: int, keep: int, keep_first: bool, hidden: int) -> None:
        super().__init__()
        self.dim, self.keep, self.keep_first = dim, keep, keep_first
        self.first = nn.Linear(keep, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2 * (dim - keep))
        nn.init.zeros_(self.last.bias)
        nn.init.normal_(self.last.weight, std=0.1 / hidden**0.5)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(kept, changed) coordinates."""
        if self.keep_first:
            return x[..., : self.keep], x[..., self.keep :]
        return x[..., self.dim - self.keep :], x[..., : self.dim - self.keep]

    def join(self, kept: Tensor, changed: Tensor) -> Tensor:
        """Inverse of :meth:`split`."""
        kept = kept.expand(*changed.shape[:-1], self.keep)
        return torch.cat([kept, changed] if self.keep_first else [changed, kept], dim=-1)

    def forward(self, kept: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(…, keep) and (…, H) to the log-scales and shifts (…, D - keep)."""
        x = torch.tanh(self.second(torch.tanh(self.first(kept) + context)))
        log_scale, shift = self.last(x).chunk(2, dim=-1)
        return self.max_log_scale * torch.tanh(log_scale / self.max_log_scale), shift
