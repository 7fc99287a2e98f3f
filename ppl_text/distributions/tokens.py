"""The observed site: a sentence of tokens that ends at its first EOS."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ..core.batch import EOS_ID, FIRST_SCORED_ID, PAD_ID
from .precision import at_least_float32


class TokenSequence(TorchDistribution):
    """p(w_1..w_n EOS | states) = Π_{t ≤ n+1} softmax(logits_t)[w_t]; event shape (T,), ids as values.

    ``logits`` (…, B, T, V - 2) score the ids from EOS upwards: padding and BOS are no outcomes.
    ``lengths`` (…, B) counts scored tokens, EOS included; nothing after EOS is scored. Where logits at t
    do not depend on EOS having occurred, the probabilities of all strings sum to at most 1
    (strings that end in their only EOS form a prefix-free set), so likelihoods are proper.

    ``log_prob`` (nats per sentence, shape (…, B)) picks logits and subtracts their logsumexp: one
    (…, T, V) tensor is kept, no normalised copy of it.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, logits: Tensor, lengths: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.lengths = at_least_float32(logits), lengths
        batch = torch.broadcast_shapes(logits.shape[:-2], lengths.shape)
        super().__init__(batch, logits.shape[-2:-1], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: TokenSequence | None = None) -> TokenSequence:
        """Put further leading axes in front, without copies."""
        new = self._get_checked_instance(TokenSequence, _instance)
        new.logits, new.lengths = self.logits, self.lengths
        super(TokenSequence, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{t ≤ length} ln p(w_t), shape (…, B)."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.logits.shape[:-1])
        outcome = (value - FIRST_SCORED_ID).clamp(min=0).expand(shape).unsqueeze(-1)
        picked = self.logits.expand(*shape, -1).gather(-1, outcome).squeeze(-1)
        # Padding and BOS are no outcomes: where they are scored, the density is 0.
        steps = (picked - self.logits.logsumexp(-1)).masked_fill(value < FIRST_SCORED_ID, -torch.inf)
        mask = torch.arange(self.event_shape[0], device=steps.device) < self.lengths.unsqueeze(-1)
        total = torch.where(mask, steps, 0.0).sum(-1)
        # Particles that the logits do not depend on (nothing latent) were put in front by expand().
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Token ids (…, B, T); everything after the first EOS is padding."""
        logits = self.logits.expand(*self.batch_shape, *self.logits.shape[-2:])
        draws = torch.distributions.Categorical(logits=logits).sample(sample_shape)
        return end_at_eos(draws + FIRST_SCORED_ID)


def end_at_eos(tokens: Tensor) -> Tensor:
    """Replace what follows the first EOS of each row (…, T) by padding."""
    ended = (tokens == EOS_ID).cumsum(-1)
    return torch.where((ended - (tokens == EOS_ID).long()) > 0, PAD_ID, tokens)
