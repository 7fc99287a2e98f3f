"""The LSTM variational autoencoder of sentences as a plain PyTorch loop: no Pyro, no torch.distributions.

Written from the equations (specification 0), as one would for speed: both LSTMs by ``nn.LSTM``, z put beside the
embeddings, one matrix product for all logits and ``cross_entropy`` on them, KL in closed form::

    q(z | w)    [mu; log s2] = W h, h the last state of an LSTM over BOS w_1 … w_n EOS;  z = mu + s * eps
    p(w | z)    LSTM over [emb(w_{t-1}); z], c_0 = W_z z, h_0 = tanh(c_0);  softmax(W_o h_t) over EOS and the words
    loss        mean over the sentences of -log p(w | z) + KL(q || N(0, I)), in nats

Dropout 0.5 on the decoder's embeddings and outputs; SGD with gradients clipped at global norm 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import BEGIN, END, IGNORED, Parameters, Words
from benchmarks.peers.loop import Loop

BATCH, STEPS = 32, 24
VOCABULARY, EMBEDDING, HIDDEN, LATENT = 10_000, 256, 256, 32
DROPOUT, LEARNING_RATE = 0.5, 1.0


class Sizes(NamedTuple):
    """V, E, H and D."""

    vocabulary: int = VOCABULARY
    embedding: int = EMBEDDING
    hidden: int = HIDDEN
    latent: int = LATENT


class Prepared(NamedTuple):
    """A batch as the step reads it: encoder and decoder inputs, targets (B, T), places of the encoder's last states."""

    sentence: Tensor
    inputs: Tensor
    targets: Tensor
    rows: Tensor
    last: Tensor


class Networks(nn.Module):
    """Encoder and decoder."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        vocabulary, embedding, hidden, latent = sizes
        self.encoder_embedding = nn.Embedding(vocabulary, embedding)
        self.encoder = nn.LSTM(embedding, hidden, batch_first=True)
        self.moments = nn.Linear(hidden, 2 * latent, bias=False)
        self.decoder_embedding = nn.Embedding(vocabulary, embedding)
        self.decoder = nn.LSTM(embedding + latent, hidden, batch_first=True)
        self.bridge = nn.Linear(latent, hidden, bias=False)
        self.head = nn.Linear(hidden, vocabulary - END, bias=False)
        self.dropout = nn.Dropout(DROPOUT)

    def encode(self, batch: Prepared) -> tuple[Tensor, Tensor]:
        """Return mu and log s2, each (B, D)."""
        states = self.encoder(self.encoder_embedding(batch.sentence))[0]
        return self.moments(states[batch.rows, batch.last]).chunk(2, -1)

    def decode(self, z: Tensor, batch: Prepared) -> Tensor:
        """Return logits (B, T, V - 2)."""
        embedded = self.dropout(self.decoder_embedding(batch.inputs))
        cell = self.bridge(z)
        along = z.unsqueeze(1).expand(-1, embedded.shape[1], -1)
        states = self.decoder(torch.cat([embedded, along], -1), (cell.tanh().unsqueeze(0), cell.unsqueeze(0)))[0]
        return self.head(self.dropout(states))


class LSTMVAE(Loop):
    """The contestant: ``step`` takes one training step, ``elbo`` and ``gradients`` leave dropout out."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008 - numbers
        torch.manual_seed(seed)
        self.device, self.networks = device, Networks(sizes).to(device)
        self.parameters = list(self.networks.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=LEARNING_RATE)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters under the names of :class:`Networks`."""
        self.networks.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})

    def prepare(self, words: Words) -> Prepared:
        """Shift, pad and mask; done before the clock starts."""
        tokens, lengths = (torch.from_numpy(part).to(self.device) for part in words)
        sentence = torch.cat([torch.full_like(tokens[:, :1], BEGIN), tokens], 1)
        padding = torch.arange(tokens.shape[1], device=self.device) >= lengths[:, None]
        targets, rows = (tokens - END).masked_fill(padding, IGNORED), torch.arange(len(tokens), device=self.device)
        return Prepared(sentence, sentence[:, :-1], targets, rows, lengths)

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        """Bound of each sentence, (B,) in nats, with the KL in closed form, from given noise (B, D)."""
        self.networks.eval()
        with torch.no_grad():
            batch = self.prepare(words)
            mean, log_variance = self.networks.encode(batch)
            z = _draw(mean, log_variance, torch.from_numpy(noise).to(self.device))
            logits = self.networks.decode(z, batch)
            nll = F.cross_entropy(logits.transpose(1, 2), batch.targets, ignore_index=IGNORED, reduction="none")
            return -(nll.sum(-1) + _divergence(mean, log_variance)).cpu().numpy()

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        """Gradient of the loss with respect to every parameter, from given noise and without dropout."""
        self.networks.eval()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.prepare(words), torch.from_numpy(noise).to(self.device)).backward()
        return {name: value.grad.cpu().numpy().copy() for name, value in self.networks.named_parameters()}

    def loss(self, batch: Prepared, noise: Tensor | None = None) -> Tensor:
        mean, log_variance = self.networks.encode(batch)
        z = _draw(mean, log_variance, torch.randn_like(mean) if noise is None else noise)
        logits = self.networks.decode(z, batch).flatten(0, 1)
        nll = F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return (nll + _divergence(mean, log_variance).sum()) / len(mean)


def sentences(seed: int = 0, sizes: Sizes = Sizes(), batch: int = BATCH, steps: int = STEPS) -> Words:  # noqa: B008
    """Sentences of equal length, as the corpora of this model are batched; tokens uniform over the vocabulary."""
    tokens = np.random.default_rng(seed).integers(END + 1, sizes.vocabulary, (batch, steps))
    tokens[:, -1] = END
    return Words(tokens.astype(np.int64), np.full(batch, steps, dtype=np.int64))


def _draw(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    return mean + (0.5 * log_variance).exp() * noise


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q || N(0, I)) of each sentence."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(-1)


def build(seed: int = 0, device: str = "cpu") -> LSTMVAE:
    """The loop at PTB sizes."""
    return LSTMVAE(seed, device)
