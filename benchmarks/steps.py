"""Our training step of any family as a contestant: what all have in common, and the ways in which training takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmarks.peers import CLIP_NORM, Words
from ppl_text.core.batch import Batch
from ppl_text.core.protocols import Objective
from ppl_text.core.vocabulary import BOS_ID
from ppl_text.training.capture import graphs_on
from ppl_text.training.optimizers import make_capturable
from ppl_text.training.options import TrainingOptions
from ppl_text.training.programs import Joint, set_up
from ppl_text.training.stopping import make_guard
from ppl_text.training.update import Setting, Update

PROGRAMS = ("model", "guide")


def as_batch(words: Words, device: str = "cpu") -> Batch:
    """A peer's batch as the project's data room makes it."""
    tokens = torch.from_numpy(words.tokens)
    inputs = torch.cat([torch.full_like(tokens[:, :1], BOS_ID), tokens[:, :-1]], 1)
    return Batch(tokens, torch.from_numpy(words.lengths), torch.ones(len(tokens)), inputs).to(device)


class Contestant:
    """A model and a guide under an objective, trained on a prepared batch.

    A family's ``Ours`` makes both, hands them to ``compete`` and gives an ``optimizer``; ``loss`` is what is descended.
    """

    clip_norm = CLIP_NORM
    optimizer: torch.optim.Optimizer

    def compete(
        self, model: nn.Module, guide: nn.Module, objective: Objective, device: str, trained: Sequence[str] = PROGRAMS
    ) -> None:
        """Take over the programs, in training, on a device; ``trained``: the submodules that are, where not all."""
        self.model, self.guide, self.objective, self.device = model, guide, objective, device
        self.modules = nn.ModuleDict({"model": model, "guide": guide}).to(device)
        joint = Joint(model, guide, objective)
        self.parameters = joint.choose(trained)
        joint.train()

    def prepare(self, words: Any) -> Batch:
        """The batch as the project's data room makes it."""
        return as_batch(words, self.device)

    def step(self, batch: Batch) -> float:
        """Take one training step with fresh noise and dropout; return the loss, nats per text."""
        self.optimizer.zero_grad(set_to_none=True)
        with pyro.validation_enabled(False):
            loss = self.backward(batch)
        nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        return loss.item()

    def backward(self, batch: Batch) -> Tensor:
        """Leave the gradients of the loss behind, and return it."""
        loss = self.loss(batch)
        loss.backward()
        return loss.detach()

    def loss(self, batch: Batch) -> Tensor:
        """Loss of a batch on fresh noise, nats per text."""
        loss: Tensor = self.objective(self.model, self.guide, batch).loss
        return loss


class InTrainer:
    """A contestant whose step is the one that ``ppl_text fit`` takes.

    ``captured``: replayed as a graph of the GPU; ``compiled``: its loss and gradient for the CPU.
    """

    def __init__(
        self, contestant: Any, *, captured: bool = False, compiled: bool = False, precision: Any = "32-true"
    ) -> None:
        self._contestant = contestant
        fabric = Fabric(accelerator=contestant.device, devices=1, precision=precision)
        joint = Joint(contestant.model, contestant.guide, contestant.objective)
        module, optimizer = set_up(fabric, joint, contestant.optimizer)
        graphs = graphs_on(fabric.device, compiled or (None if captured else False))
        self.recording = graphs is not None
        if graphs is not None and graphs.whole:
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
        if reason.startswith("not captured"):
            raise RuntimeError(f"a race of captured steps, and this one is {reason}")
