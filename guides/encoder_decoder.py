"""Guides of texts given a source: q(z | x) over the latent of a text, q(a_t | x, z, a_{<t}, y_{<t}) over attention.

Source: Bahuleyan et al. 2018 (specification 3B, 3G.5); latent weights as in specification 6.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import pyro
import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.latents import Latents, LatentSpec
from ppl_text.distributions.in_order import DrawnInOrder
from ppl_text.distributions.log_weights import (
    DirichletLogWeights,
    LogisticNormalLogWeights,
    WeibullLogWeights,
    draw_dirichlet,
    draw_logistic_normal,
    draw_weibull,
    log_shares,
)
from ppl_text.distributions.precision import at_least_float32
from ppl_text.distributions.side import record_side_loss
from ppl_text.distributions.steps import StepNormals
from ppl_text.nn.handed import HandedOn, Left
from ppl_text.nn.initial import initialise
from ppl_text.nn.source_attention import Attend, AttendingDecoder, Memory, Telling, laid_in, laid_out, softly

from .language_model import ExactGuide as NothingLatent

ATTENTION_KL = ("sum", "last_step_bug")
"""Which steps of latent attention are paid for."""

LAST_STEP = "last_step_kl"
"""Name of the side loss of a KL that covers one step."""

Parameters = tuple[Tensor, ...]
"""Of the attention of a step, (R, K, …) each."""


class Attention(NamedTuple):
    """Weights (B, T, S) of the sources, and how wide q is at each step, (B, T); None: they are no random variables."""

    weights: Tensor
    spread: Tensor | None = None


class SourceModel(Protocol):
    """What the model publishes for its guides."""

    latents: tuple[LatentSpec, ...]
    latent_dim: int
    """D of z; 0 where there is none."""
    memory_dim: int
    """M, the width of the source's states."""
    site: str | None
    """``a`` for latent vectors, ``alignment`` for latent log weights, None where attention is not latent."""
    attention_prior: str | None
    init: str
    network: AttendingDecoder
    reading: HandedOn[Any]
    """Memory of the sources, embedded tokens and c_0 of a batch."""
    path: Left[tuple[Tensor, Tensor]]
    """Where states and readings of a drawn path are left."""

    def memory(self, source: Batch) -> tuple[Memory, Tensor | None]:
        """Return the memory of sources, and the decoder's c_0."""
        ...

    def prior(self, size: int) -> Independent:
        """p(z)."""
        ...

    def prior_of_attention(self, memory: Memory, lengths: Tensor, steps: int) -> TorchDistribution:
        """p(a_1..a_T | x), or that of the log weights."""
        ...

    def concentrations(self, memory: Memory) -> Tensor:
        """Return those of a Dirichlet prior, (B, S)."""
        ...

    def read(self, value: Tensor, memory: Memory) -> Tensor:
        """Return what a drawn path (B, K, T, …) has the decoder read, (B, K, T, M)."""
        ...

    def read_blindly(self, memory: Memory, *, drawn: bool) -> Tensor:
        """Return what a step reads by the prior of latent attention, (R, 1, M)."""
        ...

    def scores(self, states: Tensor, memory: Memory, start: Tensor | None) -> Tensor:
        """Return the attention scores (B, K, T, S) along states."""
        ...

    def weights(self, batch: Batch, z: Tensor | None) -> Tensor | None:
        """Return how texts weigh their sources, (B, T, S), given z (B, D); None where attention is latent or none."""
        ...

    def telling(self, latents: Latents, memory: Memory, start: Tensor | None, attend: Attend = softly) -> Telling:
        """Return what writes texts given z and what is read."""
        ...


