"""Gaussian latents of every step: independent given the text, or each given those before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl

from .precision import at_least_float32
from .shared import SharedParts


class Autoregressive(Protocol):
    """What the distributions of a sequence ask of a network: all outputs at once, or one step after the other."""

    def __call__(self, x: Tensor) -> Tensor:
        """o_t (…, S, O) of x_1..x_{t-1}, given x (…, S, C)."""
        ...

    def begin(self, rows: int) -> Any:
        """Return the state before the first step."""
        ...

    def output(self, state: Any) -> tuple[Tensor, Any]:
        """Return o_t (R, O), and the state that waits for x_t."""
        ...

    def follow(self, state: Any, x: Tensor) -> Any:
        """Return the state after x_t (R, C)."""
        ...


def draw_in_order(
    network: Autoregressive, rows: int, steps: int, draw: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """Return values (R, S, …) drawn one step after the other; ``draw`` makes of o_t a value, and x_t of it."""
    state, drawn = network.begin(rows), []
    for _ in range(steps):
        output, state = network.output(state)
        value, x = draw(output)
        drawn.append(value)
        state = network.follow(state, x)
    return torch.stack(drawn, 1)


class StepDistribution(SharedParts):
    """What distributions of z_1..z_S, event (S, D), share: ``lengths`` (…, B) of steps that count.

    Steps behind a row's length keep the shape static: they are zero when they are drawn, and never scored.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    support = constraints.independent(constraints.real, 2)
    lengths: Tensor
    parts: ClassVar[tuple[str, ...]] = ("lengths",)

    @property
    def mask(self) -> Tensor:
        """(…, B, S): True on the steps that count."""
        return torch.arange(self.event_shape[0], device=self.lengths.device) < self.lengths.unsqueeze(-1)

    def kept(self, value: Tensor) -> Tensor:
        """Return a value with zeros behind the lengths, (…, B, S, D)."""
        return torch.where(self.mask.unsqueeze(-1), value, 0.0)

    def total(self, steps: Tensor) -> Tensor:
        """Σ over the steps that count, (…, B, S) to (…, B)."""
        summed = torch.where(self.mask, steps, 0.0).sum(-1)
        return summed.expand(torch.broadcast_shapes(summed.shape, self.batch_shape))

    def counted(self, value: Tensor) -> Tensor:
        """Return which steps of a value count, (…, B, S)."""
        return self.mask

    def alone(self) -> TorchDistribution:
        """Return the distribution of z_1 by itself, event (D,), of a sequence of one step."""
        return OneStep(self)


class OneStep(SharedParts):
    """p(z_1), event (D,): what a distribution of sequences ``base_dist`` says of one of a single step."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    support = constraints.independent(constraints.real, 1)
    parts = ("base_dist",)

    def __init__(self, base_dist: StepDistribution, validate_args: bool | None = None) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape[1:], validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """Whether a draw can be differentiated."""
        return self.base_dist.has_rsample

    @property
    def mean(self) -> Tensor:
        """Mean, where the sequence knows its own."""
        return self.base_dist.mean.squeeze(-2)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw z, (…, B, D), differentiably."""
        return self.base_dist.expand(self.batch_shape).rsample(sample_shape).squeeze(-2)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw z, (…, B, D)."""
        return self.base_dist.expand(self.batch_shape).sample(sample_shape).squeeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(z), (…, B), nats."""
        found: Tensor = self.base_dist.log_prob(value.unsqueeze(-2))
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def kl_from(self, q: Any, value: Tensor) -> Tensor | None:
        """KL(q ‖ p), (…, B), nats, where the sequence knows it of one of one step."""
        along = getattr(self.base_dist, "kl_from", None)
        return along(q.base_dist, value.unsqueeze(-2)) if along is not None and isinstance(q, OneStep) else None


