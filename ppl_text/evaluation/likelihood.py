"""Bounds of the log-likelihood of a data set, with Monte-Carlo standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..data.batches import EvaluationSet
from ..objectives.bounds import log_mean_exp
from ..objectives.terms import trace_terms


class SentenceBounds(NamedTuple):
    """Per sentence, all (N,) float64 on the CPU; nats per sentence.

    ``weights``: what each counts for; ``tokens``: scored tokens, EOS included; ``rec``: -E_q ln p(x | z);
    ``kl``: E_q[ln q - ln p]; ``elbo`` = -(rec + kl); ``iw``: ln of the mean of K importance weights;
    ``elbo_var``, ``iw_var`` and ``gap_var``: variances of these two estimates and of their difference, which share
    their draws (NaN for K = 1); ``ess``: effective sample size of the K weights. Where nothing is latent all bounds are
    ln p(x) and all variances 0.
    """

    weights: Tensor
    tokens: Tensor
    rec: Tensor
    kl: Tensor
    elbo: Tensor
    iw: Tensor
    elbo_var: Tensor
    iw_var: Tensor
    gap_var: Tensor
    ess: Tensor


class SentenceLogWeights(NamedTuple):
    """What is known of N sentences by S draws each; float64 on the CPU.

    ``weights`` (N,): what each sentence counts for; ``log_weights`` (N, S): ln p(x, z_s) - ln q(z_s | x) in nats.
    """

    weights: Tensor
    log_weights: Tensor


@dataclass(frozen=True)
class Likelihood:
    """Bounds of one data set under one run; nats per sentence unless said otherwise.

    Sums from which any perplexity follows: ``rec_sum`` and ``kl_sum`` (nats), ``n_sent`` sentences,
    ``n_eos`` scored tokens with EOS, ``n_words`` tokens without it. ``*_se`` are Monte-Carlo standard
    errors (draws of the latents; NaN for K = 1, which says nothing of a spread). ``sampling_se`` is the
    standard error that drawing ``n_sent`` sentences from the split adds; 0 where every text of the split was
    scored with its count. ``gap_se`` is that of :attr:`gap`. ``exact``: nothing is latent, so that ELBO and
    importance-weighted bound are ln p(x) itself, from one scoring (``particles`` = 1), with standard errors 0.
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

    @property
    def gap(self) -> float:
        """Importance-weighted bound - ELBO: what is left of KL(q ‖ posterior) as far as K particles see it."""
        return self.iw - self.elbo

    @property
    def iw_per_token(self) -> float:
        """Importance-weighted bound in nats per scored token (EOS counted)."""
        return self.iw * self.n_sent / self.n_eos

    @property
    def perplexity(self) -> float:
        """exp(-importance-weighted bound per scored token), EOS counted."""
        return math.exp(-self.iw_per_token)


