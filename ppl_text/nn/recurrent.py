"""Recurrent encoders of token sequences, and one vector made of their states; blind to padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.vocabulary import BOS_ID
from .activations import tanh
from .fused import GatedRecurrence, worthwhile

_HOLD = 100.0
"""Pre-activation of an update gate that keeps the state: its sigmoid is 1 in float32 and float64."""


def reverse_within_length(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each row of (B, T, …) inside its length; what lies beyond stays where it is.

    The map is its own inverse and has a static shape, so it may stand inside a captured graph.
    """
    steps = torch.arange(x.shape[1], device=x.device)
    index = lengths.unsqueeze(-1) - 1 - steps
    index = torch.where(index >= 0, index, steps)
    return x.gather(1, index.view(*index.shape, *(1,) * (x.dim() - 2)).expand_as(x))


def gate_table(gru: nn.GRU, embedding: nn.Embedding) -> Tensor:
    """W_ih e + b_ih of every symbol, (V, 3H): the input gates of a sequence are rows of it, computed once."""
    input_weight, _, input_bias, _ = gru.all_weights[0]
    return F.linear(embedding.weight, input_weight, input_bias)


def states_from_gates(gru: nn.GRU, gates: Tensor) -> Tensor:
    """Return states (T, B, H) of a one-layer GRU from its input gates (T, B, 3H) (:class:`.GatedRecurrence`)."""
    _, hidden_weight, _, hidden_bias = gru.all_weights[0]
    states: Tensor = GatedRecurrence.apply(gates, hidden_weight, hidden_bias)
    return states


def forward_states(gru: nn.GRU, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
    """Return the states (B, T, H) of ``gru(embedding(tokens))`` from left to right, by the faster way there is."""
    if worthwhile(embedding.weight):
        return states_from_gates(gru, F.embedding(tokens.t(), gate_table(gru, embedding))).transpose(0, 1)
    return gru(embedding(tokens))[0]


class BackwardGRU(nn.Module):
    """a_t = GRU(w_t, a_{t+1}): the state after digesting w_{t:T}, read from right to left.

    ``forward(tokens (B, T), lengths (B,)) -> (B, T, H)``. The GRU starts from zero at each row's own
    last token: padding has no influence on any a_t with t ≤ length.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.output_dim = hidden_dim
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.gru = nn.GRU(embedding_dim, hidden_dim, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Read backwards and return the states in the order of the sentence."""
        if worthwhile(self.embedding.weight):
            return self._from_gate_table(tokens, lengths)
        states, _ = self.gru(self.embedding(reverse_within_length(tokens, lengths)))
        return reverse_within_length(states, lengths)

    def _from_gate_table(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the same states: the gates of every symbol computed once, padding skipped, nothing reversed."""
        table = gate_table(self.gru, self.embedding)
        hold = torch.zeros_like(table[:1])
        hold[:, self.output_dim : 2 * self.output_dim] = _HOLD
        padding = torch.arange(tokens.shape[1], device=tokens.device) >= lengths.unsqueeze(-1)
        symbols = torch.where(padding, table.shape[0], tokens)
        gates = F.embedding(symbols.t().flip(0), torch.cat([table, hold]))
        return states_from_gates(self.gru, gates).flip(0).transpose(0, 1)


class BidirectionalGRU(nn.Module):
    """a_t = [forward GRU over w_{1:t}; backward GRU over w_{t:T}]: every a_t has seen the sentence.

    ``forward(tokens (B, T), lengths (B,)) -> (B, T, 2H)``; padding has no influence, as in
    :class:`BackwardGRU`.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.output_dim = 2 * hidden_dim
        self.backward_reader = BackwardGRU(vocab_size, embedding_dim, hidden_dim)
        self.forward_gru = nn.GRU(embedding_dim, hidden_dim, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Read in both directions with one embedding."""
        onward, _ = self.forward_gru(self.backward_reader.embedding(tokens))
        return torch.cat([onward, self.backward_reader(tokens, lengths)], dim=-1)


class SentenceReader(nn.Module):
    """h_t = LSTM(emb(w_t), h_{t-1}) over w_0 = BOS, w_1 … w_n, EOS, from left to right.

    ``forward(tokens (B, T)) -> (B, T + 1, H)``: h_0, which has seen BOS, to h_T. Padding stands behind EOS, where no
    state that counts sees it.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_dim: int, *, bos: int = BOS_ID) -> None:
        super().__init__()
        self.output_dim, self.bos = hidden_dim, bos
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Read on from BOS."""
        begin = torch.full_like(tokens[:, :1], self.bos)
        # torch's LSTM keeps what its gradient would need also where none of its weights asks for one.
        trained = any(parameter.requires_grad for parameter in self.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            states: Tensor = self.lstm(self.embedding(torch.cat([begin, tokens], dim=1)))[0]
        return states


class LastState(nn.Module):
    """h_n, the state after EOS: ``forward(states (B, T + 1, H), lengths (B,)) -> (B, H)``."""

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Pick the state at each row's own end; ``lengths`` counts EOS and not BOS, so it is its index."""
        index = lengths.view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        return states.gather(1, index).squeeze(1)


class AttentionPooling(nn.Module):
    """Σ_t α_t h_t, α = softmax_t(vᵀ tanh(W h_t + b)) over BOS … EOS.

    ``forward(states (B, T + 1, H), lengths (B,)) -> (B, H)``; states past EOS get no weight.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """The weighted mean of the states."""
        scores = self.score(tanh(self.hidden(states))).squeeze(-1)
        beyond = torch.arange(states.shape[1], device=states.device) > lengths.unsqueeze(-1)
        shares = scores.masked_fill(beyond, -torch.inf).softmax(-1)
        return (shares.unsqueeze(1) @ states).squeeze(1)
