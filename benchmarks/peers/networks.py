"""Torch networks that both torch peers use: embedding, backward GRU and the multi-layer perceptrons."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import (
    EMBEDDING,
    FIRST_OUTCOME,
    GRU,
    GUIDE_FLOOR,
    HIDDEN,
    LOWER,
    MODEL_FLOOR,
    OUTCOMES,
    STATE,
    VOCABULARY,
    Parameters,
    Words,
    unit_shift,
)

MODEL_SHIFT, GUIDE_SHIFT = unit_shift(MODEL_FLOOR), unit_shift(GUIDE_FLOOR)


class TorchWords(NamedTuple):
    """What a torch peer's step reads; all of it is data preparation, none of it depends on a parameter."""

    tokens: Tensor
    outcomes: Tensor
    mask: Tensor
    reversal: Tensor


class Networks(nn.Module):
    """The parameters of model and guide, under the flat names of :mod:`benchmarks.peers`."""

    places: Tensor
    """Rows and columns of the strictly lower entries of A, (2, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.initial = nn.Parameter(torch.zeros(STATE))
        self.register_buffer("places", torch.tril_indices(STATE, STATE, offset=-1), persistent=False)
        self.transition = nn.ModuleList(
            [nn.Linear(STATE, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2 * STATE + LOWER)]
        )
        self.emission = nn.Linear(STATE, OUTCOMES)
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.gru = nn.GRU(EMBEDDING, GRU, batch_first=True)
        self.conditioner = nn.ModuleDict(
            {
                "state": nn.Linear(STATE, HIDDEN, bias=False),
                "encoder": nn.Linear(GRU, HIDDEN),
                "hidden": nn.Linear(HIDDEN, HIDDEN),
                "output": nn.Linear(HIDDEN, 2 * STATE),
            }
        )

    def transition_parameters(self, previous: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return m (..., 8), the diagonal of A (..., 8) and its strictly lower entries, row by row (..., 28)."""
        first, second, last = self.transition
        output = last(torch.tanh(second(torch.tanh(first(previous)))))
        mean, raw, lower = output.split([STATE, STATE, LOWER], -1)
        return mean, F.softplus(raw + MODEL_SHIFT) + MODEL_FLOOR, lower

    def encode(self, batch: TorchWords) -> Tensor:
        """W_a a_t + b_1 for all t, (B, T, 64): a_t is the state of a GRU that has read w_n back to w_t."""
        inputs = self.embedding(batch.tokens.gather(1, batch.reversal))
        states = self.gru(inputs)[0]
        return self.conditioner["encoder"](states.gather(1, batch.reversal[..., None].expand_as(states)))

    def guide_parameters(self, previous: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and s of q(h_t | h_{t-1}, w_{t:n}), each (..., 8)."""
        hidden = torch.tanh(self.conditioner["state"](previous) + encoded)
        output = self.conditioner["output"](torch.tanh(self.conditioner["hidden"](hidden)))
        loc, raw = output.split(STATE, -1)
        return loc, F.softplus(raw + GUIDE_SHIFT) + GUIDE_FLOOR

    def load(self, parameters: Parameters) -> None:
        """Take over parameters under their flat names, in place."""
        self.load_state_dict({_torch_name(name): torch.tensor(value) for name, value in parameters.items()})

    def collect_gradients(self) -> Parameters:
        """Gradients of the last backward pass under their flat names."""
        return {_flat_name(name): value.grad.cpu().numpy().copy() for name, value in self.named_parameters()}


def prepare(words: Words, device: str = "cpu") -> TorchWords:
    """Tensors of a batch: outcomes (0 where padded), mask, and the index that reverses each sentence in place."""
    tokens, lengths = (torch.from_numpy(part).to(device) for part in words)
    lengths, position = lengths[:, None], torch.arange(tokens.shape[1], device=device)
    mask = position < lengths
    reversal = torch.where(mask, lengths - 1 - position, position)
    return TorchWords(tokens, (tokens - FIRST_OUTCOME).clamp(min=0), mask, reversal)


def _torch_name(flat: str) -> str:
    return f"{flat}_l0" if flat.startswith("gru.") else flat


def _flat_name(torch_name: str) -> str:
    return torch_name.removesuffix("_l0")
