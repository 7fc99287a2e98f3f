"""Guides of Transformers with latents: q(z_1..z_L | w), from states that the blocks of a Transformer have of the text.

Source: Hu et al. 2022 (DELLA; specification 2B).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import pyro
import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.distributions.precision import at_least_float32
from ppl_text.nn.backbone import Backbone
from ppl_text.nn.handed import HandedOn
from ppl_text.nn.initial import normal_linear
from ppl_text.nn.latent_chain import LatentChain
from ppl_text.nn.pooling import StatePooling
from ppl_text.nn.sourced_backbone import build_backbone
from ppl_text.nn.statistics import RowNorm

from .language_model import ExactGuide as NothingLatent

ENCODERS = ("shared", "own")
"""What reads the text: the model's own blocks, or others of the same form."""


class LayeredModel(Protocol):
    """What the model publishes for its guides."""

    latents: tuple[LatentSpec, ...]
    sites: tuple[str, ...]
    """Names of the latents, in order."""
    latent_dim: int
    pooling_kind: str
    clamp: float | None
    architecture: Mapping[str, Any]
    """What a :class:`~ppl_text.nn.backbone.Backbone` of the same form is made of."""
    backbone: Backbone
    chain: LatentChain
    conditional: bool
    conditions: HandedOn[Any]
    """What sources say; ``vectors`` of it to each latent, (B, H), None without sources."""

    def read(self, batch: Batch, backbone: Backbone | None = None) -> tuple[list[Tensor], Tensor]:
        """Return states (B, S, H) of the text for each latent, and which of them count (B, S)."""
        ...

    def load_backbone(self, backbone: Backbone) -> None:
        """Take over the weights of the model's pretrained start in another network of its form, if it has any."""
        ...

    def prior(self, place: int, history: Tensor | None, condition: Tensor | None, size: int) -> TorchDistribution:
        """p(z_l | z_{<l}, source) at ``place``."""
        ...


class LayeredGuide(nn.Module):
    """q(z_1..z_L | w): base of the guides for ``layerwise_transformer``, which samples the latents in order.

    To write your own: inherit, build networks in ``__init__`` (after ``super().__init__(model)``), and define
    ``posterior(place, read, history, batch)``: a distribution with batch shape (…, B) and event (D,), most easily
    ``Normal(mean, scale).to_event(1)``. ``place`` counts the latents from 0; ``history`` (…, B, D) sums up those drawn
    before, as the ``chain`` of the guide does, None where that is nothing; ``read`` is what ``reading(batch)`` has
    returned: define that, too, for what does not depend on draws, so that it is computed once for all particles. To
    read the text with a Transformer inherit :class:`ReadingGuide`.
    """

    family = "layerwise_transformer"

    def __init__(self, model: LayeredModel) -> None:
        super().__init__()
        self._model = (model,)
        if not model.latents:
            raise UserError("with paradigm: none nothing is latent; the guide of that model is 'exact'")

    @property
    def model(self) -> LayeredModel:
        """The model that this guide was built for."""
        return self._model[0]

    @property
    def chain(self) -> LatentChain:
        """What sums up the latents drawn before: the model's own."""
        return self.model.chain

    def reading(self, batch: Batch) -> Any:
        """Return what the guide reads of a batch before anything is drawn; nothing."""
        return None

    def conditional(self, place: int, read: Any, history: Tensor | None, batch: Batch) -> TorchDistribution:
        """q(z_l | z_{<l}, w): batch shape (…, B), event (D,)."""
        raise NotImplementedError(f"{type(self).__name__}: define conditional(place, read, history, batch)")

    def forward(self, batch: Batch) -> list[Tensor]:
        """The Pyro program: samples the latent sites in order; the text is read once, whatever the particles."""
        read, history = self.reading(batch), None
        drawn: list[Tensor] = []
        with pyro.plate("sentences", batch.size, dim=-1):
            for place, name in enumerate(self.model.sites):
                history = self.chain.history(place, history, drawn[-1] if drawn else None)
                drawn.append(pyro.sample(name, self.conditional(place, read, history, batch)))
        return drawn


