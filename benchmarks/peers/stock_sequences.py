"""Latent sequences in stock Pyro: z_t and w_t are a site each for every t; the networks are the hand-written loop's.

The KL of each z_t stands in closed form (``TraceMeanField_ELBO``: given the z before it, q and p are normal). An
autoregressive prior has to be run over z_1 … z_{t-1} again for every t, since a site is drawn before the next is known.
In ``davam-prior`` the codes k_t are observed and nothing is latent. The codes of ``davam-codes`` have no density, so
that there is no such peer of them.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from benchmarks.peers import CLIP_NORM, IGNORED
from benchmarks.peers.latent_sequence import PRIOR_RATE, RATE, LatentSequences, Prepared, Sizes
from benchmarks.peers.stock import Programs, Stock, observe


class _Latents(Programs):
    def model(self, batch: Prepared) -> None:
        """p(z_t | z_{<t}) and p(w_t | z, w_{<t})."""
        drawn: list[Tensor] = []
        with self.texts(len(batch.targets)):
            for t in range(batch.targets.shape[1]):
                with poutine.mask(mask=batch.there[:, t]):
                    drawn.append(pyro.sample(f"z_{t}", dist.Normal(*self.prior(drawn, batch)).to_event(1)))
            observe(self.networks.decoder(torch.stack(drawn, 1), batch), batch.targets)

    def prior(self, drawn: list[Tensor], batch: Prepared) -> tuple[Tensor, Tensor]:
        """Mean and scale of p(z_t | z_1 … z_{t-1}), each (B, D)."""
        zero = self.networks.decoder.keys.weight.new_zeros(len(batch.targets), self.networks.decoder.keys.in_features)
        if not hasattr(self.networks, "prior"):
            return zero, torch.ones_like(zero)
        mean, log_variance = self.networks.prior(torch.stack([*drawn, zero], 1))[:, -1].chunk(2, -1)
        return mean, (0.5 * log_variance).exp()

    def guide(self, batch: Prepared) -> None:
        """q(z_t | w_1 … w_t)."""
        with self.texts(len(batch.targets)):
            mean, log_variance = self.networks.encoder(batch).chunk(2, -1)
            scale = (0.5 * log_variance).exp()
            for t in range(batch.targets.shape[1]):
                with poutine.mask(mask=batch.there[:, t]):
                    pyro.sample(f"z_{t}", dist.Normal(mean[:, t], scale[:, t]).to_event(1))


class _Codes(Programs):
    def model(self, batch: Any) -> None:
        """p(k_t | k_{<t}), given the codes that encoder and book have chosen."""
        with torch.no_grad():
            codes = self.networks.codes.nearest(self.networks.encoder(batch))
        with self.texts(len(codes)):
            logits = self.networks.prior(self.networks.embedding(codes))
            observe(logits, codes.masked_fill(~batch.there, IGNORED), "k")


class StockPyro(Stock, LatentSequences):
    """The contestant: ``SVI(model, guide, SGD, TraceMeanField_ELBO())``; the prior alone: Adam and ``Trace_ELBO``."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        super().__init__(kind, seed, device, sizes)
        if kind == "davam-prior":
            trained = (self.networks.prior, self.networks.embedding)
            self.follow(_Codes(self.networks, *trained), Trace_ELBO(), torch.optim.Adam, PRIOR_RATE, CLIP_NORM)
        else:
            self.follow(_Latents(self.networks), TraceMeanField_ELBO(), torch.optim.SGD, RATE, CLIP_NORM)
