"""What the peers in stock Pyro share: networks registered by ``pyro.module``, a plate of texts, ``SVI.step``.

Each is written as Pyro's tutorials write such a model: a site per step, ``poutine.mask`` for what is padded, an ELBO
of Pyro's own, an optimiser of torch's through ``PyroOptim``, whose ``clip_args`` clip the norm of each parameter rather
than that of all together, which is the only clipping by norm that Pyro has. Model and guide run their networks each for
themselves, with dropout of their own. Validation is off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from torch import Tensor, nn

from benchmarks.peers import IGNORED

INSTANCES = itertools.count()


class Programs(nn.Module):
    """Model and guide over the networks of a hand-written loop; all log-terms in nats, scaled to the mean text.

    ``trained``: the parts whose parameters are registered, where not all are trained.
    """

    def __init__(self, networks: nn.Module, *trained: nn.Module) -> None:
        super().__init__()
        self.networks, self.trained = networks, nn.ModuleList(trained or [networks])
        self.name = f"programs_{next(INSTANCES)}"

    @contextmanager
    def texts(self, rows: int) -> Iterator[None]:
        """Context of both programs: parameters are registered, rows are independent and count 1/B."""
        pyro.module(self.name, self.trained)
        with pyro.plate("texts", rows, dim=-1), poutine.scale(scale=1.0 / rows):
            yield

    def model(self, batch: Any) -> None:
        """p, as a subclass writes it."""
        raise NotImplementedError

    def guide(self, batch: Any) -> None:
        """q over no latent at all."""


def observe(logits: Tensor, targets: Tensor, name: str = "w") -> None:
    """Observe (B, T) outcomes under logits (B, T, V), a site per step; those to be ignored are masked."""
    for t in range(targets.shape[1]):
        with poutine.mask(mask=targets[:, t] != IGNORED):
            pyro.sample(f"{name}_{t}", dist.Categorical(logits=logits[:, t]), obs=targets[:, t].clamp(min=0))


class Stock:
    """A contestant that trains the networks of a hand-written loop, whose ``load`` and ``prepare`` it has."""

    def follow(self, programs: Programs, bound: ELBO, optimizer: Any, rate: float, clip_norm: float) -> None:
        """Make the ``SVI`` of two programs."""
        self.programs, self.bound = programs, bound
        self.svi = SVI(
            programs.model, programs.guide, PyroOptim(optimizer, {"lr": rate}, {"clip_norm": clip_norm}), bound
        )

    def step(self, batch: Any) -> float:
        """Take one training step with fresh noise and dropout; return the loss, nats per text."""
        with pyro.validation_enabled(False):
            return float(self.svi.step(batch))

    def loss(self, batch: Any) -> Tensor:
        """The loss that is descended, on fresh noise, nats per text."""
        with pyro.validation_enabled(False):
            loss: Tensor = self.bound.differentiable_loss(self.programs.model, self.programs.guide, batch)
        return torch.as_tensor(loss)
