"""The forward algorithm of hidden Markov chains whose transitions differ from step to step, with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def log_forward(initial: Tensor, transitions: Tensor, emissions: Tensor) -> Tensor:
    """ln α_t(k) = ln p(x_1..x_t, z_t = k), (B, T, M), without a gradient.

    ln α_1 = ln π + ln b_1, ln α_t(k) = logsumexp_j[ln α_{t-1}(j) + ln A_t(j, k)] + ln b_t(k).

    Args:
        initial: ln π, (B, M).
        transitions: ln A_2, …, ln A_T, (B, T - 1, M, M): from j (axis -2) to k.
        emissions: ln b_t(k) = ln p(x_t | z_t = k, …), (B, T, M).
    """
    with torch.no_grad():
        # A step ahead of the code that it leads to, for a sum over the last axis.
        steps = transitions.transpose(-1, -2).unbind(1)
        current = initial + emissions[:, 0]
        found = [current]
        for step, emitted in zip(steps, emissions.unbind(1)[1:], strict=True):
            current = (step + current.unsqueeze(-2)).logsumexp(-1) + emitted
            found.append(current)
        return torch.stack(found, 1)


class LogEvidence(torch.autograd.Function):
    """ln p(x_1..x_n) = logsumexp_k ln α_n(k) of each row, (B,), nats, and ln α: ``apply(initial, transitions, …)``.

    ``apply(initial (B, M), transitions (B, T - 1, M, M), emissions (B, T, M), lengths (B,)) -> ((B,), (B, T, M))``:
    what stands behind a row's length n ≥ 1 does not count. The gradients are posterior probabilities, of z_1 for
    ``initial``, of (z_{t-1}, z_t) for ``transitions`` and of z_t for ``emissions``: one loop over the steps forward and
    one back, of a few operations each, where autograd would keep and retrace every one of them. ln α has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, initial: Tensor, transitions: Tensor, emissions: Tensor, lengths: Tensor) -> Any:
        """Return ln p and ln α."""
        alpha = log_forward(initial, transitions, emissions)
        last = alpha.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, alpha.shape[-1])).squeeze(1)
        evidence = last.logsumexp(-1)
        ctx.save_for_backward(transitions, emissions, lengths, alpha, evidence)
        ctx.mark_non_differentiable(alpha)
        return evidence, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of initial, transitions and emissions."""
        transitions, emissions, lengths, alpha, evidence = ctx.saved_tensors
        beta = _log_backward(transitions, emissions, lengths)
        counted = torch.arange(alpha.shape[1], device=lengths.device) < lengths.unsqueeze(-1)
        scale = grad.view(-1, 1, 1)
        given = evidence.view(-1, 1, 1)
        of_codes = torch.where(counted.unsqueeze(-1), (alpha + beta - given).exp(), 0.0) * scale
        onward = (emissions + beta - given)[:, 1:].unsqueeze(-2)
        pairs = (alpha[:, :-1].unsqueeze(-1) + transitions + onward).exp()
        of_pairs = torch.where(counted[:, 1:, None, None], pairs, 0.0) * scale.unsqueeze(-1)
        return of_codes[:, 0], of_pairs, of_codes, None


def _log_backward(transitions: Tensor, emissions: Tensor, lengths: Tensor) -> Tensor:
    """ln β_t(j) = ln p(x_{t+1}..x_n | z_t = j), (B, T, M); 0 from n on."""
    current = torch.zeros_like(emissions[:, 0])
    found = [current]
    for t in range(emissions.shape[1] - 1, 0, -1):
        before = (transitions[:, t - 1] + (emissions[:, t] + current).unsqueeze(-2)).logsumexp(-1)
        current = torch.where((t < lengths).unsqueeze(-1), before, current)
        found.append(current)
    return torch.stack(found[::-1], 1)