class SourceGuide(nn.Module):
    """q(z | x) = N(μ, diag σ²), [μ; ln σ²] = W [h_n forward; h_1 backward]: base of the guides of ``encoder_decoder``.

    The states of the source are the model's own; what a text says is not looked at but for the tokens before a step, so
    that q can be drawn from where there is no text yet: texts are decoded from it. To write your own for latent
    attention: inherit :class:`AttentionGuide` and define what it says. Give the class a docstring whose first line is
    its density.
    """

    family = "encoder_decoder"
    sites: tuple[str | None, ...] = (None,)
    """Sites of latent attention that the guide can draw; None: it draws none."""

    def __init__(self, model: SourceModel) -> None:
        super().__init__()
        self._model = (model,)
        if not model.latents:
            raise UserError("nothing is latent in this model; its guide is 'exact'")
        if model.site not in self.sites:
            there = {
                None: "no latent attention",
                "a": "latent attention vectors",
                "alignment": "latent attention weights",
            }
            fitting = {None: "gaussian", "a": "attention", "alignment": "dirichlet, logistic-normal or weibull"}[
                model.site
            ]
            raise UserError(
                f"{type(self).__name__} is for a model with {' or '.join(there[site] for site in self.sites)}, and "
                f"this one has {there[model.site]}: take the guide {fitting}, or prior"
            )
        self.latent = nn.Linear(model.memory_dim, 2 * model.latent_dim) if model.latent_dim else None
        initialise(self, model.init)

    @property
    def model(self) -> SourceModel:
        """The model that this guide was built for."""
        return self._model[0]

    def of_text(self, memory: Memory) -> Independent | None:
        """q(z | x), event (D,), batch (B,); None where there is no z."""
        if self.latent is None:
            return None
        mean, log_variance = at_least_float32(self.latent(memory.last)).chunk(2, -1)
        return Normal(mean, (0.5 * log_variance).exp()).to_event(1)

    def of_attention(self, given: Any, z: Tensor | None, batch: Batch) -> TorchDistribution:
        """q(a_{1:T} | x, z, y): batch shape (B,), event (T, M) or (T, S)."""
        raise NotImplementedError(f"{type(self).__name__}: define of_attention(given, z, batch)")

    def forward(self, batch: Batch) -> None:
        """The Pyro program: samples ``z``, then the latent attention. The sources are read once for all particles."""
        given = self.model.reading.leave(batch)
        with pyro.plate("sentences", batch.size, dim=-1):
            of_text = self.of_text(given.memory)
            z = None if of_text is None else pyro.sample("z", of_text)
            if self.model.site is not None:
                q = self.of_attention(given, z, batch)
                self.charge(q, pyro.sample(self.model.site, q), given.memory, batch)

    def charge(self, q: Any, value: Tensor, memory: Memory, batch: Batch) -> None:
        """Record side losses of what was drawn; by default there are none."""

    def attend(self, scores: Tensor, memory: Memory) -> Tensor:
        """Draw what is read of the sources at a step, (R, 1, M), given its scores (R, 1, S)."""
        return softly(scores, memory)

    def centre(self, scores: Tensor, memory: Memory) -> Tensor:
        """Return the mean of what is read at a step."""
        return softly(scores, memory)

    @torch.no_grad()
    def attention(self, batch: Batch) -> Attention | None:
        """Return the attention of the texts at the mean of q(z | x); None where it is latent, or there is none."""
        q = self.of_text(self.model.reading.leave(batch).memory)
        weights = self.model.weights(batch, None if q is None else q.mean)
        return None if weights is None else Attention(weights)

    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z (n, D) ~ q(z | x) for n sources; latent attention is drawn while a text is written."""
        return Teller(self, self.attend, means=False).draw(n, steps, source)

    def decoder(self, latents: Latents, source: Batch | None = None) -> Telling:
        """Return what writes texts given z (R, D) and R sources, attention drawn from q."""
        return Teller(self, self.attend, means=False).decoder(latents, source)

    def at_means(self) -> Teller:
        """Return what tells texts by the means of q in the place of draws: the paper's MAP."""
        return Teller(self, self.centre, means=True)


