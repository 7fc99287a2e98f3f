"""Sequence-to-sequence models with attention in stock Pyro: z, every a_t and every w_t is a site.

The networks are the hand-written loop's (:mod:`benchmarks.peers.encoder_decoder`). The guide draws a_t along its own
decoder; the model runs along the drawn path once more, as two programs do that share nothing but their sites. The KLs
of z and of a_t stand in closed form (``TraceMeanField_ELBO``: given what was drawn before, q and p are normal).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from benchmarks.peers import CLIP_NORM, IGNORED
from benchmarks.peers.encoder_decoder import RATE, EncoderDecoder, Prepared, Sizes
from benchmarks.peers.stock import Programs, Stock, observe


class Path(NamedTuple):
    """What a decoder begins with: states (B, S, M), embedded inputs (B, T, E), z (B, D) or None, s_0 and c_0."""

    states: Tensor
    embedded: Tensor
    z: Tensor | None
    hidden: Tensor
    cell: Tensor


class _Programs(Programs):
    def model(self, batch: Prepared) -> None:
        """p(z), p(a_t) about the mean of the source, and p(w_t | z, a_{<=t}, w_{<t})."""
        with self.texts(len(batch.targets)):
            states, last = self.networks.encode(batch)
            z = self.latent(last, None)
            counted = batch.counted.unsqueeze(-1)
            centre = torch.where(counted, states, 0.0).sum(1) / counted.sum(1)
            outputs = self.along(self.path(batch, states, last, z), batch, lambda read: (centre, torch.ones_like(read)))
            observe(self.networks.head(outputs), batch.targets)

    def guide(self, batch: Prepared) -> None:
        """q(z | x) and q(a_t | .) about deterministic attention; nothing where nothing is latent."""
        if not hasattr(self.networks, "latent"):
            return
        with self.texts(len(batch.targets)):
            states, last = self.networks.encode(batch)
            z = self.latent(last, self.networks.latent(last))
            self.along(self.path(batch, states, last, z), batch, lambda read: (read, self.networks.scale(read).exp()))

    def latent(self, last: Tensor, moments: Tensor | None) -> Tensor | None:
        """Site z with given moments, N(0, I) without; None where the model has none."""
        if not hasattr(self.networks, "latent"):
            return None
        zero = last.new_zeros(len(last), 2 * (self.networks.latent.out_features // 2))
        mean, log_variance = (zero if moments is None else moments).chunk(2, -1)
        z: Tensor = pyro.sample("z", dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1))
        return z

    def path(self, batch: Prepared, states: Tensor, last: Tensor, z: Tensor | None) -> Path:
        """Where the decoder begins."""
        embedded = self.networks.dropout(self.networks.embedding(batch.inputs))
        if z is None:
            cell = self.networks.bridge(last)
            return Path(states, embedded, z, cell.tanh(), cell)
        zero = states.new_zeros(len(states), self.networks.cell.hidden_size)
        return Path(states, embedded, z, zero, zero)

    def along(self, path: Path, batch: Prepared, law: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Decode; where z is latent a_t is a site, whose mean and scale follow from what attention reads (B, M)."""
        networks, hidden, cell = self.networks, path.hidden, path.cell
        keys, away = networks.key(path.states), torch.where(batch.counted, 0.0, -torch.inf)
        fed, outputs = path.embedded.new_zeros(len(path.embedded), networks.output.out_features), []
        for t, token in enumerate(path.embedded.unbind(1)):
            joined = torch.cat([token, fed] if path.z is None else [token, path.z, fed], -1)
            hidden, cell = networks.cell(joined, (hidden, cell))
            shares = (torch.bmm(keys, hidden.unsqueeze(2)).squeeze(2) + away).softmax(-1)
            read = torch.bmm(shares.unsqueeze(1), path.states).squeeze(1)
            if path.z is not None:
                with poutine.mask(mask=batch.targets[:, t] != IGNORED):
                    read = pyro.sample(f"a_{t}", dist.Normal(*law(read)).to_event(1))
            fed = networks.output(torch.cat([hidden, read], -1))
            outputs.append(fed)
        return torch.stack(outputs, 1)


class StockPyro(Stock, EncoderDecoder):
    """The contestant: ``SVI(model, guide, Adam, TraceMeanField_ELBO())``; with nothing latent, ``Trace_ELBO``."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        super().__init__(kind, seed, device, sizes)
        bound = TraceMeanField_ELBO() if kind == "vattn-h" else Trace_ELBO()
        self.follow(_Programs(self.networks), bound, torch.optim.Adam, RATE, CLIP_NORM)
