"""Conditional flows: invertible maps f(ξ; θ) of white noise, θ = conditioner(h_{t-1}, c_t), as Pyro transforms.

Three kinds of object, from the inside out:

- a :class:`Flow` is one map with given parameters: a ``torch.distributions.Transform`` that also gives
  value and log-determinant in one pass (``forward_and_ladj``, ``inverse_and_ladj``);
- a :class:`FlowFamily` turns a vector θ of ``param_dim`` numbers into a :class:`Flow`;
- a :class:`ConditionalFlow` adds the network that computes θ: it is Pyro's
  ``ConditionalTransformModule``, whose ``condition(context)`` returns the transform.

Source: deep state-space models, eq. (10) and section 2.4; Real-NVP: Dinh et al. 2017.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import Transform
from torch.nn import functional as F

from ..core.errors import UnknownNameError
from ..nn.conditioner import Conditioner
from .precision import at_least_float32, full_precision


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


class DiagonalAffine(Flow):
    """f(ξ) = loc + diagonal ∘ ξ."""

    affine = True

    def __init__(self, loc: Tensor, diagonal: Tensor) -> None:
        super().__init__()
        self.loc, self.diagonal = loc, diagonal

    def _ladj(self, x: Tensor) -> Tensor:
        return self.diagonal.abs().log().sum(-1).expand(torch.broadcast_shapes(x.shape, self.loc.shape)[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ_k ln|diagonal_k|, the same for every x."""
        return self._ladj(x)

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


