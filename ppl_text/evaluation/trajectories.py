"""Cross-entropy of a word model by Monte Carlo over its prior: the state-space paper's own measure (its eq. 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import device_of
from ..core.errors import DataError, UserError
from ..data.batches import EvaluationSet
from .likelihood import measuring

IMPOSSIBLE = -1e30
"""Takes the place of ln 0: a word of 0 probability costs about 10³⁰ nats, where -inf times a 0 would be no number."""

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
    """Whether tokens depend on latent paths only: the model has ``draw``, ``emit`` and what is named ``also``."""
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
        """The words that count (weight above 0)."""
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
