"""Decoders that attend: an LSTM that reads, before each token, a mean of a memory that it weighs itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.protocols import State
from ..core.vocabulary import Vocabulary
from .activations import tanh


def lstm_cell(width: int, hidden_dim: int) -> nn.LSTMCell:
    """Return a cell of ``hidden_dim`` units; raises :class:`UserError` for none, which would end the process."""
    if hidden_dim < 1:
        raise UserError(f"hidden_dim must be 1 or more; got {hidden_dim}")
    return nn.LSTMCell(width, hidden_dim)


class AdditiveAttention(nn.Module):
    """c = Σ_s α_s m_s, α = softmax_s(vᵀ tanh(W_m m_s + W_q q + b)) over the steps that count (Bahdanau et al. 2015).

    Args:
        memory_dim, query_dim, width: of m_s, of q, and of the hidden layer.
    """

    def __init__(self, memory_dim: int, query_dim: int, width: int) -> None:
        super().__init__()
        self.memory = nn.Linear(memory_dim, width)
        self.query = nn.Linear(query_dim, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """W_m m_s + b, (…, S, A): once for all queries."""
        keys: Tensor = self.memory(memory)
        return keys

    def forward(self, query: Tensor, keys: Tensor, memory: Tensor, counted: Tensor) -> Tensor:
        """c (R, M) for queries (R, Q), keys (R, S, A), memory (R, S, M) and ``counted`` (R, S)."""
        scores = self.score(tanh(keys + self.query(query).unsqueeze(1))).squeeze(-1)
        shares = scores.masked_fill(~counted, -torch.inf).softmax(-1)
        return (shares.unsqueeze(1) @ memory).squeeze(1)


class AttentiveDecoder(nn.Module):
    """s_t, c_t = LSTM([emb(w_{t-1}); a_t], s_{t-1}, c_{t-1}), a_t = attention of s_{t-1} over z_1..z_n; logits W_o s_t.

    s_0 = c_0 = 0: all that the decoder knows of the sentence comes through z (specification 1A, whose eq. 3 has α_{t,s}
    of s_{t-1}). Dropout on embeddings and on states, in training only; W_o has no bias.

    Args:
        vocabulary: V symbols, O of them outcomes.
        latent_dim: D, embedding_dim: E, hidden_dim: H, attention_dim: of the attention's hidden layer.
        dropout_in, dropout_out: share of the entries of the embeddings and of the states that are dropped.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        latent_dim: int,
        embedding_dim: int,
        hidden_dim: int,
        attention_dim: int,
        dropout_in: float = 0.0,
        dropout_out: float = 0.0,
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.embedding = nn.Embedding(vocabulary.size, embedding_dim)
        self.attention = AdditiveAttention(latent_dim, hidden_dim, attention_dim)
        self.cell = lstm_cell(embedding_dim + latent_dim, hidden_dim)
        self.head = nn.Linear(hidden_dim, vocabulary.outcomes, bias=False)
        self.dropout_in, self.dropout_out = nn.Dropout(dropout_in), nn.Dropout(dropout_out)

    @property
    def output_weight(self) -> Tensor:
        """W_o, (O, H)."""
        return self.head.weight

    def forward(self, inputs: Tensor, z: Tensor, counted: Tensor) -> Tensor:
        """States s_1..s_T (…, B, T, H), given tokens fed back (B, T), z (…, B, S, D) and which of it counts (…, B, S).

        The embeddings, and what is dropped of them, are the same for all particles.
        """
        lead = z.shape[:-2]
        embedded = self.dropout_in(self.embedding(inputs))
        # The tokens' share of the gates, for all steps at once.
        width = embedded.shape[-1]
        of_tokens, of_memory = self.cell.weight_ih.split([width, self.cell.weight_ih.shape[1] - width], dim=1)
        gates = F.linear(embedded, of_tokens, self.cell.bias_ih + self.cell.bias_hh)
        gates = gates.expand(*lead, *gates.shape[-2:]).flatten(0, -3)
        memory, valid = z.flatten(0, -3), counted.expand(*lead, -1).flatten(0, -2)
        keys = self.attention.keys(memory)
        recurrent = torch.cat([of_memory, self.cell.weight_hh], dim=1)
        hidden = cell = memory.new_zeros(len(memory), self.hidden_dim)
        states = []
        for step in gates.unbind(1):
            read = self.attention(hidden, keys, memory, valid)
            hidden, cell = lstm_step(step + F.linear(torch.cat([read, hidden], dim=-1), recurrent), cell)
            states.append(hidden)
        return self.dropout_out(torch.stack(states, 1)).unflatten(0, lead)

    def begin(self, z: Tensor, rows: int) -> State:
        """Return the state before the first token: s_0, c_0, z, its keys and which of it counts, each (R, …).

        A step of z (R, S, D) that is zero in all entries is none.
        """
        if len(z) != rows:
            raise ValueError(f"decoder: expects {rows} rows of latents, got {len(z)}")
        zero = z.new_zeros(rows, self.hidden_dim)
        return (zero, zero, z, self.attention.keys(z), is_step(z))

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, O) of what follows ``tokens`` (R,), and the state after them; nothing is dropped."""
        hidden, cell, z, keys, counted = state
        joined = torch.cat([self.embedding(tokens), self.attention(hidden, keys, z, counted)], dim=-1)
        hidden, cell = self.cell(joined, (hidden, cell))
        return self.head(hidden), (hidden, cell, z, keys, counted)


def is_step(z: Tensor) -> Tensor:
    """Return which steps of z (…, S, D) are any, (…, S): those that are zero in all entries are none."""
    return (z != 0.0).any(-1)


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return s_t and c_t from the gates' pre-activations (R, 4H) and c_{t-1}, in torch's order of gates."""
    into, forget, new, out = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell
