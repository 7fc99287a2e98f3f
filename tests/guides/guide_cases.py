"""The guides of the state-space model, by name, small and in float64."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from guides import GUIDES
from ppl_text.core.batch import Batch
from ppl_text.core.registry import Registry
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.distributions.chains import FlowChain
from ppl_text.models.deep_state_space import DeepStateSpace

NAMES = tuple(GUIDES["deep_state_space"])
READING = tuple(name for name in NAMES if name != "prior")


def guides() -> Registry:
    """The registry as ``--guide`` uses it."""
    return Registry("guide", GUIDES["deep_state_space"], group="ppl_text.guides")


def shaken(module: nn.Module, scale: float = 0.4) -> nn.Module:
    """Move all parameters away from their start, in float64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module.double()


def model_of(transition: str = "tril") -> DeepStateSpace:
    """A small model."""
    torch.manual_seed(0)
    return shaken(DeepStateSpace(Vocabulary(6), state_dim=2, hidden=(5,), transition=transition))


def guide_of(name: str, model: DeepStateSpace, **options: object) -> nn.Module:
    """A guide by its registered name."""
    torch.manual_seed(1)
    small = {} if name == "prior" else {"embedding_dim": 3, "gru_dim": 4, "hidden": (5,), **options}
    return shaken(guides().load(name)(model, **small))


def words(ids: list[list[int]], steps: int) -> Batch:
    """Words as a batch of weight one."""
    return collate(ids, torch.ones(len(ids), dtype=torch.float64), steps, len(ids))


def ahead(steps: int) -> Tensor:
    """Fixed auxiliary noise, the same for every word and particle: what the look-ahead guide is conditioned on."""
    return torch.sin(torch.arange(1.0, 1.0 + 2 * steps, dtype=torch.float64)).view(steps, 2)


def posterior(guide: nn.Module, batch: Batch) -> FlowChain:
    """q(h | w), with fixed auxiliary noise where the guide has such."""
    return poutine.condition(guide.posterior, data={"h_ahead": ahead(batch.steps)})(batch)


def log_q(guide: nn.Module, batch: Batch, states: Tensor) -> Tensor:
    """ln q(h | w) of the Pyro program at given paths, per word, with fixed auxiliary noise."""
    data = {"h": states, "h_ahead": ahead(batch.steps)}
    trace = poutine.trace(poutine.condition(guide, data=data)).get_trace(batch)
    trace.compute_log_prob()
    return trace.nodes["h"]["log_prob"]


def particle_plate(k: int) -> pyro.plate:
    """The plate that objectives open."""
    return pyro.plate("particles", k, dim=-2)
