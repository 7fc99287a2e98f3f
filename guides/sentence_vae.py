"""Guides of the sentence VAE: q(z | w_{1:T}) over the single site ``z``.

Sources: Bowman et al. 2016 (last state), Kingma et al. 2016 (inverse autoregressive flow), Zhu et al. 2020 (BN-VAE);
constants as in specification 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from pyro.distributions import Independent, Normal, TransformedDistribution
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.distributions.point import PointMass
from ppl_text.distributions.precision import at_least_float32
from ppl_text.nn.initial import initialise
from ppl_text.nn.recurrent import AttentionPooling, LastState, SentenceReader
from ppl_text.nn.statistics import RowNorm

from .base import SiteGuide
from .language_model import ExactGuide as NothingLatent


class SentenceModel(Protocol):
    """What the model publishes for its guides."""

    latents: tuple[LatentSpec, ...]
    vocabulary: Vocabulary
    vocab_size: int
    latent_dim: int
    embedding_dim: int
    hidden_dim: int
    init: str
    """How parameters start, a name that :func:`ppl_text.nn.initial.initialise` knows."""

    def prior(self, size: int) -> Independent:
        """p(z) = N(0, I) for ``size`` sentences."""
        ...


class SentenceGuide(SiteGuide[SentenceModel]):
    """q(z | w_{1:T}): base of the guides for ``sentence_vae``.

    To write your own: inherit, build your networks in ``__init__`` (after ``super().__init__(model)``), and define
    ``posterior(batch)``, a Pyro distribution with batch shape (B,) and event shape (D,), reparametrised
    (``has_rsample``), most easily ``Normal(mean, scale).to_event(1)`` for (B, D) tensors; then every KL is in closed
    form. Read ``batch.tokens`` (the clean sentence; ``decoder_inputs`` has lost words to word dropout) and let nothing
    past ``batch.lengths`` matter. Give the class a docstring whose first line is its density. What the model publishes
    and you may use: ``model.vocab_size``, ``model.latent_dim`` (D), ``model.embedding_dim``, ``model.hidden_dim``,
    ``model.init`` and ``model.prior(size)``. To read the sentence with an LSTM inherit :class:`ReadingGuide`.
    """

    family = "sentence_vae"

    def __init__(self, model: SentenceModel) -> None:
        super().__init__(model)
        if not model.latents:
            raise UserError("with latent_dim=0 nothing is latent; its guide is 'exact'")


class ReadingGuide(SentenceGuide):
    """q(z | c(w)) with c(w) from the states of an LSTM over BOS w_1 … w_n EOS: base of the guides that read.

    Subclasses choose ``summary_class``, which makes one vector (B, H) of the states, and put a distribution on it.
    Parameters start as the model's do (its option ``init``).

    Args:
        model: p(z, w).
        embedding_dim, hidden_dim: of the LSTM; null: those of the decoder.
    """

    summary_class: type[LastState] | type[AttentionPooling] = LastState

    def __init__(
        self, model: SentenceModel, *, embedding_dim: int | None = None, hidden_dim: int | None = None
    ) -> None:
        super().__init__(model)
        width = model.hidden_dim if hidden_dim is None else hidden_dim
        embedding = model.embedding_dim if embedding_dim is None else embedding_dim
        self.reader = SentenceReader(model.vocab_size, embedding, width, bos=model.vocabulary.ids.bos)
        self.pooling = LastState() if self.summary_class is LastState else self.summary_class(width)
        initialise(self, model.init)

    def summary(self, batch: Batch) -> Tensor:
        """c(w), (B, H)."""
        summary: Tensor = self.pooling(self.reader(batch.tokens), batch.lengths)
        return summary

    def mapped(self, outputs: int) -> nn.Linear:
        """Make a linear map of c(w) without bias (specification 0), with the model's kind of initial values."""
        linear = nn.Linear(self.reader.output_dim, outputs, bias=False)
        initialise(linear, self.model.init)
        return linear


