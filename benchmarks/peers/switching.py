"""A language model switched by contextual codes, in plain PyTorch and in stock Pyro; the codes are summed out.

Written from the equations (specification 6), as in a book: the recursion over paths by ``logsumexp``, differentiated by
autograd, on one product for the logits of all codes and ``cross_entropy`` on them::

    s_t  = LSTM(emb(w_{t-1}), s_{t-1});  f_t^k = tanh((U + V^k) s_t + b^k), V of the first code 0
    p(z_t | z_{t-1}, w_{<t}) = softmax(W s_t + B_{z_{t-1}}), of the first softmax(W s_1 + b)
    p(w_t | w_{<t}, z_t) = softmax(E f_t^{z_t})
    loss = mean over the texts of -log sum_z p(z, w), in nats

Dropout 0.5 on embeddings and states; gradients are clipped at global norm 5; SGD. In stock Pyro z_t and w_t are a site
each, the codes are enumerated in parallel, and ``TraceEnum_ELBO`` sums them out. Parameters have the names of ours.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.ops.indexing import Vindex
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import CLIP_NORM, END, IGNORED, Parameters
from benchmarks.peers.language_model import LanguageModel, Prepared
from benchmarks.peers.latent_sequence import DROPOUT, RATE, Sizes
from benchmarks.peers.stock import Programs, Stock

CODES = 4


class Networks(nn.Module):
    """LSTM, the maps of the codes, their transitions, and the head that they share."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.embedding
        self.embedding = nn.Embedding(sizes.vocabulary, width)
        self.lstm = nn.LSTM(width, sizes.hidden, batch_first=True)
        self.map = nn.Linear(sizes.hidden, width)
        self.shifts = nn.ModuleList([nn.Linear(sizes.hidden, (CODES - 1) * width)])
        self.head = nn.Linear(width, sizes.vocabulary - END, bias=False)
        self.context = nn.Linear(sizes.hidden, CODES, bias=False)
        self.start = nn.Parameter(torch.zeros(CODES))
        self.onward = nn.Parameter(torch.zeros(CODES, CODES))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, T, M, V - 2), and log p(z_1) (B, M), log p(z_t | z_{t-1}) (B, T, M, M)."""
        states = self.dropout(self.lstm(self.dropout(self.embedding(inputs)))[0])
        shared, others = self.map(states), self.shifts[0](states).unflatten(-1, (CODES - 1, -1))
        own = torch.cat([shared.unsqueeze(-2), shared.unsqueeze(-2) + others], -2)
        given = self.context(states)
        first = (given[:, 0] + self.start).log_softmax(-1)
        return self.head(own.tanh()), first, (given.unsqueeze(-2) + self.onward).log_softmax(-1)


class Switching(LanguageModel):
    """The contestant: a plain loop."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        torch.manual_seed(seed)
        self.device, self.networks = device, Networks(sizes).to(device)
        self.parameters = list(self.networks.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, RATE)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters."""
        self.networks.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})

    def loss(self, batch: Prepared) -> Tensor:
        """Loss of a batch on fresh dropout, nats per text."""
        logits, first, onward = self.networks(batch.inputs)
        targets = batch.targets.unsqueeze(-1).expand(logits.shape[:-1])
        nll = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=IGNORED, reduction="none")
        scores, there = -nll.view(targets.shape), batch.targets != IGNORED
        current = first + scores[:, 0]
        for t in range(1, scores.shape[1]):
            moved = torch.logsumexp(current.unsqueeze(-1) + onward[:, t], -2) + scores[:, t]
            current = torch.where(there[:, t, None], moved, current)
        return -current.logsumexp(-1).mean()


class _Programs(Programs):
    def model(self, batch: Any) -> None:
        """p(z_t | z_{t-1}, w_{<t}) and p(w_t | w_{<t}, z_t), a site each for every t; padded codes sum to 1."""
        logits, first, onward = self.networks(batch.inputs)
        rows = torch.arange(len(logits), device=logits.device)
        with self.texts(len(logits)):
            for t in pyro.markov(range(logits.shape[1])):
                law = first if t == 0 else Vindex(onward)[rows, t, z]  # noqa: F821 - of the step before
                z = pyro.sample(f"z_{t}", dist.Categorical(logits=law), infer={"enumerate": "parallel"})
                with poutine.mask(mask=batch.targets[:, t] != IGNORED):
                    words = dist.Categorical(logits=Vindex(logits)[rows, t, z])
                    pyro.sample(f"w_{t}", words, obs=batch.targets[:, t].clamp(min=0))


class StockPyro(Stock, Switching):
    """The contestant: ``SVI(model, guide, SGD, TraceEnum_ELBO())``."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        super().__init__(kind, seed, device, sizes)
        bound = TraceEnum_ELBO(max_plate_nesting=1)
        self.follow(_Programs(self.networks), bound, torch.optim.SGD, RATE, CLIP_NORM)
