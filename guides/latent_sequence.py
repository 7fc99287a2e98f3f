"""Guides of latent sequences: q(z_{1:n} | w) over the single site ``z``, one step for each scored token.

Source: Fang et al. 2021 (specification 1B).
"""

from __future__ import annotations

from typing import Protocol

import pyro
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.distributions.codes import NearestCodes
from ppl_text.distributions.precision import at_least_float32
from ppl_text.distributions.side import record_side_loss
from ppl_text.distributions.steps import StepDistribution, StepNormals
from ppl_text.nn.codebook import CodeBook
from ppl_text.nn.initial import initialise
from ppl_text.nn.recurrent import SentenceReader

from .base import SiteGuide

COMMITMENT = "commitment"
"""Name of the side loss."""


class SequenceModel(Protocol):
    """What the model publishes for its guides."""

    latents: tuple[LatentSpec, ...]
    vocabulary: Vocabulary
    vocab_size: int
    latent_dim: int
    embedding_dim: int
    hidden_dim: int
    init: str
    book: CodeBook | None
    """The code vectors, where the prior is one of codes."""

    def law(self, lengths: Tensor, steps: int) -> StepDistribution:
        """p(z_{1:n} | n) for texts of these lengths."""
        ...


class SequenceGuide(SiteGuide[SequenceModel]):
    """q(z_{1:n} | w): base of the guides for ``latent_sequence``.

    To write your own: inherit, build your networks in ``__init__`` (after ``super().__init__(model)``), and define
    ``posterior(batch)``, a distribution with batch shape (B,) and event shape (T, D) over as many steps as the batch
    has tokens, most easily :class:`~ppl_text.distributions.steps.StepNormals`. To read the sentence with an LSTM
    inherit :class:`ReadingGuide`. Give the class a docstring whose first line is its density.
    """

    family = "latent_sequence"
    event = "(T, D)"


class ReadingGuide(SequenceGuide):
    """q(z_{1:n} | h_1..h_n) with h_t the state of an LSTM that has read the text up to w_t: base of guides that read.

    Parameters start as the model's do (its option ``init``).

    Args:
        model: p(z, w).
        embedding_dim, hidden_dim: of the LSTM; null: those of the decoder.
    """

    def __init__(
        self, model: SequenceModel, *, embedding_dim: int | None = None, hidden_dim: int | None = None
    ) -> None:
        super().__init__(model)
        width = model.hidden_dim if hidden_dim is None else hidden_dim
        embedding = model.embedding_dim if embedding_dim is None else embedding_dim
        self.reader = SentenceReader(model.vocab_size, embedding, width, bos=model.vocabulary.ids.bos)
        initialise(self, model.init)

    def states(self, batch: Batch) -> Tensor:
        """h_1..h_T (B, T, H): h_t has read w_1 … w_t."""
        states: Tensor = self.reader(batch.tokens)[:, 1:]
        return states

    def mapped(self, outputs: int) -> nn.Linear:
        """Make a linear map of the states, with the model's kind of initial values."""
        linear = nn.Linear(self.reader.output_dim, outputs)
        initialise(linear, self.model.init)
        return linear


class GaussianGuide(ReadingGuide):
    """q(z | w) = Π_t N(z_t; μ(h_t), diag σ²(h_t)), [μ; ln σ²] = W h_t + b, h_t the states of an LSTM over the text."""

    def __init__(
        self, model: SequenceModel, *, embedding_dim: int | None = None, hidden_dim: int | None = None
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        if model.book is not None:
            raise UserError("with prior: codes every z is a code, for which there is the guide quantised")
        self.projection = self.mapped(2 * model.latent_dim)

    def posterior(self, batch: Batch) -> StepNormals:
        """Return the Gaussians of all steps."""
        mean, log_variance = at_least_float32(self.projection(self.states(batch))).chunk(2, -1)
        return StepNormals(mean, (0.5 * log_variance).exp(), batch.lengths)


class QuantisedGuide(ReadingGuide):
    """q(z | w) = Π_t 1[z_t = e_k(t)], k(t) = argmin_k ‖W h_t - e_k‖²: a point mass at the nearest codes (DAVAM).

    Its gradient passes straight through to the states. The side loss ``commitment``, λ Σ_t ‖W h_t - sg(e_k(t))‖²,
    commits the states to their codes; the codes follow the states by moving averages. KL(q ‖ p) = -ln p(codes), and
    every bound is the ELBO.

    Args:
        model: p(z, w), with ``prior: codes``.
        commitment: λ, which ``training.beta`` may multiply by a schedule under the name ``commitment``.
        embedding_dim, hidden_dim: of the LSTM; null: those of the decoder.
    """

    def __init__(
        self,
        model: SequenceModel,
        *,
        commitment: float = 0.25,
        embedding_dim: int | None = None,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        _book_of(model)
        if commitment < 0:
            raise UserError(f"commitment must be 0 or more; got {commitment}")
        self.commitment = commitment
        self.projection = self.mapped(model.latent_dim)

    def posterior(self, batch: Batch) -> NearestCodes:
        """Return the point mass."""
        book = _book_of(self.model)
        states = at_least_float32(self.projection(self.states(batch)))
        indices = book(states, batch.scored & (batch.weights > 0).unsqueeze(-1))
        return NearestCodes(states, book.codes, batch.lengths, indices)

    def forward(self, batch: Batch) -> Tensor:
        """The Pyro program: samples site ``z`` and records the commitment, which is 0 outside of training."""
        with pyro.plate("sentences", batch.size, dim=-1):
            q = self.posterior(batch)
            z: Tensor = pyro.sample("z", q)
            apart = (q.states - q.codes[q.indices].detach()).square().sum(-1)
            weight = self.commitment if self.training else 0.0
            record_side_loss(COMMITMENT, weight * q.total(apart))
        return z


def _book_of(model: SequenceModel) -> CodeBook:
    if model.book is None:
        raise UserError("guide quantised chooses among codes, and this model has none: give it prior: codes")
    return model.book


class PriorGuide(SequenceGuide):
    """q(z | w) = p(z | n): blind, without parameters; what a collapsed guide amounts to."""

    def posterior(self, batch: Batch) -> StepDistribution:
        """Return the model's prior."""
        return self.model.law(batch.lengths, batch.steps)
