"""Guides of the switching language model: q(z | w) over its codes, one for each scored token, or one for a text.

Source: specification 6.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.latents import LatentSpec
from ppl_text.distributions.precision import at_least_float32
from ppl_text.distributions.switching import CodeChain, Codes
from ppl_text.nn.handed import HandedOn
from ppl_text.nn.initial import initialise
from ppl_text.nn.recurrent import BidirectionalGRU

from .base import SiteGuide


class SwitchingModel(Protocol):
    """What the model publishes for its guides."""

    latents: tuple[LatentSpec, ...]
    vocab_size: int
    codes: int
    """M."""
    embedding_dim: int
    hidden_dim: int
    init: str
    evidence: HandedOn[Any]
    """Prior, emissions and exact posterior of a batch."""


class CodeGuide(SiteGuide[SwitchingModel]):
    """q(z | w): base of the guides for ``switching_language_model``.

    To write your own: inherit, build your networks in ``__init__`` (after ``super().__init__(model)``), and define
    ``posterior(batch)``, a distribution of integers with batch shape (B,) and event shape (T,), most easily a
    :class:`~ppl_text.distributions.switching.CodeChain`; () and :class:`~ppl_text.distributions.switching.Codes`
    where a text has one code. What has no reparametrised sampler is trained by ``vimco:K``. Give the class a docstring
    whose first line is its density.
    """

    family = "switching_language_model"
    event: ClassVar[str] = "(T,)"


class ExactGuide(CodeGuide):
    """q(z | w) = p(z | w): forward filtering and backward sampling, or enumeration; every bound is ln p(w) itself.

    It has no parameters: its gradient is the model's, ∇ ln p(w), without noise.
    """

    def posterior(self, batch: Batch) -> CodeChain | Codes:
        """Return the exact posterior."""
        found: CodeChain | Codes = self.model.evidence.leave(batch).posterior
        return found


class PriorGuide(CodeGuide):
    """q(z | w) = Π_t p(z_t | z_{t-1}, w_{<t}): the codes without their tokens, without parameters."""

    objective = "vimco:8"

    def posterior(self, batch: Batch) -> CodeChain | Codes:
        """Return the prior."""
        found: CodeChain | Codes = self.model.evidence.leave(batch).prior
        return found


class MeanFieldGuide(CodeGuide):
    """q(z | w) = Π_t softmax(V a_t + b)[z_t], a_t the states of two GRUs over the text; of one code, from their mean.

    Args:
        model: p(z, w).
        embedding_dim, gru_dim: of the GRUs; null: embedding and half the state of the model.
    """

    objective = "vimco:8"

    def __init__(self, model: SwitchingModel, *, embedding_dim: int | None = None, gru_dim: int | None = None) -> None:
        super().__init__(model)
        width = model.hidden_dim // 2 if gru_dim is None else gru_dim
        embedding = model.embedding_dim if embedding_dim is None else embedding_dim
        self.reader = BidirectionalGRU(model.vocab_size, embedding, width)
        self.projection = nn.Linear(self.reader.output_dim, model.codes)
        initialise(self, model.init)

    def posterior(self, batch: Batch) -> CodeChain | Codes:
        """Return the product of the steps, or the code of the whole."""
        states = self.reader(batch.tokens, batch.lengths)
        if self.model.latents[0].step_axis is None:
            counted = batch.scored.unsqueeze(-1)
            mean = torch.where(counted, states, 0.0).sum(1) / batch.lengths.unsqueeze(-1)
            return Codes(self.projection(mean))
        steps = at_least_float32(self.projection(states)).log_softmax(-1)
        alike: Tensor = steps[:, 1:].unsqueeze(-2).expand(-1, -1, steps.shape[-1], -1)
        return CodeChain(steps[:, 0], alike, batch.lengths)
