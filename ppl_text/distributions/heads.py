"""ln softmax(W s + b)[outcome] from states, for vocabularies whose logits are the largest tensors of a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..nn.fused import worthwhile
from .precision import at_least_float32

HELD_AT_ONCE = 2**22
"""Logits in memory at a time where no gradient is wanted: 16 MB in float32, and a little more for their softmax."""

KEPT_FOR_GRADIENT = 2**28
"""Logits that are kept for the way back, 1 GB; where there are more, they are computed twice, chunk by chunk."""


def score_outcomes(states: Tensor, weight: Tensor, bias: Tensor | None, outcomes: Tensor) -> Tensor:
    """ln softmax(W s + b)[outcome] of each row, (N,), given states (N, H), W (V, H), b (V,) or None, outcomes (N,).

    Where no gradient is wanted, ``HELD_AT_ONCE`` logits are in memory at most, however many rows there are.
    """
    differentiated = torch.is_grad_enabled()
    if differentiated and len(states) * len(weight) <= KEPT_FOR_GRADIENT:
        return _score(states, weight, bias, outcomes)
    rows = max(1, HELD_AT_ONCE // len(weight))
    parts = []
    for some, wanted in zip(states.split(rows), outcomes.split(rows), strict=True):
        arguments = (some, weight, bias, wanted)
        parts.append(checkpoint(_score, *arguments, use_reentrant=False) if differentiated else _score(*arguments))
    return torch.cat(parts)


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
        """Gradients of states, weight and bias, those that are wanted."""
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
