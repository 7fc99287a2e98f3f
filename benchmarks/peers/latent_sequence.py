"""Latent sequences as plain PyTorch loops: no Pyro, no torch.distributions, nothing of ours.

Written from the equations (specification 1) as one would for speed: the encoder by ``nn.LSTM``, the attending decoder
by ``nn.LSTMCell`` with its keys made once, one product for all logits and ``cross_entropy`` on them, the prior by
``nn.Conv1d``. A text w_1 … w_n EOS has n + 1 latents; what stands behind them is padding::

    vae-attn     q(z_t | w) = N(mu_t, s2_t), [mu; log s2]_t = W h_t + b, h the states of an LSTM over BOS w_1 …;
                 loss = -log p(w | z) + sum_t KL(q(z_t | w) || N(0, I))
    gavam        the same against N(mu'_t, s2'_t) of the prior at z_1 … z_{t-1}
    davam-codes  z_t = e_k, k the nearest to h_t, with the gradient of h_t (straight through);
                 loss = -log p(w | z) + lambda sum_t |h_t - sg(e_k)|^2, and the codes follow by moving averages
    davam-prior  loss = -sum_t log p(k_t | k_1 … k_{t-1}); nothing but the prior is trained

    p(w | z)     c_t = attention of s_{t-1} over z, s_t = LSTM([emb(w_{t-1}); c_t], s_{t-1}), s_0 = 0; softmax(W_o s_t)

Losses are means over the sentences, in nats. Dropout 0.5 on the decoder's embeddings and states; gradients are clipped
at global norm 5; SGD, and Adam for the prior of codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import BEGIN, END, IGNORED, Parameters, Words
from benchmarks.peers.loop import Loop

KINDS = ("vae-attn", "gavam", "davam-codes", "davam-prior")
"""What is trained: two models jointly, and the two stages of a third."""

BATCH, STEPS = 32, 24
DROPOUT, RATE, PRIOR_RATE = 0.5, 0.1, 1e-3
COMMITMENT, DECAY, EPSILON, REVIVE = 0.25, 0.99, 1e-5, 1.0
"""lambda; of the moving averages; what smooths their counts; the count below which a code is dead."""


class Sizes(NamedTuple):
    """V, E, H (of the attention, too), D, M, and the prior's width, layers and kernel: those of the Penn Treebank."""

    vocabulary: int = 10_000
    embedding: int = 256
    hidden: int = 256
    latent: int = 32
    codes: int = 512
    width: int = 256
    layers: int = 16
    kernel: int = 3


class Prepared(NamedTuple):
    """A batch as the step reads it: inputs of both LSTMs (B, T + 1) and (B, T), targets, and where texts are (B, T)."""

    sentence: Tensor
    inputs: Tensor
    targets: Tensor
    there: Tensor


class Encoder(nn.Module):
    """States of an LSTM over the text, mapped to what a step's posterior needs."""

    def __init__(self, sizes: Sizes, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.lstm = nn.LSTM(sizes.embedding, sizes.hidden, batch_first=True)
        self.output = nn.Linear(sizes.hidden, outputs)

    def forward(self, batch: Prepared) -> Tensor:
        """Return outputs (B, T, ...): step t has read w_1 … w_t."""
        out: Tensor = self.output(self.lstm(self.embedding(batch.sentence))[0][:, 1:])
        return out


class Decoder(nn.Module):
    """An LSTM that attends to z before each token."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.keys = nn.Linear(sizes.latent, sizes.hidden)
        self.query = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.score = nn.Linear(sizes.hidden, 1, bias=False)
        self.cell = nn.LSTMCell(sizes.embedding + sizes.latent, sizes.hidden)
        self.head = nn.Linear(sizes.hidden, sizes.vocabulary - END, bias=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, z: Tensor, batch: Prepared) -> Tensor:
        """Return logits (B, T, V - 2)."""
        embedded = self.dropout(self.embedding(batch.inputs))
        keys, hidden = self.keys(z), z.new_zeros(len(z), self.cell.hidden_size)
        away, cell, states = torch.where(batch.there, 0.0, -torch.inf), hidden, []
        for token in embedded.unbind(1):
            scores = self.score(torch.tanh(keys + self.query(hidden).unsqueeze(1))).squeeze(-1) + away
            context = torch.bmm(scores.softmax(-1).unsqueeze(1), z).squeeze(1)
            hidden, cell = self.cell(torch.cat([token, context], -1), (hidden, cell))
            states.append(hidden)
        logits: Tensor = self.head(self.dropout(torch.stack(states, 1)))
        return logits


class Prior(nn.Module):
    """Gated residual causal convolutions: outputs (B, T, O) of step t given what stands before it."""

    def __init__(self, inputs: int, outputs: int, sizes: Sizes) -> None:
        super().__init__()
        width, kernel = sizes.width, sizes.kernel
        self.start = nn.Parameter(torch.zeros(inputs))
        self.embed = nn.Linear(inputs, width)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, kernel) for _ in range(sizes.layers))
        self.mix = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(sizes.layers))
        self.head = nn.Linear(width, outputs)
        self.behind = kernel - 1

    def forward(self, x: Tensor) -> Tensor:
        """Run over all steps at once, channels first."""
        before = torch.cat([self.start.expand(len(x), 1, -1), x[:, :-1]], 1)
        y = self.embed(before).transpose(1, 2)
        for gates, mix in zip(self.gates, self.mix, strict=True):
            a, g = gates(F.pad(y, (self.behind, 0))).chunk(2, 1)
            y = y + mix(a.tanh() * g.sigmoid())
        out: Tensor = self.head(y.transpose(1, 2))
        return out


class Codes(nn.Module):
    """A code book with moving averages of counts and sums."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.empty(sizes.codes, sizes.latent).uniform_(-1, 1).div_(sizes.codes))
        self.register_buffer("counts", torch.ones(sizes.codes))
        self.register_buffer("sums", self.vectors.clone())
        self.revive = REVIVE

    def nearest(self, h: Tensor) -> Tensor:
        """argmin_k |h - e_k|^2, (B, T): what |h|^2 adds is the same for all."""
        return torch.argmin(self.vectors.square().sum(-1) - 2 * h @ self.vectors.t(), -1)

    @torch.no_grad()
    def follow(self, h: Tensor, index: Tensor, there: Tensor) -> None:
        """Move the averages by the vectors of a batch; dead codes become some of them."""
        h, index = h[there], index[there]
        self.counts.lerp_(torch.bincount(index, minlength=len(self.counts)).to(h), 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, index, h), 1 - DECAY)
        dead = (self.counts < self.revive).nonzero().squeeze(1)
        if len(dead):
            self.sums[dead] = h[torch.randint(len(h), (len(dead),), device=h.device)]
            self.counts[dead] = 1.0
        total = self.counts.sum()
        smoothed = (self.counts + EPSILON) / (total + len(self.counts) * EPSILON) * total
        self.vectors.copy_(self.sums / smoothed.unsqueeze(1))


