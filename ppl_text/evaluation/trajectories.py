"""Measures over the prior paths of a state-space model, the paper's own: cross-entropy and entropy gap.

The cross-entropy by Monte Carlo is its eq. (12); the entropy gap, how much of each token the noise of its step decides,
is that of eqs. (13) and (14).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.batch import device_of
from ..core.errors import DataError, UserError
from ..data.batches import EvaluationSet
from .likelihood import measuring

IMPOSSIBLE = -1e30
"""Takes the place of ln 0: a word of 0 probability costs about 10³⁰ nats, where -inf times a 0 would be no number."""

MOST_ENTROPIES = 10**8
"""V·T·draws of a word that are measured at each validation, at most."""

MORE_THAN_HALF = 0.5001
"""Share from which one trajectory outweighs all others: log-likelihoods are sums in float32, so that of two equal ones
either may come out larger by some 10⁻⁵ of itself."""


@dataclass(frozen=True)
class PriorCrossEntropy:
    """H[P_data, P̂] = -Σ_w P_data(w) ln P̂(w) in nats per word, P̂(w) = (1/K) Σ_k Π_t P(w_t | h_t^k), h^k ~ p(h).

    The logarithm of a mean is below the mean's logarithm in expectation, so the cross-entropy is over-estimated, the
    more the rarer the words (specification 4G.6). ``bias``: by how much, as the bootstrap over the K ``trajectories``,
    which all words share, sees it (mean of the replicates - value). ``low``, ``high``: 95 % interval of the basic
    bootstrap, which takes the bias off: [2·value - q_97.5, 2·value - q_2.5] of the replicates, so that ``value`` itself
    may lie above it. ``alone``: share of the data whose P̂(w) one single trajectory makes up by more than half. Where
    it is not small the figure says more about K than about the model, and the bootstrap sees too little of the bias.
    """

    value: float
    low: float
    high: float
    bias: float
    trajectories: int
    alone: float


def prior_cross_entropy(
    model: Any,
    data: EvaluationSet,
    *,
    trajectories: int,
    seed: int = 0,
    replicates: int = 100,
    chunk: int = 512,
) -> PriorCrossEntropy:
    """Stream ``trajectories`` paths through all words of ``data``, ``chunk`` at a time; memory does not grow with K.

    ``replicates`` Poisson bootstrap samples (every path counts Poisson(1) times) are carried along in the same pass.
    Raises :class:`UserError` for a model that has no such paths and :class:`DataError` for data without a word.
    """
    check_emitting(model)
    if min(trajectories, replicates, chunk) < 1:
        raise UserError(
            "the numbers of trajectories, of replicates and of trajectories at a time must be 1 or more; "
            f"got {trajectories}, {replicates} and {chunk}"
        )
    words = _Words.of(data, model.vocabulary.ids.first_outcome, device_of(model))
    sums = _StreamedMeans(len(words.share), replicates, words.share.device)
    with measuring(seed, model):
        for start in range(0, trajectories, chunk):
            sums.add(words.log_likelihood(model, min(chunk, trajectories - start)))
    entropies = -(sums.log_means() @ words.share)
    value, others = entropies[0], entropies[1:]
    # A replicate that drew no path at all, as happens for K of a few, is no sample of K paths.
    others = others[~others.isnan()]
    others = others if len(others) else value.unsqueeze(0)
    top = torch.quantile(others, 0.975, interpolation="higher")
    bottom = torch.quantile(others, 0.025, interpolation="lower")
    return PriorCrossEntropy(
        value=float(value),
        low=float(2 * value - top),
        high=float(2 * value - bottom),
        bias=float(others.mean() - value),
        trajectories=trajectories,
        alone=float(words.share[sums.most_by_one() > MORE_THAN_HALF].sum()),
    )


def emits(model: nn.Module, *also: str) -> bool:
    """Return whether tokens depend on latent paths only: the model has ``draw``, ``emit`` and what ``also`` names."""
    return not _missing(model, also)


def check_emitting(model: nn.Module, *also: str) -> None:
    """Raise :class:`UserError` where a model has no prior paths that emit tokens without feedback."""
    if missing := _missing(model, also):
        raise UserError(
            f"{type(model).__name__} has no {' and no '.join(missing)}: measures over prior trajectories need a model "
            "whose tokens depend on latent states alone, such as deep_state_space"
        )


def _missing(model: nn.Module, also: tuple[str, ...]) -> list[str]:
    return [name for name in ("draw", "emit", *also) if not hasattr(model, name)]


@dataclass(frozen=True)
class _Words:
    """W words as a matrix that sums the log-probabilities of their tokens: ``chosen`` (T·O, W) of zeros and ones.

    O: the outcomes that occur, the smallest ids; what the model gives to others is in its normaliser all the same.
    ``share`` (W,) float64 sums to 1.
    """

    chosen: Tensor
    share: Tensor
    steps: int

    @classmethod
    def of(cls, data: EvaluationSet, first_outcome: int, device: torch.device) -> _Words:
        """Return the words that count (weight above 0)."""
        steps = max((batch.steps for batch in data), default=0)
        kept = [(batch, batch.weights > 0) for batch in data]
        if not any(rows.any() for _, rows in kept):
            raise DataError("there is no word to measure: the data hold none with a weight above 0")
        tokens = torch.cat([nn.functional.pad(b.tokens, (0, steps - b.steps))[rows] for b, rows in kept])
        lengths = torch.cat([b.lengths[rows] for b, rows in kept])
        weights = torch.cat([b.weights[rows] for b, rows in kept]).double()
        outcomes = int(tokens.max()) - first_outcome + 1
        scored = torch.arange(steps) < lengths.unsqueeze(-1)
        place = torch.arange(steps) * outcomes + (tokens - first_outcome).clamp(min=0)
        chosen = torch.zeros(len(tokens), steps * outcomes).scatter_add_(1, place, scored.float())
        return cls(chosen.T.contiguous().to(device), (weights / weights.sum()).to(device), steps)

    def log_likelihood(self, model: Any, paths: int) -> Tensor:
        """Σ_t ln P(w_t | h_t^k) of each word under each of ``paths`` prior paths, (K, W)."""
        emitted = model.emit(model.draw(paths, self.steps))
        log_p = emitted.logits.float().log_softmax(-1).clamp(min=IMPOSSIBLE)
        outcomes = len(self.chosen) // self.steps
        return log_p[..., :outcomes].flatten(1) @ self.chosen


class _StreamedMeans:
    """Means of exp(x_k) over a stream of (k, W) pieces, in logarithms; row 0 plain, the others under bootstrap counts.

    The sums are kept relative to the largest value of each word so far, which therefore adds exactly 1 to row 0.
    """

    def __init__(self, words: int, replicates: int, device: torch.device) -> None:
        self._sums = torch.zeros(1 + replicates, words, dtype=torch.float64, device=device)
        self._counts = torch.zeros(1 + replicates, 1, dtype=torch.float64, device=device)
        self._top = torch.full((words,), -torch.inf, device=device)

    def add(self, log_values: Tensor) -> None:
        """Take up k more; ``log_values`` is used up."""
        top = torch.maximum(self._top, log_values.amax(0))
        self._sums *= (self._top - top).double().exp()
        counts = torch.poisson(torch.ones(len(self._sums), len(log_values), device=log_values.device))
        counts[0] = 1.0
        self._sums += (counts @ log_values.sub_(top).exp_()).double()
        self._counts += counts.double().sum(1, keepdim=True)
        self._top = top

    def log_means(self) -> Tensor:
        """ln of the means, (1 + replicates, W); NaN where a replicate counted nothing."""
        return self._sums.log() + self._top.double() - self._counts.log()

    def most_by_one(self) -> Tensor:
        """By word, the share of the plain sum that its largest member makes up, (W,)."""
        return 1.0 / self._sums[0]


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
        """Return the mean gap over all rows: each position of each word counts alike, as in the paper."""
        return self._average(torch.ones_like(self.word, dtype=torch.bool))

    def by_position(self) -> dict[int, Average]:
        """Return the mean gap at t = 1, 2, …, over the words that last so long."""
        return self._by(self.position)

    def by_length(self) -> dict[int, Average]:
        """Return the mean gap over all positions of the words of 0, 1, 2, … letters."""
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
        held = min(at_once, MOST_ENTROPIES // 10 // model.vocabulary.size)
        return _run_freely(model, words, draws, steps, max(1, held // draws))


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
    """Return the logits (…, O) of the token that a state (…, D) emits."""
    (site,) = (spec.name for spec in model.latents)
    logits: Tensor = model.emit({site: state.unsqueeze(-2)}).logits.squeeze(-2)
    return logits


def affordable(outcomes: int, steps: int, words: int, draws: int) -> tuple[int, int]:
    """Return as many words and draws as a monitor has time for: V·T·draws and, over all words, twenty times as much.

    Example::

        >>> affordable(27, 24, 200, 100), affordable(50_000, 60, 200, 100)
        ((200, 100), (20, 33))
    """
    draws = min(draws, max(2, MOST_ENTROPIES // (outcomes * steps)))
    return min(words, max(2, 20 * MOST_ENTROPIES // (outcomes * steps * draws))), draws


def entropy_monitor(
    model: nn.Module, *, steps: int, words: int = 200, draws: int = 100
) -> Callable[[nn.Module, nn.Module], dict[str, float]] | None:
    """Return what records a model's entropies at each validation (the paper's figure 2); None without paths.

    The monitor returns means over the positions of ``words`` words of at most ``steps`` tokens, in nats per token:
    ``entropy_gap``, ``expected_entropy``, ``marginal_entropy``. The same random numbers serve every validation. Of a
    large vocabulary there are fewer draws and words (:func:`affordable`).
    """
    if not emits(model, "prior", "initial"):
        return None
    vocabulary: Any = model.vocabulary
    words, draws = affordable(vocabulary.size, steps, words, draws)

    def monitor(model: nn.Module, guide: nn.Module) -> dict[str, float]:
        found = entropy_gap(model, words=words, draws=draws, steps=steps)
        return {
            "entropy_gap": found.mean().nats,
            "expected_entropy": float(found.expected.mean()),
            "marginal_entropy": float(found.marginal.mean()),
        }

    return monitor
