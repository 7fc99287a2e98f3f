"""The observed site: a sentence of tokens that ends at its first EOS, scored from logits or from decoder states."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import constraints
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..core.batch import Batch
from ..core.vocabulary import OWN_IDS, ReservedIds
from ..nn.fused import worthwhile
from .choices import picked
from .precision import at_least_float32
from .shared import SharedParts

HELD_AT_ONCE = 2**22
"""Logits in memory at a time where no gradient is wanted: 16 MB in float32, and a little more for their softmax."""

KEPT_FOR_GRADIENT = 2**28
"""Logits that are kept for the way back, 1 GB; where there are more, they are computed twice, chunk by chunk."""

CHUNKS = getattr(torch.nn, "LinearCrossEntropyOptions", None)
"""How ``torch.nn.functional.linear_cross_entropy`` is told to go row by row, in a torch that has it (2.13)."""


def score_outcomes(states: Tensor, weight: Tensor, bias: Tensor | None, outcomes: Tensor) -> Tensor:
    """ln softmax(W s + b)[outcome] of each row, (N,), given states (N, H), W (V, H), b (V,) or None, outcomes (N,).

    Where no gradient is wanted, ``HELD_AT_ONCE`` logits are in memory at most, however many rows there are; where one
    is wanted, ``KEPT_FOR_GRADIENT`` of them, and beyond that ``HELD_AT_ONCE`` again, which are computed once more on
    the way back.
    """
    differentiated = torch.is_grad_enabled()
    if differentiated and len(states) * len(weight) <= KEPT_FOR_GRADIENT:
        return _score(states, weight, bias, outcomes)
    rows = max(1, HELD_AT_ONCE // len(weight))
    if differentiated and CHUNKS is not None and _is_full_precision(states, weight):
        options = CHUNKS(batch_chunk_size=rows)
        return -F.linear_cross_entropy(states, weight, outcomes, linear_bias=bias, reduction="none", options=options)
    parts = []
    for some, wanted in zip(states.split(rows), outcomes.split(rows), strict=True):
        arguments = (some, weight, bias, wanted)
        parts.append(_recomputed(*arguments) if differentiated else _score(*arguments))
    return torch.cat(parts)


def _is_full_precision(states: Tensor, weight: Tensor) -> bool:
    """Return whether torch's own pass would keep the scores in float32: in low precision it rounds them, too."""
    lowered = torch.is_autocast_enabled(states.device.type)
    return states.dtype == weight.dtype and torch.finfo(states.dtype).bits >= 32 and not lowered


def _recomputed(*arguments: Any) -> Tensor:
    """The same, with logits that are made again on the way back; nothing in it is random."""
    scores: Tensor = checkpoint(_score, *arguments, use_reentrant=False, preserve_rng_state=False)
    return scores


def _score(states: Tensor, weight: Tensor, bias: Tensor | None, outcomes: Tensor) -> Tensor:
    if worthwhile(states):
        scores: Tensor = SoftmaxScore.apply(states, weight, bias, outcomes)
        return scores
    return -F.cross_entropy(at_least_float32(F.linear(states, weight, bias)), outcomes, reduction="none")


class SoftmaxScore(torch.autograd.Function):
    """The same with a hand-written gradient: ``apply(states (N, H), weight (V, H), bias or None, outcomes (N,))``.

    With p the softmax and g the gradient of the score, the logits' gradient is g (1[v = outcome] - p). It is never
    made: p is kept unnormalised where the logits were, its norm goes to the small factors of the two matrix products,
    and the indicator is a look-up of rows. What is left beside three products is one exponential.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, outcomes: Tensor) -> Tensor:
        """Scores (N,)."""
        logits = states @ weight.t() if bias is None else torch.addmm(bias, states, weight.t())
        picked = logits.gather(1, outcomes.unsqueeze(1))
        top = logits.amax(1, keepdim=True)
        shares = logits.sub_(top).exp_()
        total = shares.sum(1, keepdim=True)
        ctx.save_for_backward(states, weight, outcomes, shares, total)
        ctx.biased = bias is not None
        return (picked - top - total.log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Return the gradients of states, weight and bias, those that are wanted."""
        states, weight, outcomes, shares, total = ctx.saved_tensors
        grad = grad.unsqueeze(1)
        factor = -grad / total
        of_states = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_states = (shares @ weight).mul_(factor).addcmul_(weight[outcomes], grad)
        if ctx.needs_input_grad[1]:
            of_weight = (shares.t() @ (factor * states)).index_add_(0, outcomes, grad * states)
        if ctx.needs_input_grad[2]:
            of_bias = (shares.t() @ factor).squeeze(1).index_add_(0, outcomes, grad.squeeze(1))
        return of_states, of_weight, of_bias, None


