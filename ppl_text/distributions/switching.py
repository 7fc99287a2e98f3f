"""Codes that choose, step by step or for a whole text, the softmax that writes it; their exact posteriors, and tokens.

A code z_t is an integer in 0..M-1. Beside a text x its joint density with it is Π_t A_t(z_{t-1}, z_t) b_t(z_t), where
both the transitions A_t and the scores b_t(k) = p(x_t | x_{<t}, z_t = k) may depend on x_{<t} but on no other code: so
the posterior of z given x is a chain itself, and p(x) is a sum that the forward algorithm knows.

The exact posteriors count as reparametrised (``has_rsample``): under them ln p(x, z) - ln q(z | x) = ln p(x) whatever z
was drawn, so that its gradient at a fixed draw is that of ln p(x), and a score function's part would only be noise.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from ..core.vocabulary import OWN_IDS, ReservedIds
from ..nn.forward_algorithm import LogEvidence
from .choices import draw_index, picked
from .precision import at_least_float32
from .shared import SharedParts
from .tokens import TokenDistribution, score_outcomes


class Emissions:
    """b_t(k) = ln softmax(W f_{t,k})[w_t] of every code, from features (B, T, M, P) and W (O, P).

    For ``tokens`` (B, T), those of the batch, they are scored once, however many particles ask.
    """

    def __init__(self, features: Tensor, weight: Tensor, tokens: Tensor, ids: ReservedIds = OWN_IDS) -> None:
        self.features, self.weight, self.tokens, self.ids = features, weight, tokens, ids
        self.scores = self._scored(tokens)

    def of(self, tokens: Tensor) -> Tensor:
        """ln p(w_t | w_{<t}, z_t = k), (B, T, M), for tokens (B, T)."""
        return self.scores if tokens is self.tokens else self._scored(tokens)

    def logits(self, codes: Tensor) -> Tensor:
        """W f_{t,z_t}, (…, B, T, O), for codes (…, B, T)."""
        features = self.features.expand(*codes.shape, *self.features.shape[-2:])
        index = codes[..., None, None].expand(*codes.shape, 1, features.shape[-1])
        return at_least_float32(features.gather(-2, index).squeeze(-2) @ self.weight.t())

    def _scored(self, tokens: Tensor) -> Tensor:
        outcomes = (tokens - self.ids.first_outcome).clamp(min=0).unsqueeze(-1).expand(self.features.shape[:-1])
        scores = score_outcomes(self.features.flatten(0, -2), self.weight, None, outcomes.flatten())
        return scores.view(self.features.shape[:-1])


class SwitchedTokens(TokenDistribution):
    """p(w_1..w_n EOS | z) = Π_{t ≤ n+1} softmax(W f_{t,z_t})[w_t] for codes z (…, B, T)."""

    parts = ("emissions", "codes", "lengths", "ids")

    def __init__(self, emissions: Emissions, codes: Tensor, lengths: Tensor, validate_args: bool | None = None) -> None:
        self.emissions, self.codes, self.lengths, self.ids = emissions, codes, lengths, emissions.ids
        batch = torch.broadcast_shapes(codes.shape[:-1], lengths.shape)
        super().__init__(batch, codes.shape[-1:], validate_args=validate_args)

    @property
    def logits(self) -> Tensor:  # type: ignore[override]
        """W f_{t,z_t}, made when they are asked for."""
        return self.emissions.logits(self.codes)

    def _score(self, value: Tensor, mask: Tensor) -> Tensor:
        return picked(self.emissions.of(value), self.codes)


class CodeChain(SharedParts):
    """p(z_1..z_n) = π(z_1) Π_{t=2..n} A_t(z_{t-1}, z_t), event (T,): integers, 0 behind a row's ``lengths`` (B,).

    ``initial`` (…, B, M) are ln π and ``transitions`` (…, B, T - 1, M, M) ln A_2, …, ln A_T, from j (axis -2) to k.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    has_rsample = False
    parts: ClassVar[tuple[str, ...]] = ("initial", "transitions", "lengths")
    initial: Tensor
    transitions: Tensor
    lengths: Tensor

    def __init__(
        self, initial: Tensor, transitions: Tensor, lengths: Tensor, validate_args: bool | None = None
    ) -> None:
        self.initial, self.transitions, self.lengths = initial, transitions, lengths
        super().__init__(lengths.shape, torch.Size((transitions.shape[1] + 1,)), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """0..M-1 at every step."""
        return constraints.independent(constraints.integer_interval(0, self.initial.shape[-1] - 1), 1)

    @property
    def mask(self) -> Tensor:
        """(B, T): True on the steps that count."""
        return torch.arange(self.event_shape[0], device=self.lengths.device) < self.lengths.unsqueeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(z_1..z_n), (…, B), nats."""
        if self._validate_args:
            self._validate_sample(value)
        found = self._along(value)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def _along(self, value: Tensor) -> Tensor:
        first = picked(self.initial, value[..., 0])
        pairs = self.initial.shape[-1] * value[..., :-1] + value[..., 1:]
        steps = picked(self.transitions.flatten(-2), pairs)
        return first + torch.where(self.mask[..., 1:], steps, 0.0).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw codes (…, B, T), from the first to the last."""
        shape = self._extended_shape(sample_shape)
        lead = shape[:-1]
        current = draw_index(self.initial.expand(*lead, -1))
        drawn = [current]
        for step in self.transitions.unbind(-3):
            current = draw_index(_row(step.expand(*lead, -1, -1), current))
            drawn.append(current)
        return torch.where(self.mask, torch.stack(drawn, -1), 0)


class CodeChainPosterior(CodeChain):
    """p(z_1..z_n | x_1..x_n) of a chain whose step t emitted x_t with ``emissions`` (B, T, M), ln b_t(k): event (T,).

    ``evidence`` (B,) is ln p(x). Draws go back from the last step, each given the one after it (forward filtering,
    backward sampling); ln p(z | x) = ln p(z) + Σ_t ln b_t(z_t) - ln p(x).
    """

    has_rsample = True
    parts = ("initial", "transitions", "lengths", "emissions", "evidence", "filtered")

    def __init__(self, chain: CodeChain, emissions: Tensor, validate_args: bool | None = None) -> None:
        self.emissions = emissions
        self.evidence, self.filtered = LogEvidence.apply(chain.initial, chain.transitions, emissions, chain.lengths)
        super().__init__(chain.initial, chain.transitions, chain.lengths, validate_args=validate_args)

    def _along(self, value: Tensor) -> Tensor:
        emitted = torch.where(self.mask, picked(self.emissions, value), 0.0).sum(-1)
        return super()._along(value) + emitted - self.evidence

    @property
    def marginals(self) -> Tensor:
        """p(z_t = k | x), (B, T, M); 0 behind the lengths."""
        with torch.enable_grad():
            emissions = self.emissions.detach().requires_grad_()
            given = (self.initial.detach(), self.transitions.detach(), emissions, self.lengths)
            found: Tensor = torch.autograd.grad(LogEvidence.apply(*given)[0].sum(), emissions)[0]
        return found

    @torch.no_grad()
    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw codes (…, B, T), from the last to the first."""
        lead = self._extended_shape(sample_shape)[:-1]
        current = torch.zeros(lead, dtype=torch.int64, device=self.lengths.device)
        drawn = []
        for t in range(self.event_shape[0] - 1, -1, -1):
            logits = self.filtered[..., t, :].expand(*lead, -1)
            if t + 1 < self.event_shape[0]:
                onward = self.transitions[..., t, :, :].expand(*lead, -1, -1)
                index = current[..., None, None].expand(*lead, onward.shape[-2], 1)
                inner = (t + 1 < self.lengths).unsqueeze(-1)
                logits = logits + torch.where(inner, onward.gather(-1, index).squeeze(-1), 0.0)
            current = draw_index(logits)
            drawn.append(current)
        return torch.where(self.mask, torch.stack(drawn[::-1], -1), 0)

    sample = rsample


class Codes(SharedParts):
    """p(z = k) = softmax(logits)[k] of one code for a text, event (): ``logits`` (B, M); 0..M-1."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    has_rsample = False
    parts: ClassVar[tuple[str, ...]] = ("logits",)

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = at_least_float32(logits).log_softmax(-1)
        super().__init__(logits.shape[:-1], torch.Size(), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """0..M-1."""
        return constraints.integer_interval(0, self.logits.shape[-1] - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln p(z), (…, B), nats."""
        found = picked(self.logits, value)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw codes (…, B)."""
        return draw_index(self.logits.expand(*self._extended_shape(sample_shape), -1))


class CodePosterior(Codes):
    """p(z | x) by enumeration: ∝ p(z = k) p(x | z = k), from ``joint`` (B, M), ln p(x, z = k); event ()."""

    has_rsample = True

    @property
    def marginals(self) -> Tensor:
        """p(z = k | x), (B, M)."""
        return self.logits.detach().exp()

    rsample = Codes.sample


def _row(matrix: Tensor, index: Tensor) -> Tensor:
    """Row ``index`` (…,) of each matrix (…, M, M)."""
    chosen = index[..., None, None].expand(*index.shape, 1, matrix.shape[-1])
    return matrix.gather(-2, chosen).squeeze(-2)
