"""A linear-Gaussian chain: the Kalman filter and smoother in NumPy, and the same model and guides as Pyro programs."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.distributions.bijections import TriangularAffine, TriangularLayout
from ppl_text.distributions.chains import FlowChain
from ppl_text.distributions.transforms import FlowFamily

Array = NDArray[np.float64]


class Chain(NamedTuple):
    """h_t = A h_{t-1} + N(0, Q), h_0 fixed; y_t = c·h_t + N(0, r²); D = 2."""

    A: Array = np.array([[0.9, 0.2], [-0.3, 0.7]])
    Q: Array = np.array([[0.5, 0.2], [0.2, 0.4]])
    c: Array = np.array([1.0, -0.5])
    r: float = 0.6
    start: Array = np.array([0.5, -1.0])
    y: Array = np.array([1.2, -0.4, 0.9, 2.0])


class Smoothed(NamedTuple):
    """ln p(y_1..y_T), and q(h_t | h_{t-1}, y) = N(offset_t + gain_t h_{t-1}, cov_t) of the exact posterior."""

    log_likelihood: float
    gain: Array
    offset: Array
    cov: Array


def kalman(chain: Chain) -> Smoothed:
    """Filter forwards, smooth backwards (Rauch, Tung and Striebel), and turn the pairs into conditionals."""
    mean, cov, log_likelihood = chain.start, np.zeros((2, 2)), 0.0
    filtered, predicted = [(mean, cov)], []
    for y in chain.y:
        mean, cov = chain.A @ mean, chain.A @ cov @ chain.A.T + chain.Q
        predicted.append((mean, cov))
        variance, residual = chain.c @ cov @ chain.c + chain.r**2, y - chain.c @ mean
        log_likelihood -= 0.5 * (np.log(2 * np.pi * variance) + residual**2 / variance)
        weight = cov @ chain.c / variance
        mean, cov = mean + weight * residual, cov - np.outer(weight, chain.c @ cov)
        filtered.append((mean, cov))
    after_mean, after_cov = filtered[-1]
    steps = []
    for (mean, cov), (ahead_mean, ahead_cov) in zip(filtered[-2::-1], predicted[::-1], strict=True):
        smoother = cov @ chain.A.T @ np.linalg.inv(ahead_cov)
        now_mean = mean + smoother @ (after_mean - ahead_mean)
        now_cov = cov + smoother @ (after_cov - ahead_cov) @ smoother.T
        cross = after_cov @ smoother.T
        gain = cross @ np.linalg.pinv(now_cov)
        steps.append((gain, after_mean - gain @ now_mean, after_cov - gain @ cross.T))
        after_mean, after_cov = now_mean, now_cov
    gains, offsets, covs = (np.stack(parts) for parts in zip(*steps[::-1], strict=True))
    return Smoothed(float(log_likelihood), gains, offsets, covs)


Proposal = Callable[[Chain], tuple[Array, Array, Array]]
"""Gains, offsets and covariances of q(h_t | h_{t-1}) for every step."""


def exact_posterior(chain: Chain) -> tuple[Array, Array, Array]:
    """q(h_t | h_{t-1}, y_{t:T}) of the smoother."""
    exact = kalman(chain)
    return exact.gain, exact.offset, exact.cov


def transition(chain: Chain) -> tuple[Array, Array, Array]:
    """p(h_t | h_{t-1}), blind to y."""
    steps = len(chain.y)
    return np.stack([chain.A] * steps), np.zeros((steps, 2)), np.stack([chain.Q] * steps)


def one_step(chain: Chain) -> tuple[Array, Array, Array]:
    """p(h_t | h_{t-1}, y_t): the "optimal" proposal of a filter, whose weight p(y_t | h_{t-1}) forgets h_t."""
    weight = chain.Q @ chain.c / (chain.c @ chain.Q @ chain.c + chain.r**2)
    shrink = np.eye(2) - np.outer(weight, chain.c)
    steps = len(chain.y)
    return np.stack([shrink @ chain.A] * steps), np.outer(chain.y, weight), np.stack([shrink @ chain.Q] * steps)


def dense_log_likelihood(chain: Chain) -> float:
    """Ln p(y) as one Gaussian over all observations, with no recursion: the oracle of the oracle."""
    steps = len(chain.y)
    mean, cov = np.zeros(steps), np.zeros((steps, steps))
    for t in range(steps):
        mean[t] = chain.c @ np.linalg.matrix_power(chain.A, t + 1) @ chain.start
        for s in range(steps):
            paths = [
                np.linalg.matrix_power(chain.A, t - i) @ chain.Q @ np.linalg.matrix_power(chain.A, s - i).T
                for i in range(min(s, t) + 1)
            ]
            cov[t, s] = chain.c @ sum(paths) @ chain.c + (s == t) * chain.r**2
    residual = chain.y - mean
    _, log_det = np.linalg.slogdet(2 * np.pi * cov)
    return float(-0.5 * (log_det + residual @ np.linalg.solve(cov, residual)))


class _Triangle(FlowFamily):
    """θ = [loc (2), diagonal (2), lower (1)], taken as they are."""

    dim, param_dim, affine = 2, 5, True

    def __init__(self) -> None:
        super().__init__()
        self.layout = TriangularLayout(2).double()

    def forward(self, params: Tensor) -> TriangularAffine:
        loc, diagonal, lower = params.split([2, 2, 1], dim=-1)
        return TriangularAffine(loc, diagonal, lower, self.layout)


class LinearKernel:
    """h_t = offset + gain h_{t-1} + L ξ_t; the numbers (9,) of a step come as its context, or are fixed."""

    feedback = True

    def __init__(self, fixed: Tensor | None = None) -> None:
        self.family, self.fixed = _Triangle(), fixed

    def project(self, context: Tensor | None = None) -> Tensor:
        """The numbers of each step."""
        return self.fixed if context is None else context

    def params(self, state: Tensor, projected: Tensor) -> Tensor:
        """θ of a step."""
        gain, offset, noise = projected.split([4, 2, 3], dim=-1)
        loc = offset + (gain.unflatten(-1, (2, 2)) @ state.unsqueeze(-1)).squeeze(-1)
        return torch.cat([loc, noise.expand(*loc.shape[:-1], 3)], dim=-1)


def packed(gain: Array, offset: Array, cov: Array) -> Tensor:
    """(9,) numbers of one step."""
    factor = np.linalg.cholesky(cov)
    return torch.tensor([*gain.reshape(-1), *offset, factor[0, 0], factor[1, 1], factor[1, 0]], dtype=torch.float64)


class LinearModel(nn.Module):
    """p(h_{1:T}) Π_t N(y_t; c·h_t, r²), with c a parameter."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.kernel = LinearKernel(packed(chain.A, np.zeros(2), chain.Q))
        self.start, self.y, self.r = torch.tensor(chain.start), torch.tensor(chain.y), chain.r
        self.c = nn.Parameter(torch.tensor(chain.c))

    def prior(self, rows: int) -> FlowChain:
        """p(h_{1:T})."""
        steps = len(self.y)
        return FlowChain(self.kernel, self.start, torch.full((rows,), steps), steps)

    def forward(self, batch: Batch) -> None:
        """The Pyro program."""
        with pyro.plate("sentences", batch.size, dim=-1):
            h = pyro.sample("h", self.prior(batch.size))
            observed = self.y.expand(batch.size, len(self.y))
            pyro.sample("tokens", dist.Normal(h @ self.c, self.r).to_event(1), obs=observed)

    def smc_init(self, state: MutableMapping[str, Tensor], batch: Batch) -> FlowChain:
        """The same story step by step."""
        with pyro.plate("sentences", batch.size, dim=-1):
            state["h"] = pyro.sample("h_0", dist.Delta(self.start, event_dim=1))
        return self.prior(batch.size)

    def smc_step(self, state: MutableMapping[str, Tensor], batch: Batch, t: int, chain: FlowChain) -> None:
        """Step t = 0, …, T-1."""
        with pyro.plate("sentences", batch.size, dim=-1):
            state["h"] = pyro.sample(f"h_{t + 1}", chain.at(t, state["h"]))
            pyro.sample(f"y_{t + 1}", dist.Normal(state["h"] @ self.c, self.r), obs=self.y[t].expand(batch.size))