class TriangularAffine(Flow):
    """f(ξ) = loc + G ξ, G lower-triangular; the inverse is a forward substitution.

    ``diagonal`` (…, D) holds G's diagonal, ``lower`` (…, D(D-1)/2) its strictly lower entries, row by row.
    """

    affine = True

    def __init__(self, loc: Tensor, diagonal: Tensor, lower: Tensor, layout: TriangularLayout) -> None:
        super().__init__()
        self.loc, self.diagonal, self.lower, self.layout = loc, diagonal, lower, layout

    def _ladj(self, x: Tensor) -> Tensor:
        return self.diagonal.abs().log().sum(-1).expand(torch.broadcast_shapes(x.shape, self.loc.shape)[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """± Σ_k ln|diagonal_k|, the same for every x: no product, no solve."""
        return self._ladj(x)

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


class FlowFamily(nn.Module):
    """A flow without its conditioner: ``forward(params (…, param_dim)) -> Flow``.

    To add one: inherit, set ``dim``, ``param_dim`` and ``affine`` in ``__init__`` and return a
    :class:`Flow` from :meth:`forward`. Parameters near zero must give a map near the identity.
    """

    dim: int
    param_dim: int
    affine: bool

    def forward(self, params: Tensor) -> Flow:
        """θ (…, param_dim) to the map with these parameters."""
        raise NotImplementedError


class Diagonal(FlowFamily):
    """DIAG: f(ξ) = g + diag(G) ξ; θ = [g (D), raw diagonal (D)]."""

    affine = True

    def __init__(self, dim: int, *, diagonal: str = "softplus+delta", delta: float = 0.1) -> None:
        super().__init__()
        self.dim, self.param_dim = dim, 2 * dim
        self.positive = diagonal_map(diagonal, delta)

    def forward(self, params: Tensor) -> DiagonalAffine:
        """See :class:`FlowFamily`."""
        loc, raw = at_least_float32(params).chunk(2, dim=-1)
        return DiagonalAffine(loc, self.positive(raw))


class Triangular(FlowFamily):
    """TRIL: θ = [g (D), raw diagonal (D), strictly lower entries row by row (D(D-1)/2)].

    ``inverse=False``: f(ξ) = g + G ξ. ``inverse=True``: f^{-1}(h) = A (h - g), A from the same θ.
    ``diagonal`` is ``"softplus+delta"`` (positive, at least ``delta``) or the paper's ``"clip"``.
    """

    affine = True

    def __init__(
        self, dim: int, *, inverse: bool = False, diagonal: str = "softplus+delta", delta: float = 0.1
    ) -> None:
        super().__init__()
        self.layout = TriangularLayout(dim)
        self.dim, self.inverse = dim, inverse
        self.param_dim = 2 * dim + self.layout.size
        self.positive = diagonal_map(diagonal, delta)

    def forward(self, params: Tensor) -> TriangularAffine:
        """See :class:`FlowFamily`."""
        loc, raw, lower = at_least_float32(params).split([self.dim, self.dim, self.layout.size], dim=-1)
        kind = InverseTriangularAffine if self.inverse else TriangularAffine
        return kind(loc, self.positive(raw), lower, self.layout)


class Stack(FlowFamily):
    """f_n ∘ … ∘ f_1 of other families; θ is the concatenation of theirs, f_1's first."""

    def __init__(self, families: Sequence[FlowFamily]) -> None:
        super().__init__()
        self.families = nn.ModuleList(families)
        self.sizes = [family.param_dim for family in families]
        self.dim, self.param_dim = families[0].dim, sum(self.sizes)
        self.affine = all(family.affine for family in families)

    def forward(self, params: Tensor) -> FlowStack:
        """See :class:`FlowFamily`."""
        pieces = params.split(self.sizes, dim=-1)
        return FlowStack([family(piece) for family, piece in zip(self.families, pieces, strict=True)])


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


class RealNVP(FlowFamily):
    """Conditional Real-NVP: a stack of couplings; θ holds the context of each layer's net (H each).

    ``masks="halves"`` alternates which half passes, so that every coordinate is transformed.
    ``masks="paper"`` keeps the first d coordinates for d = 2..D-1 in this fixed order: the first two are
    never transformed (SPEC 4G.9).
    """

    affine = False

    def __init__(self, dim: int, *, layers: int = 6, hidden: int = 8, masks: str = "halves") -> None:
        super().__init__()
        if masks not in ("halves", "paper"):
            raise UnknownNameError("Real-NVP mask scheme", masks, ["halves", "paper"])
        if dim < (3 if masks == "paper" else 2):
            raise ValueError(f"RealNVP: masks='{masks}' needs more than {dim} dimensions")
        if masks == "paper":
            plan = [(keep, True) for keep in range(2, dim)]
        else:
            plan = [(dim // 2 if i % 2 == 0 else dim - dim // 2, i % 2 == 0) for i in range(layers)]
        self.nets = nn.ModuleList(CouplingNet(dim, keep, first, hidden) for keep, first in plan)
        self.dim, self.hidden, self.param_dim = dim, hidden, hidden * len(plan)

    def forward(self, params: Tensor) -> FlowStack:
        """See :class:`FlowFamily`."""
        contexts = at_least_float32(params).split(self.hidden, dim=-1)
        nets = cast("Iterable[CouplingNet]", self.nets)
        return FlowStack([Coupling(net, c) for net, c in zip(nets, contexts, strict=True)])


class SoftplusDelta(nn.Module):
    """raw ↦ softplus(raw + c) + δ with c such that 0 ↦ 1: positive, at least δ, smooth."""

    def __init__(self, delta: float) -> None:
        super().__init__()
        self.delta, self.shift = delta, math.log(math.expm1(1.0 - delta))

    def forward(self, raw: Tensor) -> Tensor:
        """Elementwise."""
        return F.softplus(raw + self.shift) + self.delta


class ClipOutside(nn.Module):
    """raw ↦ sign(v) max(|v|, δ) with v = raw + 1: the paper's rule, |G_ii| kept outside [-δ, δ].

    Zero gradient inside the interval and a jump at 0 (SPEC 4G.4); kept for ``preset=paper``.
    """

    def __init__(self, delta: float) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, raw: Tensor) -> Tensor:
        """Elementwise."""
        value = raw + 1.0
        return torch.where(value >= 0, value.clamp(min=self.delta), value.clamp(max=-self.delta))


def diagonal_map(name: str, delta: float) -> nn.Module:
    """How a raw number becomes a diagonal entry: ``"softplus+delta"`` or ``"clip"``; 0 gives 1."""
    kinds = {"softplus+delta": SoftplusDelta, "clip": ClipOutside}
    if name not in kinds:
        raise UnknownNameError("diagonal", name, kinds)
    if not 0 < delta < 0.5:
        raise ValueError(f"delta must lie between 0 and 0.5 (deep state-space paper, section 2.4); got {delta}")
    return kinds[name](delta)


class ConditionalFlow(ConditionalTransformModule):
    """f(ξ_t; h_{t-1}, c_t): a flow family and the network that computes its parameters.

    ``condition(state (…, D), context (…, C))`` returns the :class:`Flow`, as Pyro's
    ``ConditionalTransformModule`` asks. A chain calls the three parts apart, for speed: :meth:`project`
    once for all steps, :meth:`params` per step, ``family`` on the result.
    """

    def __init__(self, family: FlowFamily, conditioner: Conditioner) -> None:
        super().__init__()
        if conditioner.output_dim != family.param_dim:
            raise ValueError(
                f"the conditioner gives {conditioner.output_dim} numbers, the flow needs {family.param_dim}"
            )
        self.family, self.conditioner = family, conditioner
        self.feedback = conditioner.state_dim > 0

    def project(self, context: Tensor | None = None) -> Tensor:
        """The context's part of the first layer, for all steps at once."""
        return self.conditioner.project(context)

    def params(self, state: Tensor, projected: Tensor) -> Tensor:
        """θ for given states (…, D) and projected contexts (…, H)."""
        return self.conditioner(state, projected)

    def condition(self, state: Tensor, context: Tensor | None = None) -> Flow:
        """The map for a given state and context."""
        return self.family(self.params(state, self.project(context)))


FLOWS = ("diag", "tril", "nvp")
"""Names that :func:`conditional_flow` knows."""


def conditional_flow(
    name: str,
    dim: int,
    *,
    state_dim: int | None = None,
    context_dim: int = 0,
    layers: int = 1,
    hidden: Sequence[int] = (64, 64),
    inverse: bool = False,
    diagonal: str = "softplus+delta",
    delta: float = 0.1,
    masks: str = "halves",
) -> ConditionalFlow:
    """Build p(h_t | h_{t-1}, c_t)'s flow by name: ``diag``, ``tril`` or ``nvp``, ``layers`` times.

    One network of widths ``hidden`` computes the parameters of all layers. ``state_dim`` is D unless
    given (0: no state feedback). ``inverse`` parametrises f^{-1} (``tril`` only). For ``nvp`` the
    coupling nets have two hidden layers of 8 (the paper's) and read the state through a linear map;
    ``layers`` counts couplings (1 means the default of 6).
    """
    state_dim = dim if state_dim is None else state_dim
    if name == "diag":
        families: list[FlowFamily] = [Diagonal(dim, diagonal=diagonal, delta=delta) for _ in range(layers)]
    elif name == "tril":
        families = [Triangular(dim, inverse=inverse, diagonal=diagonal, delta=delta) for _ in range(layers)]
    elif name == "nvp":
        families, hidden = [RealNVP(dim, layers=6 if layers == 1 else layers, masks=masks)], ()
    else:
        raise UnknownNameError("flow", name, FLOWS)
    family = families[0] if len(families) == 1 else Stack(families)
    return ConditionalFlow(family, Conditioner(state_dim, family.param_dim, context_dim=context_dim, hidden=hidden))