class StepNormals(StepDistribution):
    """Π_{s ≤ n} N(z_s; μ_s, diag σ_s²) for ``mean`` and ``scale`` (…, B, S, D): independent given the text."""

    has_rsample = True
    parts = ("lengths", "mean_", "scale")

    def __init__(self, mean: Tensor, scale: Tensor, lengths: Tensor, validate_args: bool | None = None) -> None:
        self.mean_, self.scale, self.lengths = at_least_float32(mean), at_least_float32(scale), lengths
        batch = torch.broadcast_shapes(mean.shape[:-2], lengths.shape)
        super().__init__(batch, mean.shape[-2:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """μ, zero behind the lengths."""
        return self.kept(self.mean_)

    @property
    def variance(self) -> Tensor:
        """σ², zero behind the lengths."""
        return self.kept(self.scale.square())

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """μ + σ ∘ ε, (…, B, S, D)."""
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.mean_.dtype, device=self.mean_.device)
        return self.kept(self.mean_ + self.scale * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{s ≤ length} ln N(z_s; μ_s, σ_s²), (…, B), nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.total(_log_normal(value, self.mean_, self.scale))

    def alone(self) -> Independent:
        """Return N(μ_1, diag σ_1²), event (D,)."""
        return Normal(self.mean_.squeeze(-2), self.scale.squeeze(-2)).to_event(1)


class AutoregressiveNormals(StepDistribution):
    """Π_{s ≤ n} N(z_s; μ_s(z_{<s}), diag σ_s²(z_{<s})), [μ; ln σ²] from an autoregressive ``network`` of 2D outputs.

    Scored in one pass over all steps, drawn step by step; event (S, D).
    """

    has_rsample = False
    parts = ("lengths", "network")

    def __init__(
        self, network: Autoregressive, width: int, lengths: Tensor, steps: int, validate_args: bool | None = None
    ) -> None:
        self.network, self.lengths = network, lengths
        super().__init__(lengths.shape, torch.Size((steps, width)), validate_args=validate_args)

    def along(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ, each (…, S, D), along a path."""
        return _moments(self.network(value))

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{s ≤ length} ln N(z_s; μ_s(z_{<s}), σ_s²(z_{<s})), (…, B), nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.total(_log_normal(value, *self.along(value)))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw a path (…, B, S, D), step by step."""
        shape = self._extended_shape(sample_shape)

        def draw(output: Tensor) -> tuple[Tensor, Tensor]:
            mean, scale = _moments(output)
            value = mean + scale * torch.randn_like(mean)
            return value, value

        return self.kept(draw_in_order(self.network, shape[:-2].numel(), shape[-2], draw).view(shape))

    def kl_from(self, q: Any, value: Tensor) -> Tensor | None:
        """Σ_s KL(q(z_s | x) ‖ p(z_s | z_{<s})) along a path drawn from q, (…, B), nats; None for a q of another kind.

        In expectation over the path this is KL(q ‖ p) (specification 1C, equation 4).
        """
        if not isinstance(q, StepNormals):
            return None
        return q.total(_normal_kl(q.mean_, q.scale, *self.along(value)))


@register_kl(StepNormals, StepNormals)
def _steps_kl(q: StepNormals, p: StepNormals) -> Tensor:
    return q.total(_normal_kl(q.mean_, q.scale, p.mean_, p.scale))


def _moments(output: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_variance = at_least_float32(output).chunk(2, -1)
    return mean, (0.5 * log_variance).exp()


def _log_normal(value: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """ln N(value; mean, scale²) over the last axis."""
    standardised = (value - mean) / scale
    return -0.5 * (standardised.square() + math.log(2 * math.pi)).sum(-1) - scale.log().sum(-1)


def _normal_kl(mean: Tensor, scale: Tensor, other_mean: Tensor, other_scale: Tensor) -> Tensor:
    """½ Σ_d [ln(σ̂²/σ²) - 1 + (σ² + (μ̂ - μ)²)/σ̂²]."""
    ratio = (scale / other_scale).square()
    return 0.5 * (ratio + ((other_mean - mean) / other_scale).square() - 1.0 - ratio.log()).sum(-1)
