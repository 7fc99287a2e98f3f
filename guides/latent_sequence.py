"""Guides of latent sequences: q(z_{1:S} | w) over the single site ``z``.

Source: Fang et al. 2021 (specification 1B).
"""

from __future__ import annotations

import math
from typing import Protocol, cast

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.distributions.codes import CodeSequences, IndependentCodes, NearestCodes, TiltedCodes
from ppl_text.distributions.precision import at_least_float32
from ppl_text.distributions.side import record_side_loss
from ppl_text.distributions.steps import StepDistribution, StepNormals
from ppl_text.nn.codebook import CodeBook, nearest
from ppl_text.nn.initial import initialise
from ppl_text.nn.recurrent import SentenceReader

from .base import SiteGuide

COMMITMENT = "commitment"
"""Name of the side loss."""


class Places(Protocol):
    """Where the latents of a text stand, as the model says."""

    def number(self, tokens: Tensor) -> Tensor:
        """Return how many latents texts of so many scored tokens have."""
        ...

    def room(self, steps: int) -> int:
        """Return how many latents there is room for in a batch of T = ``steps``."""
        ...

    def read(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the state of each latent, (B, S, H), of states after each token, (B, T, H)."""
        ...

    def site(self, sequence: StepDistribution) -> TorchDistribution:
        """Return the distribution of the site, given that of the sequence z_1..z_S."""
        ...


class SequenceModel(Protocol):
    """What the model publishes for its guides."""

    latents: tuple[LatentSpec, ...]
    vocabulary: Vocabulary
    vocab_size: int
    latent_dim: int
    embedding_dim: int
    hidden_dim: int
    init: str
    places: Places
    book: CodeBook | None
    """The code vectors, where the prior is one of codes."""

    def given(self, numbers: Tensor, room: int) -> StepDistribution:
        """p(z_{1:S} | S) for texts of so many latents."""
        ...


class SequenceGuide(SiteGuide[SequenceModel]):
    """q(z_{1:S} | w): base of the guides for ``latent_sequence``.

    To write your own: inherit, build your networks in ``__init__`` (after ``super().__init__(model)``), and define
    ``sequence(batch)``, a distribution with batch shape (B,) and event shape (S, D), most easily
    :class:`~ppl_text.distributions.steps.StepNormals`. S is ``self.model.places.room(batch.steps)``, of which
    ``self.numbers(batch)`` count in each text: as many as tokens, unless the model has a stride, or one latent for the
    whole text (S = 1). To read the sentence with an LSTM inherit :class:`ReadingGuide`. Where draws cannot be
    differentiated, say by the class attribute ``objective`` what a swap trains the guide by. Give the class a docstring
    whose first line is its density.
    """

    family = "latent_sequence"

    def numbers(self, batch: Batch) -> Tensor:
        """Return how many latents each text has, (B,)."""
        return self.model.places.number(batch.lengths)

    def counted(self, batch: Batch) -> Tensor:
        """(B, S): True on the latents of the texts that count."""
        places = torch.arange(self.model.places.room(batch.steps), device=batch.lengths.device)
        return (places < self.numbers(batch).unsqueeze(-1)) & (batch.weights > 0).unsqueeze(-1)

    def blind(self, batch: Batch) -> StepDistribution:
        """p(z_{1:S} | S), which knows nothing of the texts but how many latents they have."""
        return self.model.given(self.numbers(batch), self.model.places.room(batch.steps))

    def sequence(self, batch: Batch) -> StepDistribution:
        """q(z_{1:S} | w) for a batch: batch shape (B,)."""
        raise NotImplementedError(f"{type(self).__name__}: define sequence(batch), a distribution with event (S, D)")

    def posterior(self, batch: Batch) -> TorchDistribution:
        """Return the distribution of the site, that of the sequence; for one latent a text, that of its lone step."""
        return self.model.places.site(self.sequence(batch))


class ReadingGuide(SequenceGuide):
    """q(z_{1:S} | h_1..h_S), h_s the state of an LSTM that has read the text as far as z_s stands: base of readers.

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
        """h_1..h_S (B, S, H): h_s has read the tokens up to the place of z_s."""
        return self.model.places.read(self.reader(batch.tokens)[:, 1:], batch.lengths)

    def mapped(self, outputs: int) -> nn.Linear:
        """Make a linear map of the states, with the model's kind of initial values."""
        linear = nn.Linear(self.reader.output_dim, outputs)
        initialise(linear, self.model.init)
        return linear


class GaussianGuide(ReadingGuide):
    """q(z | w) = Π_s N(z_s; μ(h_s), diag σ²(h_s)), [μ; ln σ²] = W h_s + b, h_s the states of an LSTM over the text."""

    def __init__(
        self, model: SequenceModel, *, embedding_dim: int | None = None, hidden_dim: int | None = None
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        if model.book is not None:
            raise UserError("with prior: codes every z is a code, for which there are the guides quantised and soft")
        self.projection = self.mapped(2 * model.latent_dim)

    def sequence(self, batch: Batch) -> StepNormals:
        """Return the Gaussians of all steps."""
        mean, log_variance = at_least_float32(self.projection(self.states(batch))).chunk(2, -1)
        return StepNormals(mean, (0.5 * log_variance).exp(), self.numbers(batch))


class CodeGuide(ReadingGuide):
    """q(z_{1:S} | h_1..h_S) over the codes of the model's ``book``: base of the guides for ``prior: codes``."""

    def __init__(
        self, model: SequenceModel, *, embedding_dim: int | None = None, hidden_dim: int | None = None
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        if model.book is None:
            raise UserError("this guide chooses among codes, and this model has none: give it prior: codes")

    @property
    def book(self) -> CodeBook:
        """The code book, which is the model's."""
        return cast(CodeBook, self.model.book)


class QuantisedGuide(CodeGuide):
    """q(z | w) = Π_s 1[z_s = e_k(s)], k(s) = argmin_k ‖W h_s - e_k‖²: a point mass at the nearest codes (DAVAM).

    Its gradient passes straight through to the states. The side loss ``commitment``, λ Σ_s ‖W h_s - sg(e_k(s))‖²,
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
        if commitment < 0:
            raise UserError(f"commitment must be 0 or more; got {commitment}")
        self.commitment = commitment
        self.projection = self.mapped(model.latent_dim)

    def sequence(self, batch: Batch) -> NearestCodes:
        """Return the point mass."""
        states = at_least_float32(self.projection(self.states(batch)))
        indices = self.book(states, self.counted(batch))
        return NearestCodes(states, self.book.codes, self.numbers(batch), indices)

    def forward(self, batch: Batch) -> Tensor:
        """The Pyro program: samples site ``z`` and records the commitment, which is 0 outside of training."""
        with pyro.plate("sentences", batch.size, dim=-1):
            q = self.sequence(batch)
            z: Tensor = pyro.sample("z", self.model.places.site(q))
            apart = (q.states - q.codes[q.indices].detach()).square().sum(-1)
            weight = self.commitment if self.training else 0.0
            record_side_loss(COMMITMENT, weight * q.total(apart))
        return z


class SoftGuide(CodeGuide):
    """q(z_s = e_k | z_{<s}, w) ∝ γ_k(z_{<s}) exp(-‖W h_s - e_k‖²/τ): the prior's shares, tilted to the codes near by.

    A bound by K draws is a real one of importance weights, for a model that was trained by a point mass, too. Drawn
    codes cannot be differentiated: train it with ``vimco:K``. Its gradient is that of the bound: it reaches the LSTM, W
    and τ through ln q alone, and the prior through ln p and through ln q, which γ is a part of. It reaches no code: the
    codes follow, by moving averages, the states that have drawn them, all particles alike: an unbiased estimate of the
    soft counts q(z_s = e_k | z_{<s}, w). No state is committed: the KL draws the states to likely codes itself.

    Args:
        model: p(z, w), with ``prior: codes``.
        temperature: τ at the beginning; it is learned, since no scaling of the states makes up for it where codes are
            fixed.
        embedding_dim, hidden_dim: of the LSTM; null: those of the decoder.
    """

    objective = "vimco:8"

    def __init__(
        self,
        model: SequenceModel,
        *,
        temperature: float = 1.0,
        embedding_dim: int | None = None,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        if temperature <= 0:
            raise UserError(f"temperature must be above 0; got {temperature}")
        self.projection = self.mapped(model.latent_dim)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def sequence(self, batch: Batch) -> TiltedCodes:
        """Return the tilted prior."""
        states = at_least_float32(self.projection(self.states(batch)))
        self.book.begin(states, self.counted(batch))
        prior = cast(CodeSequences, self.blind(batch))
        return TiltedCodes(prior, states, self.log_temperature.exp(), self.numbers(batch))

    def forward(self, batch: Batch) -> Tensor:
        """The Pyro program: samples site ``z``; in training the code book notes which state drew which code."""
        with pyro.plate("sentences", batch.size, dim=-1):
            q = self.sequence(batch)
            z: Tensor = pyro.sample("z", self.model.places.site(q))
            drawn = z.detach().reshape(-1, *q.states.shape)
            self.book.assign(q.states, self.counted(batch), nearest(drawn, q.codes))
        return z


class CategoricalGuide(CodeGuide):
    """q(z | w) = Π_s softmax(W h_s + b)[k_s]: each code by itself, given the text; nothing is asked of the prior.

    Train it with ``vimco:K``. The codes stay where they are: it is meant for a model that has been trained, or for
    ``code_start: uniform``.
    """

    objective = "vimco:8"

    def __init__(
        self, model: SequenceModel, *, embedding_dim: int | None = None, hidden_dim: int | None = None
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        self.projection = self.mapped(len(self.book.codes))

    def sequence(self, batch: Batch) -> IndependentCodes:
        """Return the categoricals of all steps."""
        return IndependentCodes(self.projection(self.states(batch)), self.book.codes, self.numbers(batch))


class PriorGuide(SequenceGuide):
    """q(z | w) = p(z | S): blind, without parameters; what a collapsed guide amounts to."""

    objective = "vimco:8"

    def sequence(self, batch: Batch) -> StepDistribution:
        """Return the model's prior."""
        return self.blind(batch)
