"""Gradients along the path of the sample only: "sticking the landing" and its doubly reparametrised kin.

Both evaluate ln q(z) with the *parameters* of both programs detached, by replaying the guide, and let the gradient
run through z alone. Detaching the arguments of q's distributions instead would be wrong for chained posteriors,
where q(h_t | h_{t-1}) depends on the sample through its own parameters. The densities are computed while the
parameters are detached: a chain runs its network in ``log_prob``, not before.

Sources: Roeder, Wu and Duvenaud 2017; Tucker, Lawson, Gu and Maddison 2019 (eq. 8).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import functional_call

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.protocols import Estimate
from .bounds import Scores, iwae
from .estimate import Beta, assemble, in_chunks, is_one
from .terms import collect_terms, is_auxiliary, log_density, particle_plate, side_losses, stochastic_sites


class _Densities(nn.Module):
    """ln q of each latent site, (K, B); holds the model too, whose parameters a guide may use (h_0, a transition)."""

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model, self.guide = model, guide

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        sites = stochastic_sites(poutine.trace(self.guide).get_trace(batch))
        return {name: log_density(site) for name, site in sites if not is_auxiliary(site)}


class Share:
    """Factor (K, B) on the gradient that flows into the latents; set before the way back."""

    def __init__(self) -> None:
        self.factor: Tensor | None = None

    def attach(self, value: Tensor) -> Tensor:
        """Return the same value, whose incoming gradient will be multiplied by the factor."""
        if not value.requires_grad:
            return value
        copy = value.view_as(value)
        copy.register_hook(self._scale)
        return copy

    def _scale(self, gradient: Tensor) -> Tensor:
        if self.factor is None:
            raise RuntimeError("the gradient came before its factor was set")
        # A single particle has no axis of its own.
        factor = self.factor.squeeze(0) if self.factor.shape[0] == 1 else self.factor
        return gradient * factor.reshape(*factor.shape, *(1,) * (gradient.dim() - factor.dim()))


def path_scores(model: nn.Module, guide: nn.Module, batch: Batch, particles: int, share: Share | None = None) -> Scores:
    """Return the scores of K particles with the parameters of ln q detached; equal in value to those by Monte Carlo.

    With ``share`` the densities are taken at copies of what was drawn, through which gradients are scaled; those
    that run from one site of the guide to the next are not. The guide runs twice.
    """
    with particle_plate(particles):
        same_dropout = _Dropout(guide)
        drawn = poutine.trace(guide).get_trace(batch)
        values = drawn if share is None else _with_copies(drawn, share)
        model_trace = poutine.trace(poutine.replay(model, trace=values)).get_trace(batch)
        with same_dropout.replay(values):
            log_q = _detached_densities(model, guide, batch)
    terms = collect_terms(values, model_trace, particles, batch)
    if share is not None:
        _refuse_side_losses(side_losses(model_trace))
    kl = {name: log_q[name] - site.log_p for name, site in terms.latents.items()}
    return Scores(terms.log_likelihood, kl, terms.side)


def _refuse_side_losses(side: dict[str, Tensor]) -> None:
    """Refuse a model's side loss that depends on the latents: it would reach the guide through the scaled copies."""
    for name, value in side.items():
        if value.requires_grad:
            raise UserError(
                f"dreg: the model's side loss '{name}' would reach the guide with the weights of the bound; use "
                "iwae:K, or record it in the guide"
            )


def _detached_densities(model: nn.Module, guide: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """ln q by site, computed with all parameters of both programs detached."""
    densities = _Densities(model, guide)
    detached = {name: parameter.detach() for name, parameter in densities.named_parameters()}
    found: dict[str, Tensor] = functional_call(densities, detached, (batch,))
    return found


def _with_copies(trace: poutine.Trace, share: Share) -> poutine.Trace:
    """Return the same trace with copies of the latent values, see :class:`Share`."""
    copied = trace.copy()
    for name, site in stochastic_sites(trace):
        if not is_auxiliary(site):
            copied.nodes[name] = {**site, "value": share.attach(site["value"])}
    return copied


class _Dropout:
    """Replays a guide whose networks drop units with the same units dropped.

    A replayed site draws nothing, which would shift the random numbers of all dropout behind it: so such a guide
    draws again, from the same random state, and its values are replaced afterwards.
    """

    def __init__(self, guide: nn.Module) -> None:
        self._active = any(m.training and _drops(m) for m in guide.modules())
        self._states = (torch.get_rng_state(), _cuda_states()) if self._active else None

    @contextmanager
    def replay(self, trace: poutine.Trace) -> Iterator[None]:
        """Context in which every site takes its value from ``trace``."""
        if self._states is None:
            with poutine.replay(trace=trace):
                yield
            return
        state, cuda = self._states
        with torch.random.fork_rng(devices=range(len(cuda))), _Substitute(trace):
            torch.set_rng_state(state)
            for device, value in enumerate(cuda):
                torch.cuda.set_rng_state(value, device)
            yield


class _Substitute(Messenger):
    """Replaces what a site has drawn by its value in a trace."""

    def __init__(self, trace: poutine.Trace) -> None:
        super().__init__()
        self._trace = trace

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self._trace.nodes and not msg["is_observed"]:
            msg["value"] = self._trace.nodes[msg["name"]]["value"]


def _drops(module: nn.Module) -> bool:
    """Return whether a module drops units: a dropout layer, or attention or a recurrent one with dropout inside."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1


def _cuda_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


@dataclass(frozen=True)
class DoublyReparametrized:
    """``dreg:K``: the IWAE bound with the doubly reparametrised gradient for what shapes the sample.

    With log-weights ln w_k = ln p_θ(x, z_k) - ln q_φ(z_k), w̃ normalised and both parameters detached in q:
    ∇_φ = Σ_k w̃_k² ∂ln w_k/∂z_k ∂z_k/∂φ (eq. 8), while the model's own gradient stays Σ_k w̃_k ∂ln p_θ/∂θ. Parameters of
    the model that the guide uses (h_0, a shared transition) get both. Unbiased, and its signal-to-noise ratio for
    the guide does not fall with K. A β other than 1 adds (1 - β) KL, differentiated along the path.
    """

    name: str
    particles: int
    chunk: int | None = None

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Estimate`."""
        shares: list[Share] = []

        def score(model: nn.Module, guide: nn.Module, batch: Batch, particles: int) -> Scores:
            shares.append(Share())
            return path_scores(model, guide, batch, particles, shares[-1])

        scores = in_chunks(score, self.chunk)(model, guide, batch, self.particles)
        weights = scores.log_weights.detach().softmax(0)
        for share, part in zip(shares, weights.split(self.chunk or self.particles), strict=True):
            share.factor = part
        reading = iwae(scores)
        if not is_one(beta):
            weighed = in_chunks(path_scores, self.chunk)(model, guide, batch, self.particles).mean_kl
            reading = reading._replace(weighed=weighed)
        return assemble(reading, scores, batch, beta)
