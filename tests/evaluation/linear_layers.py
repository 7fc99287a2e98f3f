"""A chain of latents z_1, z_2, z_3 that is linear and Gaussian throughout: its information and its KL are known.

x of a sentence is one of N quantiles of N(0, 1), which its first token names.

    q: z_1 ~ N(1.5 x, 0.8²), z_2 ~ N(0.5 z_1 + x, 0.7²), z_3 ~ N(-0.9 z_2, 1.1²)
    p: z_1 ~ N(0, 1),        z_2 ~ N(0.4 z_1, 1),        z_3 ~ N(0.3 z_2, 1);  tokens ~ N(z_1 + z_2 + z_3, 1) at x
"""

import math

import numpy as np
import pyro
import torch
from pyro.distributions import Normal
from torch import nn

from ppl_text.core.latents import LatentSpec

from .test_information import NORMAL, Program, x_of

SITES = ("z_1", "z_2", "z_3")
OF_X, OF_BEFORE, SCALES = (1.5, 1.0, 0.0), (0.0, 0.5, -0.9), (0.8, 0.7, 1.1)
PRIOR_OF_BEFORE = (0.0, 0.4, 0.3)


class Chain(nn.Module):
    """p(z_1, z_2, z_3, x)."""

    latents = tuple(LatentSpec(name, axes=("D",), sizes={"D": 1}) for name in SITES)

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            z, total = torch.zeros(batch.size, 1), 0.0
            for name, before in zip(SITES, PRIOR_OF_BEFORE, strict=True):
                z = pyro.sample(name, Normal(before * z, 1.0).to_event(1))
                total = total + z.squeeze(-1)
            pyro.sample("tokens", Normal(total, 1.0), obs=x_of(batch))


def chain_guide():
    """q(z_1, z_2, z_3 | x)."""

    def run(batch):
        x, z = x_of(batch).unsqueeze(-1), torch.zeros(batch.size, 1)
        for name, of_x, of_before, scale in zip(SITES, OF_X, OF_BEFORE, SCALES, strict=True):
            z = pyro.sample(name, Normal(of_x * x + of_before * z, scale).to_event(1))

    return Program(run)


def posterior():
    """E[z | x] = slopes · x, Cov[z | x], both (3,) and (3, 3)."""
    slopes, mixing = np.zeros(3), np.zeros((3, 3))
    for i, (of_x, of_before, scale) in enumerate(zip(OF_X, OF_BEFORE, SCALES, strict=True)):
        slopes[i] = of_x + (of_before * slopes[i - 1] if i else 0.0)
        mixing[i] = of_before * mixing[i - 1] if i else 0.0
        mixing[i, i] = scale
    return slopes, mixing @ mixing.T


def information_so_far(spread):
    """½ ln det(Cov[z] / Cov[z | x]) of the first 1, 2 and 3 sites, x being N(0, spread): nats."""
    slopes, covariance = posterior()
    whole = covariance + spread * np.outer(slopes, slopes)
    return [0.5 * math.log(np.linalg.det(whole[:n, :n]) / np.linalg.det(covariance[:n, :n])) for n in (1, 2, 3)]


def kl_by_site():
    """E_x E_q KL(q(z_l | z_{l-1}, x) ‖ p(z_l | z_{l-1})), nats, over the N sentences."""
    slopes, covariance = posterior()
    square_of_x, found = float(NORMAL.square().mean()), []
    for i, scale in enumerate(SCALES):
        # The means differ by a x + b z_{l-1}.
        a, b = OF_X[i], OF_BEFORE[i] - PRIOR_OF_BEFORE[i]
        before_slope, before_variance = (slopes[i - 1], covariance[i - 1, i - 1]) if i else (0.0, 0.0)
        square = (a + b * before_slope) ** 2 * square_of_x + b**2 * before_variance
        found.append(0.5 * (scale**2 + square - 1) - math.log(scale))
    return found


def reconstruction():
    """-E_q ln p(x | z), nats, over the N sentences."""
    slopes, covariance = posterior()
    square = (1 - slopes.sum()) ** 2 * float(NORMAL.square().mean()) + covariance.sum()
    return 0.5 * math.log(2 * math.pi) + 0.5 * square