class Networks(nn.Module):
    """Encoder, decoder, prior and codes, as far as the model has them."""

    def __init__(self, kind: str, sizes: Sizes) -> None:
        super().__init__()
        coded = kind.startswith("davam")
        self.encoder = Encoder(sizes, sizes.latent if coded else 2 * sizes.latent)
        self.decoder = Decoder(sizes)
        if coded:
            self.codes, self.embedding = Codes(sizes), nn.Embedding(sizes.codes, sizes.width)
            self.prior = Prior(sizes.width, sizes.codes, sizes)
        elif kind == "gavam":
            self.prior = Prior(sizes.latent, 2 * sizes.latent, sizes)


class LatentSequences(Loop):
    """The contestant: one kind of training."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        torch.manual_seed(seed)
        self.kind, self.device = kind, device
        self.networks = Networks(kind, sizes).to(device)
        stages = {"davam-codes": ("encoder", "decoder"), "davam-prior": ("prior", "embedding")}
        self.networks.requires_grad_(kind not in stages)
        for part in stages.get(kind, ()):
            getattr(self.networks, part).requires_grad_(True)
        self.parameters = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]
        adaptive = kind == "davam-prior"
        adam, sgd = torch.optim.Adam, torch.optim.SGD
        self.optimizer = adam(self.parameters, PRIOR_RATE, fused=True) if adaptive else sgd(self.parameters, RATE)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters and code book."""
        self.networks.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()}, strict=False)

    def prepare(self, words: Words) -> Prepared:
        """Shift, pad and mask; done before the clock starts."""
        tokens, lengths = (torch.from_numpy(part).to(self.device) for part in words)
        sentence = torch.cat([torch.full_like(tokens[:, :1], BEGIN), tokens], 1)
        there = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]
        return Prepared(sentence, sentence[:, :-1], (tokens - END).masked_fill(~there, IGNORED), there)

    def loss(self, batch: Prepared) -> Tensor:
        """Loss of a batch, nats per text."""
        return self.losses(batch).mean()

    def losses(self, batch: Prepared, noise: Tensor | None = None) -> Tensor:
        """Loss of each sentence, (B,) nats; in training the codes move with it."""
        if self.kind.startswith("davam"):
            return self._of_codes(batch)
        mean, log_variance = self.networks.encoder(batch).chunk(2, -1)
        z = mean + (0.5 * log_variance).exp() * (torch.randn_like(mean) if noise is None else noise)
        kl = self._divergence(z, mean, log_variance)
        return self._nll(z, batch) + torch.where(batch.there, kl, 0.0).sum(-1)

    def _divergence(self, z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        if self.kind == "vae-attn":
            return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        other, log_other = self.networks.prior(z).chunk(2, -1)
        apart = log_variance.exp() + (mean - other).square()
        return 0.5 * (log_other - log_variance - 1 + apart * (-log_other).exp()).sum(-1)

    def _of_codes(self, batch: Prepared) -> Tensor:
        codes = self.networks.codes
        if self.kind == "davam-prior":
            with torch.no_grad():
                index = codes.nearest(self.networks.encoder(batch))
            logits = self.networks.prior(self.networks.embedding(index)).transpose(1, 2)
            return F.cross_entropy(logits, index.masked_fill(~batch.there, IGNORED), reduction="none").sum(-1)
        h = self.networks.encoder(batch)
        index = codes.nearest(h.detach())
        chosen = codes.vectors[index]
        commitment = torch.where(batch.there, (h - chosen).square().sum(-1), 0.0).sum(-1)
        loss = self._nll(h + (chosen - h).detach(), batch) + COMMITMENT * commitment
        if self.networks.training:
            codes.follow(h.detach(), index, batch.there)
        return loss

    def _nll(self, z: Tensor, batch: Prepared) -> Tensor:
        logits = self.networks.decoder(z, batch)
        nll = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="none")
        return nll.view(batch.targets.shape).sum(-1)
