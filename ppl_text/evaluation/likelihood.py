"""Bounds of the log-likelihood of a data set, with Monte-Carlo standard errors."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.protocols import Objective
from ..data.batches import EvaluationSet
from ..objectives.bounds import effective_share, log_mean_exp, means_without_each
from ..training.capture import Captured, graphs_on
from ..training.random_numbers import random_numbers_kept, seed_all
from .scores import SentenceScores, draw_whole, room_for, score_batch
from .sentences import CommonSentences, tile
from .standard_errors import is_unreliable, jackknife_variance, log_means_without_each

_LARGEST = math.log(sys.float_info.max)
"""Beyond it, ``math.exp`` has no float."""


class SentenceBounds(NamedTuple):
    """Per sentence, all (N,) float64 on the CPU; nats per sentence.

    ``weights``: what each counts for; ``tokens``: scored tokens, EOS included; ``rec``: -E_q ln p(x | z);
    ``kl``: E_q[ln q - ln p]; ``step_kl`` of it the sites' that have steps, of which there are ``steps``; ``elbo`` =
    -(rec + kl); ``iw``: ln of the mean of K importance weights;
    ``elbo_var``, ``iw_var`` and ``gap_var``: variances of these two estimates and of their difference, which share
    their draws (NaN for K = 1); ``ess``: effective sample size of the K weights. Where nothing is latent all bounds are
    ln p(x) and all variances 0.
    """

    weights: Tensor
    tokens: Tensor
    rec: Tensor
    kl: Tensor
    step_kl: Tensor
    steps: Tensor
    elbo: Tensor
    iw: Tensor
    elbo_var: Tensor
    iw_var: Tensor
    gap_var: Tensor
    ess: Tensor


class Tails(NamedTuple):
    """Pareto k̂ (N,) of each sentence's importance weights, and what the sentences count for."""

    khat: NDArray[Any]
    weights: NDArray[Any]


