"""Our own training step of the state-space word model, as it stands and with less around it.

Both run ``ppl_text``'s model, guide and distributions. One calls the distributions by hand, with no plate, trace or
replay: what lies between it and ours is the price of Pyro.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from benchmarks.peers import (
    EMBEDDING,
    GRU,
    HIDDEN,
    LEARNING_RATE,
    STATE,
    VOCABULARY,
    Parameters,
    Words,
    initial_parameters,
)
from benchmarks.steps import Contestant
from guides.deep_state_space import DiagonalGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.distributions.chains import FlowChain
from ppl_text.models.deep_state_space import DeepStateSpace

NAMES = {
    "initial": "model.initial",
    "emission.weight": "model.emission.weight",
    "emission.bias": "model.emission.bias",
    "embedding.weight": "guide.reader.embedding.weight",
    **{f"gru.{part}": f"guide.reader.gru.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    "transition.0.weight": "model.transition.conditioner.state.weight",
    "transition.0.bias": "model.transition.conditioner.bias",
    "transition.1.weight": "model.transition.conditioner.layers.0.weight",
    "transition.1.bias": "model.transition.conditioner.layers.0.bias",
    "transition.2.weight": "model.transition.conditioner.layers.1.weight",
    "transition.2.bias": "model.transition.conditioner.layers.1.bias",
    "conditioner.state.weight": "guide.kernel.conditioner.state.weight",
    "conditioner.encoder.weight": "guide.kernel.conditioner.context.weight",
    "conditioner.encoder.bias": "guide.kernel.conditioner.bias",
    "conditioner.hidden.weight": "guide.kernel.conditioner.layers.0.weight",
    "conditioner.hidden.bias": "guide.kernel.conditioner.layers.0.bias",
    "conditioner.output.weight": "guide.kernel.conditioner.layers.1.weight",
    "conditioner.output.bias": "guide.kernel.conditioner.layers.1.bias",
}
"""Flat names of :mod:`benchmarks.peers` to the names that our modules have."""


class Ours(Contestant):
    """The contestant: the ``elbo`` objective on ``DeepStateSpace`` and the paper's diagonal guide."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        hidden = (HIDDEN, HIDDEN)
        model = DeepStateSpace(Vocabulary(VOCABULARY), state_dim=STATE, transition="tril", hidden=hidden)
        guide = DiagonalGuide(model, embedding_dim=EMBEDDING, gru_dim=GRU, hidden=hidden)
        self.compete(model, guide, objectives.build("elbo"), device)
        self.load(initial_parameters(seed))
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True)

    def load(self, parameters: Parameters) -> None:
        state = {NAMES[name]: torch.tensor(value) for name, value in parameters.items()}
        self.modules.load_state_dict(state)

    def loss(self, batch: Batch) -> Tensor:
        return self.loss_and_bound(batch)[0]

    def loss_and_bound(self, batch: Batch, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss and per-sentence bound (B,), nats; on fresh noise, or on the path that given noise makes."""
        guide = self.guide if noise is None else self._replayed(batch, noise)
        estimate = self.objective(self.model, guide, batch)
        return estimate.loss, estimate.bound

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._from(words, noise)[1].cpu().numpy()

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        self.optimizer.zero_grad(set_to_none=True)
        self._from(words, noise)[0].backward()
        ours = dict(self.modules.named_parameters())
        return {flat: ours[name].grad.cpu().numpy().copy() for flat, name in NAMES.items()}

    def _from(self, words: Words, noise: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.loss_and_bound(self.prepare(words), torch.from_numpy(noise).to(self.device))

    def _replayed(self, batch: Batch, noise: Tensor) -> Callable[[Batch], Any]:
        """The guide, made to draw the path that the noise gives."""
        path, _ = self.guide.posterior(batch).push_forward(noise)
        trace = poutine.Trace()
        trace.add_node("h", name="h", type="sample", value=path, is_observed=False, infer={})
        return poutine.replay(self.guide, trace=trace)


class OursWithoutPyro(Ours):
    """The lower bound that Pyro's machinery can be brought down to: distributions called by hand."""

    def loss_and_bound(self, batch: Batch, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        posterior = self.guide.posterior(batch)
        path = posterior.rsample() if noise is None else posterior.push_forward(noise)[0]
        log_weight = self._log_weight(posterior, path, batch)
        return -log_weight.mean(), log_weight.detach()

    def _log_weight(self, posterior: FlowChain, path: Tensor, batch: Batch) -> Tensor:
        log_p = self.model.prior(batch.lengths, batch.steps).log_prob(path)
        log_p = log_p + self.model.likelihood(path, batch.lengths).log_prob(batch.tokens)
        return log_p - posterior.log_prob(path)