class ReadingGuide(LayeredGuide):
    """q(z_1..z_L | x_1..x_L), x_l pooled of the states of BOS w_1 … EOS after layer l: base of the guides that read.

    The blocks see the text in both directions and no latent. Where there is a source, its c_l is read beside x_l. Each
    latent is a Gaussian, [μ_l; ln σ_l²] = W_l [r_l; x_l; c_l] + b_l, of which subclasses say what they are given.

    Args:
        model: p(z, w).
        encoder: ``shared``, the model's own blocks, which a swap of the guide keeps; or ``own``.
        pooling: ``attention``, ``first`` or ``attention-unmasked``; null: the model's.
        gamma: γ of batch-normalised means, μ = γ (m - mean)/std + b over the rows of a training batch, so that the
            KL from N(0, I) is D γ²/2 a latent or more (BN-VAE); null: means as they are.
    """

    in_order: ClassVar[bool] = False
    """Whether each latent is given those before it."""

    def __init__(
        self,
        model: LayeredModel,
        *,
        encoder: str = "shared",
        pooling: str | None = None,
        gamma: float | None = None,
    ) -> None:
        super().__init__(model)
        if encoder not in ENCODERS:
            raise UnknownNameError("encoder", encoder, ENCODERS)
        if gamma is not None and gamma <= 0:
            raise UserError(f"gamma must be above 0, since the KL is held above D γ²/2; null: no norm; got {gamma}")
        self.backbone = build_backbone(**model.architecture) if encoder == "own" else None
        number, self._width = len(model.sites), model.backbone.width
        missing = self.in_order and not model.chain.chained and number > 1
        self.own_chain = LatentChain(number, model.latent_dim, chained=True) if missing else None
        self.pooling = nn.ModuleList(StatePooling(self._width, pooling or model.pooling_kind) for _ in range(number))
        self.recognition = nn.ModuleList(self._recognition(place) for place in range(number))
        norms = [] if gamma is None else [RowNorm(model.latent_dim, gamma=gamma) for _ in range(number)]
        self.norms = nn.ModuleList(norms)

    def load_pretrained(self) -> None:
        """Take over the weights of a pretrained model in blocks of the guide's own: at the beginning of a training."""
        if self.backbone is not None:
            self.model.load_backbone(self.backbone)

    @property
    def chain(self) -> LatentChain:
        """What sums up the latents drawn before: the prior's own chain, or that of the guide."""
        return self.model.chain if self.own_chain is None else self.own_chain

    def given_history(self, place: int) -> bool:
        """Return whether q of the latent at ``place`` is given those before it."""
        return self.in_order and self.chain.is_linked(place)

    def _recognition(self, place: int) -> nn.Linear:
        """W_l and b_l, which start as the model's own maps do."""
        read = self._width * (2 if self.model.conditional else 1)
        dim = self.model.latent_dim
        return normal_linear(read + dim * self.given_history(place), 2 * dim)

    def reading(self, batch: Batch) -> list[Tensor]:
        """Return [x_l; c_l] for each latent, (B, H) or (B, 2 H)."""
        states, counted = self.model.read(batch, self.backbone)
        found = [pool(part, counted) for pool, part in zip(self.pooling, self.spread(states), strict=True)]
        given = self.model.conditions.leave(batch).vectors
        return [x if c is None else torch.cat([x, c], -1) for x, c in zip(found, given, strict=True)]

    def spread(self, states: list[Tensor]) -> list[Tensor]:
        """Return the states (B, S, H) that each latent is read from, given those after each layer: its own."""
        return states

    def conditional(self, place: int, read: list[Tensor], history: Tensor | None, batch: Batch) -> Independent:
        """N(μ_l, diag σ_l²)."""
        given = read[place]
        if self.given_history(place) and history is not None:
            lead = torch.broadcast_shapes(history.shape[:-1], given.shape[:-1])
            given = torch.cat([history.expand(*lead, -1), given.expand(*lead, -1)], -1)
        mean, log_variance = at_least_float32(self.recognition[place](given)).chunk(2, -1)
        mean = self._normalised(place, mean, batch)
        if self.model.clamp is not None:
            mean, log_variance = (x.clamp(-self.model.clamp, self.model.clamp) for x in (mean, log_variance))
        return Normal(mean, (0.5 * log_variance).exp()).to_event(1)

    def _normalised(self, place: int, mean: Tensor, batch: Batch) -> Tensor:
        """μ (…, B, D), batch-normalised over all rows that count, of all particles, where the guide has norms."""
        if not self.norms:
            return mean
        weights = batch.weights.expand(mean.shape[:-1])
        normalised: Tensor = self.norms[place](mean.flatten(0, -2), weights.flatten())
        return normalised.unflatten(0, mean.shape[:-1])


class LayerWiseGuide(ReadingGuide):
    """q(z_1..z_L | w) = Π_l N(z_l; μ_l(r_l, x_l), diag σ_l²(r_l, x_l)), r_l the prior's summary of z_{<l} (DELLA).

    A model whose prior is no chain gets one of the guide's own.
    """

    in_order = True


class IndependentGuide(ReadingGuide):
    """q(z_1..z_L | w) = Π_l N(z_l; μ_l(x_l), diag σ_l²(x_l)): each by itself ("Separate"); for one z, q(z | w)."""


class SingleGuide(ReadingGuide):
    """q(z_1..z_L | w) = Π_l N(z_l; μ_l(x_L), diag σ_l²(x_L)): all are read from the states of the last layer."""

    def spread(self, states: list[Tensor]) -> list[Tensor]:
        """Return the last layer's states for each latent."""
        return states[-1:] * len(self.model.sites)


class PriorGuide(LayeredGuide):
    """q(z_1..z_L | w) = p(z_1..z_L | source): blind to the text, without parameters."""

    def reading(self, batch: Batch) -> list[Tensor | None]:
        """Return what the source says."""
        vectors: list[Tensor | None] = self.model.conditions.leave(batch).vectors
        return vectors

    def conditional(
        self, place: int, read: list[Tensor | None], history: Tensor | None, batch: Batch
    ) -> TorchDistribution:
        """Return the model's prior."""
        return self.model.prior(place, history, read[place], batch.size)


class ExactGuide(NothingLatent):
    """q over no latent at all, for ``paradigm: none``: every bound is ln p(w) itself."""

    family = "layerwise_transformer"

    def __init__(self, model: LayeredModel) -> None:
        if model.latents:
            raise UserError(
                "guide exact is for a model without latents (paradigm: none); this one has "
                f"{', '.join(model.sites)}, for which there are layer-wise, independent, single and prior"
            )
        super().__init__(model)  # type: ignore[arg-type]
