"""Recurrences with hand-written gradients, for training on a CPU.

Autograd walks a loop over time node by node and adds up one small weight gradient per step. Written by
hand, the backward loop carries only the gradient of the state; the weights' gradients are one matrix
product over all steps at the end. Values and gradients equal those of the plain loops (tests), which are
used elsewhere: on a GPU (cuDNN, captured graphs), under autocast, and where no gradient is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .activations import tanh_


def worthwhile(x: Tensor) -> bool:
    """Return whether these recurrences are the faster way for this tensor: gradients wanted, CPU, full precision."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _weight_gradient(deltas: Tensor, inputs: Tensor) -> Tensor:
    """Σ over all leading axes of delta ⊗ input: (…, A) and (…, B) to (A, B)."""
    return deltas.flatten(0, -2).t() @ inputs.flatten(0, -2)


class GatedRecurrence(torch.autograd.Function):
    """States of a GRU from its input gates: ``apply(gates (T, B, 3H), weight_hh, bias_hh) -> (T, B, H)``.

    ``gates`` are W_ih x_t + b_ih in torch's order (reset, update, new); the first state is 0. A gate
    row whose update entry is large (100) keeps the state exactly as it is: so padding is skipped.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """h_t = (1 - z) n + z h_{t-1}, n = tanh(x_n + r (W_hn h + b_hn)), step by step."""
        size = weight.shape[1]
        transposed, state = weight.t(), gates.new_zeros(gates.shape[1], size)
        states, switches, news, hidden_news = [state], [], [], []
        for x in gates.unbind(0):
            hidden = torch.addmm(bias, state, transposed)
            switch = (x[:, : 2 * size] + hidden[:, : 2 * size]).sigmoid_()
            reset, update = switch.chunk(2, -1)
            new = tanh_(torch.addcmul(x[:, 2 * size :], reset, hidden[:, 2 * size :]))
            state = torch.lerp(new, state, update)
            states.append(state)
            switches.append(switch)
            news.append(new)
            hidden_news.append(hidden[:, 2 * size :])
        path = torch.stack(states)
        ctx.save_for_backward(path, torch.stack(switches), torch.stack(news), torch.stack(hidden_news), weight)
        return path[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of gates, weight and bias."""
        path, switches, new, hidden_new, weight = ctx.saved_tensors
        reset, update = switches.chunk(2, -1)
        through_new = (1 - update) * (1 - new * new)
        # d(gate pre-activations of the hidden side) / d(state): one row of factors per gate.
        factors = torch.stack(
            [
                through_new * hidden_new * (reset - reset * reset),
                (path[:-1] - new) * (update - update * update),
                through_new * reset,
            ],
            dim=-2,
        ).unbind(0)
        grads, updates = grad.unbind(0), update.unbind(0)
        carried, deltas, totals = grads[-1], [], []
        for t in range(len(grads) - 1, -1, -1):
            delta = (carried.unsqueeze(1) * factors[t]).flatten(1)
            deltas.append(delta)
            totals.append(carried)
            if t:
                carried = torch.addmm(torch.addcmul(grads[t - 1], carried, updates[t]), delta, weight)
        hidden_grad, total = torch.stack(deltas[::-1]), torch.stack(totals[::-1])
        gates_grad = torch.cat([hidden_grad[..., : 2 * weight.shape[1]], total * through_new], dim=-1)
        return gates_grad, _weight_gradient(hidden_grad, path[:-1]), hidden_grad.sum((0, 1))


class DiagonalRecurrence(torch.autograd.Function):
    """h_t = loc_t + (softplus(raw_t + shift) + delta) ∘ ξ_t with [loc_t; raw_t] = MLP(h_{t-1}; c_t).

    ``apply(noise (N, T, D), projected (N, T, H), initial (N, D), shift, delta, state_weight, *layers)``
    with ``layers`` the weights and biases after the first tanh, in turn. Returns the path (N, T, D) and
    the parameters [loc; raw] (N, T, 2D). ``noise`` gets no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        noise: Tensor,
        projected: Tensor,
        initial: Tensor,
        shift: float,
        delta: float,
        state_weight: Tensor,
        *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run over time; activations and states are written where the way back will want them, side by side."""
        pairs = [(weight.t(), bias) for weight, bias in zip(layers[::2], layers[1::2], strict=True)]
        transposed, state = state_weight.t(), initial
        count, steps, width = noise.shape
        path = noise.new_empty(steps, count, width)
        theta = noise.new_empty(steps, count, 2 * width)
        widths = [state_weight.shape[0], *(bias.shape[0] for bias in layers[1:-1:2])]
        activations = [noise.new_empty(steps, count, size) for size in widths]
        for t, (context, step_noise) in enumerate(zip(projected.unbind(1), noise.unbind(1), strict=True)):
            places = [*(layer[t] for layer in activations), theta[t]]
            x = torch.addmm(context, state, transposed, out=places[0])
            for (weight, bias), place in zip(pairs, places[1:], strict=True):
                x = torch.addmm(bias, tanh_(x), weight, out=place)
            loc, raw = x.chunk(2, -1)
            state = torch.addcmul(loc, F.softplus(raw + shift) + delta, step_noise, out=path[t])
        ctx.shift = shift
        ctx.save_for_backward(noise, initial, path, theta, state_weight, *layers[::2], *activations)
        return path.transpose(0, 1), theta.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, path_grad: Tensor, theta_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Carry the state's gradient back in time, collect the layers' deltas, multiply once."""
        noise, initial, path, theta, state_weight, *rest = ctx.saved_tensors
        steps, depth = path.shape[0], len(rest) // 2
        weights, activations = rest[:depth], rest[depth:]
        scale_slope = (noise.transpose(0, 1) * torch.sigmoid(theta.chunk(2, -1)[1] + ctx.shift)).unbind(0)
        path_grads, theta_grads = path_grad.unbind(1), theta_grad.unbind(1)
        whole = [torch.empty_like(x) for x in (*activations, theta)]
        carried = path_grads[-1]
        for t in range(steps - 1, -1, -1):
            delta = torch.cat([carried, carried * scale_slope[t]], -1, out=whole[depth][t]).add_(theta_grads[t])
            for layer in range(depth - 1, -1, -1):
                delta = _tanh_backward(delta.mm(weights[layer]), activations[layer][t], grad_input=whole[layer][t])
            carried = torch.addmm(path_grads[t - 1], delta, state_weight) if t else delta.mm(state_weight)
        previous = torch.cat([initial.unsqueeze(0), path[:-1]])
        layer_grads: list[Tensor | None] = []
        for layer in range(depth):
            layer_grads += [_weight_gradient(whole[layer + 1], activations[layer]), whole[layer + 1].sum((0, 1))]
        state_grad = _weight_gradient(whole[0], previous)
        return None, whole[0].transpose(0, 1), carried, None, None, state_grad, *layer_grads


_tanh_backward = torch.ops.aten.tanh_backward.grad_input
"""delta (1 - z²) in one pass."""
