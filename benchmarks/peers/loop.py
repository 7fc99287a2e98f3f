"""The training step that the loops written by hand in PyTorch have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import CLIP_NORM


class Loop:
    """A contestant that descends its ``loss`` by its ``optimizer``, with clipping by the norm of all gradients."""

    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer

    def step(self, batch: Any) -> float:
        """Take one training step with fresh noise and dropout; return the loss, nats per text."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        return loss.item()

    def loss(self, batch: Any) -> Tensor:
        """Loss of a batch, nats per text, as a subclass writes it."""
        raise NotImplementedError
