"""Sequences of code vectors: posteriors that choose codes, and an autoregressive prior over the code book.

The latent is the code vector, so that a decoder reads it and a gradient can pass it straight through; its probability
is that of its index. A point mass has a probability of 1, so KL(q ‖ p) = -ln p(codes), and an importance-weighted bound
is the ELBO.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..nn.attention import is_step
from ..nn.codebook import distances, nearest
from .choices import draw_index, picked
from .precision import at_least_float32
from .steps import Autoregressive, StepDistribution, draw_in_order


class NearestCodes(StepDistribution):
    """q(z | x): a point mass of probability 1 at e_k(s), k(s) = argmin_k ‖h_s - e_k‖ at every step; event (S, D).

    A draw is the code in value and h_s in gradient, h + sg(e - h), which the decoder differentiates (the codes get no
    gradient). ``indices`` (…, B, S) are those of the codes. Steps behind the lengths are zero.
    """

    has_rsample = True
    parts = ("lengths", "states", "codes", "indices")

    def __init__(
        self,
        states: Tensor,
        codes: Tensor,
        lengths: Tensor,
        indices: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.states, self.codes, self.lengths = states, codes, lengths
        self.indices = nearest(states.detach(), codes) if indices is None else indices
        batch = torch.broadcast_shapes(states.shape[:-2], lengths.shape)
        super().__init__(batch, states.shape[-2:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The codes, zero behind the lengths."""
        return self.kept(self.codes[self.indices])

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Return the codes, (…, B, S, D)."""
        chosen = self.codes[self.indices]
        # Not h + (e - h): rounding would leave a value that is no code.
        value = _StraightThrough.apply(self.states, chosen)
        return self.kept(value).expand(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """0 where ``value`` is these codes at all steps that count, -inf elsewhere; (…, B), nats."""
        chosen = self.codes[self.indices]
        there = ((value == chosen).all(-1) | ~self.mask).all(-1)
        found = torch.where(there, 0.0, -torch.inf).to(chosen.dtype)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, chosen: Tensor) -> Tensor:
        """Return the codes."""
        return chosen.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Hand the gradient on to the states."""
        return gradients[0], None


class CodePaths(StepDistribution):
    """Π_{s ≤ n} p(z_s = e_k | z_{<s}): base of what draws codes, prior or posterior; event (S, D).

    Subclasses say the shares along a path, and how a path is drawn. A value is read as the codes that it is nearest to;
    one that is no code would have no probability, and none is asked for it here. A draw cannot be differentiated.
    """

    has_rsample = False
    codes: Tensor

    def shares_along(self, indices: Tensor) -> Tensor:
        """ln p(z_s = e_k | z_{<s}) of every code, (…, S, M), nats, along the path of codes ``indices`` (…, S)."""
        raise NotImplementedError

    def log_shares(self, value: Tensor) -> Tensor:
        """ln p(z_s = e_k | z_{<s}) of every code along a path, (…, S, M), nats; no gradient for the path."""
        return self.shares_along(nearest(value.detach(), self.codes))

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{s ≤ length} ln p(z_s | z_{<s}), (…, B), nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.log_prob_along(value, nearest(value.detach(), self.codes))

    def log_prob_along(self, value: Tensor, indices: Tensor) -> Tensor:
        """``log_prob`` of a value whose codes are known already to be those of ``indices`` (…, B, S)."""
        return self.total(picked(self.shares_along(indices), indices))