def sentence_bounds(
    model: nn.Module,
    guide: nn.Module,
    data: EvaluationSet,
    *,
    particles: int,
    device: torch.device | str = "cpu",
    seed: int = 0,
    chunk: int = 16,
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> SentenceBounds:
    """Score every sentence with K ``particles`` drawn from the guide, ``chunk`` at a time.

    From chunk to chunk only log-weights are kept, one number for each particle and sentence. The draws come
    from ``seed`` and leave the global random state alone. ``report(done, total)`` is called after each batch.
    """
    rows: list[SentenceBounds] = []
    with measuring(seed, model, guide):
        for index, batch in enumerate(data):
            rows.append(_score(model, guide, batch.to(device), particles, chunk))
            report(index + 1, len(data))
    return SentenceBounds(*(torch.cat(column) for column in zip(*rows, strict=True)))


def sentence_log_weights(
    model: nn.Module,
    guide: nn.Module,
    data: EvaluationSet,
    *,
    draws: int,
    device: torch.device | str = "cpu",
    seed: int = 0,
    chunk: int = 16,
) -> SentenceLogWeights:
    """Importance log-weights of every sentence under ``draws`` = S draws from the guide, unreduced.

    They are what Pareto k̂ is estimated from. The draws come from ``seed`` and leave the global random state alone.
    """
    rows = []
    with measuring(seed, model, guide):
        for batch in data:
            batch = batch.to(device)
            parts = [min(chunk, draws - start) for start in range(0, draws, chunk)]
            log_weights = torch.cat([trace_terms(model, guide, batch, k).log_weights.double() for k in parts])
            kept = batch.weights > 0
            rows.append((batch.weights[kept].double().cpu(), log_weights.T[kept].cpu()))
    return SentenceLogWeights(*(torch.cat(column) for column in zip(*rows, strict=True)))


@contextmanager
def measuring(seed: int, *programs: nn.Module) -> Iterator[None]:
    """Context for measurements: draws from ``seed``, no gradients, no Pyro validation, programs in evaluation mode.

    The global random state and the programs' modes are as before afterwards.
    """
    with ExitStack() as stack:
        devices = range(torch.cuda.device_count())
        for context in (torch.no_grad(), pyro.validation_enabled(False), torch.random.fork_rng(devices=devices)):
            stack.enter_context(context)
        for program in programs:
            stack.callback(program.train, program.training)
            program.eval()
        torch.manual_seed(seed)
        yield


def _score(model: nn.Module, guide: nn.Module, batch: Batch, particles: int, chunk: int) -> SentenceBounds:
    """Bounds of the rows of one batch that count (weight above 0)."""
    log_weights, likelihood, divergence = [], [], []
    for start in range(0, particles, chunk):
        terms = trace_terms(model, guide, batch, min(chunk, particles - start))
        if not terms.latents:
            return _kept(_exact(terms.log_likelihood[0].double(), batch), batch)
        log_weights.append(terms.log_weights.double())
        likelihood.append(terms.log_likelihood.double())
        nothing = torch.zeros_like(likelihood[-1])
        divergence.append(sum(((s.log_q - s.log_p).double() for s in terms.latents.values()), start=nothing))
    weights = torch.cat(log_weights)
    normalised = weights.softmax(0)
    ess = 1.0 / normalised.square().sum(0)
    unknown = torch.full_like(ess, math.nan)
    spread = weights.var(0) if particles > 1 else unknown
    columns = SentenceBounds(
        weights=batch.weights.double(),
        tokens=batch.lengths.double(),
        rec=-torch.cat(likelihood).mean(0),
        kl=torch.cat(divergence).mean(0),
        elbo=weights.mean(0),
        iw=log_mean_exp(weights),
        elbo_var=spread / particles,
        # Delta method: Var[ln w̄] ≈ Var[w] / (K E[w]²) = 1/ESS - 1/K with K-1 degrees of freedom.
        iw_var=(1.0 / ess - 1.0 / particles) * (particles / (particles - 1) if particles > 1 else math.nan),
        # Delta method too: a draw moves ln w̄ by w/w̄ and the mean of ln w by ln w, at the same time.
        gap_var=(particles * normalised - weights).var(0) / particles if particles > 1 else unknown,
        ess=ess,
    )
    return _kept(columns, batch)


def _exact(log_likelihood: Tensor, batch: Batch) -> SentenceBounds:
    """All bounds of sentences (B,) where nothing is latent: ln p(x), whatever K is."""
    zero, one = torch.zeros_like(log_likelihood), torch.ones_like(log_likelihood)
    return SentenceBounds(
        weights=batch.weights.double(),
        tokens=batch.lengths.double(),
        rec=-log_likelihood,
        kl=zero,
        elbo=log_likelihood,
        iw=log_likelihood,
        elbo_var=zero,
        iw_var=zero,
        gap_var=zero,
        ess=one,
    )


def _kept(columns: SentenceBounds, batch: Batch) -> SentenceBounds:
    """The rows that count, on the CPU."""
    kept = batch.weights > 0
    return SentenceBounds(*(column[kept].cpu() for column in columns))


def summarize(bounds: SentenceBounds, particles: int, *, sampled: bool, exact: bool = False) -> Likelihood:
    """Weighted means over the sentences; ``sampled``: drawn from their split; ``exact``: nothing is latent."""
    total = bounds.weights.sum()
    share = bounds.weights / total

    def mean(values: Tensor) -> float:
        return float((share * values).sum())

    def standard_error(variances: Tensor) -> float:
        return float((share.square() * variances).sum().sqrt())

    spread = float((share * (bounds.iw - mean(bounds.iw)).square()).sum() / total)
    return Likelihood(
        particles=1 if exact else particles,
        elbo=mean(bounds.elbo),
        elbo_se=standard_error(bounds.elbo_var),
        iw=mean(bounds.iw),
        iw_se=standard_error(bounds.iw_var),
        kl=mean(bounds.kl),
        rec=mean(bounds.rec),
        sampling_se=math.sqrt(spread) if sampled else 0.0,
        ess=mean(bounds.ess),
        rec_sum=float((bounds.weights * bounds.rec).sum()),
        kl_sum=float((bounds.weights * bounds.kl).sum()),
        n_sent=float(total),
        n_eos=float((bounds.weights * bounds.tokens).sum()),
        n_words=float((bounds.weights * (bounds.tokens - 1)).sum()),
        gap_se=standard_error(bounds.gap_var),
        exact=exact,
    )
