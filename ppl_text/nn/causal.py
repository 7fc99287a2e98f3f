"""A gated causal convolution network: outputs of all steps at once for a density, one at a time for drawing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.protocols import State
from .activations import tanh


class CausalConvolutions(nn.Module):
    """o_t = f(x_1..x_{t-1}): residual gated convolutions over the steps before, as PixelCNN's over pixels.

    With y⁰_t = W x_{t-1} + b (x_0 is learned), layer l makes yˡ = yˡ⁻¹ + V (tanh(a) ∘ sigmoid(g)) with [a; g] a
    convolution of yˡ⁻¹ over the steps t - kernel + 1 … t, and o_t = U yᴸ_t. So o_t sees ``reach`` steps before it. The
    sizes are this project's: the DAVAM paper says 16 layers and residual connections (specification 1A).

    Args:
        inputs: width C of x_t.
        outputs: width of o_t.
        width, layers, kernel: of the network.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int = 256, layers: int = 16, kernel: int = 3) -> None:
        super().__init__()
        self.width, self.kernel = width, kernel
        self.reach = 1 + layers * (kernel - 1)
        self.start = nn.Parameter(torch.zeros(inputs))
        self.embed = nn.Linear(inputs, width)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, kernel) for _ in range(layers))
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (…, S, O) given x (…, S, C)."""
        before = torch.cat([self.start.expand(*x.shape[:-2], 1, -1), x[..., :-1, :]], dim=-2)
        # Channels first from here on, as convolutions want them.
        y = self.embed(before).reshape(-1, x.shape[-2], self.width).transpose(1, 2)
        for gate, mix in zip(self.gates, self.mix, strict=True):
            weight, bias = mix.parameters()
            y = y + F.conv1d(_gated(gate(F.pad(y, (self.kernel - 1, 0)))), weight.unsqueeze(-1), bias)
        return self.head(y.transpose(1, 2)).view(*x.shape[:-1], -1)

    def begin(self, rows: int) -> State:
        """Return the state before the first step: x_0, and for each layer what it has seen, (R, kernel - 1, width)."""
        nothing = self.start.new_zeros(rows, self.kernel - 1, self.width)
        return (self.start.expand(rows, -1), *(nothing for _ in self.gates))

    def output(self, state: State) -> tuple[Tensor, State]:
        """Return o_t (R, O) of the step that comes next, and the state that waits for x_t."""
        x, *seen = state
        y, kept = self.embed(x), []
        for gate, mix, before in zip(self.gates, self.mix, seen, strict=True):
            window = torch.cat([before, y.unsqueeze(1)], dim=1)
            kept.append(window[:, 1:])
            y = y + mix(_gated(gate(window.transpose(1, 2))).squeeze(-1))
        return self.head(y), (x, *kept)

    def follow(self, state: State, x: Tensor) -> State:
        """Return the state after x_t (R, C)."""
        return (x, *state[1:])


class EmbeddedIndices(nn.Module):
    """o_t = f(k_1..k_{t-1}): an autoregressive network of indices, ``network`` of their embeddings.

    Args:
        embedding: of M indices, as wide as the network's inputs.
        network: of the embeddings.
    """

    def __init__(self, embedding: nn.Embedding, network: CausalConvolutions) -> None:
        super().__init__()
        self.embedding, self.network = embedding, network

    def forward(self, indices: Tensor) -> Tensor:
        """Outputs (…, S, O) given indices (…, S)."""
        outputs: Tensor = self.network(self.embedding(indices))
        return outputs

    def begin(self, rows: int) -> State:
        """Return the state before the first step."""
        return self.network.begin(rows)

    def output(self, state: State) -> tuple[Tensor, State]:
        """Return o_t (R, O) of the step that comes next, and the state that waits for k_t."""
        return self.network.output(state)

    def follow(self, state: State, index: Tensor) -> State:
        """Return the state after k_t (R,)."""
        return self.network.follow(state, self.embedding(index))


class Unconditional(nn.Module):
    """o_t = b: the same outputs at every step, whatever came before."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, indices: Tensor) -> Tensor:
        """Outputs (…, S, O) given indices (…, S)."""
        return self.bias.expand(*indices.shape, -1)

    def begin(self, rows: int) -> State:
        """Return the state before the first step, of which there is nothing but the rows."""
        return (self.bias.new_zeros(rows, 0),)

    def output(self, state: State) -> tuple[Tensor, State]:
        """Return o_t (R, O)."""
        return self.bias.expand(len(state[0]), -1), state

    def follow(self, state: State, index: Tensor) -> State:
        """Return the same state."""
        return state


def _gated(both: Tensor) -> Tensor:
    """tanh(a) ∘ sigmoid(g) of [a; g], (R, 2W, S) to (R, W, S)."""
    activation, gate = both.chunk(2, 1)
    return tanh(activation) * gate.sigmoid()
