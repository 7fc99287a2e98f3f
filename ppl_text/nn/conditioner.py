"""Networks that turn a state, and the context of a time step, into the parameters of a flow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activations import tanh


class Conditioner(nn.Module):
    """θ_t = MLP([h_{t-1}; c_t]): tanh layers, the context's share of the first one computed apart.

    The first layer is W_h h_{t-1} + (W_c c_t + b). The bracket does not depend on the state, so a
    chain computes it for all T steps at once (:meth:`project`) and a step only adds W_h h_{t-1}.

    Args: ``state_dim`` D (0: no state feedback), ``context_dim`` C (0: no context),
    ``output_dim`` P and the widths of the ``hidden`` layers (none: one linear map). The last layer
    starts small, so that a flow starts near its identity.
    """

    def __init__(
        self, state_dim: int, output_dim: int, *, context_dim: int = 0, hidden: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        if state_dim == 0 and context_dim == 0:
            raise ValueError("Conditioner: needs a state, a context or both; state_dim and context_dim are 0")
        self.state_dim, self.context_dim, self.output_dim = state_dim, context_dim, output_dim
        widths = [*hidden, output_dim]
        self.state = nn.Linear(state_dim, widths[0], bias=False) if state_dim else None
        self.context = nn.Linear(context_dim, widths[0], bias=False) if context_dim else None
        self.bias = nn.Parameter(torch.zeros(widths[0]))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        for name, parameter in self.layers[-1:].named_parameters():
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(
                parameter, std=0.1 / hidden[-1] ** 0.5
            )

    def project(self, context: Tensor | None) -> Tensor:
        """W_c c_t + b for every step at once: (…, T, C) to (…, T, H); the bias alone without a context."""
        if self.context is None:
            return self.bias
        if context is None:
            raise ValueError(f"Conditioner: expects a context of width {self.context_dim}, got none")
        return F.linear(context, self.context.weight, self.bias)

    def forward(self, state: Tensor | None, projected: Tensor) -> Tensor:
        """(…, D) states and (…, H) projected contexts to (…, P) parameters."""
        if self.state is None or state is None:
            x = projected
        elif state.dim() == projected.dim() == 2:
            x = torch.addmm(projected, state, self.state.weight.t())  # one operation a step instead of two
        else:
            x = projected + F.linear(state, self.state.weight)
        for layer in self.layers:
            x = layer(tanh(x))
        return x
