"""Sequences of code vectors: posteriors that choose codes, and an autoregressive prior over the code book.

The latent is the code vector, so that a decoder reads it and a gradient can pass it straight through; its probability
is that of its index. A point mass has a probability of 1, so KL(q ‖ p) = -ln p(codes), and an importance-weighted bound
is the ELBO.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..nn.codebook import nearest
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


class CodeSequences(StepDistribution):
    """p(z) = Π_{s ≤ n} softmax(o_s(k_{<s}))[k_s] over code vectors z_s = e_{k_s}, o_s from an autoregressive network.

    ``network`` reads indices and gives M outputs, from embeddings of its own, so that codes that move do not move the
    prior. Event (S, D). A value is read as the codes that it is nearest to; one that is no code would have no
    probability, and none is asked for it here.
    """

    has_rsample = False
    parts = ("lengths", "network", "codes")

    def __init__(
        self, network: Autoregressive, codes: Tensor, lengths: Tensor, steps: int, validate_args: bool | None = None
    ) -> None:
        self.network, self.codes, self.lengths = network, codes, lengths
        super().__init__(lengths.shape, torch.Size((steps, codes.shape[-1])), validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{s ≤ length} ln softmax(o_s)[k_s], (…, B), nats: no gradient for the value."""
        if self._validate_args:
            self._validate_sample(value)
        indices = nearest(value.detach(), self.codes)
        logits = at_least_float32(self.network(indices))
        picked = logits.gather(-1, indices.unsqueeze(-1)).squeeze(-1)
        return self.total(picked - logits.logsumexp(-1))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw codes (…, B, S, D), step by step."""
        shape = self._extended_shape(sample_shape)

        def draw(logits: Tensor) -> tuple[Tensor, Tensor]:
            index = draw_index(logits)
            return index, index

        indices = draw_in_order(self.network, shape[:-2].numel(), shape[-2], draw)
        return self.kept(self.codes[indices].view(shape))

    def kl_from(self, q: Any, value: Tensor) -> Tensor | None:
        """KL(q ‖ p) along a path drawn from q, (…, B), nats; None for a q of another kind.

        Of a point mass it is -ln p(codes).
        """
        return -self.log_prob(value) if isinstance(q, NearestCodes) else None


def draw_index(logits: Tensor) -> Tensor:
    """Draw from softmax(logits) (…, M), (…,): as the largest of logits with Gumbel noise, which asks no device."""
    logits = at_least_float32(logits)
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
