"""Small Pyro programs whose log p(x) is known, and evaluation sets for them."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppl_text.core.batch import Batch
from ppl_text.core.latents import LatentSpec
from ppl_text.data.batches import EvaluationSet

NOISE = 0.7


def batch_of(lengths, weights=None):
    """A batch whose only content is its lengths."""
    lengths = torch.tensor(lengths)
    tokens = torch.full((len(lengths), int(lengths.max())), 3)
    tokens[torch.arange(len(lengths)), lengths - 1] = 2
    weights = torch.ones(len(lengths)) if weights is None else torch.tensor(weights, dtype=torch.float64)
    return Batch(tokens, lengths, weights, tokens)


def evaluation_set(*batches):
    total = sum(float(batch.weights.sum()) for batch in batches)
    return EvaluationSet(list(batches), [[] for _ in batches], total)


class Gaussian(nn.Module):
    """z ~ N(0, 1), x | z ~ N(z, s²), observed at x = length - 3: ln p(x) = ln N(x; 0, 1 + s²)."""

    latents = (LatentSpec("z", axes=(), sizes={}),)

    def __init__(self):
        super().__init__()
        self.widest = 0
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            self.widest = max(self.widest, z.numel() // batch.size)
            pyro.sample("tokens", dist.Normal(z * self.dropout(torch.ones(())), NOISE), obs=observed(batch))


class GaussianGuide(nn.Module):
    """q(z | x) = N(m + shift, (stretch v)²); the exact posterior for shift 0 and stretch 1."""

    def __init__(self, shift=0.0, stretch=1.0):
        super().__init__()
        self.shift, self.stretch = shift, stretch

    def forward(self, batch):
        loc = observed(batch) / (1 + NOISE**2) + self.shift
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(loc, self.stretch * posterior_scale()))


def observed(batch):
    return batch.lengths.double() - 3.0


def posterior_scale():
    return NOISE / math.sqrt(1 + NOISE**2)


def log_evidence(lengths):
    """Ln p(x) of :class:`Gaussian`."""
    x, variance = np.asarray(lengths) - 3.0, 1 + NOISE**2
    return -0.5 * (np.log(2 * np.pi * variance) + x**2 / variance)


def gap(shift, stretch):
    """KL(q ‖ posterior) of :class:`GaussianGuide`: ln p(x) less the exact ELBO."""
    return 0.5 * (stretch**2 + (shift / posterior_scale()) ** 2 - 1) - math.log(stretch)


class Enumerable(nn.Module):
    """z ~ Cat(π) of 3, letters i.i.d. ~ Cat(θ_z), EOS from the same table: ln p(w) = ln Σ_z π_z Π_t θ_z,w_t."""

    latents = (LatentSpec("z", axes=(), sizes={}),)
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    table = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1]], dtype=torch.float64)  # EOS, a, b

    def joint(self, batch):
        """Ln π_z + ln p(w | z), (3, B)."""
        mask = torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)
        letters = self.table.log()[:, (batch.tokens - 2).clamp(min=0)]
        return self.prior.log().unsqueeze(-1) + torch.where(mask, letters, 0.0).sum(-1)

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", dist.Categorical(self.prior))
            logits = self.table.log()[z].unsqueeze(-2).expand(*z.shape, batch.steps, 3)
            mask = torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)
            letters = dist.Categorical(logits=logits).mask(mask).to_event(1)
            pyro.sample("tokens", letters, obs=(batch.tokens - 2).clamp(min=0))


class EnumerableGuide(nn.Module):
    """q(z | w): the exact posterior, flattened by a temperature."""

    def __init__(self, model, temperature=1.0):
        super().__init__()
        self._model, self.temperature = (model,), temperature

    def forward(self, batch):
        logits = self._model[0].joint(batch).T / self.temperature
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Categorical(logits=logits))


class Unigram(nn.Module):
    """No latents: p(w) = Π_t p(w_t) over letters and EOS, from a table of log-probabilities by id."""

    latents = ()

    def __init__(self, log_probabilities):
        super().__init__()
        self.log_probabilities = log_probabilities

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            table = dist.Categorical(logits=self.log_probabilities.expand(batch.size, batch.steps, -1))
            mask = torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)
            pyro.sample("tokens", table.mask(mask).to_event(1), obs=batch.tokens)


class Nothing(nn.Module):
    """A guide of a model without latents."""

    def forward(self, batch):
        """Sample nothing."""
