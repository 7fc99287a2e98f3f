"""The sentence VAE in stock Pyro, as its VAE example is written: one site z, one site for all tokens, ``SVI.step``.

The networks are those of :mod:`benchmarks.peers.lstm_vae`; ``TraceMeanField_ELBO`` has the KL in closed form,
``Categorical`` scores the tokens and ``mask`` leaves the padding out. What it shares with other peers in stock Pyro is
:mod:`benchmarks.peers.stock`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from benchmarks.peers import CLIP_NORM, IGNORED, Parameters, Words
from benchmarks.peers.lstm_vae import LEARNING_RATE, LSTMVAE, Prepared, Sizes
from benchmarks.peers.stock import Programs, Stock


class _Programs(Programs):
    def model(self, batch: Prepared) -> None:
        """p(z) = N(0, I) and p(w | z)."""
        zero = self.networks.bridge.weight.new_zeros(len(batch.targets), self.networks.bridge.in_features)
        with self.texts(len(batch.targets)):
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            words = dist.Categorical(logits=self.networks.decode(z, batch))
            mask = batch.targets != IGNORED
            pyro.sample("w", words.mask(mask).to_event(1), obs=batch.targets.clamp(min=0))

    def guide(self, batch: Prepared) -> None:
        """q(z | w)."""
        mean, log_variance = self.networks.encode(batch)
        with self.texts(len(batch.targets)):
            pyro.sample("z", dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1))


class StockPyro(Stock, LSTMVAE):
    """The contestant: ``SVI(model, guide, SGD, TraceMeanField_ELBO())``."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008 - numbers
        super().__init__(seed, device, sizes)
        self.follow(_Programs(self.networks), TraceMeanField_ELBO(), torch.optim.SGD, LEARNING_RATE, CLIP_NORM)

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        """Bound of each sentence, (B,) in nats, with the KL in closed form, from given noise (B, D)."""
        self.networks.eval()
        with torch.no_grad():
            return self._bound(words, noise).cpu().numpy()

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        """Gradient of the loss with respect to every parameter, from given noise and without dropout."""
        self.networks.eval()
        self.networks.zero_grad()
        (-self._bound(words, noise).mean()).backward()
        gradients = {name: value.grad.cpu().numpy().copy() for name, value in self.networks.named_parameters()}
        self.networks.zero_grad()  # SVI.step adds to what it finds, and clears only after itself
        return gradients

    def _bound(self, words: Words, noise: np.ndarray) -> Tensor:
        """Per-sentence bound (B,) from the traces of model and guide, at the z that the noise gives."""
        batch = self.prepare(words)
        mean, log_variance = self.networks.encode(batch)
        z = mean + (0.5 * log_variance).exp() * torch.from_numpy(noise).to(self.device)
        guide = _trace(self.programs.guide, batch, z)
        model = _trace(self.programs.model, batch, z)
        kl = kl_divergence(guide.nodes["z"]["fn"], model.nodes["z"]["fn"])
        return model.nodes["w"]["log_prob"] * len(batch.targets) - kl


def _trace(program: Callable[[Prepared], None], batch: Prepared, z: Tensor) -> Any:
    """Trace a program at a given z, with the log-densities of its sites."""
    trace = poutine.trace(poutine.condition(program, data={"z": z})).get_trace(batch)
    trace.compute_log_prob(site_filter=lambda name, _: name in ("z", "w"))
    return trace
