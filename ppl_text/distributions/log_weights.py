"""Attention weights as latents: their logarithms over the source, step by step, for a target of T steps.

The value of a site is l = ln w (T, S), or ln S_i of weights that are not normalised: with a concentration of 0.01, or
wide logits, a weight itself is 0 in float32. Each class has the density of its value and no other: so sites of two
classes agree where both are normalised (:class:`DirichletLogWeights`, :class:`LogisticNormalLogWeights`), or neither is
(:class:`WeibullLogWeights`, :class:`GammaLogWeights`).

A guide that draws step by step calls :func:`draw_dirichlet` and its like, which make no distribution.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import register_kl

from ..nn.forward_algorithm import wide
from .precision import at_least_float32
from .steps import StepDistribution

EULER = 0.5772156649015329
"""Euler's γ = -ψ(1)."""


def hidden(scores: Tensor, counted: Tensor) -> Tensor:
    """Return scores (…, S), where nothing counts the lowest finite number: a row of nothing then has a softmax, too."""
    scores = at_least_float32(scores)
    return scores.masked_fill(~counted, torch.finfo(scores.dtype).min)


def log_shares(scores: Tensor, counted: Tensor) -> Tensor:
    """ln softmax of scores (…, S) over the positions that count (…, S); 0 at the others."""
    return torch.where(counted, hidden(scores, counted).log_softmax(-1), 0.0)


def draw_dirichlet(concentration: Tensor, counted: Tensor) -> Tensor:
    """Draw ln w, w ~ Dirichlet(α) over the positions that count, differentiably; all of them (…, S)."""
    concentration = torch.where(counted, at_least_float32(concentration), 1.0)
    return log_shares(_log_gamma(concentration), counted)


def draw_logistic_normal(mean: Tensor, scale: Tensor, counted: Tensor) -> Tensor:
    """Draw ln softmax(μ + σ ∘ ε) over the positions that count, differentiably; all of them (…, S)."""
    mean, scale = torch.broadcast_tensors(at_least_float32(mean), at_least_float32(scale))
    return log_shares(mean + scale * torch.randn_like(mean), counted)


def draw_weibull(log_mean: Tensor, shape: Tensor, counted: Tensor) -> Tensor:
    """Draw ln S_i = φ_i + ln(-ln U_i) / k - ln Γ(1 + 1/k), differentiably; all of them (…, S), E[S_i] = e^φ_i."""
    log_mean, shape = torch.broadcast_tensors(at_least_float32(log_mean), at_least_float32(shape))
    shape = torch.where(counted, shape, 1.0)
    drawn = log_mean + (-_log_uniform(log_mean)).log() / shape - (1.0 + 1.0 / shape).lgamma()
    return torch.where(counted, drawn, 0.0)


def draw_gamma(concentration: Tensor, log_rate: Tensor, counted: Tensor) -> Tensor:
    """Draw ln S_i, S_i ~ Gamma(α_i, rate β_i), differentiably; all of them (…, S)."""
    concentration, log_rate = torch.broadcast_tensors(at_least_float32(concentration), at_least_float32(log_rate))
    concentration = torch.where(counted, concentration, 1.0)
    return torch.where(counted, _log_gamma(concentration) - log_rate, 0.0)


