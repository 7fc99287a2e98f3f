"""How noisy the gradient of an objective is: mean, variance and signal-to-noise ratio."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.protocols import Objective

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class GradientStatistics(NamedTuple):
    """Of R independent estimates g of one gradient.

    ``variance``: tr Cov g = Σ_i Var g_i of a single estimate, unbiased; ``signal``: ‖E g‖², estimated by
    ‖ḡ‖² - tr/R, which may come out below 0; ``repeats``: R.
    """

    variance: float
    signal: float
    repeats: int

    @property
    def snr(self) -> float | None:
        """‖E g‖ / √(tr Cov g), the noise of the mean taken off; 0 where it hides the signal.

        None where no gradient was seen: both are 0. A gradient without any noise has SNR infinity.
        """
        if self.variance == 0.0:
            return None if self.signal <= 0.0 else math.inf
        return math.sqrt(max(0.0, self.signal) / self.variance)


class GradientMoments:
    """Running mean and total variance of flat gradients (Welford), in float64: two vectors whatever R is."""

    def __init__(self) -> None:
        self.repeats = 0
        self._mean: Tensor | None = None
        self._squares = 0.0

    def add(self, gradient: Tensor) -> None:
        """Count one more estimate, (P,)."""
        value = gradient.detach().double()
        self.repeats += 1
        if self._mean is None:
            self._mean = value.clone()
            return
        before = value - self._mean
        self._mean += before / self.repeats
        self._squares += float(before @ (value - self._mean))

    def statistics(self) -> GradientStatistics | None:
        """What the R ≥ 2 estimates say; None where there are no parameters."""
        if self._mean is None or self._mean.numel() == 0:
            return None
        if self.repeats < 2:
            raise ValueError(f"a variance needs 2 or more gradients; got {self.repeats}")
        variance = self._squares / (self.repeats - 1)
        signal = float(self._mean.square().sum()) - variance / self.repeats
        return GradientStatistics(variance, signal, self.repeats)


class Gradients(NamedTuple):
    """One estimate of the gradient of a loss, flat: ``model`` (P_model,), ``guide`` (P_guide,)."""

    model: Tensor
    guide: Tensor


def loss_gradients(objective: Objective, model: nn.Module, guide: nn.Module, batch: Batch) -> Gradients:
    """∂ loss / ∂ parameters of both programs at β = 1; zeros where the loss does not reach."""
    parameters = [list(program.parameters()) for program in (model, guide)]
    everything = [*parameters[0], *parameters[1]]
    if not everything:
        return Gradients(torch.zeros(0), torch.zeros(0))
    loss = objective(model, guide, batch).loss
    if not loss.requires_grad:
        return Gradients(*(_flat(own, [None] * len(own)) for own in parameters))
    found = torch.autograd.grad(loss, everything, allow_unused=True)
    split = len(parameters[0])
    return Gradients(_flat(parameters[0], found[:split]), _flat(parameters[1], found[split:]))


def _flat(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return torch.cat([g.reshape(-1) for g in filled]) if filled else torch.zeros(0)


def training_copies(model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Both programs to take gradients of, leaving the run's own as they are: training mode, but no dropout.

    So that the variance is that of the draws of the latents alone, and running statistics of a batch
    normalisation change in the copy only.
    """
    copied: tuple[nn.Module, nn.Module] = copy.deepcopy((model, guide))
    for program in copied:
        program.requires_grad_(True).train()
        for module in program.modules():
            if isinstance(module, DROPOUTS):
                module.eval()
            elif isinstance(module, nn.RNNBase):
                module.dropout = 0.0
    return copied