class TokenDistribution(SharedParts):
    """p(w_1..w_n EOS | …) = Π_{t ≤ n+1} p_t(w_t); event shape (T,), ids as values: what all token sites share.

    The O outcomes are the ids from ``ids.first_outcome`` upwards, in our own tokenizers from EOS: padding and BOS are
    none. ``lengths`` (…, B) counts scored tokens, EOS included; nothing after EOS is scored. Where p_t does not depend
    on EOS having occurred, the probabilities of all strings sum to at most 1 (strings that end in their only EOS form a
    prefix-free set), so likelihoods are proper.

    Subclasses say where ``logits`` (…, B, T, O) come from, and how one outcome a step is scored.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    support = constraints.independent(constraints.nonnegative_integer, 1)
    parts: ClassVar[tuple[str, ...]] = ("lengths", "ids")
    lengths: Tensor
    ids: ReservedIds
    logits: Tensor
    """(…, B, T, O), at least float32."""

    @abstractmethod
    def _score(self, value: Tensor, mask: Tensor) -> Tensor:
        """ln p_t(w_t) (…, B, T) of tokens (…, B, T); anything finite where ``mask`` is False or w_t is no outcome."""

    def _outcomes(self, value: Tensor) -> Tensor:
        """Return the outcomes, counted from 0, that the tokens are; 0 for those that are none."""
        return (value - self.ids.first_outcome).clamp(min=0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{t ≤ length} ln p(w_t), nats per sentence, shape (…, B)."""
        if self._validate_args:
            self._validate_sample(value)
        mask = torch.arange(self.event_shape[0], device=value.device) < self.lengths.unsqueeze(-1)
        # Padding and BOS are no outcomes: where they are scored, the density is 0.
        steps = self._score(value, mask).masked_fill(value < self.ids.first_outcome, -torch.inf)
        total = torch.where(mask, steps, 0.0).sum(-1)
        # Particles that the logits do not depend on (nothing latent) were put in front by expand().
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw token ids (…, B, T); everything after the first EOS is padding."""
        draws = torch.distributions.Categorical(logits=self._expanded()).sample(sample_shape)
        return end_at_eos(draws + self.ids.first_outcome, self.ids)

    @property
    def mode(self) -> Tensor:
        """The most probable token of each step (…, B, T); everything after the first EOS is padding."""
        return end_at_eos(self._expanded().argmax(-1) + self.ids.first_outcome, self.ids)

    def _expanded(self) -> Tensor:
        logits = self.logits
        return logits.expand(*self.batch_shape, *logits.shape[-2:])


class TokenSequence(TokenDistribution):
    """p(w_1..w_n EOS | states) = Π_{t ≤ n+1} softmax(logits_t)[w_t], from logits (…, B, T, O).

    ``log_prob`` picks logits and subtracts their logsumexp: one (…, T, V) tensor is kept, no normalised copy of it.
    For a large vocabulary see :class:`DecodedTokens`.
    """

    parts = ("logits", "lengths", "ids")

    def __init__(
        self, logits: Tensor, lengths: Tensor, ids: ReservedIds = OWN_IDS, validate_args: bool | None = None
    ) -> None:
        self.logits, self.lengths, self.ids = at_least_float32(logits), lengths, ids
        batch = torch.broadcast_shapes(logits.shape[:-2], lengths.shape)
        super().__init__(batch, logits.shape[-2:-1], validate_args=validate_args)

    def _score(self, value: Tensor, mask: Tensor) -> Tensor:
        outcome = self._outcomes(value)
        return picked(self.logits, outcome) - self.logits.logsumexp(-1)


class DecodedTokens(TokenDistribution):
    """p(w_1..w_n EOS | states) = Π_{t ≤ n+1} softmax(W s_t + b)[w_t], from states (…, B, T, H) and the head W, b.

    ``weight`` (O, H) and ``bias`` (O,) or None. Logits exist only while they are scored, where no gradient is
    wanted a bounded number at a time, so that hundreds of particles fit with a large vocabulary: see
    :func:`~ppl_text.distributions.tokens.score_outcomes`.
    """

    parts = ("states", "weight", "bias", "lengths", "ids")

    def __init__(
        self,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lengths: Tensor,
        ids: ReservedIds = OWN_IDS,
        validate_args: bool | None = None,
    ) -> None:
        self.states, self.weight, self.bias, self.lengths, self.ids = states, weight, bias, lengths, ids
        batch = torch.broadcast_shapes(states.shape[:-2], lengths.shape)
        super().__init__(batch, states.shape[-2:-1], validate_args=validate_args)

    @property
    def logits(self) -> Tensor:  # type: ignore[override]
        """W s_t + b, made when they are asked for."""
        return at_least_float32(F.linear(self.states, self.weight, self.bias))

    def _score(self, value: Tensor, mask: Tensor) -> Tensor:
        outcome = self._outcomes(value)
        shape = torch.broadcast_shapes(outcome.shape, self.states.shape[:-1])
        states = self.states.expand(*shape, -1).reshape(-1, self.states.shape[-1])
        outcomes = outcome.expand(shape).reshape(-1)
        return score_outcomes(states, self.weight, self.bias, outcomes).view(shape)


def end_at_eos(tokens: Tensor, ids: ReservedIds = OWN_IDS) -> Tensor:
    """Replace what follows the first EOS of each row (…, T) by padding."""
    ended = (tokens == ids.eos).cumsum(-1)
    return torch.where((ended - (tokens == ids.eos).long()) > 0, ids.pad, tokens)


def log_bag(logits: Tensor, batch: Batch, ids: ReservedIds = OWN_IDS) -> Tensor:
    """Σ_{t ≤ length} ln softmax(logits)[w_t], (…, B), nats: the words of a text, one distribution (…, B, O) for all."""
    outcomes = (batch.tokens - ids.first_outcome).clamp(min=0).expand(*logits.shape[:-1], -1)
    scores = at_least_float32(logits).log_softmax(-1).gather(-1, outcomes)
    return torch.where(batch.scored, scores, 0.0).sum(-1)
