"""What reads a sentence for a guide: states of an LSTM, and one vector made of them; blind to padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.vocabulary import BOS_ID


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
        scores = self.score(self.hidden(states).tanh()).squeeze(-1)
        beyond = torch.arange(states.shape[1], device=states.device) > lengths.unsqueeze(-1)
        shares = scores.masked_fill(beyond, -torch.inf).softmax(-1)
        return (shares.unsqueeze(1) @ states).squeeze(1)