class LogWeights(StepDistribution):
    """What distributions of l_1..l_T, event (T, S), share: a subclass says ``_draw`` and ``_score``, and its ``parts``.

    ``lengths`` (…, B) target steps count, and of the S source positions those that ``counted`` (…, B, S) says. At all
    other cells a value is 0 when it is drawn, never scored, and the parameters may be anything. A text with no position
    has density 1.
    """

    has_rsample = True
    parts: ClassVar[tuple[str, ...]] = ("lengths", "cells")
    cells: Tensor
    """(…, B, T, S): True at the positions that count of the steps that count."""

    def _place(self, parameters: tuple[Tensor, ...], counted: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Note which cells count, and return the parameters (…, B, T, S), 1 at those that do not."""
        steps = torch.arange(parameters[0].shape[-2], device=lengths.device) < lengths.unsqueeze(-1)
        self.lengths, self.cells = lengths, steps.unsqueeze(-1) & counted.unsqueeze(-2)
        return tuple(torch.where(self.cells, at_least_float32(parameter), 1.0) for parameter in parameters)

    @abstractmethod
    def _draw(self, shape: torch.Size) -> Tensor:
        """Return draws of this shape (…, B, T, S), 0 where nothing counts."""

    @abstractmethod
    def _score(self, value: Tensor) -> Tensor:
        """ln p of each step (…, B, T); anything finite where no position counts."""

    @property
    def mask(self) -> Tensor:
        """(…, B, T): True on the steps that count, of texts that have a position that counts."""
        return self.cells.any(-1)

    def kept(self, value: Tensor) -> Tensor:
        """Return a value with zeros where nothing counts, (…, B, T, S)."""
        return torch.where(self.cells, value, 0.0)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw l, (…, B, T, S), differentiably."""
        return self._draw(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{t ≤ length} ln p(l_t), (…, B), nats per sentence."""
        if self._validate_args:
            self._validate_sample(value)
        return self.total(self._score(self.kept(value))).to(value.dtype)


class DirichletLogWeights(LogWeights):
    """Π_t p(l_t), l_t = ln w_t, w_t ~ Dirichlet(α_t) over the n positions that count; ``concentration`` (…, B, T, S).

    The density is that of the n - 1 log-ratios y_i = l_i - l_n. With density Γ(Σα) Π_i w_i^{α_i - 1} / Γ(α_i) of
    w_1..w_{n-1} and |∂w/∂y| = |diag w - w wᵀ| = Π_{i ≤ n} w_i,

        ln p(y) = ln Γ(Σ_i α_i) - Σ_i ln Γ(α_i) + Σ_i α_i l_i,

    in which no position stands out: with another one in the place of n the density is the same, since the change of
    ratios has determinant ±1. Sums of ln Γ are taken in float64 (where the device has it): at concentrations of 10⁴
    their terms are 10⁵ times as large as what is left of them.
    """

    parts = (*LogWeights.parts, "concentration")

    def __init__(
        self, concentration: Tensor, counted: Tensor, lengths: Tensor, validate_args: bool | None = None
    ) -> None:
        (self.concentration,) = self._place((concentration,), counted, lengths)
        batch = self.concentration.shape[:-2]
        super().__init__(batch, self.concentration.shape[-2:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """ln E[w] = ln α_i - ln Σα: the mean weights as a value of the site (not E[ln w])."""
        return log_shares(self.concentration.log(), self.cells)

    def _draw(self, shape: torch.Size) -> Tensor:
        return draw_dirichlet(self.concentration.expand(shape), self.cells)

    def _score(self, value: Tensor) -> Tensor:
        concentration = wide(self.concentration)
        weighed = self.kept(concentration * wide(value) - concentration.lgamma()).sum(-1)
        return self._mass(concentration).lgamma() + weighed

    def _mass(self, concentration: Tensor) -> Tensor:
        """Σα of each step (…, B, T), 1 where no position counts."""
        return torch.where(self.mask, self.kept(concentration).sum(-1), 1.0)


class LogisticNormalLogWeights(LogWeights):
    """Π_t p(l_t), l_t = ln softmax(μ_t + σ_t ∘ ε) over the n positions that count; ``mean``, ``scale`` (…, B, T, S).

    The density is that of the n - 1 log-ratios y_i = l_i - l_n, as of a Dirichlet. Since they do not feel a shift of
    all logits, it is that of N(μ, D), D = diag σ², without the shift's direction: with π_i ∝ 1/σ_i², Σπ = 1, and x̄ the
    mean of x = l - μ under π,

        ln p(y) = -½ Σ_i (x_i - x̄)²/σ_i² - ½ (n - 1) ln 2π - ½ (Σ_i ln σ_i² + ln Σ_i σ_i⁻²).

    (Logits as the site would let KL terms count the shift, too: a valid bound, but a looser one.)
    """

    parts = (*LogWeights.parts, "location", "scale")

    def __init__(
        self, mean: Tensor, scale: Tensor, counted: Tensor, lengths: Tensor, validate_args: bool | None = None
    ) -> None:
        self.location, self.scale = self._place((mean, scale), counted, lengths)
        shape = torch.broadcast_shapes(self.location.shape, self.scale.shape)
        super().__init__(shape[:-2], shape[-2:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """ln softmax(μ): the weights of the mean logits (neither E[ln w] nor ln E[w], which have no closed form)."""
        return log_shares(self.location, self.cells)

    def _draw(self, shape: torch.Size) -> Tensor:
        return draw_logistic_normal(self.location.expand(shape), self.scale.expand(shape), self.cells)

    def _score(self, value: Tensor) -> Tensor:
        return -0.5 * (self._distance(value - self.location) + self._dimensions * math.log(2 * math.pi) + self._log_det)

    def _distance(self, x: Tensor) -> Tensor:
        """Σ_i (x_i - x̄)²/σ_i², (…, B, T)."""
        centred = x - (self._shares * x).sum(-1, keepdim=True)
        return self.kept(centred / self.scale).square().sum(-1)

    @property
    def _dimensions(self) -> Tensor:
        """n - 1, (…, B, T)."""
        return (self.cells.sum(-1) - 1).clamp(min=0)

    @property
    def _shares(self) -> Tensor:
        """π_i ∝ 1/σ_i², (…, B, T, S)."""
        return hidden(-2.0 * self.scale.log(), self.cells).softmax(-1)

    @property
    def _log_det(self) -> Tensor:
        """ln det of the covariance of y, Σ_i ln σ_i² + ln Σ_i σ_i⁻², (…, B, T)."""
        log_variance = 2.0 * self.scale.log()
        return self.kept(log_variance).sum(-1) + hidden(-log_variance, self.cells).logsumexp(-1)


class WeibullLogWeights(LogWeights):
    """Π_t Π_i p(l_ti), l = ln S_i, S_i ~ Weibull(shape k, scale λ_i): weights that are not normalised.

    Given by their means, ``log_mean`` φ = ln E[S_i] = ln λ_i + ln Γ(1 + 1/k), and ``shape`` k, each (…, B, T, S)
    (Fan et al. 2020): ln p(l) = ln k + k (l - ln λ) - e^{k (l - ln λ)}.
    """

    parts = (*LogWeights.parts, "log_mean", "exponent")

    def __init__(
        self, log_mean: Tensor, shape: Tensor, counted: Tensor, lengths: Tensor, validate_args: bool | None = None
    ) -> None:
        self.log_mean, self.exponent = self._place((log_mean, shape), counted, lengths)
        whole = torch.broadcast_shapes(self.log_mean.shape, self.exponent.shape)
        super().__init__(whole[:-2], whole[-2:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """ln E[S] = φ: the mean weights as a value of the site (not E[ln S])."""
        return self.kept(self.log_mean)

    @property
    def log_scale(self) -> Tensor:
        """ln λ_i = φ_i - ln Γ(1 + 1/k)."""
        return self.log_mean - (1.0 + 1.0 / self.exponent).lgamma()

    def _draw(self, shape: torch.Size) -> Tensor:
        return draw_weibull(self.log_mean.expand(shape), self.exponent.expand(shape), self.cells)

    def _score(self, value: Tensor) -> Tensor:
        above = self.exponent * (value - self.log_scale)
        return self.kept(self.exponent.log() + above - above.exp()).sum(-1)


class GammaLogWeights(LogWeights):
    """Π_t Π_i p(l_ti), l = ln S_i, S_i ~ Gamma(α_i, rate β_i): weights that are not normalised.

    ``concentration`` α and ``log_rate`` ln β, each (…, B, T, S): ln p(l) = α ln β - ln Γ(α) + α l - β e^l.
    """

    parts = (*LogWeights.parts, "concentration", "log_rate")

    def __init__(
        self,
        concentration: Tensor,
        log_rate: Tensor,
        counted: Tensor,
        lengths: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.concentration, self.log_rate = self._place((concentration, log_rate), counted, lengths)
        whole = torch.broadcast_shapes(self.concentration.shape, self.log_rate.shape)
        super().__init__(whole[:-2], whole[-2:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """ln E[S] = ln α - ln β: the mean weights as a value of the site (not E[ln S])."""
        return self.kept(self.concentration.log() - self.log_rate)

    def _draw(self, shape: torch.Size) -> Tensor:
        return draw_gamma(self.concentration.expand(shape), self.log_rate.expand(shape), self.cells)

    def _score(self, value: Tensor) -> Tensor:
        scaled = value + self.log_rate
        return self.kept(self.concentration * scaled - self.concentration.lgamma() - scaled.exp()).sum(-1)


@register_kl(DirichletLogWeights, DirichletLogWeights)
def _dirichlet_kl(q: DirichletLogWeights, p: DirichletLogWeights) -> Tensor:
    """ln Γ(Σα) - ln Γ(Σβ) + Σ_i [ln Γ(β_i) - ln Γ(α_i) + (α_i - β_i) (ψ(α_i) - ψ(Σα))], of q's α and p's β."""
    ours, theirs = wide(q.concentration), wide(p.concentration)
    mass = q._mass(ours)
    above = ours.digamma() - mass.digamma().unsqueeze(-1)
    cells = q.kept(theirs.lgamma() - ours.lgamma() + (ours - theirs) * above)
    return q.total(mass.lgamma() - p._mass(theirs).lgamma() + cells.sum(-1)).to(q.concentration.dtype)


@register_kl(LogisticNormalLogWeights, LogisticNormalLogWeights)
def _logistic_normal_kl(q: LogisticNormalLogWeights, p: LogisticNormalLogWeights) -> Tensor:
    """½ [tr(P D) - (n - 1) + (μ_q - μ_p)ᵀ P (μ_q - μ_p) + ln det p - ln det q], D = diag σ_q².

    P = diag σ_p⁻² (I - 1 πᵀ) is p's precision without the shift: tr(P D) = Σ_i (1 - π_i) σ_q,i² / σ_p,i² with p's π.
    """
    trace = q.kept((1.0 - p._shares) * (q.scale / p.scale).square()).sum(-1)
    distance = p._distance(q.location - p.location)
    return q.total(0.5 * (trace - q._dimensions + distance + p._log_det - q._log_det))


@register_kl(WeibullLogWeights, GammaLogWeights)
def _weibull_gamma_kl(q: WeibullLogWeights, p: GammaLogWeights) -> Tensor:
    """Σ over positions and steps of γα/k - α ln λ + ln k + β E[S] - γ - 1 - α ln β + ln Γ(α)."""
    concentration, shape = p.concentration, q.exponent
    cells = EULER * (concentration / shape - 1.0) - 1.0 + shape.log() + (q.log_mean + p.log_rate).exp()
    cells = cells - concentration * (q.log_scale + p.log_rate) + concentration.lgamma()
    return q.total(q.kept(cells).sum(-1))


def _log_uniform(like: Tensor) -> Tensor:
    """Draw ln U < 0 for U uniform on (0, 1): a draw of 0 becomes half the smallest other one."""
    return torch.rand_like(like).clamp(min=torch.finfo(like.dtype).eps / 4).log()


def _log_gamma(concentration: Tensor) -> Tensor:
    """Draw ln G, G ~ Gamma(α, 1), differentiably: where α < 1 as ln Gamma(α + 1) + (ln U)/α, since G might be 0."""
    small = concentration < 1.0
    boost = torch.where(small, _log_uniform(concentration) / concentration, 0.0)
    return torch._standard_gamma(torch.where(small, concentration + 1.0, concentration)).log() + boost