class GaussianGuide(ReadingGuide):
    """q(z | w) = N(μ, diag σ²), [μ; ln σ²] = W h_n, h_n the last state of an LSTM over BOS w_1 … w_n EOS."""

    def __init__(
        self, model: SentenceModel, *, embedding_dim: int | None = None, hidden_dim: int | None = None
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        self.projection = self.mapped(2 * model.latent_dim)

    def posterior(self, batch: Batch) -> Independent:
        """N(μ, diag σ²): event (D,), batch (B,)."""
        return self.gaussian(self.summary(batch), batch)

    def gaussian(self, summary: Tensor, batch: Batch) -> Independent:
        """Return the Gaussian given c(w) (B, H)."""
        mean, log_variance = at_least_float32(self.projection(summary)).chunk(2, -1)
        return Normal(self.centre(mean, batch), (0.5 * log_variance).exp()).to_event(1)

    def centre(self, mean: Tensor, batch: Batch) -> Tensor:
        """μ (B, D) as it comes from the network, to the mean of q: the same."""
        return mean


class PooledGuide(GaussianGuide):
    """q(z | w) = N(μ, diag σ²), [μ; ln σ²] = W Σ_t α_t h_t: attention over the states of the LSTM, from BOS to EOS.

    α = softmax_t(vᵀ tanh(W_a h_t + b_a)).
    """

    summary_class = AttentionPooling


class BatchNormGuide(GaussianGuide):
    """q(z | w) = N(γ (μ - m)/s + b, diag σ²), m and s of each entry of μ over the batch: the KL cannot vanish (BN-VAE).

    The mean of KL(q ‖ N(0, I)) over the rows of a training batch is at least D γ²/2 (+ ‖b‖²/2), since the mean square
    of each entry of q's mean is γ² + b_d². γ is fixed, b is learned from 0. In evaluation mode m and s are running
    means over the training batches.

    Args:
        model: p(z, w).
        gamma: γ.
        embedding_dim, hidden_dim: of the LSTM; null: those of the decoder.
    """

    def __init__(
        self,
        model: SentenceModel,
        *,
        gamma: float = 0.5,
        embedding_dim: int | None = None,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        if gamma <= 0:
            raise UserError(f"gamma must be above 0, since the KL is held above D γ²/2; got {gamma}")
        self.norm = RowNorm(model.latent_dim, gamma=gamma)

    def centre(self, mean: Tensor, batch: Batch) -> Tensor:
        """μ normalised over the rows that count, (B, D)."""
        centre: Tensor = self.norm(mean, batch.weights)
        return centre


class FlowGuide(GaussianGuide):
    """q(z | w): z = f_n ∘ … ∘ f_1(u), u ~ N(μ, diag σ²), f_i inverse autoregressive flows given h_n (IAF).

    f_i(u)_d = σ_d u_d + (1 - σ_d) m_d, σ_d = sigmoid(s_d + 2), with m and s of (u_{<d}, h_n), in turn from the first
    entry to the last and back: the gated form of the paper's section 4, which SGD at a rate of 1 does not blow up.
    Drawing z and scoring that draw are one pass; scoring any other z takes D passes a flow. No closed-form KL.

    Args:
        model: p(z, w).
        flows: n.
        flow_hidden: widths of their networks, each at least D.
        embedding_dim, hidden_dim: of the LSTM; null: those of the decoder.
    """

    def __init__(
        self,
        model: SentenceModel,
        *,
        flows: int = 2,
        flow_hidden: Sequence[int] = (128,),
        embedding_dim: int | None = None,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        size = model.latent_dim
        if size < 2 or flows < 1 or not flow_hidden or min(flow_hidden) < size:
            raise UserError(
                "guide iaf needs latent_dim >= 2, flows >= 1 and flow_hidden >= latent_dim; got "
                f"latent_dim={size}, flows={flows}, flow_hidden={list(flow_hidden)}"
            )
        self._orders = [range(size)[:: 1 if i % 2 == 0 else -1] for i in range(flows)]
        self.flows = nn.ModuleList(
            ConditionalAffineAutoregressive(self._network(size, flow_hidden, order), stable=True)
            for order in self._orders
        )
        initialise(self.flows, model.init)

    def _network(self, size: int, hidden: Sequence[int], order: Sequence[int]) -> nn.Module:
        """[m; s] from u and h_n, each entry from those before it in ``order``."""
        width = self.reader.output_dim
        network: nn.Module = ConditionalAutoRegressiveNN(
            size, width, list(hidden), permutation=torch.tensor(order), nonlinearity=nn.ELU()
        )
        return network

    def posterior(self, batch: Batch) -> TransformedDistribution:
        """Return the flows on top of the Gaussian: event (D,), batch (B,)."""
        summary = self.summary(batch)
        flows = [flow.condition(at_least_float32(summary)) for flow in self.flows]  # type: ignore[operator]
        for flow, order in zip(flows, self._orders, strict=True):
            # To invert, Pyro goes through its order entry by entry; each one of a buffer would wait for the device.
            flow.arn.permutation = order
        return TransformedDistribution(self.gaussian(summary, batch), flows)


class PointGuide(ReadingGuide):
    """q(z | w) = δ(z - W h_n): a point mass, which makes the model an autoencoder.

    A point has no density, its KL is infinite and so is every bound: train it with the objective ``reconstruction``.
    """

    def __init__(
        self, model: SentenceModel, *, embedding_dim: int | None = None, hidden_dim: int | None = None
    ) -> None:
        super().__init__(model, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        self.projection = self.mapped(model.latent_dim)

    def posterior(self, batch: Batch) -> PointMass:
        """Return the point: event (D,), batch (B,)."""
        return PointMass(at_least_float32(self.projection(self.summary(batch))))


class PriorGuide(SentenceGuide):
    """q(z | w) = p(z): blind, without parameters ("bootstrap"); what a collapsed guide amounts to."""

    def posterior(self, batch: Batch) -> Independent:
        """Return the model's prior."""
        return self.model.prior(batch.size)


class ExactGuide(NothingLatent):
    """q over no latent at all, for ``latent_dim=0``: every bound is ln p(w) itself."""

    family = "sentence_vae"

    def __init__(self, model: SentenceModel) -> None:
        if model.latents:
            raise UserError(
                "guide exact is for a model without latents (latent_dim=0); this one has z, for which there are the "
                "guides gaussian, pooled, batch-norm, iaf, point and prior"
            )
        super().__init__(model)  # type: ignore[arg-type]
