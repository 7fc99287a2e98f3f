"""Conditional flows: invertible maps f(ξ; θ) of white noise, θ = conditioner(h_{t-1}, c_t), as Pyro transforms.

Three kinds of object, from the inside out:

- a :class:`~.bijections.Flow` is one map with given parameters: a ``torch.distributions.Transform`` that also gives
  value and log-determinant in one pass (``forward_and_ladj``, ``inverse_and_ladj``);
- a :class:`FlowFamily` turns a vector θ of ``param_dim`` numbers into a :class:`Flow`;
- a :class:`ConditionalFlow` adds the network that computes θ: it is Pyro's
  ``ConditionalTransformModule``, whose ``condition(context)`` returns the transform.

Source: deep state-space models, eq. (10) and section 2.4; Real-NVP: Dinh et al. 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UnknownNameError
from ..nn.conditioner import Conditioner
from .bijections import (
    Coupling,
    CouplingNet,
    DiagonalAffine,
    Flow,
    FlowStack,
    InverseTriangularAffine,
    TriangularAffine,
    TriangularLayout,
)
from .precision import at_least_float32

COUPLINGS = 6
"""Couplings of a Real-NVP, as many as the paper's masks 2..7."""


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


class RealNVP(FlowFamily):
    """Conditional Real-NVP: a stack of couplings; θ holds the context of each layer's net (H each).

    ``masks="halves"`` alternates which half passes, so that every coordinate is transformed.
    ``masks="paper"`` keeps the first d coordinates for d = 2..D-1 in this fixed order: the first two are
    never transformed (specification 4G.9).
    """

    affine = False

    def __init__(self, dim: int, *, layers: int = COUPLINGS, hidden: int = 8, masks: str = "halves") -> None:
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

    Zero gradient inside the interval and a jump at 0 (specification 4G.4); kept for ``preset=paper``.
    """

    def __init__(self, delta: float) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, raw: Tensor) -> Tensor:
        """Elementwise."""
        value = raw + 1.0
        return torch.where(value >= 0, value.clamp(min=self.delta), value.clamp(max=-self.delta))


def diagonal_map(name: str, delta: float) -> nn.Module:
    """Return how a raw number becomes a diagonal entry: ``"softplus+delta"`` or ``"clip"``; 0 gives 1."""
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
        """Return the context's part of the first layer, for all steps at once."""
        return self.conditioner.project(context)

    def params(self, state: Tensor, projected: Tensor) -> Tensor:
        """θ for given states (…, D) and projected contexts (…, H)."""
        return self.conditioner(state, projected)

    def condition(self, state: Tensor, context: Tensor | None = None) -> Flow:
        """Return the map for a given state and context."""
        return self.family(self.params(state, self.project(context)))


FLOWS = ("diag", "tril", "nvp", "tril-nvp")
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
    """Build p(h_t | h_{t-1}, c_t)'s flow by name: ``diag``, ``tril`` or ``nvp``, ``layers`` times; or ``tril-nvp``.

    One network of widths ``hidden`` computes the parameters of all layers. ``state_dim`` is D unless
    given (0: no state feedback). ``inverse`` parametrises f^{-1} (of ``tril``). For ``nvp`` the
    coupling nets have two hidden layers of 8 (the paper's) and read the state through a linear map;
    ``layers`` counts couplings (1 means the default of 6; ``masks="paper"`` has D - 2 of them, whatever it is).
    ``tril-nvp`` is ``nvp`` on the noise and then one ``tril``, both with parameters from the network of widths
    ``hidden``: it starts near TRIL and, unlike any number of TRILs, need not stay Gaussian given h_{t-1}
    (specification 4G.1).
    """
    state_dim = dim if state_dim is None else state_dim
    couplings = COUPLINGS if layers == 1 else layers
    if name == "diag":
        families: list[FlowFamily] = [Diagonal(dim, diagonal=diagonal, delta=delta) for _ in range(layers)]
    elif name == "tril":
        families = [Triangular(dim, inverse=inverse, diagonal=diagonal, delta=delta) for _ in range(layers)]
    elif name == "nvp":
        families, hidden = [RealNVP(dim, layers=couplings, masks=masks)], ()
    elif name == "tril-nvp":
        affine = Triangular(dim, inverse=inverse, diagonal=diagonal, delta=delta)
        families = [RealNVP(dim, layers=couplings, masks=masks), affine]
    else:
        raise UnknownNameError("flow", name, FLOWS)
    family = families[0] if len(families) == 1 else Stack(families)
    return ConditionalFlow(family, Conditioner(state_dim, family.param_dim, context_dim=context_dim, hidden=hidden))
