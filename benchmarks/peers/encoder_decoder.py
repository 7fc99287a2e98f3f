"""Sequence-to-sequence models with attention as plain PyTorch loops: no Pyro, no torch.distributions, nothing of ours.

Written from the equations (specification 3A), as one would for speed: the source by a bidirectional ``nn.LSTM``, the
decoder by ``nn.LSTMCell`` over [emb(y_{t-1}); z; o_{t-1}] with its keys made once, one product for all logits and
``cross_entropy`` on them, KLs in closed form::

    h            BiLSTM over x_1 … x_n EOS;  h̄ their mean, l = [last state; first state]
    o_t          = W_o [s_t; a_t], s_t = LSTM([emb(y_{t-1}); z; o_{t-1}], s_{t-1}), o_0 = 0;  softmax(V o_t + b)
    a_t^det      = sum_i alpha_ti h_i, alpha_t = softmax_i(s_t . W h_i)
    ded-attn     no z, a_t = a_t^det, c_0 = W_c l + b_c, s_0 = tanh(c_0); loss = -log p(y | x)
    vattn-h      s_0 = c_0 = 0, q(z | x) = N(mu, s2), [mu; log s2] = W_z l + b_z,
                 q(a_t | .) = N(a_t^det, r_t^2), log r_t = MLP(a_t^det);
                 loss = -log p(y | z, a, x) + KL(q(z | x) || N(0, I)) + sum_t KL(q(a_t | .) || N(h̄, I))

Losses are means over the pairs, in nats. Dropout 0.2 on the embeddings of both sides; gradients are clipped at global
norm 5; Adam.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.peers import BEGIN, END, IGNORED, Parameters, Words
from benchmarks.peers.loop import Loop

KINDS = ("ded-attn", "vattn-h")
"""DED+DAttn and VED+VAttn-h̄: nothing latent, or the text and its attention."""

DROPOUT, RATE = 0.2, 4e-3


class Sizes(NamedTuple):
    """V of either side, E, C of a direction (M = 2C), H, P of the output, D; B, T, S: those of the small recipes."""

    vocabulary: int = 3_000
    embedding: int = 64
    encoder: int = 64
    hidden: int = 128
    output: int = 64
    latent: int = 32
    batch: int = 64
    steps: int = 24
    source_steps: int = 32


PAPER = Sizes(30_000, 300, 100, 200, 100, 100, 100, 20, 30)
"""Those of the public code."""


class Pairs(NamedTuple):
    """A batch as plain arrays: what is read, and what is written."""

    source: Words
    target: Words


class Prepared(NamedTuple):
    """A batch as the step reads it.

    Sources (B, S), which of them count, their lengths on the host (None where none is padded), inputs (B, T), targets.
    """

    source: Tensor
    counted: Tensor
    lengths: Tensor | None
    inputs: Tensor
    targets: Tensor


class Networks(nn.Module):
    """Encoder, decoder and, for latent attention, what q needs."""

    def __init__(self, kind: str, sizes: Sizes) -> None:
        super().__init__()
        memory, latent = 2 * sizes.encoder, sizes.latent if kind == "vattn-h" else 0
        self.source_embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.encoder = nn.LSTM(sizes.embedding, sizes.encoder, batch_first=True, bidirectional=True)
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.key = nn.Linear(memory, sizes.hidden, bias=False)
        self.cell = nn.LSTMCell(sizes.embedding + latent + sizes.output, sizes.hidden)
        self.output = nn.Linear(sizes.hidden + memory, sizes.output, bias=False)
        self.head = nn.Linear(sizes.output, sizes.vocabulary - END)
        self.dropout = nn.Dropout(DROPOUT)
        if latent:
            self.latent = nn.Linear(memory, 2 * latent)
            self.scale = nn.Sequential(nn.Linear(memory, memory), nn.Tanh(), nn.Linear(memory, memory))
        else:
            self.bridge = nn.Linear(memory, sizes.hidden)

    def encode(self, batch: Prepared) -> tuple[Tensor, Tensor]:
        """Return states (B, S, M), and those at both ends (B, M)."""
        embedded = self.dropout(self.source_embedding(batch.source))
        if batch.lengths is None:
            states, (last, _) = self.encoder(embedded)
        else:
            packed = pack_padded_sequence(embedded, batch.lengths, batch_first=True, enforce_sorted=False)
            states, (last, _) = self.encoder(packed)
            states, _ = pad_packed_sequence(states, batch_first=True, total_length=embedded.shape[1])
        return states, torch.cat([last[0], last[1]], -1)


class EncoderDecoder(Loop):
    """The contestant: one kind of model."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        torch.manual_seed(seed)
        self.kind, self.device = kind, device
        self.networks = Networks(kind, sizes).to(device)
        self.parameters = list(self.networks.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, RATE, fused=True)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters."""
        self.networks.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})

    def prepare(self, pairs: Pairs) -> Prepared:
        """Shift, pad and mask; done before the clock starts."""
        (source, lengths), (tokens, target_lengths) = (map(torch.from_numpy, words) for words in pairs)
        counted = torch.arange(source.shape[1]) < lengths[:, None]
        there = torch.arange(tokens.shape[1]) < target_lengths[:, None]
        inputs = torch.cat([torch.full_like(tokens[:, :1], BEGIN), tokens[:, :-1]], 1)
        targets = (tokens - END).masked_fill(~there, IGNORED)
        source, counted, inputs, targets = (part.to(self.device) for part in (source, counted, inputs, targets))
        return Prepared(source, counted, None if (lengths == source.shape[1]).all() else lengths, inputs, targets)

    def loss(self, batch: Prepared) -> Tensor:
        """Loss of a batch, nats per text."""
        return self.losses(batch).mean()

    def losses(self, batch: Prepared, noise: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Loss of each pair, (B,) nats; ``noise`` of z (B, D) and of a (B, T, M), fresh where none is given."""
        networks, (states, last) = self.networks, self.networks.encode(batch)
        embedded = networks.dropout(networks.embedding(batch.inputs))
        if self.kind == "ded-attn":
            cell = networks.bridge(last)
            return self._decode(states, embedded, None, cell.tanh(), cell, batch, None)
        mean, log_variance = networks.latent(last).chunk(2, -1)
        z = mean + (0.5 * log_variance).exp() * (torch.randn_like(mean) if noise is None else noise[0])
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        zero = states.new_zeros(len(states), networks.cell.hidden_size)
        return kl + self._decode(states, embedded, z, zero, zero, batch, None if noise is None else noise[1])

    def _decode(
        self,
        states: Tensor,
        embedded: Tensor,
        z: Tensor | None,
        hidden: Tensor,
        cell: Tensor,
        batch: Prepared,
        noise: Tensor | None,
    ) -> Tensor:
        networks, away = self.networks, torch.where(batch.counted, 0.0, -torch.inf)
        keys, fed = networks.key(states), embedded.new_zeros(len(embedded), networks.output.out_features)
        outputs, means, logs = [], [], []
        for t, token in enumerate(embedded.unbind(1)):
            joined = torch.cat([token, fed] if z is None else [token, z, fed], -1)
            hidden, cell = networks.cell(joined, (hidden, cell))
            shares = (torch.bmm(keys, hidden.unsqueeze(2)).squeeze(2) + away).softmax(-1)
            read = torch.bmm(shares.unsqueeze(1), states).squeeze(1)
            if z is not None:
                means.append(read)
                logs.append(networks.scale(read))
                drawn = torch.randn_like(read) if noise is None else noise[:, t]
                read = read + logs[-1].exp() * drawn
            fed = networks.output(torch.cat([hidden, read], -1))
            outputs.append(fed)
        logits = networks.head(torch.stack(outputs, 1)).flatten(0, 1)
        nll = F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="none")
        loss = nll.view(batch.targets.shape).sum(-1)
        return loss if z is None else loss + self._divergence(states, means, logs, batch)

    def _divergence(self, states: Tensor, means: list[Tensor], logs: list[Tensor], batch: Prepared) -> Tensor:
        """sum_t KL(q(a_t | .) || N(h̄, I)) of each pair."""
        counted = batch.counted.unsqueeze(-1)
        centre = torch.where(counted, states, 0.0).sum(1) / counted.sum(1)
        mean, log = torch.stack(means, 1), torch.stack(logs, 1)
        kl = 0.5 * ((2 * log).exp() + (mean - centre.unsqueeze(1)).square() - 1 - 2 * log).sum(-1)
        return torch.where(batch.targets == IGNORED, 0.0, kl).sum(-1)


def pairs(seed: int = 0, sizes: Sizes = Sizes()) -> Pairs:  # noqa: B008 - numbers
    """Pairs of equal lengths; tokens uniform over the vocabulary."""
    rng = np.random.default_rng(seed)

    def side(steps: int) -> Words:
        tokens = rng.integers(END + 1, sizes.vocabulary, (sizes.batch, steps))
        tokens[:, -1] = END
        return Words(tokens.astype(np.int64), np.full(sizes.batch, steps, dtype=np.int64))

    return Pairs(side(sizes.source_steps), side(sizes.steps))
