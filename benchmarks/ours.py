"""Our own training step as a contestant, with more and with less around it.

All run ``ppl_text``'s model, guide and distributions. Some go through the trainer's ``Update``, with its guard against
non-finite numbers and its meters, and may be replayed as a graph. One calls the distributions by hand, with no plate,
trace or replay: what lies between it and ours is the price of Pyro.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from lightning_fabric import Fabric
from pyro import poutine
from torch import Tensor, nn

from benchmarks.peers import (
    CLIP_NORM,
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
from guides.deep_state_space import DiagonalGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import BOS_ID, Vocabulary
from ppl_text.distributions.chains import FlowChain
from ppl_text.models.deep_state_space import DeepStateSpace
from ppl_text.training.capture import graphs_on
from ppl_text.training.optimizers import make_capturable
from ppl_text.training.options import TrainingOptions
from ppl_text.training.programs import Joint, set_up
from ppl_text.training.stopping import make_guard
from ppl_text.training.update import Setting, Update

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


def as_batch(words: Words, device: str = "cpu") -> Batch:
    """A peer's batch as the project's data room makes it."""
    tokens = torch.from_numpy(words.tokens)
    inputs = torch.cat([torch.full_like(tokens[:, :1], BOS_ID), tokens[:, :-1]], 1)
    return Batch(tokens, torch.from_numpy(words.lengths), torch.ones(len(tokens)), inputs).to(device)


class Ours:
    """The contestant: the ``elbo`` objective on ``DeepStateSpace`` and the paper's diagonal guide."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        sizes, self.device = {"hidden": (HIDDEN, HIDDEN)}, device
        self.model = DeepStateSpace(Vocabulary(VOCABULARY), state_dim=STATE, transition="tril", **sizes)
        self.guide = DiagonalGuide(self.model, embedding_dim=EMBEDDING, gru_dim=GRU, **sizes)
        self.modules = nn.ModuleDict({"model": self.model, "guide": self.guide}).to(device)
        self.objective = objectives.build("elbo")
        self.load(initial_parameters(seed))
        self.parameters = list(self.modules.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True)

    def load(self, parameters: Parameters) -> None:
        state = {NAMES[name]: torch.tensor(value) for name, value in parameters.items()}
        self.modules.load_state_dict(state)

    def prepare(self, words: Words) -> Batch:
        return as_batch(words, self.device)

    def step(self, batch: Batch) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with pyro.validation_enabled(False):
            loss, _ = self.loss_and_bound(batch)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        return loss.item()

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


class InTrainer:
    """A contestant whose step is the one that ``ppl_text fit`` takes; ``captured``: replayed as a graph of the GPU."""

    def __init__(self, contestant: Any, device: str, *, captured: bool = False, precision: Any = "32-true") -> None:
        self._contestant = contestant
        fabric = Fabric(accelerator=device, devices=1, precision=precision)
        joint = Joint(contestant.model, contestant.guide, contestant.objective)
        module, optimizer = set_up(fabric, joint, contestant.optimizer)
        graphs = graphs_on(fabric.device) if captured else None
        if graphs is not None:
            make_capturable(contestant.optimizer, fabric.device)
        options, guard = TrainingOptions(steps=1, clip_norm=CLIP_NORM), make_guard(fabric, contestant.optimizer)
        parameters = contestant.parameters
        self.update = Update(
            Setting(fabric, module, optimizer, guard, options, parameters, graphs=graphs, report=self._refuse)
        )
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._contestant, name)

    def step(self, batch: Batch) -> float:
        """Take one training step; return the loss, nats per sentence."""
        with pyro.validation_enabled(False):
            self.update([batch], self.steps)
        self.steps += 1
        loss = self.update.meters.sums[4].item()
        self.update.meters.reset()
        return loss

    def _refuse(self, reason: str) -> None:
        raise RuntimeError(f"a race of captured steps, and this one is {reason}")


def in_trainer(
    contestant: Callable[..., Any], *, captured: bool = False, precision: Any = "32-true"
) -> Callable[..., InTrainer]:
    """Return what builds a contestant, by the same arguments, inside the trainer."""

    def build(*arguments: Any) -> InTrainer:
        built = contestant(*arguments)
        return InTrainer(built, built.device, captured=captured, precision=precision)

    return build


build_in_trainer = in_trainer(Ours)
build_captured = in_trainer(Ours, captured=True)
build_captured_bf16 = in_trainer(Ours, captured=True, precision="bf16-mixed")
"""Our step inside the trainer; replayed as a graph; the same with the networks in bf16."""