class CodeSequences(CodePaths):
    """p(z | n) = Π_{s ≤ n} softmax(o_s(k_{<s}))[k_s] over code vectors z_s = e_{k_s}, o_s from a network of indices.

    The autoregressive ``network`` gives M outputs (what it gives beyond them is left out), from embeddings of its own,
    so that codes that move do not move the prior. Event (S, D).
    """

    parts = ("lengths", "network", "codes")

    def __init__(
        self, network: Autoregressive, codes: Tensor, lengths: Tensor, steps: int, validate_args: bool | None = None
    ) -> None:
        self.network, self.codes, self.lengths = network, codes, lengths
        super().__init__(lengths.shape, torch.Size((steps, codes.shape[-1])), validate_args=validate_args)

    def shares_along(self, indices: Tensor) -> Tensor:
        """ln γ_s(k | z_{<s}) of every code, (…, S, M), nats."""
        return at_least_float32(self.network(indices)[..., : len(self.codes)]).log_softmax(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw codes (…, B, S, D), step by step."""
        shape = self._extended_shape(sample_shape)

        def draw(logits: Tensor) -> tuple[Tensor, Tensor]:
            index = draw_index(logits[:, : len(self.codes)])
            return index, index

        indices = draw_in_order(self.network, shape[:-2].numel(), shape[-2], draw)
        return self.kept(self.codes[indices].view(shape))

    def kl_from(self, q: Any, value: Tensor) -> Tensor | None:
        """Σ_s KL(q(z_s | z_{<s}, x) ‖ γ_s(z_{<s})) along a path drawn from q, (…, B), nats.

        In expectation over the path this is KL(q ‖ p); of a point mass it is -ln p(codes). None for another kind of q.
        """
        if isinstance(q, NearestCodes):
            if q.codes is not self.codes:
                return -self.log_prob(value)
            return -self.log_prob_along(value, q.indices.expand(value.shape[:-1]))
        if not isinstance(q, CodePaths):
            return None
        log_q = q.log_shares(value)
        return q.total((log_q.exp() * (log_q - self.log_shares(value))).sum(-1))


class StoppedCodes(CodeSequences):
    """p(z_{1:n}) = Π_{s ≤ n} softmax(o_s)[k_s] softmax(o_{n+1})[M]: sequences of codes of any n ≥ 1, ended by a stop.

    ``network`` has M + 1 outputs, of which the last is the stop; at the first step it is none. The probabilities of all
    sequences of all lengths sum to 1. How long a value is it says itself: a step that is zero in all entries is none.
    Draws are cut off after S steps.
    """

    def counted(self, value: Tensor) -> Tensor:
        """Return the steps that the value has, (…, B, S)."""
        return is_step(value)

    def _all_shares(self, indices: Tensor) -> Tensor:
        """ln softmax(o_s) of codes and stop, (…, S + 1, M + 1)."""
        logits = at_least_float32(self.network(nn.functional.pad(indices, (0, 1))))
        first = torch.arange(logits.shape[-2], device=logits.device).unsqueeze(-1) == 0
        stop = torch.arange(logits.shape[-1], device=logits.device) == len(self.codes)
        return logits.masked_fill(first & stop, -torch.inf).log_softmax(-1)

    def shares_along(self, indices: Tensor) -> Tensor:
        """ln γ_s(k | z_{<s}) of every code, (…, S, M), nats: they sum to 1 - p(stop)."""
        return self._all_shares(indices)[..., :-1, :-1]

    def _log_stop(self, value: Tensor, shares: Tensor) -> Tensor:
        """ln p(stop) behind the last step of a value, (…, B), given all shares along it."""
        return picked(shares[..., -1], self.counted(value).sum(-1))

    def log_prob_along(self, value: Tensor, indices: Tensor) -> Tensor:
        """ln p(z_{1:n}), (…, B), nats, n the steps that the value has."""
        shares = self._all_shares(indices)
        steps = torch.where(self.counted(value), picked(shares[..., :-1, :-1], indices), 0.0).sum(-1)
        found = steps + self._log_stop(value, shares)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw codes (…, B, S, D), step by step, zero behind the stop."""
        shape, size = self._extended_shape(sample_shape), len(self.codes)
        rows = shape[:-2].numel()
        going = torch.ones(rows, dtype=torch.bool, device=self.codes.device)
        first = True

        def draw(logits: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal going, first
            index = draw_index(logits[:, :size] if first else logits)
            first, going = False, going & (index < size)
            return torch.where(going, index, size), torch.where(going, index, 0)

        indices = draw_in_order(self.network, rows, shape[-2], draw)
        return nn.functional.pad(self.codes, (0, 0, 0, 1))[indices].view(shape)

    def kl_from(self, q: Any, value: Tensor) -> Tensor | None:
        """KL(q ‖ p) along a path drawn from q, (…, B), nats, its stop included; None for a q of another kind."""
        steps = super().kl_from(q, value)
        if steps is None or isinstance(q, NearestCodes):
            return steps
        return steps - self._log_stop(value, self._all_shares(nearest(value.detach(), self.codes)))


class IndependentCodes(CodePaths):
    """q(z | x) = Π_{s ≤ n} softmax(logits_s)[k_s], from logits (…, B, S, M): each code by itself, given the text."""

    parts = ("lengths", "codes", "logits")

    def __init__(self, logits: Tensor, codes: Tensor, lengths: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.codes, self.lengths = at_least_float32(logits), codes, lengths
        batch = torch.broadcast_shapes(logits.shape[:-2], lengths.shape)
        super().__init__(batch, torch.Size((logits.shape[-2], codes.shape[-1])), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Σ_k q_k e_k, zero behind the lengths."""
        return self.kept(self.logits.softmax(-1) @ self.codes)

    def shares_along(self, indices: Tensor) -> Tensor:
        """ln softmax(logits_s), (…, B, S, M), nats, whatever the path."""
        return self.logits.log_softmax(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw codes (…, B, S, D)."""
        shape = self._extended_shape(sample_shape)
        return self.kept(self.codes[draw_index(self.logits.expand(*shape[:-1], -1))])


class TiltedCodes(CodePaths):
    """q(z_s = e_k | z_{<s}, x) ∝ γ_k(z_{<s}) exp(-‖h_s - e_k‖²/τ): the ``prior``'s shares, tilted to the states' codes.

    KL(q ‖ p) along a path is Σ_s [-E_q d/τ - ln Σ_k γ_k e^{-d_k/τ}] with d_k = ‖h_s - e_k‖² (specification 6.iii). As τ
    falls the draw becomes argmin_k d_k/τ - ln γ_k, in the end the nearest code. Paths are drawn in order, with the
    prior's network step by step, and scored in one pass. The gradient of ln q reaches states and τ, and the prior's
    network, which is a part of q; it does not reach the codes.

    Args:
        prior: γ, and the codes.
        states: h (…, B, S, D).
        temperature: τ, a scalar tensor.
        lengths: steps that count, (…, B).
    """

    parts = ("lengths", "codes", "prior", "states", "tilt")

    def __init__(
        self,
        prior: CodeSequences,
        states: Tensor,
        temperature: Tensor,
        lengths: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.prior, self.codes, self.states, self.lengths = prior, prior.codes, at_least_float32(states), lengths
        self.tilt = -distances(self.states, self.codes) / temperature
        batch = torch.broadcast_shapes(states.shape[:-2], lengths.shape)
        super().__init__(batch, states.shape[-2:], validate_args=validate_args)

    def shares_along(self, indices: Tensor) -> Tensor:
        """ln q(z_s = e_k | z_{<s}, x) of every code, (…, B, S, M), nats."""
        return (self.prior.shares_along(indices) + self.tilt).log_softmax(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw codes (…, B, S, D), step by step."""
        shape, size = self._extended_shape(sample_shape), len(self.codes)
        tilts = iter(self.tilt.expand(*shape[:-1], -1).reshape(-1, shape[-2], size).unbind(1))

        def draw(logits: Tensor) -> tuple[Tensor, Tensor]:
            index = draw_index(at_least_float32(logits[:, :size]) + next(tilts))
            return index, index

        indices = draw_in_order(self.prior.network, shape[:-2].numel(), shape[-2], draw)
        return self.kept(self.codes[indices].view(shape))
