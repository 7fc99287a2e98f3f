"""The LSTM language model as anybody writes it, in plain PyTorch and in stock Pyro: nothing is latent.

    s_t  = LSTM(emb(w_{t-1}), s_{t-1}), s_0 = 0, w_0 = BOS;  p(w_t | w_{<t}) = softmax(W s_t + b) over EOS and the words
    loss = mean over the texts of -log p(w), in nats

Gradients are clipped at global norm 5; Adam. In stock Pyro every token is a site, and the guide has none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import BEGIN, CLIP_NORM, END, IGNORED, Parameters, Words
from benchmarks.peers.loop import Loop
from benchmarks.peers.stock import Programs, Stock, observe

RATE = 1e-3


class Sizes(NamedTuple):
    """V, E and H: those of the Penn Treebank."""

    vocabulary: int = 10_000
    embedding: int = 256
    hidden: int = 256


class Prepared(NamedTuple):
    """A batch as the step reads it: inputs and outcomes (B, T)."""

    inputs: Tensor
    targets: Tensor


class Networks(nn.Module):
    """Embedding, LSTM and head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.cell = nn.LSTM(sizes.embedding, sizes.hidden, batch_first=True)
        self.head = nn.Linear(sizes.hidden, sizes.vocabulary - END)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, T, V - 2)."""
        logits: Tensor = self.head(self.cell(self.embedding(inputs))[0])
        return logits


class LanguageModel(Loop):
    """The contestant: a plain loop."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008 - numbers
        torch.manual_seed(seed)
        self.device, self.networks = device, Networks(sizes).to(device)
        self.parameters = list(self.networks.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, RATE, fused=True)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters."""
        self.networks.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})

    def prepare(self, words: Words) -> Prepared:
        """Shift and mask; done before the clock starts."""
        tokens, lengths = (torch.from_numpy(part).to(self.device) for part in words)
        inputs = torch.cat([torch.full_like(tokens[:, :1], BEGIN), tokens[:, :-1]], 1)
        padding = torch.arange(tokens.shape[1], device=self.device) >= lengths[:, None]
        return Prepared(inputs, (tokens - END).masked_fill(padding, IGNORED))

    def loss(self, batch: Prepared) -> Tensor:
        """Loss of a batch, nats per text."""
        logits = self.networks(batch.inputs).flatten(0, 1)
        total = F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / len(batch.targets)


class _Programs(Programs):
    def model(self, batch: Any) -> None:
        """p(w_t | w_{<t}), a site for every t."""
        with self.texts(len(batch.targets)):
            observe(self.networks(batch.inputs), batch.targets)


class StockPyro(Stock, LanguageModel):
    """The contestant: ``SVI(model, guide, Adam, Trace_ELBO())``."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008 - numbers
        super().__init__(seed, device, sizes)
        self.follow(_Programs(self.networks), Trace_ELBO(), torch.optim.Adam, RATE, CLIP_NORM)
