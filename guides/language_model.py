"""The guide of the recurrent language model, which has nothing to infer."""

from __future__ import annotations

from torch import nn

from ppl_text.core.batch import Batch


class ExactGuide(nn.Module):
    """q over no latent at all: every bound is ln p(w) itself."""

    family = "language_model"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()

    def forward(self, batch: Batch) -> None:
        """The Pyro program: no sites."""
