"""Recurrent decoders of sentences: all steps at once for a likelihood, one at a time for generation."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UnknownNameError, UserError
from ..core.protocols import State
from ..core.vocabulary import Vocabulary

INITIAL_STATES = ("cell", "hidden")
"""Which of the LSTM's two states z enters first."""


class RecurrentDecoder(nn.Module):
    """s_t, c_t = LSTM([emb(w_{t-1}); z], s_{t-1}, c_{t-1}); the logits of w_t are W_o s_t.

    z stands beside the embedding at every step and makes the initial state (specification 0): with ``initial="cell"``
    c_0 = W_z z and s_0 = tanh(c_0); with ``initial="hidden"`` s_0 = W_z z + b and c_0 = 0. With ``latent_dim=0`` both
    are 0: a language model. Dropout on embeddings and on states, in training only; W_o has no bias.

    Args:
        vocabulary: V symbols, O of them outcomes.
        latent_dim: D, embedding_dim: E, hidden_dim: H.
        dropout_in, dropout_out: share of the entries of the embeddings and of the states that are dropped.
        tied: W_o is the embedding itself, for which E = H is needed.
        initial: ``cell`` or ``hidden``.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        latent_dim: int,
        embedding_dim: int,
        hidden_dim: int,
        dropout_in: float = 0.0,
        dropout_out: float = 0.0,
        tied: bool = False,
        initial: str = "cell",
    ) -> None:
        super().__init__()
        if initial not in INITIAL_STATES:
            raise UnknownNameError("initial state", initial, INITIAL_STATES)
        if tied and embedding_dim != hidden_dim:
            raise UserError(
                f"tied output weights need embedding_dim = hidden_dim; got {embedding_dim} and {hidden_dim}: make them "
                "equal, or leave tied out"
            )
        self.latent_dim, self.hidden_dim, self.initial = latent_dim, hidden_dim, initial
        self.first_outcome = vocabulary.ids.first_outcome
        self.embedding = nn.Embedding(vocabulary.size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim + latent_dim, hidden_dim, batch_first=True)
        self.bridge = nn.Linear(latent_dim, hidden_dim, bias=initial == "hidden") if latent_dim else None
        self.head = None if tied else nn.Linear(hidden_dim, vocabulary.outcomes, bias=False)
        self.dropout_in, self.dropout_out = nn.Dropout(dropout_in), nn.Dropout(dropout_out)

    @property
    def output_weight(self) -> Tensor:
        """W_o, (O, H)."""
        return self.embedding.weight[self.first_outcome :] if self.head is None else self.head.weight

    def forward(self, inputs: Tensor, z: Tensor | None = None) -> Tensor:
        """States s_1..s_T (…, B, T, H) given the tokens fed back (B, T) and z (…, B, D), None where D = 0.

        The embeddings, and what is dropped of them, are the same for all particles.
        """
        embedded = self.dropout_in(self.embedding(inputs))
        if z is None:
            states, _ = self.lstm(embedded)
        else:
            lead = z.shape[:-1]
            repeated = z.unsqueeze(-2).expand(*lead, inputs.shape[-1], -1)
            joined = torch.cat([embedded.expand(*lead, *embedded.shape[-2:]), repeated], dim=-1)
            hidden, cell = self.initial_state(z.flatten(0, -2))
            states, _ = self.lstm(joined.flatten(0, -3), (hidden.unsqueeze(0), cell.unsqueeze(0)))
            states = states.unflatten(0, lead)
        return self.dropout_out(states)

    def initial_state(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """s_0 and c_0, both (R, H), given z (R, D); 0 where D = 0."""
        if self.bridge is None:
            zero = z.new_zeros(len(z), self.hidden_dim)
            return zero, zero
        start = self.bridge(z)
        return (start.tanh(), start) if self.initial == "cell" else (start, torch.zeros_like(start))

    def begin(self, z: Tensor | None, rows: int) -> State:
        """Return the state before the first step: (s_0, c_0, z), each (R, …); z None where D = 0."""
        given = self.embedding.weight.new_zeros(rows, 0) if z is None else z
        if given.shape != (rows, self.latent_dim):
            raise ValueError(f"decoder: expects z of shape {(rows, self.latent_dim)}, got {tuple(given.shape)}")
        return (*self.initial_state(given), given)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, O) of what follows ``tokens`` (R,), and the state after them; nothing is dropped."""
        hidden, cell, z = state
        joined = torch.cat([self.embedding(tokens), z], dim=-1).unsqueeze(1)
        states, (hidden, cell) = self.lstm(joined, (hidden.unsqueeze(0), cell.unsqueeze(0)))
        return F.linear(states.squeeze(1), self.output_weight), (hidden[0], cell[0], z)


class StepwiseNetwork(Protocol):
    """A decoder that goes on from what it was given."""

    def begin(self, z: Any, rows: int) -> State:
        """Return the state before the first token of so many texts."""
        ...

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, O) of what follows ``tokens`` (R,), and the state after them."""
        ...


class GivenLatent:
    """A network that decodes, for given z (R, …), or None where nothing is latent, as search strategies drive it."""

    def __init__(self, network: StepwiseNetwork, z: Tensor | None) -> None:
        self._network, self._z = network, z

    def begin(self, rows: int) -> State:
        """Return the state before the first token."""
        return self._network.begin(self._z, rows)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, O) of what follows ``tokens`` (R,), and the state after them."""
        return self._network.step(state, tokens)
