"""Transformers with latents: one of each layer, fused with its values, or one of the whole text, by several ways in.

Source: Hu et al. 2022, "Fuse It More Deeply! A Variational Transformer with Layer-Wise Latent Variable Inference for
Text Generation" (DELLA; specification 2), with the paradigms that it is compared with (Optimus, Li et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import pyro
import torch
from pyro.distributions import Normal, TorchDistribution, TransformedDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.batch import Batch
from ..core.errors import UnknownNameError, UserError
from ..core.latents import Latents, LatentSpec
from ..core.protocols import Choice, State
from ..core.vocabulary import Vocabulary
from ..data.pretrained_models import embedding_rows, pretrained_settings, weights
from ..distributions.density_flows import density_flows
from ..distributions.precision import at_least_float32
from ..distributions.side import record_side_loss
from ..distributions.tokens import DecodedTokens, log_bag
from ..nn.architectures import ARCHITECTURES, keys_of_sizes
from ..nn.backbone import Backbone, Source, take_rows
from ..nn.handed import HandedOn
from ..nn.injections import INJECTIONS, ByLayer
from ..nn.latent_chain import LatentChain
from ..nn.pooling import StatePooling
from ..nn.sourced_backbone import build_backbone

BAG_OF_WORDS = "bag_of_words"
"""Name of the side loss."""

SEVERAL = ("value", "residual")
"""Ways in that take a latent of each layer; all others take one."""

PRIORS, FIRST, HEADS = ("chain", "independent"), ("standard", "learned"), ("tied", "untied")


class Sizes(NamedTuple):
    """Sizes of a decoder."""

    layers: int
    width: int
    heads: int
    positions: int


GPT2_SMALL = Sizes(layers=12, width=768, heads=12, positions=1024)
"""Sizes where nothing else is said."""


class Conditions(NamedTuple):
    """What sources say: c_l (B, H) to each prior, None where there are none, and what a text is written behind."""

    vectors: list[Tensor | None]
    source: Source | None


class LayerwiseTransformer(nn.Module):
    """p(z_1..z_L, w_{1:T}) = Π_l N(z_l; μ_l(z_{<l}), σ_l²(z_{<l})) Π_t softmax(E h_t)[w_t], h = decoder(w_{<t}, z).

    A causal Transformer (:class:`~ppl_text.nn.backbone.Backbone`) that latents enter by one of several ways
    (:data:`~ppl_text.nn.injections.INJECTIONS`): ``value`` fuses the values of layer l with z_l (DELLA), ``residual``
    adds W_l z_l to the states in front of it; ``embedding``, ``memory``, ``optimus`` (both of these) and ``softmax``
    take one z ~ N(0, I) of the whole text; with ``none`` nothing is latent: the decoder alone, whose bounds are
    ln p(w). Where data have sources, a text is written behind its source, and priors see the source, too: [r_l; c_l],
    c_l pooled of the source's states after layer l, read with the same blocks.

    Args:
        vocabulary: V symbols, O of them outcomes; with a source side, which has to be the same.
        paradigm: the way in: ``value``, ``residual``, ``embedding``, ``memory``, ``optimus``, ``softmax`` or ``none``.
        latent_dim: D of each latent.
        one_latent: all layers of ``value`` or ``residual`` share one z (the paper's ablation "-LW").
        prior: of several latents, ``chain`` or ``independent`` (N(0, I) each: "Separate").
        prior_flows: of each prior, so many autoregressive flows of its Gaussian, which are the identity at first: for a
            stage that fits the prior afterwards, ``train: [model.chain.to_gaussian, model.flows]`` (the rest of the
            chain is q's, too).
        prior_hidden: width of their networks.
        prior1: p(z_1): ``standard``, N(0, I), or ``learned``, as the public code's biases make it.
        fusion: of values: ``lmf`` (sum of products), ``sum_prod`` (the paper's) or ``sum`` ("-LTP").
        rank: of the fusion.
        fusion_start: ``identity`` (values are untouched at first) or ``normal`` (the paper's).
        first_layer, last_layer: layers, from 1, that have a latent; null: to the last.
        pooling: of states to one vector, for sources and in guides: ``attention``, ``first`` or ``attention-unmasked``.
        read_norm: priors and guides read the states after a layer as the next layer does, behind its norm (BART's has
            none there); null: no, but a run that begins with a ``backbone`` says yes: its states may be in hundreds.
        clamp: largest absolute value of μ and ln σ² of the guides' Gaussians; null: any.
        bag_of_words: weight of the side loss -Σ_t ln softmax(E (W_b z_L + b))[w_t], in training alone.
        head: the softmax shares its weights with the embedding (``tied``), or has its own (``untied``).
        backbone: a pretrained model, a folder or a name, whose weights training begins with; null: random ones.
        adapt: what is trained of the backbone: ``full``, ``frozen`` or ``low-rank``; the embedding always is.
        adapt_rank: of low-rank updates.
        architecture: ``gpt2``; of Llama's form ``llama``, ``mistral``, ``qwen2`` or ``qwen3``; or ``bart``, whose
            encoder reads text and source.
        layers, width, heads, positions: sizes of the decoder; null: those of the pretrained model, or GPT-2 small's 12,
            768, 12 and 1024. A recipe's give way to a ``backbone`` that is set for a run.
        dropout: of embeddings, attention and residuals, in training only.
        settings: other keys of the architecture's configuration; null: those of the pretrained model, or the defaults.
        checkpointing: compute activations twice rather than keep them.
    """

    family = "layerwise_transformer"
    story = (
        "r_l = tanh(W r_{l-1} + W' z_{l-1});  z_l ~ N(μ(r_l), σ²(r_l)), l = 1 … L;  ṽ_l = fuse(v_l, z_l) in layer l",
        "p(z, w) = Π_l p(z_l | z_{<l}) Π_t P(w_t | w_{<t}, z), by a causal Transformer; or one z for all layers",
    )
    measures = ("sentences", "layers", "generation")
    conditional: bool | None = None
    decides: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "backbone": (*Sizes._fields, "architecture", "settings", "head")
    }
    presets: ClassVar[tuple[Choice, ...]] = (
        Choice("model.fusion", "sum_prod", "lmf", "the sums stand inside the product, so the rank has no effect"),
        Choice("model.fusion_start", "normal", "identity", "a pretrained layer's values give way to small noise"),
        Choice("model.prior1", "learned", "standard", "biases of the code make p(z_1) another one than N(0, I)"),
        Choice("model.head", "untied", "tied", "the code's softmax is not the pretrained one, and starts anew"),
        Choice("model.pooling", "attention-unmasked", "attention", "padding takes part, so q depends on the batch"),
        Choice("training.kl_sites", "mean", "sum", "the code averages KLs over layers: β of 1/L, and no bound"),
        Choice("model.clamp", 5.0, None, "the code clamps μ and ln σ² of q"),
    )
    zeros: Tensor
    ones: Tensor

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        paradigm: str = "value",
        latent_dim: int = 32,
        one_latent: bool = False,
        prior: str = "chain",
        prior1: str = "standard",
        prior_flows: int = 0,
        prior_hidden: int = 64,
        fusion: str = "lmf",
        rank: int = 4,
        fusion_start: str = "identity",
        first_layer: int = 1,
        last_layer: int | None = None,
        pooling: str = "attention",
        read_norm: bool | None = None,
        clamp: float | None = None,
        bag_of_words: float = 0.0,
        head: str = "tied",
        backbone: str | None = None,
        adapt: str = "full",
        adapt_rank: int = 8,
        architecture: str = "gpt2",
        layers: int | None = None,
        width: int | None = None,
        heads: int | None = None,
        positions: int | None = None,
        dropout: float = 0.1,
        settings: Mapping[str, Any] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _refuse_unknown(paradigm=paradigm, prior=prior, prior1=prior1, head=head)
        given = {"layers": layers, "width": width, "heads": heads, "positions": positions}
        sizes = GPT2_SMALL._replace(**{name: size for name, size in given.items() if size is not None})
        self.vocabulary, self.vocab_size, self.latent_dim = vocabulary, vocabulary.size, latent_dim
        self.paradigm, self.pooling_kind, self.clamp, self.bag_of_words = paradigm, pooling, clamp, bag_of_words
        self.architecture = {
            "architecture": architecture,
            "vocabulary": vocabulary.size,
            **sizes._asdict(),
            "dropout": dropout,
            "settings": settings,
            "checkpointing": checkpointing,
            "adapt": adapt,
            "adapt_rank": adapt_rank,
            "read_norm": bool(read_norm),
        }
        """What a network of the same form is made of, a guide's own encoder, say."""
        self.pretrained, self.backbone = backbone, build_backbone(**self.architecture)
        self.head = nn.Linear(sizes.width, vocabulary.size, bias=False) if head == "untied" else None
        self.places = _places(paradigm, first_layer, last_layer, sizes.layers)
        self.sites = _site_names(paradigm, self.places, one_latent)
        _check_latents(bool(self.places), latent_dim, bag_of_words, prior_flows, prior_hidden)
        self.latents = tuple(LatentSpec(name, axes=("D",), sizes={"D": latent_dim}) for name in self.sites)
        self.conditional = vocabulary.source is not None
        if self.conditional:
            _check_source(vocabulary)
        fused = {"rank": rank, "form": fusion, "start": fusion_start} if paradigm == "value" else {}
        self.injection = INJECTIONS[paradigm](
            self.places, latent_dim=latent_dim, width=sizes.width, value_dim=self.backbone.value_dim, **fused
        )
        self.chain = LatentChain(
            len(self.sites),
            latent_dim,
            chained=prior == "chain" and len(self.sites) > 1,
            learned_first=prior1 == "learned",
            condition_dim=sizes.width if self.conditional else 0,
        )
        self.flows = nn.ModuleList(density_flows(latent_dim, prior_flows, prior_hidden) for _ in self.sites)
        pooled = self.layers_read if self.conditional else ()
        self.pooling = nn.ModuleList(StatePooling(sizes.width, pooling) for _ in pooled)
        self.bag = nn.Linear(latent_dim, sizes.width) if bag_of_words else None
        self.conditions = HandedOn(self, self._conditions)
        """What sources say to the priors, one vector (B, H) for each latent: computed once, by the guide."""
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    @classmethod
    def settled(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in what a pretrained model decides, so that the options say it without its folder.

        Raises :class:`UserError` where an option says something else, or the folder is none of a known architecture.
        """
        name = options.get("backbone")
        names = Sizes._fields
        if name is None or None not in [options.get(key) for key in (*names, "settings")]:
            return dict(options)
        found = pretrained_settings(name)
        keys = keys_of_sizes(found.architecture)
        sizes = {key: getattr(found, key) for key in names}
        wrong = [f"{key}={options[key]}" for key in names if options.get(key) not in (None, sizes[key])]
        if wrong:
            has = ", ".join(f"{key}={size}" for key, size in sizes.items())
            raise UserError(f"model.{wrong[0]} is not what backbone {name} has ({has}); leave it out")
        ours = {*keys, "vocab_size", "model_type", "tie_word_embeddings"}
        kept = {
            k: v for k, v in found.settings.items() if k not in ours and not k.endswith(("pdrop", "dropout", "_id"))
        }
        untied = found.settings.get("tie_word_embeddings") is False
        own: dict[str, Any] = {"head": "untied"} if untied else {}
        if options.get("read_norm") is None and ARCHITECTURES[found.architecture].norm:
            own["read_norm"] = True
        return {**options, **sizes, "architecture": found.architecture, "settings": kept, **own}

    def load_pretrained(self) -> None:
        """Take over the weights of the pretrained model, if there is one: at the beginning of a training.

        Raises :class:`UserError` where they are not there, or do not fit the model or the tokenizer of the texts.
        """
        self._take_over(self.backbone, self.head)

    def load_backbone(self, backbone: Backbone) -> None:
        """Take over the pretrained weights in another network of this form."""
        self._take_over(backbone, None)

    @torch.no_grad()
    def _take_over(self, backbone: Backbone, head: nn.Linear | None) -> None:
        """Read the pretrained weights, once, into a backbone and a softmax of its own."""
        if self.pretrained is None:
            return
        found = pretrained_settings(self.pretrained)
        rows, tensors = embedding_rows(found, self.vocabulary), weights(found)
        backbone.load(tensors, found.embedding, rows)
        if head is not None and "lm_head.weight" in tensors:
            take_rows(head.weight, tensors["lm_head.weight"], rows)

    def check_lengths(self, lengths: Tensor, sources: Tensor | None = None) -> None:
        """Raise :class:`UserError` where texts of these numbers of scored tokens have more than there are positions.

        ``sources``: those of their sources, which stand in front of the texts or are read by an encoder.
        """
        whole, what, most = lengths + 1, "texts", self.backbone.positions
        if sources is not None and self.backbone.encodes:
            whole, what = torch.maximum(whole, sources + 1), "texts or their sources"
        elif sources is not None:
            whole, what = whole + sources + 1, "texts with their sources"
        long = int((whole > most).sum())
        if long:
            raise UserError(
                f"{long:,} of {len(lengths):,} {what} have more tokens than the {most:,} positions of the model, the "
                f"longest {int(whole.max()):,}: set data.max_tokens (and data.source_max_tokens) so that they fit, "
                "with data.long=truncate, drop or refuse; or more model.positions where it starts at random"
            )

    @property
    def layers_read(self) -> tuple[int, ...]:
        """The layer, from 0, whose states tell about each latent: its own; of the one of several layers, the last."""
        return self.places if len(self.sites) == len(self.places) else self.places[-1:]

    @property
    def output_weight(self) -> Tensor:
        """E, (O, H)."""
        weight = self.backbone.embedding.weight if self.head is None else self.head.weight
        return weight[self.vocabulary.ids.first_outcome :]

    def read(self, batch: Batch, backbone: Backbone | None = None) -> tuple[list[Tensor], Tensor]:
        """Return states of BOS w_1 … EOS that see each other, after each layer read, (B, S, H), and which count (B, S).

        ``backbone``: reads them; None: the model's own, without any latent.
        """
        backbone = self.backbone if backbone is None else backbone
        embedded, counted = self._with_bos(batch, backbone)
        states = backbone.read(embedded, counted)
        return [states[place] for place in self.layers_read], counted

    def _with_bos(self, batch: Batch, backbone: Backbone) -> tuple[Tensor, Tensor]:
        bos = batch.tokens.new_full((batch.size, 1), self.vocabulary.ids.bos)
        counted = torch.cat([batch.scored.new_ones(batch.size, 1), batch.scored], 1)
        return backbone.embedding(torch.cat([bos, batch.tokens], 1)), counted

    def _conditions(self, batch: Batch) -> Conditions:
        return self.told_by(batch.source)

    def told_by(self, source: Batch | None) -> Conditions:
        """Return what sources say: a vector (B, H) for each prior, and what texts are written behind."""
        if not self.conditional:
            return Conditions([None] * len(self.sites), None)
        if source is None:
            raise UserError("this model was made for texts with sources, and these have none: give one for each text")
        embedded, counted = self._with_bos(source, self.backbone)
        states = self.backbone.read(embedded, counted) if self.sites or self.backbone.encodes else []
        vectors = [pool(states[place], counted) for pool, place in zip(self.pooling, self.layers_read, strict=True)]
        return Conditions(list(vectors), self.backbone.source(embedded, states, counted))

    def prior(self, place: int, history: Tensor | None, condition: Tensor | None, size: int) -> TorchDistribution:
        """p(z_l | z_{<l}, source) of the latent at ``place``, given r_l and c_l, for ``size`` texts."""
        found = self.chain.gaussian(place, history, condition)
        if found is None:
            law = Normal(self.zeros, self.ones).expand((size, self.latent_dim)).to_event(1)
        else:
            mean, log_variance = map(at_least_float32, found)
            law = Normal(mean, (0.5 * log_variance).exp()).expand((*mean.shape[:-2], size, self.latent_dim)).to_event(1)
        flows = list(cast(nn.ModuleList, self.flows[place]))
        return TransformedDistribution(law, [flow.inv for flow in flows]) if flows else law

    def forward(self, batch: Batch) -> list[Tensor]:
        """The Pyro program: samples the latent sites in order, observes site ``tokens``, returns the latents."""
        vectors, source = self.conditions.take(batch)
        drawn: list[Tensor] = []
        history = None
        with pyro.plate("sentences", batch.size, dim=-1):
            for place, name in enumerate(self.sites):
                history = self.chain.history(place, history, drawn[-1] if drawn else None)
                drawn.append(pyro.sample(name, self.prior(place, history, vectors[place], batch.size)))
            states = self.states(batch, drawn, source)
            tokens = DecodedTokens(states, self.output_weight, None, batch.lengths, self.vocabulary.ids)
            pyro.sample("tokens", tokens, obs=batch.tokens)
            if self.bag is not None:
                # Of no use outside of training, and (…, B, O) is large for many particles.
                logits = F.linear(self.bag(drawn[-1]), self.output_weight) if self.training else None
                bag = batch.weights.new_zeros(()) if logits is None else log_bag(logits, batch, self.vocabulary.ids)
                record_side_loss(BAG_OF_WORDS, -self.bag_of_words * bag)
        return drawn

    def states(self, batch: Batch, latents: Sequence[Tensor], source: Source | None = None) -> Tensor:
        """Last states (…, B, T, H), each given the tokens before it, latents (…, B, D) and its source."""
        lead = latents[-1].shape[:-1] if latents else torch.Size([batch.size])
        embedded = self.backbone.embedding(batch.decoder_inputs)
        embedded = embedded.expand(*lead, *embedded.shape[-2:]).flatten(0, -3)
        by_layer = self.by_layer([z.expand(*lead, -1).flatten(0, -2) for z in latents])
        given = None if source is None else source.repeated(lead)
        shifted = _shifted(embedded, self.injection.to_embeddings(by_layer))
        states = self.backbone(shifted, self.injection.to_layers(by_layer), given)
        return _shifted(states, self.injection.to_outputs(by_layer)).unflatten(0, lead)

    def by_layer(self, latents: Sequence[Tensor]) -> ByLayer:
        """Return the latent of each layer, given the sites' values in order; None where a layer has none."""
        values = list(latents) if len(latents) == len(self.places) else [*latents] * len(self.places)
        of = dict(zip(self.places, values, strict=True))
        return [of.get(place) for place in range(self.backbone.number)]

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z ~ p, (n, D) each, given n sources where there are sources."""
        vectors, _ = self.told_by(source)
        found: Latents = {}
        history = latent = None
        for place, name in enumerate(self.sites):
            history = self.chain.history(place, history, latent)
            found[name] = latent = self.prior(place, history, vectors[place], n).sample()
        return found

    def decoder(self, latents: Latents, source: Batch | None = None) -> Writer:
        """Return what writes texts given the latents (R, D), behind R sources where there are sources."""
        return Writer(self, [latents[name] for name in self.sites], self.told_by(source).source)

    @torch.no_grad()
    def memory_attention(self, batch: Batch, latents: Latents) -> tuple[Tensor, Tensor] | None:
        """Return the share of its attention that each token pays to z, (B, L, T), mean over heads; None: no memory.

        Beside it (B, T): that share if all that is read had the same.
        """
        by_layer = self.by_layer([latents[name] for name in self.sites])
        injected = self.injection.to_layers(by_layer)
        if not injected.memory:
            return None
        embedded = _shifted(self.backbone.embedding(batch.decoder_inputs), self.injection.to_embeddings(by_layer))
        source = self.told_by(batch.source).source if self.conditional else None
        return self.backbone.memory_attention(embedded, injected, source)


class Writer:
    """Writes texts given latents, token by token, with what was computed before kept: a decoder for all searches.

    Its state holds the latents, too, so that rows can be repeated and reordered.

    Args:
        model: p(z, w).
        latents: the sites' values in order, (R, D) each.
        source: what each text is written behind; None: nothing.
    """

    def __init__(self, model: LayerwiseTransformer, latents: Sequence[Tensor], source: Source | None) -> None:
        self._model, self._latents, self._source = model, tuple(latents), source
        before = 0 if source is None or model.backbone.encodes else source.states.shape[1]
        self.longest = max(1, model.backbone.positions - before)
        """Tokens that it writes at most: what there are positions for."""

    @torch.no_grad()
    def begin(self, rows: int) -> State:
        """Return the state before the first token."""
        model, given = self._model, self._latents
        if any(len(z) != rows for z in given):
            raise ValueError(f"decoder: expects {rows} rows of latents, got {[len(z) for z in given]}")
        injected = model.injection.to_layers(model.by_layer(given))
        state = model.backbone.begin(rows, injected, self._source)
        return (*given, *state)

    @torch.no_grad()
    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, O) of what follows ``tokens`` (R,), and the state after them; nothing is dropped."""
        number = len(self._latents)
        given, kept = state[:number], state[number:]
        model = self._model
        by_layer, injection = model.by_layer(given), model.injection
        embedded = _shifted(model.backbone.embedding(tokens).unsqueeze(1), injection.to_embeddings(by_layer))
        states, kept = model.backbone.step(kept, embedded, injection.to_layers(by_layer))
        states = _shifted(states, injection.to_outputs(by_layer))
        return F.linear(states[:, -1], model.output_weight), (*given, *kept)


def _shifted(x: Tensor, shift: Tensor | None) -> Tensor:
    """Add a vector (R, H) to all steps of x (R, T, H)."""
    return x if shift is None else x + shift.unsqueeze(-2).to(x.dtype)


def _refuse_unknown(**chosen: str) -> None:
    known = {"paradigm": tuple(INJECTIONS), "prior": PRIORS, "prior1": FIRST, "head": HEADS}
    for what, name in chosen.items():
        if name not in known[what]:
            raise UnknownNameError(what, name, known[what])


def _places(paradigm: str, first: int, last: int | None, layers: int) -> tuple[int, ...]:
    """Return the layers, from 0, that have a latent; raises :class:`UserError` for a range that is none."""
    last = layers if last is None else last
    if not 1 <= first <= last <= layers:
        raise UserError(f"layers with a latent must lie in 1 … {layers}; got first_layer={first}, last_layer={last}")
    return () if paradigm == "none" else tuple(range(first - 1, last))


def _site_names(paradigm: str, places: Sequence[int], one: bool) -> tuple[str, ...]:
    """Return the names of the sites: one for each layer, or one for all."""
    if not places:
        return ()
    return ("z",) if one or paradigm not in SEVERAL else tuple(f"z_{place + 1}" for place in places)


def _check_latents(latent: bool, latent_dim: int, bag_of_words: float, prior_flows: int, prior_hidden: int) -> None:
    if latent and latent_dim < 1:
        raise UserError(f"latent_dim must be 1 or more; got {latent_dim}; with paradigm: none nothing is latent")
    if bag_of_words < 0 or (bag_of_words and not latent):
        raise UserError(f"bag_of_words must be 0 or more, and asks a latent for the words; got {bag_of_words:g}")
    if prior_flows < 0 or (prior_flows and prior_hidden < latent_dim):
        raise UserError(
            f"prior_flows must be 0 or more, and prior_hidden latent_dim or more; got {prior_flows}, {prior_hidden}"
        )


def _check_source(vocabulary: Vocabulary) -> None:
    source = vocabulary.source
    if source is not None and source.size != vocabulary.size:
        raise UserError(
            f"a text is written behind its source, so both need one vocabulary; they have {source.size:,} and "
            f"{vocabulary.size:,} symbols: set data.shared_vocabulary=true"
        )
