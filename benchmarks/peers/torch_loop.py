"""A hand-written PyTorch training loop: no Pyro, no torch.distributions.

Two variants of the same step. ``build`` accumulates every log-probability inside the loop over time;
``build_parallel`` keeps only the sampling in the loop and scores the whole path afterwards at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers import LEARNING_RATE, STATE, Parameters, Words, initial_parameters
from benchmarks.peers.loop import Loop
from benchmarks.peers.networks import Networks, TorchWords, prepare

LOG_NORMALISER = 0.5 * STATE * math.log(2 * math.pi)

Bound = Callable[["LoopNetworks", TorchWords, Tensor], Tensor]


class LoopNetworks(Networks):
    """The networks, and the constants with which a triangle is multiplied by two thin products."""

    spread: Tensor
    gather: Tensor

    def __init__(self) -> None:
        super().__init__()
        rows, columns = self.places
        self.register_buffer("spread", F.one_hot(columns, STATE).T.float(), persistent=False)
        self.register_buffer("gather", F.one_hot(rows, STATE).float(), persistent=False)


class TorchLoop(Loop):
    """A contestant that descends minus the mean of ``bound(networks, batch, noise)``, which is (B,)."""

    def __init__(self, bound: Bound, seed: int, device: str) -> None:
        self.networks, self.bound, self.device = LoopNetworks().to(device), bound, device
        self.networks.load(initial_parameters(seed))
        self.parameters = list(self.networks.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True)

    def load(self, parameters: Parameters) -> None:
        self.networks.load(parameters)

    def prepare(self, words: Words) -> TorchWords:
        return prepare(words, self.device)

    def loss(self, batch: TorchWords) -> torch.Tensor:
        return -self.bound(self.networks, batch, torch.randn(*batch.tokens.shape, STATE, device=self.device)).mean()

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._from(words, noise).cpu().numpy()

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        self.optimizer.zero_grad(set_to_none=True)
        (-self._from(words, noise).mean()).backward()
        return self.networks.collect_gradients()

    def _from(self, words: Words, noise: np.ndarray) -> Tensor:
        return self.bound(self.networks, self.prepare(words), torch.from_numpy(noise).to(self.device))


def build(seed: int, device: str = "cpu") -> TorchLoop:
    """The loop that most people write: all densities step by step."""
    return TorchLoop(bound_in_loop, seed, device)


def build_parallel(seed: int, device: str = "cpu") -> TorchLoop:
    """The loop of someone who has profiled it: only the sampling is sequential."""
    return TorchLoop(bound_in_parallel, seed, device)


def bound_in_loop(networks: LoopNetworks, batch: TorchWords, noise: Tensor) -> Tensor:
    """Single-sample bound (B,): sample, score and add up, one time step after the other."""
    encoded, state = networks.encode(batch), networks.initial
    total = noise.new_zeros(noise.shape[0])
    for t in range(noise.shape[1]):
        loc, scale = networks.guide_parameters(state, encoded[:, t])
        new = loc + scale * noise[:, t]
        term = log_transition(networks, state, new) + log_emission(networks, new, batch.outcomes[:, t])
        total = total + torch.where(batch.mask[:, t], term - log_guide(noise[:, t], scale), 0.0)
        state = new
    return total


def bound_in_parallel(networks: LoopNetworks, batch: TorchWords, noise: Tensor) -> Tensor:
    """Single-sample bound (B,): sample the path step by step, then score it at once."""
    encoded, state = networks.encode(batch), networks.initial.expand(noise.shape[0], STATE)
    states, scales = [state], []
    for encoded_t, noise_t in zip(encoded.unbind(1), noise.unbind(1), strict=True):
        loc, scale = networks.guide_parameters(state, encoded_t)
        state = torch.addcmul(loc, scale, noise_t)
        states.append(state)
        scales.append(scale)
    path = torch.stack(states, 1)
    log_p = log_transition(networks, path[:, :-1], path[:, 1:]) + log_emission(networks, path[:, 1:], batch.outcomes)
    return torch.where(batch.mask, log_p - log_guide(noise, torch.stack(scales, 1)), 0.0).sum(1)


def log_transition(networks: LoopNetworks, previous: Tensor, state: Tensor) -> Tensor:
    """Return log p(h_t | h_{t-1}), nats."""
    mean, diagonal, lower = networks.transition_parameters(previous)
    difference = state - mean
    zeta = difference * diagonal + (lower * (difference @ networks.spread)) @ networks.gather
    return (diagonal.log() - 0.5 * zeta.square()).sum(-1) - LOG_NORMALISER


def log_emission(networks: LoopNetworks, state: Tensor, outcomes: Tensor) -> Tensor:
    """Return log p(w_t | h_t), nats."""
    logits = networks.emission(state)
    return -F.cross_entropy(logits.flatten(0, -2), outcomes.flatten(), reduction="none").view(outcomes.shape)


def log_guide(noise: Tensor, scale: Tensor) -> Tensor:
    """Return log q(h_t | h_{t-1}, w_{t:n}), nats, at loc + scale * noise."""
    return -(0.5 * noise.square() + scale.log()).sum(-1) - LOG_NORMALISER