@dataclass(frozen=True)
class Likelihood:
    """Bounds of one data set under one run; nats per sentence unless said otherwise.

    Sums from which any perplexity follows: ``rec_sum`` and ``kl_sum`` (nats), ``step_kl_sum`` of it the share of the
    latents that have steps, ``n_sent`` sentences, ``n_eos`` scored tokens with EOS, ``n_words`` tokens without it,
    ``n_steps`` latent steps (0: no latent has any), ``n_spaced`` words between white space and ``n_bytes`` of the texts
    with the end of each (:class:`~ppl_text.evaluation.sentences.TextUnits`; NaN: not known). ``*_se`` are Monte-Carlo
    standard errors (draws of the latents, around the expectation at that K; NaN for K = 1, which says nothing of a
    spread). ``sampling_se`` is the standard error that drawing ``n_sent`` sentences from the split adds to the
    importance-weighted bound, ``token_sampling_se`` to its nats per scored token; 0 where every text of the split was
    scored with its count. ``gap_se`` is that of :attr:`gap`. ``khat_good``, ``_ok``, ``_bad`` are shares of the
    sentences with Pareto k̂ below 0.5, up to 0.7 and above, ``khat_median`` its median; NaN where K is too small to
    tell, and ``tails`` what they summarise. ``exact``: nothing is latent, so that ELBO and importance-weighted bound
    are ln p(x) itself, from one scoring (``particles`` = 1), with standard errors 0.
    """

    particles: int
    elbo: float
    elbo_se: float
    iw: float
    iw_se: float
    kl: float
    rec: float
    sampling_se: float
    ess: float
    rec_sum: float
    kl_sum: float
    n_sent: float
    n_eos: float
    n_words: float
    gap_se: float = math.nan
    exact: bool = False
    token_sampling_se: float = 0.0
    khat_good: float = math.nan
    khat_ok: float = math.nan
    khat_bad: float = math.nan
    khat_median: float = math.nan
    step_kl_sum: float = 0.0
    n_steps: float = 0.0
    n_spaced: float = math.nan
    n_bytes: float = math.nan
    tails: Tails | None = field(default=None, repr=False, compare=False)

    @property
    def gap(self) -> float:
        """Importance-weighted bound - ELBO: what is left of KL(q ‖ posterior) as far as K particles see it."""
        return self.iw - self.elbo

    @property
    def finite(self) -> bool:
        """Whether the bounds are numbers: a guide without a density (a point mass) has KL = ∞ and bounds of -∞."""
        return math.isfinite(self.elbo)

    @property
    def iw_sum(self) -> float:
        """Importance-weighted bound of all sentences together, nats."""
        return self.iw * self.n_sent

    @property
    def elbo_perplexity(self) -> float:
        """PPL_ELBO = exp((rec_sum + kl_sum) / n_eos): EOS counted, BOS not; ∞ where it is beyond a float."""
        return exp_or_infinite((self.rec_sum + self.kl_sum) / self.n_eos)

    @property
    def elbo_perplexity_se(self) -> float:
        """Return its Monte-Carlo standard error by the delta method: PPL · that of the nats per token."""
        return self.elbo_perplexity * self.elbo_se * self.n_sent / self.n_eos

    @property
    def kl_per_step(self) -> float:
        """Nats that a step of the latents costs, step_kl_sum / n_steps; NaN where no latent has steps."""
        return self.step_kl_sum / self.n_steps if self.n_steps else math.nan

    @property
    def paper_perplexity(self) -> float:
        """exp((rec_sum + KL) / n_eos) with the KL of each sentence's steps *averaged* over them: no bound.

        Some papers print it (specification 1G.1) where latents have one step a token: a text is charged for one of its
        steps in the place of all. NaN where no latent has steps.
        """
        if not self.n_steps:
            return math.nan
        other = self.kl_sum - self.step_kl_sum
        return exp_or_infinite((self.rec_sum + other + self.n_sent * self.kl_per_step) / self.n_eos)

    @property
    def unreliable(self) -> bool:
        """Whether the importance-weighted figures hang on a few draws: their errors then claim no coverage."""
        return is_unreliable(self.khat_bad)

    @property
    def iw_per_token(self) -> float:
        """Importance-weighted bound in nats per scored token (EOS counted)."""
        return self.iw * self.n_sent / self.n_eos

    @property
    def perplexity(self) -> float:
        """PPL_IW = exp(-iw_sum / n_eos), from the importance-weighted bound: EOS counted, BOS not."""
        return exp_or_infinite(-self.iw_per_token)

    @property
    def perplexity_se(self) -> float:
        """Return its Monte-Carlo standard error by the delta method: PPL · that of the nats per token."""
        return self.perplexity * self.iw_se * self.n_sent / self.n_eos

    @property
    def word_perplexity(self) -> float:
        """exp(-iw_sum / n_spaced): per word between white space, whatever the tokens are; NaN where that is not known.

        Perplexities per token of different tokenizers cannot be compared, these can (specification 2G.7).
        """
        return exp_or_infinite(-self.iw_sum / self.n_spaced)

    @property
    def bits_per_byte(self) -> float:
        """Return -iw_sum / (n_bytes ln 2), of UTF-8; NaN where it is not known."""
        return -self.iw_sum / (self.n_bytes * math.log(2.0))

    @property
    def perplexity_sampling_se(self) -> float:
        """Return the standard error that drawing the sentences adds to it."""
        return self.perplexity * self.token_sampling_se


def exp_or_infinite(exponent: float) -> float:
    """e^x; ∞ where it is beyond a float."""
    return math.inf if exponent >= _LARGEST else math.exp(exponent)


def sentence_bounds(
    model: nn.Module,
    guide: nn.Module,
    data: EvaluationSet | CommonSentences,
    *,
    particles: int,
    device: torch.device | str = "cpu",
    seed: int = 0,
    chunk: int = 16,
    room: int | None = None,
    report: Callable[[int, int], Any] = lambda done, total: None,
    keep: Callable[[SentenceScores], Any] = lambda scores: None,
) -> SentenceBounds:
    """Score every sentence with K ``particles`` drawn from the guide, ``chunk`` at a time.

    From chunk to chunk only log-weights are kept, one number for each particle and sentence; ``room`` bounds what the
    model sees at once (:func:`~ppl_text.evaluation.scores.draw`). The draws come from ``seed`` and leave the
    global random state alone. ``report(done, total)`` is called after each batch, ``keep`` with its scores before.
    """
    rows: list[SentenceBounds] = []
    whole = Captured(partial(draw_whole, model, guide), graphs_on(torch.device(device)), warnings.warn)
    with measuring(seed, model, guide):
        for index, batch in enumerate(data):
            scores = score_batch(model, guide, batch.to(device), particles, chunk=chunk, room=room, whole=whole)
            keep(scores.counted())
            rows.append(_kept(bounds_of(scores), scores.weights > 0))
            report(index + 1, len(data.batches))
    return SentenceBounds(*(torch.cat(column) for column in zip(*rows, strict=True)))


