"""Gaussians of latents one after another, each given those before it and, where there is one, a condition."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .initial import normal_linear


class LatentChain(nn.Module):
    """N(z_l; μ_l, diag σ_l²), [μ_l; ln σ_l²] = W_l [r_l; c_l] + b_l, r_l = tanh(W_hh r_{l-1} + W_ih z_{l-1}).

    Source: Hu et al. 2022 (DELLA), equation 7 and specification 2A; r_0 = z_0 = 0. What a Gaussian is not given has no
    part in it: without r_l and c_l it is N(0, I). The first of a chain has r_1 = 0, unless its biases are learned.

    Args:
        number: n.
        latent_dim: D.
        chained: each is given the ones before it, through r_l.
        learned_first: r_1 and p(z_1) have biases, as the public code has them; else r_1 = 0.
        condition_dim: width of c_l; 0: there is none.
    """

    def __init__(
        self, number: int, latent_dim: int, *, chained: bool, learned_first: bool = False, condition_dim: int = 0
    ) -> None:
        super().__init__()
        self.latent_dim, self.chained = latent_dim, chained
        self._first = 0 if learned_first else 1
        linked = [place for place in range(number) if self.is_linked(place)]
        self.of_history = _maps(dict.fromkeys(linked, (latent_dim, latent_dim)))
        self.of_latent = _maps(dict.fromkeys(linked, (latent_dim, latent_dim)))
        inputs = {place: latent_dim * self.is_linked(place) + condition_dim for place in range(number)}
        self.to_gaussian = _maps({place: (width, 2 * latent_dim) for place, width in inputs.items() if width})

    def is_linked(self, place: int) -> bool:
        """Return whether the latent at ``place`` (from 0) is given a summary r of those before it."""
        return self.chained and place >= self._first

    def history(self, place: int, before: Tensor | None, latent: Tensor | None) -> Tensor | None:
        """r_l (…, D) at ``place``, given r_{l-1} and z_{l-1}; None stands for 0, and for the r of one without."""
        if not self.is_linked(place):
            return None
        key = str(place)
        return (_mapped(self.of_history[key], before) + _mapped(self.of_latent[key], latent)).tanh()

    def gaussian(self, place: int, history: Tensor | None, condition: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """μ_l and ln σ_l² (…, D) given r_l and c_l; None where these are 0: N(0, I)."""
        if str(place) not in self.to_gaussian:
            return None
        given = [part for part in (history, condition) if part is not None]
        if len(given) == 2:
            lead = torch.broadcast_shapes(*(part.shape[:-1] for part in given))
            given = [part.expand(*lead, -1) for part in given]
        mean, log_variance = self.to_gaussian[str(place)](torch.cat(given, -1)).chunk(2, -1)
        return mean, log_variance


def _maps(sizes: Mapping[int, tuple[int, int]]) -> nn.ModuleDict:
    return nn.ModuleDict({str(place): normal_linear(*size) for place, size in sizes.items()})


def _mapped(linear: nn.Module, x: Tensor | None) -> Tensor:
    """W x + b, b for x = 0."""
    mapped: Tensor = linear.bias if x is None else linear(x)  # type: ignore[assignment]
    return mapped
