"""A latent path h_1..h_T as one distribution: sampled in order, scored in parallel.

p(h_{1:T} | c) = Π_t p(h_t | h_{t-1}, c_t), h_t = f(ξ_t; h_{t-1}, c_t), ξ_t ~ N(0, I_D)
(deep state-space paper, eqs. 2 and 8).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ..nn.fused import DiagonalRecurrence, worthwhile
from .bijections import DiagonalAffine, Flow
from .transforms import ConditionalFlow, Diagonal, FlowFamily, SoftplusDelta


class Kernel(Protocol):
    """What a chain asks of its step; :class:`~.transforms.ConditionalFlow` is one.

    ``feedback`` is False where h_t does not depend on h_{t-1}: then the whole path is drawn at once.
    """

    family: FlowFamily
    feedback: bool

    def project(self, context: Tensor | None = None) -> Tensor:
        """Return the context's part of the parameters, for all steps at once."""
        ...

    def params(self, state: Tensor, projected: Tensor) -> Tensor:
        """θ (…, P) of ``family`` given h_{t-1} (…, D) and the projected context."""
        ...


class FlowChain(TorchDistribution):
    """p(h_1..h_T | c_1..c_T): a Markov chain of conditional flows; event shape (T, D).

    Args: ``kernel`` the step; ``initial`` (D,) h_0; ``lengths`` (…, B) steps that count (the rest is
    padding: drawn, so that shapes stay static, never scored); ``steps`` T; ``context`` (…, B, T, C) or
    None. Leading axes (particles) may come in front of ``lengths`` and ``context``, or by ``expand``.

    ``rsample`` draws all noise at once and runs over time; ``log_prob`` (nats per sentence, shape
    (…, B)) is parallel over time. For the value that ``rsample`` has just returned, log q is computed
    from the noise that made it, which spares one pass of the network; values and gradients are the same.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        kernel: Kernel,
        initial: Tensor,
        lengths: Tensor,
        steps: int,
        context: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.kernel, self.initial, self.lengths, self.steps = kernel, initial, lengths, steps
        self.projected = kernel.project(context)
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None
        self._drawn_with_grad = False
        if context is not None and context.shape[-2] != steps:
            raise ValueError(f"FlowChain: the context has {context.shape[-2]} steps, the chain {steps}")
        batch = lengths.shape if context is None else torch.broadcast_shapes(lengths.shape, context.shape[:-2])
        super().__init__(batch, torch.Size((steps, initial.shape[-1])), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: FlowChain | None = None) -> FlowChain:
        """Put further leading axes in front; networks that read the context are not run again."""
        new = self._get_checked_instance(FlowChain, _instance)
        new.kernel, new.initial, new.steps, new.projected = self.kernel, self.initial, self.steps, self.projected
        new.lengths, new._drawn, new._drawn_with_grad = self.lengths, None, False
        super(FlowChain, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mask(self) -> Tensor:
        """(…, B, T): True on the steps that count."""
        return torch.arange(self.steps, device=self.lengths.device) < self.lengths.unsqueeze(-1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw a path (…, B, T, D), reparametrised."""
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.initial.dtype, device=self.initial.device)
        value, params = self.push_forward(noise)
        self._drawn, self._drawn_with_grad = (value, noise, params), torch.is_grad_enabled()
        return value

    def push_forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """h_{1:T} = F(ξ_{1:T}) and the flows' parameters on the way; (…, T, D) and (…, T, P)."""
        kernel = self.kernel
        if not kernel.feedback:
            params = kernel.params(self.initial, self.projected)
            return kernel.family(params)(noise), params.expand(*noise.shape[:-1], -1)
        state = self.initial.expand(*noise.shape[:-2], -1)
        if worthwhile(noise) and self.projected.dim() > 1:
            done = _run_diagonal(kernel, noise, self.projected, state)
            if done is not None:
                return done
        contexts = self.projected.unbind(-2) if self.projected.dim() > 1 else (self.projected,) * self.steps
        states, thetas = [], []
        for step_noise, context in zip(noise.unbind(-2), contexts, strict=True):
            theta = kernel.params(state, context)
            state = kernel.family(theta)(step_noise)
            states.append(state)
            thetas.append(theta)
        return torch.stack(states, dim=-2), torch.stack(thetas, dim=-2)

    def pull_back(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """ξ_{1:T} = F^{-1}(h_{1:T}) and ln|det J_F| by step, all steps at once; (…, T, D) and (…, T)."""
        return self.kernel.family(self.params_along(value)).inverse_and_ladj(value)

    def at(self, t: int, state: Tensor) -> FlowStep:
        """p(h_{t+1} | h_t = state, c_{t+1}) for t = 0, …, T-1 and states (…, B, D): one step by itself."""
        projected = self._step_contexts[t] if self.projected.dim() > 1 else self.projected
        params = self.kernel.params(state, projected)
        return FlowStep(self.kernel.family(params), torch.broadcast_shapes(state.shape, (*params.shape[:-1], 1)), state)

    @cached_property
    def _step_contexts(self) -> tuple[Tensor, ...]:
        """The projected contexts by step; taken apart once, so that the way back is one operation."""
        return self.projected.unbind(-2)

    def _cached(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return what ``rsample`` kept of this very value; of no use where it was drawn under ``no_grad``."""
        if self._drawn is None or value is not self._drawn[0]:
            return None
        return self._drawn if self._drawn_with_grad or not torch.is_grad_enabled() else None

    def params_along(self, value: Tensor) -> Tensor:
        """θ_t given the states h_{t-1} of a path: (…, T, P)."""
        if (drawn := self._cached(value)) is not None:
            return drawn[2]
        first = self.initial.expand(*value.shape[:-2], 1, -1)
        previous = torch.cat([first, value[..., :-1, :]], dim=-2)
        return self.kernel.params(previous, self.projected)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{t ≤ length} ln p(h_t | h_{t-1}, c_t) = Σ_t [ln N(ξ_t; 0, I) - ln|det J_f(ξ_t)|], shape (…, B)."""
        if self._validate_args:
            self._validate_sample(value)
        if (drawn := self._cached(value)) is not None:
            _, noise, params = drawn
            ladj = self.kernel.family(params).log_abs_det_jacobian(noise, value)
        else:
            noise, ladj = self.pull_back(value)
        steps = standard_normal_log_density(noise) - ladj
        return torch.where(self.mask, steps, 0.0).sum(-1)

    def kl_from(self, q: Any, value: Tensor) -> Tensor | None:
        """Return :func:`chain_kl` of a chain q along a path drawn from it; None for a q of another kind."""
        return chain_kl(q, self, value) if isinstance(q, FlowChain) else None


class FlowStep(TorchDistribution):
    """p(h_t | h_{t-1}, c_t): the law of h = f(ξ), ξ ~ N(0, I_D), for one map f; event shape (D,).

    What :meth:`FlowChain.at` returns: a chain drawn and weighed step by step (Algorithm 1, particle filters).
    ``shape`` (…, B, D) is that of a draw; ``like`` gives type and device. ``log_prob`` of the value that ``rsample``
    has just returned is computed from the noise that made it.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: Flow, shape: torch.Size, like: Tensor, validate_args: bool | None = None) -> None:
        self.flow, self._like = flow, like
        self._drawn: tuple[Tensor, Tensor, bool] | None = None
        super().__init__(torch.Size(shape[:-1]), torch.Size(shape[-1:]), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: FlowStep | None = None) -> FlowStep:
        """Put further leading axes in front."""
        new = self._get_checked_instance(FlowStep, _instance)
        new.flow, new._like, new._drawn = self.flow, self._like, None
        super(FlowStep, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """h = f(ξ), (…, B, D)."""
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self._like.dtype, device=self._like.device)
        value, ladj = self.flow.forward_and_ladj(noise)
        self._drawn = value, standard_normal_log_density(noise) - ladj, torch.is_grad_enabled()
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """ln N(f^{-1}(h); 0, I) - ln|det J_f|, shape (…, B), nats."""
        if self._validate_args:
            self._validate_sample(value)
        if self._drawn is not None and value is self._drawn[0] and self._drawn[2] >= torch.is_grad_enabled():
            return self._drawn[1]
        noise, ladj = self.flow.inverse_and_ladj(value)
        return standard_normal_log_density(noise) - ladj


def _run_diagonal(kernel: Kernel, noise: Tensor, projected: Tensor, state: Tensor) -> tuple[Tensor, Tensor] | None:
    """Run :meth:`FlowChain.push_forward` with gradients written by hand, where the step allows it."""
    if not (isinstance(kernel, ConditionalFlow) and isinstance(kernel.family, Diagonal)):
        return None
    conditioner, positive = kernel.conditioner, kernel.family.positive
    if not (isinstance(positive, SoftplusDelta) and conditioner.state is not None and conditioner.layers):
        return None
    layers = [parameter for layer in conditioner.layers for parameter in (layer.weight, layer.bias)]
    leading = noise.shape[:-2]
    path, theta = DiagonalRecurrence.apply(
        noise.flatten(0, -3),
        projected.expand(*leading, *projected.shape[-2:]).flatten(0, -3),
        state.flatten(0, -2),
        positive.shift,
        positive.delta,
        conditioner.state.weight,
        *layers,
    )
    return path.unflatten(0, leading), theta.unflatten(0, leading)


def standard_normal_log_density(x: Tensor) -> Tensor:
    """ln N(x; 0, I_D) over the last axis, in nats."""
    return -0.5 * (x.square().sum(-1) + x.shape[-1] * math.log(2 * math.pi))


def chain_kl(q: FlowChain, p: FlowChain, value: Tensor) -> Tensor | None:
    """Σ_t KL(q(h_t | h_{t-1}, c_t) ‖ p(h_t | h_{t-1})) at the states of one drawn path; (…, B), nats.

    Each term is in closed form where both flows are affine: with s = f_p^{-1} ∘ f_q, s(ξ) = c + Sξ,
    KL_t = ½(‖c‖² + ‖S‖_F² - D) - ln|det J_{f_q}| + ln|det J_{f_p}|. s is evaluated at 0 and at the D unit
    vectors. In expectation over the path this is KL(q ‖ p), with less variance than ln q - ln p
    (specification 4G.2). None where a flow is not affine: no closed form exists.
    """
    if not (q.kernel.family.affine and p.kernel.family.affine):
        return None
    flow_q = q.kernel.family(q.params_along(value))
    flow_p = p.kernel.family(p.params_along(value))
    centre, energy, ladj = _affine_composition(flow_q, flow_p, value)
    steps = 0.5 * (centre.square().sum(-1) + energy - value.shape[-1]) - ladj
    return torch.where(q.mask, steps, 0.0).sum(-1)


def _affine_composition(flow_q: Flow, flow_p: Flow, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """S = f_p^{-1} ∘ f_q, s(ξ) = c + Sξ: c (…, D), ‖S‖_F² and ln|det S| (…,)."""
    dim = like.shape[-1]
    origin = like.new_zeros(dim)
    image, ladj_q = flow_q.forward_and_ladj(origin)
    centre, ladj_p = flow_p.inverse_and_ladj(image)
    energy = flow_p.inverse_energy(flow_q.diagonal) if isinstance(flow_q, DiagonalAffine) else None
    if energy is None:
        units = torch.eye(dim, dtype=like.dtype, device=like.device).view(dim, *(1,) * (like.dim() - 1), dim)
        columns = flow_p.inverse_and_ladj(flow_q.forward_and_ladj(units)[0])[0] - centre
        energy = columns.square().sum((0, -1))
    return centre, energy, ladj_q - ladj_p