class Teller:
    """Draws latents of texts and writes them by q, or by its means."""

    def __init__(self, guide: SourceGuide, attend: Attend, *, means: bool) -> None:
        self._guide, self._attend, self._means = guide, attend, means

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z (n, D) for n sources."""
        q = self._guide.of_text(self._read(source)[0])
        if q is None:
            return {}
        return {"z": q.mean if self._means else q.sample()}

    def decoder(self, latents: Latents, source: Batch | None = None) -> Telling:
        """Return what writes texts given z (R, D) and R sources."""
        memory, start = self._read(source)
        return self._guide.model.telling(latents, memory, start, self._attend)

    def _read(self, source: Batch | None) -> tuple[Memory, Tensor | None]:
        if source is None:
            raise UserError("texts of this model are decoded from q(· | source): give a source for each text")
        return self._guide.model.memory(source)


class ExactGuide(NothingLatent):
    """q over nothing: with ``latent_dim=0`` and attention that is not latent, or summed over, ln p(y | x) is exact."""

    family = "encoder_decoder"

    def __init__(self, model: SourceModel) -> None:
        if model.latents:
            names = ", ".join(spec.name for spec in model.latents)
            raise UserError(f"this model has latents ({names}), so its likelihood is not exact; choose another guide")
        super().__init__(model)  # type: ignore[arg-type]
        self._model = (model,)

    def attention(self, batch: Batch) -> Attention | None:
        """Return the attention of the texts; None where the decoder has none."""
        weights = self._model[0].weights(batch, None)
        return None if weights is None else Attention(weights)


class GaussianGuide(SourceGuide):
    """q(z | x) = N(μ, diag σ²), [μ; ln σ²] = W [h_n; h_1], from the last states of the source's reader (VED)."""