@contextmanager
def measuring(seed: int, *programs: nn.Module) -> Iterator[None]:
    """Context for measurements: draws from ``seed``, no gradients, no Pyro validation, programs in evaluation mode.

    The global random state and the programs' modes are as before afterwards.
    """
    with ExitStack() as stack:
        devices = range(torch.cuda.device_count())
        for context in (torch.no_grad(), pyro.validation_enabled(False), random_numbers_kept(devices)):
            stack.enter_context(context)
        for program in programs:
            stack.callback(program.train, program.training)
            program.eval()
        seed_all(seed)
        yield


def bounds_of(scores: SentenceScores) -> SentenceBounds:
    """Reduce what K draws scored to bounds and their variances; pure, so that a stored file says what the run said."""
    if scores.exact:
        return _exact(scores)
    weights = scores.log_weights.T
    means, log_means = means_without_each(weights), log_means_without_each(weights)
    return SentenceBounds(
        weights=scores.weights,
        tokens=scores.tokens,
        rec=scores.rec,
        kl=scores.kl,
        step_kl=scores.step_kl,
        steps=scores.steps,
        elbo=weights.mean(0),
        iw=log_mean_exp(weights),
        elbo_var=jackknife_variance(means),
        iw_var=jackknife_variance(log_means),
        # A draw moves both at the same time.
        gap_var=jackknife_variance(log_means - means),
        ess=effective_share(weights) * len(weights),
    )


def _exact(scores: SentenceScores) -> SentenceBounds:
    """Return all bounds where nothing is latent: ln p(x), whatever K is."""
    log_likelihood, zero = scores.log_weights[:, 0], torch.zeros_like(scores.rec)
    return SentenceBounds(
        weights=scores.weights,
        tokens=scores.tokens,
        rec=scores.rec,
        kl=scores.kl,
        step_kl=scores.step_kl,
        steps=scores.steps,
        elbo=log_likelihood,
        iw=log_likelihood,
        elbo_var=zero,
        iw_var=zero,
        gap_var=zero,
        ess=torch.ones_like(zero),
    )


def _kept(columns: SentenceBounds, rows: Tensor) -> SentenceBounds:
    """Return some rows, on the CPU."""
    return SentenceBounds(*(column[rows].cpu() for column in columns))


def summarize(
    bounds: SentenceBounds,
    particles: int,
    *,
    drawn_from: float | None = None,
    exact: bool = False,
    khat: Mapping[str, Any] | None = None,
) -> Likelihood:
    """Take weighted means over the sentences; ``exact``: nothing is latent.

    ``drawn_from``: of how many sentences these n were drawn without replacement, ∞ with replacement; None: they are
    all. The draw's standard error is s/√n · √(1 - n/N); of the nats per token, a ratio of two sums, s is that of what
    a sentence has above the mean nats of its tokens. ``khat``: its shares, its median and :class:`Tails` by name.
    """
    total = bounds.weights.sum()
    share, whole = bounds.weights / total, float(total)

    def mean(values: Tensor) -> float:
        return float((share * values).sum())

    def standard_error(variances: Tensor) -> float:
        return float((share.square() * variances).sum().sqrt())

    left = 1.0 - whole / drawn_from if drawn_from and whole < drawn_from else 0.0

    def sampling_error(values: Tensor) -> float:  # NaN where bounds are -∞
        return float((share * values.square()).sum() / total * left) ** 0.5 if left else 0.0

    length = mean(bounds.tokens)
    beyond = bounds.iw / length - bounds.tokens * (mean(bounds.iw) / length**2)
    return Likelihood(
        particles=1 if exact else particles,
        elbo=mean(bounds.elbo),
        elbo_se=standard_error(bounds.elbo_var),
        iw=mean(bounds.iw),
        iw_se=standard_error(bounds.iw_var),
        kl=mean(bounds.kl),
        rec=mean(bounds.rec),
        sampling_se=sampling_error(bounds.iw - mean(bounds.iw)),
        ess=mean(bounds.ess),
        rec_sum=float((bounds.weights * bounds.rec).sum()),
        kl_sum=float((bounds.weights * bounds.kl).sum()),
        n_sent=whole,
        n_eos=float((bounds.weights * bounds.tokens).sum()),
        n_words=float((bounds.weights * (bounds.tokens - 1)).sum()),
        gap_se=standard_error(bounds.gap_var),
        exact=exact,
        token_sampling_se=sampling_error(beyond),
        step_kl_sum=float((bounds.weights * bounds.step_kl).sum()),
        n_steps=float((bounds.weights * bounds.steps).sum()),
        **(khat or {}),
    )


