"""Tokens of which each comes from one position of a source, with the positions summed out: exact categorical attention.

The decoder's state does not depend on the positions chosen before, so that the sum over all alignments of a text is a
product of sums over positions, one for each token (Deng et al. 2018, "Latent Alignment and Variational Attention").
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..core.vocabulary import OWN_IDS, ReservedIds
from .log_weights import hidden
from .precision import at_least_float32, full_precision
from .tokens import HELD_AT_ONCE, KEPT_FOR_GRADIENT, TokenDistribution


class AlignedEmissions:
    """p(w | s, t) = softmax(W (u_t + v_s) + b)[w] of all positions s of N sources, with ``memory`` v (N, S, H).

    The logits are a sum, A_tw + C_sw with A = W u + b and C = W v. So their norms need no logits of pairs:
    Z_ts = Σ_w e^{A_tw} e^{C_sw} is a product of matrices, as is the mixture Σ_s α_ts e^{C_sw} / Z_ts. Both are taken of
    exponentials divided by their rows' largest ones, in full precision. Where a step and a position agree on no token,
    e⁻⁶⁴ of these or less in float32, the norm is rounded up: probabilities are then too small, never too large.

    Args:
        memory: v (N, S, H).
        counted: (N, S), True at the positions that exist; at the others v may be anything.
        weight: W (O, H).
        bias: b (O,) or None.
    """

    def __init__(self, memory: Tensor, counted: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.counted, self.weight, self.bias = counted, weight, bias
        self.logits = at_least_float32(F.linear(torch.where(counted.unsqueeze(-1), memory, 0.0), weight))
        self.top = self.logits.detach().amax(-1, keepdim=True)
        self.shares = (self.logits - self.top).exp()

    def scores(self, states: Tensor, outcomes: Tensor) -> Tensor:
        """ln p(w_t | s, t), (N, T, S), of one outcome (N, T) a step, given u (N, T, H)."""
        logits, top, log_norms = self._of(states)
        steps = logits.gather(-1, outcomes.unsqueeze(-1)) - top
        index = outcomes.unsqueeze(1).expand(-1, self.logits.shape[1], -1)
        return steps + (self.logits.gather(-1, index) - self.top).transpose(1, 2) - log_norms

    def log_probs(self, states: Tensor, log_weights: Tensor) -> Tensor:
        """ln Σ_s α_ts p(w | s, t) of all outcomes, (N, T, O), given u (N, T, H) and ln α (N, T, S)."""
        logits, top, log_norms = self._of(states)
        factors = hidden(log_weights - log_norms, self.counted.unsqueeze(1))
        largest = factors.detach().amax(-1, keepdim=True)
        return logits - top + largest + self._log_mixture((factors - largest).exp())

    def step(self, states: Tensor, log_weights: Tensor) -> Tensor:
        """ln p(w) of the next token (R, O), as a decoder says it, given u (R, H) and ln α (R, S) of R = N rows."""
        return self.log_probs(states.unsqueeze(1), log_weights.unsqueeze(1)).squeeze(1)

    def _of(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A (N, T, O), the largest entry of each row, and ln Σ_w of the divided exponentials (N, T, S)."""
        logits = at_least_float32(F.linear(states, self.weight, self.bias))
        top = logits.detach().amax(-1, keepdim=True)
        return logits, top, self._log_norms((logits - top).exp())

    @full_precision
    def _log_norms(self, shares: Tensor) -> Tensor:
        # A floor so far above the smallest number that what is lost to it is no part of the sum.
        least = 1e10 * torch.finfo(shares.dtype).tiny
        return torch.bmm(shares, self.shares.transpose(1, 2)).clamp(min=least).log()

    @full_precision
    def _log_mixture(self, factors: Tensor) -> Tensor:
        return torch.bmm(factors, self.shares).clamp(min=torch.finfo(factors.dtype).tiny).log()