class AttentionGuide(SourceGuide):
    """q(z, a | x, y) = q(z | x) Π_t q(a_t | x, z, a_{<t}, y_{<t}): base of the guides with latent attention.

    a_t is drawn from what the decoder's own state s_t, after all that was drawn before, says of the source. Subclasses
    define ``of_scores(scores, memory)`` of a step or of several (R, K, …), ``drawn(parameters, memory)``, a value,
    ``law(parameters, memory, lengths)``, the distribution of all steps, and ``middle(parameters, memory)``, a value
    in the middle; what is read of a value is the model's.
    """

    def of_scores(self, scores: Tensor, memory: Memory) -> Parameters:
        """Return what q(a_t | ·) is made of, (R, K, …), given scores (R, K, S)."""
        raise NotImplementedError(f"{type(self).__name__}: define of_scores(scores, memory)")

    def drawn(self, parameters: Parameters, memory: Memory) -> Tensor:
        """Draw a value (R, K, M) or (R, K, S), differentiably."""
        raise NotImplementedError(f"{type(self).__name__}: define drawn(parameters, memory)")

    def middle(self, parameters: Parameters, memory: Memory) -> Tensor:
        """Return the value that stands for the mean."""
        return parameters[0]

    def law(self, parameters: Parameters, memory: Memory, lengths: Tensor) -> TorchDistribution:
        """Return the distribution of all steps, of parameters (…, B, T, …)."""
        raise NotImplementedError(f"{type(self).__name__}: define law(parameters, memory, lengths)")

    def spread(self, parameters: Parameters, memory: Memory) -> Tensor:
        """Return how wide q(a_t | ·) is, (R, K): a standard deviation, the mean over its entries."""
        return parameters[1].mean(-1)

    def _read(self, value: Tensor, memory: Memory) -> Tensor:
        return self.model.read(value.unsqueeze(2), memory).squeeze(2)

    def attend(self, scores: Tensor, memory: Memory) -> Tensor:
        """Draw what is read of the sources at a step, (R, K, M)."""
        return self._read(self.drawn(self.of_scores(scores, memory), memory), memory)

    def centre(self, scores: Tensor, memory: Memory) -> Tensor:
        """Return what is read at a step in the middle of q."""
        return self._read(self.middle(self.of_scores(scores, memory), memory), memory)

    def of_attention(self, given: Any, z: Tensor | None, batch: Batch) -> DrawnInOrder:
        """q(a_{1:T} | x, z, y): drawn by the decoder's recurrence, scored in one pass along a path."""
        memory, model = given.memory, self.model
        latent = None if z is None else laid_in(z, 1)
        counted = batch.scored.unsqueeze(-1)

        def draw(shape: torch.Size) -> tuple[Tensor, TorchDistribution]:
            said, values = [], []

            def attend(scores: Tensor, memory: Memory) -> Tensor:
                said.append(self.of_scores(scores, memory))
                values.append(self.drawn(said[-1], memory))
                return self._read(values[-1], memory)

            along = model.network.unroll(given.embedded, latent, memory, given.start, attend, shape[:-1].numel())
            value = torch.where(counted, laid_out(torch.stack(values, 2), shape[:-1]), 0.0)
            model.path.put(value, along)
            parameters = tuple(laid_out(torch.stack(parts, 2), shape[:-1]) for parts in zip(*said, strict=True))
            return value, self.law(parameters, memory, batch.lengths)

        def law(value: Tensor) -> TorchDistribution:
            read = model.read(laid_in(value, 2), memory)
            states = model.network.along(given.embedded, latent, read, given.start)
            scores = model.scores(states, memory, given.start)
            flat = self.of_scores(scores.flatten(1, 2), memory)
            parameters = (part.unflatten(1, scores.shape[1:3]) for part in flat)
            return self.law(tuple(laid_out(part, value.shape[:-3]) for part in parameters), memory, batch.lengths)

        width = model.memory_dim if model.site == "a" else memory.counted.shape[-1]
        return DrawnInOrder(draw, law, torch.Size((batch.size,)), torch.Size((batch.steps, width)))

    @torch.no_grad()
    def attention(self, batch: Batch) -> Attention:
        """Return the attention of the texts in the middle of q, and how wide q is."""
        given, weights, spreads = self.model.reading.leave(batch), [], []

        def attend(scores: Tensor, memory: Memory) -> Tensor:
            parameters = self.of_scores(scores, memory)
            middle = self.middle(parameters, memory)
            weights.append(memory.shares(scores if self.model.site == "a" else middle))
            spreads.append(self.spread(parameters, memory))
            return self._read(middle, memory)

        q = self.of_text(given.memory)
        latent = None if q is None else laid_in(q.mean, 1)
        self.model.network.unroll(given.embedded, latent, given.memory, given.start, attend)
        return Attention(torch.cat(weights, 1), torch.cat(spreads, 1))


class VectorGuide(AttentionGuide):
    """q(a_t | ·) = N(a_t^det, diag σ_t²), ln σ_t = W_2 tanh(W_1 a_t^det + b_1) + b_2: variational attention (VAttn).

    a_t^det = Σ_i α_ti h_i is deterministic attention's vector.

    Args:
        model: with ``attention: vectors``.
        attn_kl: ``sum``, or ``last_step_bug``: beside it the side loss ``last_step_kl``, KL_{a_T} / n at the last step
            T of a batch, whatever the length n of a text. With β 0 for ``a`` it is all that attention pays, as
            in the public code (specification 3G.1).
    """

    sites = ("a",)

    def __init__(self, model: SourceModel, *, attn_kl: str = "sum") -> None:
        super().__init__(model)
        if attn_kl not in ATTENTION_KL:
            raise UnknownNameError("KL of the attention", attn_kl, ATTENTION_KL)
        self.attn_kl = attn_kl
        width = model.memory_dim
        self.scale = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        initialise(self.scale, model.init)

    def of_scores(self, scores: Tensor, memory: Memory) -> Parameters:
        """a^det and σ, (R, K, M) each."""
        found = softly(scores, memory)
        return at_least_float32(found), at_least_float32(self.scale(found)).exp()

    def drawn(self, parameters: Parameters, memory: Memory) -> Tensor:
        """a^det + σ ε."""
        mean, scale = parameters
        return mean + scale * torch.randn_like(mean)

    def charge(self, q: Any, value: Tensor, memory: Memory, batch: Batch) -> None:
        """Record the KL of the last step, where it is asked for."""
        if self.attn_kl == "sum":
            return
        law, last = q.law_along(value), torch.ones_like(batch.lengths)
        alone = StepNormals(law.mean_[..., -1:, :], law.scale[..., -1:, :], last)
        paid = kl_divergence(alone, self.model.prior_of_attention(memory, last, 1))
        record_side_loss(LAST_STEP, paid / batch.lengths)

    def law(self, parameters: Parameters, memory: Memory, lengths: Tensor) -> StepNormals:
        """Return the Gaussians of all steps."""
        return StepNormals(parameters[0], parameters[1], lengths)


