"""The stock way in Pyro: one sample site per time step, as in Pyro's deep Markov model example.

``pyro.module`` registers the networks, ``SVI.step`` with ``Trace_ELBO`` takes the step, and sentences
of different length are handled by ``poutine.mask``. Validation is off, as it is for a user who cares
for speed. The optimiser is the example's own, ClippedAdam, which clips every gradient entry to
[-5, 5] rather than one norm over all parameters; of Pyro's ways to clip it is the quickest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from benchmarks.peers import CLIP_NORM, LEARNING_RATE, STATE, Parameters, Words, initial_parameters
from benchmarks.peers.networks import Networks, TorchWords, prepare

INSTANCES = itertools.count()


class InverseTriangular(Transform):
    """h = m + A^{-1} zeta for a lower triangular A: the density of h needs A itself, no solve."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, mean: Tensor, diagonal: Tensor, lower: Tensor, places: Tensor) -> None:
        super().__init__(cache_size=1)
        self.mean, self.diagonal = mean, diagonal
        self.matrix = torch.diag_embed(diagonal)
        self.matrix[..., places[0], places[1]] = lower

    def _call(self, zeta: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(self.matrix, zeta.unsqueeze(-1), upper=False)
        return self.mean + solved.squeeze(-1)

    def _inverse(self, state: Tensor) -> Tensor:
        return (self.matrix @ (state - self.mean).unsqueeze(-1)).squeeze(-1)

    def log_abs_det_jacobian(self, zeta: Tensor, state: Tensor) -> Tensor:
        return -self.diagonal.log().sum(-1)


class DeepMarkovModel(nn.Module):
    """Model and guide over the sites h_1..h_T, w_1..w_T; all log-terms in nats, scaled to the mean sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = Networks()
        self.name = f"deep_markov_model_{next(INSTANCES)}"

    def model(self, batch: TorchWords) -> None:
        """p(h_t | h_{t-1}) and p(w_t | h_t), a site each for every t."""
        pyro.module(self.name, self)
        size, steps = batch.tokens.shape
        state = self.networks.initial.expand(size, STATE)
        white = dist.Normal(state.new_zeros(size, STATE), state.new_ones(size, STATE)).to_event(1)
        with pyro.plate("sentences", size), poutine.scale(scale=1.0 / size):
            for t in pyro.markov(range(1, steps + 1)):
                with poutine.mask(mask=batch.mask[:, t - 1]):
                    flow = InverseTriangular(*self.networks.transition_parameters(state), self.networks.places)
                    state = pyro.sample(f"h_{t}", dist.TransformedDistribution(white, [flow]))
                    logits = self.networks.emission(state)
                    pyro.sample(f"w_{t}", dist.Categorical(logits=logits), obs=batch.outcomes[:, t - 1])

    def guide(self, batch: TorchWords) -> None:
        """q(h_t | h_{t-1}, w_{t:n}), a site for every t."""
        pyro.module(self.name, self)
        size, steps = batch.tokens.shape
        state, encoded = self.networks.initial.expand(size, STATE), self.networks.encode(batch)
        with pyro.plate("sentences", size), poutine.scale(scale=1.0 / size):
            for t in pyro.markov(range(1, steps + 1)):
                with poutine.mask(mask=batch.mask[:, t - 1]):
                    loc, scale = self.networks.guide_parameters(state, encoded[:, t - 1])
                    state = pyro.sample(f"h_{t}", dist.Normal(loc, scale).to_event(1))


class StockPyro:
    """The contestant: ``SVI(model, guide, ClippedAdam, Trace_ELBO())``."""

    def __init__(self, seed: int, device: str) -> None:
        self.module, self.device = DeepMarkovModel().to(device), device
        self.module.networks.load(initial_parameters(seed))
        optimizer = ClippedAdam({"lr": LEARNING_RATE, "clip_norm": CLIP_NORM})
        self.svi = SVI(self.module.model, self.module.guide, optimizer, Trace_ELBO())

    def load(self, parameters: Parameters) -> None:
        self.module.networks.load(parameters)

    def prepare(self, words: Words) -> TorchWords:
        return prepare(words, self.device)

    def step(self, batch: TorchWords) -> float:
        with pyro.validation_enabled(False):
            return self.svi.step(batch)

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._bound(self.prepare(words), torch.from_numpy(noise).to(self.device)).cpu().numpy()

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        (-self._bound(self.prepare(words), torch.from_numpy(noise).to(self.device)).mean()).backward()
        gradients = self.module.networks.collect_gradients()
        self.module.zero_grad()  # SVI.step adds to what it finds, and clears only after itself
        return gradients

    def _bound(self, batch: TorchWords, noise: Tensor) -> Tensor:
        """Per-sentence bound (B,) from the traces of model and guide, on the path that the noise gives."""
        path = self._path(batch, noise)
        log_p, log_q = (
            _log_density(poutine.condition(program, data=path), batch)
            for program in (self.module.model, self.module.guide)
        )
        return log_p - log_q

    def _path(self, batch: TorchWords, noise: Tensor) -> dict[str, Tensor]:
        state, encoded = self.module.networks.initial.expand(len(noise), STATE), self.module.networks.encode(batch)
        path = {}
        for t in range(noise.shape[1]):
            loc, scale = self.module.networks.guide_parameters(state, encoded[:, t])
            path[f"h_{t + 1}"] = state = loc + scale * noise[:, t]
        return path


def build(seed: int, device: str = "cpu") -> StockPyro:
    """One Pyro site per step, SVI.step."""
    return StockPyro(seed, device)


def _log_density(program: Callable[[TorchWords], None], batch: TorchWords) -> Tensor:
    """Log-densities of all sites h_t and w_t, added up for each sentence (B,), with the 1/B taken out."""
    trace = poutine.trace(program).get_trace(batch)
    sites = [name for name in trace.nodes if name.startswith(("h_", "w_"))]
    trace.compute_log_prob(site_filter=lambda name, _: name in sites)
    return torch.stack([trace.nodes[name]["log_prob"] for name in sites]).sum(0) * len(batch.tokens)