class LinearGuide(nn.Module):
    """q(h_t | h_{t-1}): a proposal, with its offsets moved and its noise stretched if asked."""

    def __init__(
        self, chain: Chain, proposal: Proposal = exact_posterior, *, shift: float = 0.0, stretch: float = 1.0
    ) -> None:
        super().__init__()
        steps = zip(*proposal(chain), strict=True)
        table = torch.stack([packed(gain, offset + shift, stretch**2 * cov) for gain, offset, cov in steps])
        self.start, self.table = torch.tensor(chain.start), nn.Parameter(table)

    def posterior(self, rows: int) -> FlowChain:
        """q(h_{1:T})."""
        steps = len(self.table)
        context = self.table.expand(rows, steps, 9)
        return FlowChain(LinearKernel(), self.start, torch.full((rows,), steps), steps, context)

    def forward(self, batch: Batch) -> None:
        """The Pyro program."""
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("h", self.posterior(batch.size))

    def smc_init(self, state: MutableMapping[str, Tensor], batch: Batch) -> FlowChain:
        """The same guide step by step."""
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("h_0", dist.Delta(self.start, event_dim=1))
        return self.posterior(batch.size)

    def smc_step(self, state: MutableMapping[str, Tensor], batch: Batch, t: int, chain: FlowChain) -> None:
        """Step t = 0, …, T-1."""
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample(f"h_{t + 1}", chain.at(t, state["h"]))
