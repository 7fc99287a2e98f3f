"""The forward algorithm of hidden Markov chains whose transitions differ from step to step, with its gradient.

Probabilities are carried from step to step as they are, each row's divided by their sum, whose logarithms add up to the
evidence; in float64, so that codes may differ by 700 nats at a token. A step is then one small product of matrices, a
third of the time of a logsumexp, and long texts lose no digits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def wide(tensor: Tensor) -> Tensor:
    """Return float64, or what the device has (Metal has no float64)."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def _forward(initial: Tensor, transitions: Tensor, emissions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return p(z_t = k | x_1..x_t) (B, T, M), its norms c_t (B, T, 1), exp of transitions, and of emissions by norms.

    α̂_t(k) = Σ_j α̂_{t-1}(j) A_t(j, k) b_t(k) / c_t, with b_t divided by its largest entry.
    """
    moves = wide(transitions).exp()
    emitted = wide(emissions)
    emitted = (emitted - emitted.amax(-1, keepdim=True)).exp()
    current = (wide(initial).exp() * emitted[:, 0]).unsqueeze(1)
    norm = current.sum(-1, keepdim=True)
    current = current / norm
    found, norms = [current], [norm]
    for move, likelihood in zip(moves.unbind(1), emitted[:, 1:].unsqueeze(2).unbind(1), strict=True):
        current = torch.bmm(current, move).mul_(likelihood)
        norm = current.sum(-1, keepdim=True)
        current = current.div_(norm)
        found.append(current)
        norms.append(norm)
    filtered, divided = torch.cat(found, 1), torch.cat(norms, 1)
    return filtered, divided, moves, emitted / divided


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
        filtered, norms, moves, weighed = _forward(initial, transitions, emissions)
        steps = norms.squeeze(-1).log() + wide(emissions).amax(-1)
        counted = torch.arange(steps.shape[1], device=lengths.device) < lengths.unsqueeze(-1)
        evidence = torch.where(counted, steps, 0.0).sum(-1).to(emissions.dtype)
        ctx.save_for_backward(filtered, moves, weighed, counted)
        known = filtered.log().to(emissions.dtype)
        ctx.mark_non_differentiable(known)
        return evidence, known

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of initial, transitions and emissions."""
        filtered, moves, weighed, counted = ctx.saved_tensors
        onward = _backward(moves, weighed, counted)
        scale = wide(grad).view(-1, 1, 1)
        of_codes = torch.where(counted.unsqueeze(-1), filtered * onward, 0.0) * scale
        of_codes = of_codes.to(grad.dtype)
        ahead = torch.where(counted.unsqueeze(-1), weighed * onward, 0.0)[:, 1:] * scale
        of_pairs = (filtered[:, :-1].unsqueeze(-1) * ahead.unsqueeze(-2)).mul_(moves)
        return of_codes[:, 0], of_pairs.to(grad.dtype), of_codes, None


def _backward(moves: Tensor, weighed: Tensor, counted: Tensor) -> Tensor:
    """β̂_t(j) = p(x_{t+1}..x_n | z_t = j) / Π_{u>t} c_u, (B, T, M); 1 from n on."""
    current = torch.ones_like(weighed[:, 0]).unsqueeze(-1)
    found, ends = [current], counted[:, :, None, None].unbind(1)
    likelihoods, steps = weighed.unsqueeze(-1).unbind(1), moves.unbind(1)
    for t in range(len(steps), 0, -1):
        current = torch.where(ends[t], torch.bmm(steps[t - 1], likelihoods[t] * current), current)
        found.append(current)
    return torch.stack(found[::-1], 1).squeeze(-1)
