"""Texts given a source: a recurrent decoder that attends to it, with a latent of the text, latent attention, or both.

Source: Bahuleyan et al. 2018, "Variational Attention for Sequence-to-Sequence Models" (specification 3); latent weights
and exact attention in the place of latent vectors as in Deng et al. 2018 and Fan et al. 2020 (specification 6).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, NamedTuple

import pyro
import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UnknownNameError, UserError
from ..core.latents import Latents, LatentSpec
from ..core.protocols import Choice
from ..core.vocabulary import Vocabulary
from ..distributions.aligned_tokens import AlignedEmissions, AlignedTokens
from ..distributions.log_weights import (
    DirichletLogWeights,
    GammaLogWeights,
    LogisticNormalLogWeights,
    log_shares,
)
from ..distributions.precision import at_least_float32
from ..distributions.steps import StepNormals
from ..distributions.tokens import DecodedTokens
from ..nn.handed import HandedOn, Left
from ..nn.initial import initialise
from ..nn.source_attention import Attend, AttendingDecoder, Memory, SourceReader, Telling, laid_in, laid_out, softly

ATTENTION = ("none", "deterministic", "vectors", "weights", "exact")
"""What is read of the source: nothing; the mean of its states by soft weights; a latent vector each step; the mean by
latent weights; the state of one position each step, all positions summed over."""

PRIORS = {
    "vectors": ("mean", "normal"),
    "weights": ("dirichlet", "logistic-normal", "gamma"),
}
"""Priors by kind of latent attention, the default first."""

STARTS = ("zero", "encoder")
"""The decoder's initial state: 0, or made of the source's last states, which lets the source bypass the latents."""

GENERATION = ("posterior", "prior")
"""Whether texts are decoded from q(· | x), as published, or from the prior."""


NO_SOURCES = (
    "this model reads a source beside each text, and these data have none: choose --data verse-pairs, or name the "
    "column of the sources with --set data.source=NAME"
)


class Reading(NamedTuple):
    """What a batch says before anything is drawn: the memory of its sources, its tokens fed back, embedded, and c_0."""

    memory: Memory
    embedded: Tensor
    start: Tensor | None


class EncoderDecoder(nn.Module):
    """p(z, a, y | x) = N(z; 0, I) Π_t p(a_t | x) softmax(V o_t + b)[y_t], o_t = W_s s_t + W_a a_t.

    s_t = LSTM([emb(y_{t-1}); z; o_{t-1}], s_{t-1}), x read by an LSTM in either direction
    (:class:`~ppl_text.nn.source_attention.AttendingDecoder`). What is latent is chosen: with ``latent_dim=0`` there is
    no z; with ``attention: deterministic`` a_t = Σ_i α_ti h_i is a number like any other, α_t the softmax of s_tᵀ W
    h_i. So all systems of the paper are corners of one model. Latent attention is one site for all steps: ``a`` (T, M),
    N(h̄, I) or N(0, I) each, h̄ the mean of the source's states; or ``alignment`` (T, S), the logarithms of the weights
    w_ti with which a_t = Σ_i w_ti h_i. With ``attention: exact`` y_t ~ Σ_i α_ti softmax(V (W_s s_t + W_a h_i) + b), the
    sum itself; what is fed back is then the mean by α.

    Args:
        vocabulary: V symbols, O of them outcomes; with a source side.
        latent_dim: D of z; 0: no z.
        attention: ``none``, ``deterministic``, ``vectors``, ``weights`` or ``exact``.
        attention_prior: of latent vectors ``mean`` (N(h̄, I)) or ``normal`` (N(0, I)); of latent weights ``dirichlet``,
            ``logistic-normal`` or ``gamma`` (of weights before they are normalised); null: the first.
        concentration: of a Dirichlet prior in all, C: C / n for each of n positions; of a Gamma prior, with rate 1, for
            each position: 1 is the exponential.
        prior_scale: σ of a logistic-normal prior.
        attn_order: ``post`` (the state after a step attends; its output is fed to the next) or ``pre``.
        attention_start: ``torch``, or ``zero``: W_a is 0 at first, so that a stage without it trains a decoder that
            does not attend.
        start: of the decoder, ``zero`` or ``encoder``.
        generation: ``posterior`` or ``prior``: what texts are decoded from, where something is latent.
        embedding_dim, encoder_dim, hidden_dim, output_dim: E, C of each direction (M = 2C), H, and the width of o.
        shared_embedding: one embedding for both sides, which must share their vocabulary.
        layer_norm: of the decoder's gates, as in the public code.
        dropout_in, dropout_out: on embeddings, and on outputs as the softmax sees them, in training only.
        init: how parameters start: ``torch``, ``uniform`` or ``wide``.
    """

    family = "encoder_decoder"
    story = (
        "h = BiLSTM(x);  z ~ N(0, I);  a_t ~ N(h̄, I);  s_t = LSTM([emb(y_{t-1}); z; o_{t-1}], s_{t-1})",
        "p(z, a, y | x) = p(z) Π_t p(a_t | x) P(y_t | y_{<t}, z, a_{≤t}), o_t = W_s s_t + W_a a_t; z, a or both",
    )
    measures = ("sentences", "pairs")
    conditional = True
    presets: ClassVar[tuple[Choice, ...]] = (
        Choice("data.fit_on", "all", "train", "the vocabulary is made of all splits in the public code"),
    )
    zero: Tensor
    one: Tensor

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        latent_dim: int = 100,
        attention: str = "deterministic",
        attention_prior: str | None = None,
        concentration: float = 1.0,
        prior_scale: float = 1.0,
        attn_order: str = "post",
        attention_start: str = "torch",
        start: str = "zero",
        generation: str = "posterior",
        embedding_dim: int = 300,
        encoder_dim: int = 100,
        hidden_dim: int = 200,
        output_dim: int = 100,
        shared_embedding: bool = False,
        layer_norm: bool = False,
        dropout_in: float = 0.2,
        dropout_out: float = 0.0,
        init: str = "torch",
    ) -> None:
        super().__init__()
        _refuse_unknown(attention, start, generation, attention_start)
        if latent_dim < 0 or min(concentration, prior_scale) <= 0:
            raise UserError(
                "latent_dim must be 0 or more, concentration and prior_scale above 0; got "
                f"{latent_dim}, {concentration:g} and {prior_scale:g}"
            )
        self.attention, self.attention_prior = attention, _prior_of(attention, attention_prior)
        if attention == "none" and start == "zero" and not latent_dim:
            raise UserError(
                "nothing of the source would reach the text: give the decoder attention, start: encoder, or a latent"
            )
        self.vocabulary, self.latent_dim, self.init = vocabulary, latent_dim, init
        self.concentration, self.prior_scale = concentration, prior_scale
        self.memory_dim = 2 * encoder_dim
        source = _source_of(vocabulary, shared_embedding)
        embedding = nn.Embedding(vocabulary.size, embedding_dim)
        own = embedding if shared_embedding else nn.Embedding(source.size, embedding_dim)
        self.reader = SourceReader(own, encoder_dim, dropout_in)
        self.network = AttendingDecoder(
            embedding,
            vocabulary.outcomes,
            latent_dim=latent_dim,
            memory_dim=0 if attention == "none" else self.memory_dim,
            hidden_dim=hidden_dim,
            output_dim=output_dim,
            order=attn_order,
            layer_norm=layer_norm,
            dropout=dropout_in,
        )
        self.bridge = nn.Linear(self.memory_dim, hidden_dim) if start == "encoder" else None
        self.dropout_out = nn.Dropout(dropout_out)
        initialise(self, init)
        if attention_start == "zero" and self.network.from_memory is not None:
            nn.init.zeros_(self.network.from_memory.weight)
        self.site = {"vectors": "a", "weights": "alignment"}.get(attention)
        """Name of the site of latent attention."""
        self.latents = self._latents()
        self.generation = generation if self.latents else "prior"
        self.reading = HandedOn(self, self._reading)
        """What a batch says before anything is drawn: computed once, by the guide."""
        self.path: Left[tuple[Tensor, Tensor]] = Left(self)
        """States and readings (B, K, T, …) along the attention that a guide has drawn, under the drawn value."""
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def _latents(self) -> tuple[LatentSpec, ...]:
        found = [LatentSpec("z", axes=("D",), sizes={"D": self.latent_dim})] if self.latent_dim else []
        if self.site == "a":
            found.append(LatentSpec("a", axes=("T", "D"), sizes={"D": self.memory_dim}))
        elif self.site == "alignment":
            found.append(LatentSpec("alignment", axes=("T", "S"), sizes={}))
        return tuple(found)

    def memory(self, source: Batch) -> tuple[Memory, Tensor | None]:
        """Read the sources; return their memory and the decoder's c_0 (B, H), None where it is 0."""
        states, last = self.reader(source)
        start = None if self.bridge is None else self.bridge(last)
        return Memory(states, self.network.keys(states), source.scored, last), start

    def _reading(self, batch: Batch) -> Reading:
        if batch.source is None:
            raise UserError(NO_SOURCES)
        memory, start = self.memory(batch.source)
        return Reading(memory, self.network.embedded(batch.decoder_inputs), start)

    def prior(self, size: int) -> Independent:
        """p(z) = N(0, I) for ``size`` texts."""
        shape = (size, self.latent_dim)
        return Normal(self.zero.expand(shape), self.one.expand(shape)).to_event(1)

    def prior_of_attention(self, memory: Memory, lengths: Tensor, steps: int) -> TorchDistribution:
        """p(a_1..a_T | x), or that of the log weights, for texts of these lengths (B,): event (T, M) or (T, S)."""
        if self.site == "a":
            mean = memory.mean if self.attention_prior == "mean" else self.zero.expand(len(lengths), self.memory_dim)
            mean = at_least_float32(mean).unsqueeze(1).expand(-1, steps, -1)
            return StepNormals(mean, self.one.expand(mean.shape), lengths)
        counted = memory.counted
        shape = (len(lengths), steps, counted.shape[-1])
        if self.attention_prior == "logistic-normal":
            scale = (self.prior_scale * self.one).expand(shape)
            return LogisticNormalLogWeights(self.zero.expand(shape), scale, counted, lengths)
        if self.attention_prior == "gamma":
            return GammaLogWeights(
                (self.concentration * self.one).expand(shape), self.zero.expand(shape), counted, lengths
            )
        return DirichletLogWeights(self.concentrations(memory).unsqueeze(1).expand(shape), counted, lengths)

    def concentrations(self, memory: Memory) -> Tensor:
        """C / n of each position of a source of n, (B, S): what a Dirichlet says before anything is read."""
        counted = memory.counted
        return (self.concentration * self.one / counted.sum(-1)).unsqueeze(-1).expand(counted.shape)

    def read(self, value: Tensor, memory: Memory) -> Tensor:
        """Return what a drawn path (B, K, T, …) has the decoder read, (B, K, T, M)."""
        if self.site == "a":
            return value
        particles = value.shape[1]
        return memory.read(memory.shares(value.flatten(1, 2))).unflatten(1, (particles, -1))

    def read_blindly(self, memory: Memory, *, drawn: bool) -> Tensor:
        """Return what a step reads by the prior of latent attention, (R, 1, M): a draw, or the middle of it."""
        one = torch.ones_like(memory.counted[:, 0], dtype=torch.long)
        law = self.prior_of_attention(memory, one, 1)
        value: Tensor = law.sample() if drawn else law.mean
        return self.read(value.unsqueeze(1), memory).squeeze(1)

    def forward(self, batch: Batch) -> None:
        """The Pyro program: samples ``z`` and ``a`` or ``alignment`` where they are latent, and observes ``tokens``."""
        given = self.reading.take(batch)
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", self.prior(batch.size)) if self.latent_dim else None
            value = None
            if self.site is not None:
                law = self.prior_of_attention(given.memory, batch.lengths, batch.steps)
                value = pyro.sample(self.site, law)
            lead = value.shape[:-3] if value is not None else torch.Size() if z is None else z.shape[:-2]
            states, read = self._along(given, z, value)
            tokens = self._tokens(given, states, read, lead, batch.lengths)
            pyro.sample("tokens", tokens, obs=batch.tokens)

    def _along(self, given: Reading, z: Tensor | None, value: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return states and readings (B, K, T, …), of what was drawn in one pass, if they are not there already."""
        latent = None if z is None else laid_in(z, 1)
        if value is not None:
            left = self.path.get(value)
            if left is not None:
                return left
            read = self.read(laid_in(value, 2), given.memory)
        elif self.network.memory_dim:
            return self.network.unroll(given.embedded, latent, given.memory, given.start)
        else:
            particles = 1 if latent is None else latent.shape[1]
            read = given.embedded.new_zeros(len(given.embedded), particles, given.embedded.shape[1], 0)
        return self.network.along(given.embedded, latent, read, given.start), read

    def _tokens(
        self, given: Reading, states: Tensor, read: Tensor, lead: torch.Size, lengths: Tensor
    ) -> DecodedTokens | AlignedTokens:
        memory, head, ids = given.memory, self.network.head, self.vocabulary.ids
        if self.attention != "exact":
            outputs = self.dropout_out(laid_out(self.network.outputs(states, read), lead))
            return DecodedTokens(outputs, head.weight, head.bias, lengths, ids)
        counted = memory.counted.unsqueeze(-2)
        alignments = log_shares(laid_out(self.scores(states, memory, given.start), lead), counted)
        of_states = self.dropout_out(laid_out(self.network.from_state(states), lead))
        of_memory = self.network.outputs_of(memory)
        return AlignedTokens(of_states, of_memory, alignments, memory.counted, head.weight, head.bias, lengths, ids)

    def scores(self, states: Tensor, memory: Memory, start: Tensor | None) -> Tensor:
        """Return the attention scores (B, K, T, S) along states (B, K, T, H)."""
        queries = self.network.queries(states, start)
        return (queries.flatten(1, 2) @ memory.keys.transpose(1, 2)).unflatten(1, states.shape[1:3])

    @torch.no_grad()
    def weights(self, batch: Batch, z: Tensor | None) -> Tensor | None:
        """Return how the texts weigh their sources, (B, T, S), given z (B, D); None where attention is latent or none.

        Where positions are summed over, these are the probabilities before the token is seen.
        """
        if self.site is not None or not self.network.memory_dim:
            return None
        memory, embedded, start = self.reading.leave(batch)
        states, _ = self.network.unroll(embedded, None if z is None else laid_in(z, 1), memory, start)
        return memory.shares(self.scores(states, memory, start).squeeze(1))

    def telling(self, latents: Latents, memory: Memory, start: Tensor | None, attend: Attend = softly) -> Telling:
        """Return what writes texts given z (R, D), what is read by ``attend``, or of a drawn path (R, T, …)."""
        path = None if self.site is None else latents.get(self.site)
        if path is not None:
            path = self.read(path.unsqueeze(1), memory).squeeze(1)
        exact = self.attention == "exact"
        logits = _Summed(self.network) if exact else partial(_of_output, self.network)
        return Telling(self.network, memory, latents.get("z"), start, attend, logits, path)

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z (n, D) ~ p; latent attention is drawn while a text is written."""
        return {"z": self.prior(n).sample()} if self.latent_dim else {}

    def decoder(self, latents: Latents, source: Batch | None = None) -> Telling:
        """Return what writes texts given z (R, D) and R sources, attention drawn from its prior where it is latent."""
        if source is None:
            raise UserError("this model writes a text given a source: give one for each text")
        memory, start = self.memory(source)

        def attend(scores: Tensor, memory: Memory) -> Tensor:
            return self.read_blindly(memory, drawn=True)

        return self.telling(latents, memory, start, softly if self.site is None else attend)


def _of_output(network: AttendingDecoder, hidden: Tensor, reading: Tensor, scores: Tensor, memory: Memory) -> Tensor:
    """V o_t + b, (R, O)."""
    logits: Tensor = network.head(network.outputs(hidden, reading))
    return logits


class _Summed:
    """ln Σ_i α_ti softmax(V (W_s s_t + W_a h_i) + b), (R, O); what belongs to a memory is kept as long as that."""

    def __init__(self, network: AttendingDecoder) -> None:
        self._network = network
        self._kept: tuple[Memory, AlignedEmissions] | None = None

    def __call__(self, hidden: Tensor, reading: Tensor, scores: Tensor, memory: Memory) -> Tensor:
        network = self._network
        if self._kept is None or self._kept[0].states is not memory.states:
            of_memory = network.outputs_of(memory)
            emissions = AlignedEmissions(of_memory, memory.counted, network.head.weight, network.head.bias)
            self._kept = memory, emissions
        return self._kept[1].step(network.from_state(hidden), log_shares(scores, memory.counted))


def _refuse_unknown(attention: str, start: str, generation: str, attention_start: str) -> None:
    """Raise :class:`UnknownNameError` for a name that an option does not take."""
    for what, name, names in (
        ("attention", attention, ATTENTION),
        ("start of the decoder", start, STARTS),
        ("generation", generation, GENERATION),
        ("start of the attention", attention_start, ("torch", "zero")),
    ):
        if name not in names:
            raise UnknownNameError(what, name, names)


def _prior_of(attention: str, name: str | None) -> str | None:
    """Return the prior of latent attention, None where none is latent."""
    known = PRIORS.get(attention, ())
    if name is None:
        return known[0] if known else None
    if not known:
        raise UserError(f"with attention: {attention} no attention is latent; leave attention_prior={name} out")
    if name not in known:
        raise UnknownNameError(f"prior of latent {attention}", name, known)
    return name


def _source_of(vocabulary: Vocabulary, shared: bool) -> Vocabulary:
    """Return the vocabulary of the sources; raises :class:`UserError` where there is none, or not the one to share."""
    source = vocabulary.source
    if source is None:
        raise UserError(NO_SOURCES)
    if shared and source.size != vocabulary.size:
        raise UserError(
            f"shared_embedding needs one vocabulary for both sides; they have {source.size:,} and {vocabulary.size:,} "
            "symbols: set data.shared_vocabulary=true"
        )
    return source
