"""The forward algorithm of hidden Markov chains whose transitions differ from step to step, with its gradient.

The best path to each code comes first, h_t(k) = max_j h_{t-1}(j) + s_t(j, k) with s_t(j, k) = ln A_t(j, k) + ln b_t(k):
a sum and a maximum. What all paths weigh beside it is a_t(k) = Σ_j a_{t-1}(j) exp(h_{t-1}(j) + s_t(j, k) - h_t(k)), a
small product with a matrix whose entries are at most 1, with a 1 in each column: nothing underflows however many nats
lie between codes, and a_t ≤ M^t overflows after a known number of steps, before which its logarithm goes into h. These
three operations a step, and one on the way back, are a third of the time of a logsumexp; in float64, so that long texts
lose no digits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def wide(tensor: Tensor) -> Tensor:
    """Return float64, or what the device has (Metal has no float64)."""
    return tensor if tensor.device.type == "mps" else tensor.double()


class _Filtered(NamedTuple):
    """What the way along the steps has found.

    ``joint`` (B, T, M): ln p(z_t = k, x_1..x_t); ``along`` (B, T, M): a_t; ``shares`` (B, T - 1, M, M): what step t is
    multiplied by, a_t(k) = Σ_j a_{t-1}(j) shares_t(j, k).
    """

    joint: Tensor
    along: Tensor
    shares: Tensor


def _filtered(initial: Tensor, transitions: Tensor, emissions: Tensor, counted: Tensor) -> _Filtered:
    """Go along all steps, in stretches that a_t cannot overflow in; where no step is counted all stays as it is."""
    scores = wide(transitions) + wide(emissions)[:, 1:].unsqueeze(-2)
    before = wide(initial) + wide(emissions[:, 0])
    stay = torch.eye(before.shape[-1], dtype=scores.dtype, device=scores.device).log()
    scores = torch.where(counted[:, 1:, None, None], scores, stay)
    joint, along = [before.unsqueeze(1)], [torch.ones_like(before).unsqueeze(1)]
    stretch = int(0.4 * math.log(torch.finfo(scores.dtype).max) / math.log(max(2, initial.shape[-1])))
    for some in scores.split(stretch, 1) if scores.shape[1] else ():
        highest, weights = _stretch(joint[-1][:, -1], some)
        some[:, 0].div_(along[-1][:, -1].clamp(min=1.0).unsqueeze(-1))  # 0 of a code that no path leads to, else >= 1
        joint.append(highest + weights.log())
        along.append(weights)
    return _Filtered(torch.cat(joint, 1), torch.cat(along, 1), scores)


def _stretch(before: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Go on from ln p(z_s, x_1..x_s) (B, M) by ``scores`` (B, T, M, M), ln A_t(j, k) + ln b_t(k); a_s = 1.

    Returns h and a, (B, T, M) each; ``scores`` become the shares, since memory is what a step costs.
    """
    steps = scores.unbind(1)
    best = [before]
    for step in steps:
        best.append(step.add_(best[-1].unsqueeze(-1)).amax(-2))
    highest = torch.stack(best[1:], 1)
    # Of a code that no path leads to all shares are 0, where -inf - -inf were no number.
    scores.sub_(highest.masked_fill(highest == -math.inf, 0.0).unsqueeze(-2)).exp_()
    weights = [torch.ones_like(before).unsqueeze(1)]
    for step in steps:
        weights.append(torch.bmm(weights[-1], step))
    return highest, torch.cat(weights[1:], 1)


class LogEvidence(torch.autograd.Function):
    """ln p(x_1..x_n) of each row, (B,), nats, and ln p(z_t = k | x_1..x_t): ``apply(initial, transitions, …)``.

    ``apply(initial (B, M), transitions (B, T - 1, M, M), emissions (B, T, M), lengths (B,)) -> ((B,), (B, T, M))``:

    - ``initial``: ln π; ``transitions``: ln A_2, …, ln A_T, from j (axis -2) to k;
    - ``emissions``: ln b_t(k) = ln p(x_t | z_t = k, …);
    - what stands behind a row's length n ≥ 1 does not count.

    The gradients are posterior probabilities, of z_1 for ``initial``, of (z_{t-1}, z_t) for ``transitions`` and of z_t
    for ``emissions``: one loop over the steps forward and one back, of a few operations each, where autograd would keep
    and retrace every one of them. The second result has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, initial: Tensor, transitions: Tensor, emissions: Tensor, lengths: Tensor) -> Any:
        """Return ln p and what is known of each code at its own step."""
        counted = torch.arange(emissions.shape[1], device=lengths.device) < lengths.unsqueeze(-1)
        found = _filtered(initial, transitions, emissions, counted)
        total = found.joint.logsumexp(-1, keepdim=True)
        known = found.joint - total.masked_fill(total == -math.inf, 0.0)
        ctx.save_for_backward(known[:, -1], found.along, found.shares, counted)
        known = known.to(emissions.dtype)
        ctx.mark_non_differentiable(known)
        return total[:, -1, 0].to(emissions.dtype), known

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of initial, transitions and emissions."""
        known, along, shares, counted = ctx.saved_tensors
        last = known.exp() / along[:, -1].clamp(min=1.0) * wide(grad).unsqueeze(-1)
        onward = torch.where(counted.unsqueeze(-1), _onward(last, shares), 0.0)
        of_codes = (along * onward).to(grad.dtype)
        of_pairs = (along[:, :-1].unsqueeze(-1) * onward[:, 1:].unsqueeze(-2)).mul_(shares)
        return of_codes[:, 0], of_pairs.to(grad.dtype), of_codes, None


def _onward(last: Tensor, shares: Tensor) -> Tensor:
    """p(z_t = k | x_1..x_n) / a_t(k), (B, T, M), given that of the last step (B, M)."""
    found = [last.unsqueeze(-1)]
    for share in reversed(shares.unbind(1)):
        found.append(torch.bmm(share, found[-1]))
    return torch.stack(found[::-1], 1).squeeze(-1)