AT_ONCE = 4096
"""Particles times sentences that are drawn at once, where a model of them has room."""

Report = Callable[[], object]
"""Called after each batch."""


class BoundEstimate(NamedTuple):
    """A bound at β = 1 of N sentences by R independent repeats of a K-particle estimator; float64 on the CPU.

    Attributes:
        by_sentence: (N,) mean over the repeats, nats per sentence.
        variance: (N,) of that mean, by Monte Carlo.
        ess: (N,) effective sample size / K of the estimator's own weights, or None.
        draws: K·R.
    """

    by_sentence: Tensor
    variance: Tensor
    ess: Tensor | None
    draws: int

    def mean(self, share: Tensor) -> float:
        """Σ_n share_n bound_n."""
        return float(share @ self.by_sentence)

    def standard_error(self, share: Tensor) -> float:
        """Return the Monte-Carlo standard error of that mean: of the latents' draws, the sentences being given."""
        return float((share.square() @ self.variance).sqrt())


def repeats_of(draws: int, particles: int) -> int:
    """R = max(2, draws // K): the same number of draws for every K, and enough for a standard error."""
    return max(2, draws // particles)


def estimate_bounds(
    objective: Objective,
    model: nn.Module,
    guide: nn.Module,
    sentences: CommonSentences,
    *,
    draws: int,
    seed: int,
    report: Report = lambda: None,
) -> BoundEstimate:
    """Estimate the bound of every sentence R = :func:`repeats_of` times.

    Repeats are rows of a batch, as many at once as :data:`AT_ONCE` and the model allow; where it does not allow all
    sentences of a batch, these are divided. The global random state and the programs' modes stay as they are.
    """
    repeats = repeats_of(draws, objective.particles)
    columns = []
    with measuring(seed, model, guide):
        for batch in sentences:
            rows = max(1, room_for(model) // (batch.steps * objective.particles))
            for part in torch.arange(batch.size, device=batch.tokens.device).split(rows):
                columns.append(_repeat(objective, model, guide, batch.take(part), repeats, rows))
            report()
    bounds = torch.cat([bound for bound, _ in columns], dim=1)
    ess = [e for _, e in columns if e is not None]
    return BoundEstimate(
        bounds.mean(0),
        jackknife_variance(means_without_each(bounds)),
        torch.cat(ess) if ess else None,
        repeats * objective.particles,
    )


def _repeat(
    objective: Objective, model: nn.Module, guide: nn.Module, batch: Batch, repeats: int, rows: int
) -> tuple[Tensor, Tensor | None]:
    """Return bounds (R, B), and ESS/K (B,) if the objective has one; at most ``rows`` rows or one repeat at once."""
    at_once = max(1, min(AT_ONCE // objective.particles, rows) // batch.size)
    bounds, ess = [], []
    for start in range(0, repeats, at_once):
        number = min(at_once, repeats - start)
        estimate = objective(model, guide, tile(batch, number))
        bounds.append(estimate.bound.double().view(number, batch.size))
        if estimate.ess is not None:
            ess.append(estimate.ess.double().view(number, batch.size))
    return torch.cat(bounds).cpu(), torch.cat(ess).mean(0).cpu() if ess else None