class WeightGuide(AttentionGuide):
    """q(w_t | ·) over the weights of attention: base of the guides for ``attention: weights``.

    Its location is that of deterministic attention, the scores; a number for each step, ``width`` of the mean vector,
    says how sure it is.
    """

    sites = ("alignment",)
    priors: tuple[str, ...] = ("dirichlet", "logistic-normal")
    """Priors over the same values: logarithms of weights that sum to 1, or of any above 0."""

    def __init__(self, model: SourceModel) -> None:
        super().__init__(model)
        if model.attention_prior not in self.priors:
            raise UserError(
                f"{type(self).__name__} draws other values than the prior {model.attention_prior} is of: "
                "weights that sum to 1 go with the guides dirichlet and logistic-normal, gamma with weibull"
            )
        self.width = nn.Linear(model.memory_dim, 1)
        initialise(self.width, model.init)

    def of_step(self, scores: Tensor, memory: Memory) -> Tensor:
        """Return the number of each step, (R, K, 1)."""
        return at_least_float32(self.width(softly(scores, memory)))

    def located(self, scores: Tensor, memory: Memory) -> Tensor:
        """Return the scores (R, K, S), 0 at positions that do not count."""
        return at_least_float32(torch.where(memory.counted.unsqueeze(1), scores, 0.0))


class DirichletGuide(WeightGuide):
    """q(w_t | ·) = Dirichlet(κ_t softmax_i(s_tᵀ W h_i) + C / n), κ_t = κ sigmoid(u·a_t^det + b).

    C / n is the concentration of the model's Dirichlet prior at each of n positions, so that κ_t counts what the step
    adds to it: positions that are of no use cost nothing, where a smaller number in its place would cost more nats the
    smaller it is.

    Args:
        model: with ``attention: weights`` and a prior ``dirichlet`` or ``logistic-normal``.
        most: κ, the largest sum of a concentration; larger ones have no noise left to learn from.
    """

    def __init__(self, model: SourceModel, *, most: float = 100.0) -> None:
        super().__init__(model)
        if most <= 0:
            raise UserError(f"most must be above 0; got {most:g}")
        self.most = most

    def of_scores(self, scores: Tensor, memory: Memory) -> Parameters:
        """α (R, K, S)."""
        total = self.most * self.of_step(scores, memory).sigmoid()
        return (total * at_least_float32(memory.shares(scores)) + self.model.concentrations(memory).unsqueeze(1),)

    def drawn(self, parameters: Parameters, memory: Memory) -> Tensor:
        """ln w."""
        return draw_dirichlet(parameters[0], memory.counted.unsqueeze(1))

    def middle(self, parameters: Parameters, memory: Memory) -> Tensor:
        """Return the logarithms of the mean weights."""
        return log_shares(parameters[0].log(), memory.counted.unsqueeze(1))

    def law(self, parameters: Parameters, memory: Memory, lengths: Tensor) -> DirichletLogWeights:
        """Return the Dirichlets of all steps."""
        return DirichletLogWeights(parameters[0], memory.counted, lengths)

    def spread(self, parameters: Parameters, memory: Memory) -> Tensor:
        """Return the mean standard deviation of the weights, √(m_i (1 - m_i) / (Σα + 1))."""
        counted = memory.counted.unsqueeze(1)
        alpha = torch.where(counted, parameters[0], 0.0)
        total = alpha.sum(-1, keepdim=True)
        mean = alpha / total
        return (mean * (1.0 - mean) / (total + 1.0)).sqrt().sum(-1) / counted.sum(-1)


