"""How much of each token is decided by the noise of its step: the entropy gap of the state-space paper (eqs. 13-14)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.batch import device_of
from ..core.errors import UserError
from .likelihood import measuring
from .trajectories import check_emitting, emits


class Average(NamedTuple):
    """A mean over positions and its standard error, nats; ``words`` say how many words stand behind it.

    The positions of one word depend on each other, so the error is that of a mean of whole words: it holds the
    spread over words and that of the draws, not the bias of few draws. NaN for a single word.
    """

    nats: float
    error: float
    words: int

    @property
    def bits(self) -> float:
        """The mean in bits."""
        return self.nats / math.log(2)

    @property
    def error_bits(self) -> float:
        """Its standard error in bits."""
        return self.error / math.log(2)


@dataclass(frozen=True)
class EntropyGap:
    """Entropies of the next token along paths of the free-running model; nats, one row per (word, position).

    ``word`` (R,) the word's number; ``position`` (R,) t = 1, 2, … up to and with the word's first EOS; ``length`` (R,)
    letters of the word, EOS not counted (for a word that was cut off at the step limit: that limit); ``marginal``
    (R,) H[E_ξ P(w_t | F(h_{t-1}, ξ))]; ``expected`` (R,) E_ξ H[P(w_t | F(h_{t-1}, ξ))]; E_ξ by ``draws`` samples.
    float64 and int64 on the CPU.
    """

    word: Tensor
    position: Tensor
    length: Tensor
    marginal: Tensor
    expected: Tensor
    draws: int

    @property
    def gap(self) -> Tensor:
        """H_gap = marginal - expected ≥ 0, (R,): the mutual information of w_t and ξ_t given h_{t-1}."""
        return self.marginal - self.expected

    def mean(self) -> Average:
        """Mean gap over all rows: each position of each word counts alike, as in the paper."""
        return self._average(torch.ones_like(self.word, dtype=torch.bool))

    def by_position(self) -> dict[int, Average]:
        """Mean gap at t = 1, 2, …, over the words that last so long."""
        return self._by(self.position)

    def by_length(self) -> dict[int, Average]:
        """Mean gap over all positions of the words of 0, 1, 2, … letters."""
        return self._by(self.length)

    def _by(self, keys: Tensor) -> dict[int, Average]:
        return {key: self._average(keys == key) for key in keys.unique().tolist()}

    def _average(self, rows: Tensor) -> Average:
        gap = self.gap[rows]
        words, of = self.word[rows].unique(return_inverse=True)
        mean, n = gap.mean(), len(words)
        by_word = torch.zeros(n, dtype=gap.dtype).index_add_(0, of, gap - mean)
        error = by_word.square().sum().sqrt() / len(gap) * math.sqrt(n / (n - 1)) if n > 1 else math.nan
        return Average(float(mean), float(error), n)


def entropy_gap(model: Any, *, words: int, draws: int, steps: int, seed: int = 0, at_once: int = 20_000) -> EntropyGap:
    """Run the model freely for ``words`` words of at most ``steps`` tokens, and measure both entropies at every state.

    With K = ``draws`` the mixture's entropy is estimated from below: the gap is at most ln K and biased low (the
    paper's K = 20 reads 1.15 nats where 1.29 are true, specification 4G.8). Positions after the first EOS do not count.
    ``at_once``: simulated next states in memory; so few because they then stay in the processor's cache. Raises
    :class:`UserError` for a model without such states.
    """
    check_emitting(model, "prior", "initial")
    if min(words, draws, steps) < 1:
        raise UserError(f"the entropy gap needs 1 or more words, draws and steps; got {words}, {draws} and {steps}")
    with measuring(seed, model):
        return _run_freely(model, words, draws, steps, max(1, at_once // draws))


def _run_freely(model: Any, words: int, draws: int, steps: int, states_at_once: int) -> EntropyGap:
    device = device_of(model)
    chain = model.prior(torch.full((words,), steps, device=device), steps)
    state = model.initial.expand(words, -1)
    word = torch.arange(words, device=device)
    letters = torch.zeros_like(word)
    columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for t in range(steps):
        parts = [_entropies(model, chain.at(t, part), draws) for part in state.split(states_at_once)]
        marginal, expected = (torch.cat(column) for column in zip(*parts, strict=True))
        columns.append((word, torch.full_like(word, t + 1), marginal, expected))
        state = chain.at(t, state).sample()
        outcome = torch.distributions.Categorical(logits=_logits(model, state)).sample()
        goes_on = outcome + model.vocabulary.ids.first_outcome != model.vocabulary.ids.eos
        word, state = word[goes_on], state[goes_on]
        letters[word] += 1
        if not len(word):
            break
    word, position, marginal, expected = (torch.cat(column).cpu() for column in zip(*columns, strict=True))
    return EntropyGap(word, position, letters.cpu()[word], marginal.double(), expected.double(), draws)


def _entropies(model: Any, step: Any, draws: int) -> tuple[Tensor, Tensor]:
    """Marginal and expected entropy of the next token under the law ``step`` of R next states: two of (R,)."""
    log_p = _logits(model, step.sample((draws,))).log_softmax(-1)
    p = log_p.exp()
    return torch.special.entr(p.mean(0)).sum(-1), -(p * log_p).sum(-1).mean(0)


def _logits(model: Any, state: Tensor) -> Tensor:
    """Logits (…, O) of the token that a state (…, D) emits."""
    (site,) = (spec.name for spec in model.latents)
    logits: Tensor = model.emit({site: state.unsqueeze(-2)}).logits.squeeze(-2)
    return logits


def entropy_monitor(
    model: nn.Module, *, steps: int, words: int = 200, draws: int = 100
) -> Callable[[nn.Module, nn.Module], dict[str, float]] | None:
    """What a trainer is to record of a model's entropies at each validation (the paper's figure 2); None without paths.

    The monitor returns means over the positions of ``words`` words of at most ``steps`` tokens, in nats per token:
    ``entropy_gap``, ``expected_entropy``, ``marginal_entropy``. The same random numbers serve every validation.
    """
    if not emits(model, "prior", "initial"):
        return None

    def monitor(model: nn.Module, guide: nn.Module) -> dict[str, float]:
        found = entropy_gap(model, words=words, draws=draws, steps=steps)
        return {
            "entropy_gap": found.mean().nats,
            "expected_entropy": float(found.expected.mean()),
            "marginal_entropy": float(found.marginal.mean()),
        }

    return monitor