def score_alignments(
    states: Tensor, memory: Tensor, counted: Tensor, weight: Tensor, bias: Tensor | None, outcomes: Tensor
) -> Tensor:
    """ln p(w_t | s, t) (N, T, S) as :class:`AlignedEmissions` says it, a bounded number of logits at a time.

    As in :func:`~ppl_text.distributions.tokens.score_outcomes`: ``HELD_AT_ONCE`` where no gradient is wanted (or those
    of one source and one step, if that is more); ``KEPT_FOR_GRADIENT`` where one is, and beyond that they are computed
    once more on the way back.
    """
    differentiated = torch.is_grad_enabled()
    (number, steps), positions = outcomes.shape, memory.shape[1]
    if differentiated and number * (steps + positions) * len(weight) <= KEPT_FOR_GRADIENT:
        return _scores(states, memory, counted, weight, bias, outcomes)
    rows = HELD_AT_ONCE // len(weight)
    texts = max(1, rows // (steps + positions))
    at_once = max(1, min(steps, rows - positions))
    found = []
    for u, v, exists, chosen in zip(*(x.split(texts) for x in (states, memory, counted, outcomes)), strict=True):
        parts = []
        for some, wanted in zip(u.split(at_once, 1), chosen.split(at_once, 1), strict=True):
            given = (some, v, exists, weight, bias, wanted)
            if differentiated:
                parts.append(checkpoint(_scores, *given, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(_scores(*given))
        found.append(torch.cat(parts, 1))
    return torch.cat(found)


def _scores(
    states: Tensor, memory: Tensor, counted: Tensor, weight: Tensor, bias: Tensor | None, outcomes: Tensor
) -> Tensor:
    return AlignedEmissions(memory, counted, weight, bias).scores(states, outcomes)


class AlignedTokens(TokenDistribution):
    """p(w_1..w_n EOS | states, source) = Π_{t ≤ n+1} Σ_s α_ts softmax(W (u_t + v_s) + b)[w_t], all positions summed.

    Args:
        states: u (…, B, T, H), of the decoder.
        memory: v (…, B, S, H), of the source: computed once for however many particles, where it has no axis of theirs.
        log_weights: ln α (…, B, T, S), normalised over the positions that count.
        counted: (…, B, S), True at the source's positions; at others ``memory`` and ``log_weights`` may be anything.
        weight: W (O, H).
        bias: b (O,) or None.
        lengths: (…, B), EOS counted.
        ids: which ids are padding, BOS, EOS, and which is the first outcome.
    """

    parts = ("states", "memory", "log_weights", "counted", "weight", "bias", "lengths", "ids")

    def __init__(
        self,
        states: Tensor,
        memory: Tensor,
        log_weights: Tensor,
        counted: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lengths: Tensor,
        ids: ReservedIds = OWN_IDS,
        validate_args: bool | None = None,
    ) -> None:
        self.states, self.memory, self.counted, self.lengths = states, memory, counted, lengths
        self.log_weights, self.weight, self.bias, self.ids = at_least_float32(log_weights), weight, bias, ids
        leads = (states.shape[:-2], memory.shape[:-2], log_weights.shape[:-2], counted.shape[:-1], lengths.shape)
        super().__init__(torch.broadcast_shapes(*leads), states.shape[-2:-1], validate_args=validate_args)

    @property
    def logits(self) -> Tensor:  # type: ignore[override]
        """ln Σ_s α_ts p(w | s, t), (…, B, T, O), made when they are asked for."""
        lead = torch.broadcast_shapes(self.states.shape[:-2], self.log_weights.shape[:-2], self.memory.shape[:-2])
        fold = _Folded(lead, self.memory, self.counted)
        emissions = AlignedEmissions(fold.memory, fold.counted, self.weight, self.bias)
        return fold.back(emissions.log_probs(fold(self.states), fold(self.log_weights)))

    def alignments(self, value: Tensor) -> Tensor:
        """p(s | w_t, …), (…, B, T, S): which position each token came from; 0 where nothing counts."""
        mask = torch.arange(self.event_shape[0], device=value.device) < self.lengths.unsqueeze(-1)
        cells = mask.unsqueeze(-1) & self.counted.unsqueeze(-2)
        return torch.where(cells, self._joint(value, mask).softmax(-1), 0.0)

    def _score(self, value: Tensor, mask: Tensor) -> Tensor:
        return self._joint(value, mask).logsumexp(-1)

    def _joint(self, value: Tensor, mask: Tensor) -> Tensor:
        """ln α_ts + ln p(w_t | s, t), (…, B, T, S)."""
        states = torch.where(mask.unsqueeze(-1), self.states, 0.0)
        log_weights = torch.where(mask.unsqueeze(-1), self.log_weights, 0.0)
        outcomes = self._outcomes(value)
        lead = torch.broadcast_shapes(outcomes.shape[:-1], states.shape[:-2], self.memory.shape[:-2])
        fold = _Folded(lead, self.memory, self.counted)
        chosen = fold(outcomes.unsqueeze(-1)).squeeze(-1)
        scores = score_alignments(fold(states), fold.memory, fold.counted, self.weight, self.bias, chosen)
        return hidden(log_weights + fold.back(scores), self.counted.unsqueeze(-2))


class _Folded:
    """Tensors (…, B, T, F), of ``lead`` (…, B), as (N, K T, F): axes that the memory lacks are put with the steps.

    So all particles of a text meet its memory in one product.
    """

    def __init__(self, lead: torch.Size, memory: Tensor, counted: Tensor) -> None:
        own = memory.shape[:-2]
        if lead[len(lead) - len(own) :] != own:  # an axis of size 1 in the memory, or none where others have some
            own = lead
        self.lead, self.number = lead, own.numel()
        self.memory = memory.expand(*own, *memory.shape[-2:]).reshape(self.number, *memory.shape[-2:])
        self.counted = counted.expand(*own, counted.shape[-1]).reshape(self.number, counted.shape[-1])

    def __call__(self, x: Tensor) -> Tensor:
        whole = x.expand(*self.lead, *x.shape[-2:]).reshape(-1, self.number, *x.shape[-2:])
        return whole.transpose(0, 1).reshape(self.number, -1, x.shape[-1])

    def back(self, x: Tensor) -> Tensor:
        """(N, K T, F) as (…, B, T, F)."""
        copies = self.lead.numel() // self.number
        return x.unflatten(1, (copies, -1)).transpose(0, 1).reshape(*self.lead, -1, x.shape[-1])