class LogisticNormalGuide(WeightGuide):
    """q(w_t | ·): w_t = softmax(s_tᵀ W h_i + σ_t ε_i), ln σ_t = u·a_t^det + b."""

    def of_scores(self, scores: Tensor, memory: Memory) -> Parameters:
        """μ and σ, (R, K, S) each."""
        return self.located(scores, memory), self.of_step(scores, memory).exp().expand(scores.shape)

    def drawn(self, parameters: Parameters, memory: Memory) -> Tensor:
        """ln w."""
        return draw_logistic_normal(parameters[0], parameters[1], memory.counted.unsqueeze(1))

    def law(self, parameters: Parameters, memory: Memory, lengths: Tensor) -> LogisticNormalLogWeights:
        """Return the logistic normals of all steps."""
        return LogisticNormalLogWeights(parameters[0], parameters[1], memory.counted, lengths)


class WeibullGuide(WeightGuide):
    """q(S_t | ·) = Π_i Weibull(k_t, λ_ti), E S_ti = exp(s_tᵀ W h_i), k_t = 1 / σ_t, ln σ_t = u·a_t^det + b.

    The weights are S_ti / Σ_i S_ti; the latents are the S_ti themselves, so that their KL is summed over positions.
    """

    priors = ("gamma",)

    def of_scores(self, scores: Tensor, memory: Memory) -> Parameters:
        """ln E S and k, (R, K, S) each."""
        return self.located(scores, memory), (-self.of_step(scores, memory)).exp().expand(scores.shape)

    def drawn(self, parameters: Parameters, memory: Memory) -> Tensor:
        """ln S."""
        return draw_weibull(parameters[0], parameters[1], memory.counted.unsqueeze(1))

    def law(self, parameters: Parameters, memory: Memory, lengths: Tensor) -> WeibullLogWeights:
        """Return the Weibulls of all steps."""
        return WeibullLogWeights(parameters[0], parameters[1], memory.counted, lengths)

    def spread(self, parameters: Parameters, memory: Memory) -> Tensor:
        """Return the standard deviation of ln S, π / (√6 k)."""
        return math.pi / math.sqrt(6.0) / parameters[1].mean(-1)


class PriorGuide(SourceGuide):
    """q(z, a | x, y) = p(z) p(a | x): blind to the text, without parameters; what a collapsed guide amounts to."""

    sites = (None, "a", "alignment")

    def __init__(self, model: SourceModel) -> None:
        super().__init__(model)
        self.latent = None

    def of_text(self, memory: Memory) -> Independent | None:
        """p(z)."""
        return self.model.prior(len(memory.last)) if self.model.latent_dim else None

    def of_attention(self, given: Any, z: Tensor | None, batch: Batch) -> TorchDistribution:
        """p(a | x)."""
        return self.model.prior_of_attention(given.memory, batch.lengths, batch.steps)

    def attend(self, scores: Tensor, memory: Memory) -> Tensor:
        """Draw from the prior of a step."""
        return self.model.read_blindly(memory, drawn=True) if self.model.site else softly(scores, memory)

    def centre(self, scores: Tensor, memory: Memory) -> Tensor:
        """Return what is read in the middle of the prior."""
        return self.model.read_blindly(memory, drawn=False) if self.model.site else softly(scores, memory)
