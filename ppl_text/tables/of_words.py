"""What is measured of a word model, and of the words themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from ..core.atomic import finite_or_none
from ..data.corpus import Corpus, Split
from ..evaluation.entropy_gap import Average, EntropyGap, entropy_gap
from ..evaluation.generation import sample_texts
from ..evaluation.trajectories import emits, prior_cross_entropy
from ..metrics.words import cross_entropy, draws_for_unique, entropy, share_in_list, share_unique
from ..plots.entropies import gap_figure
from ..recipes import build
from ..run import Run
from .measured import SEED, Measured, Measures

PAPER_UNIQUE = 0.27
"""Share of distinct words among the paper's oracle samples; it fixes the sample size that the paper does not state."""

PAPER_DRAWS = 20
"""Draws of the noise behind the paper's entropy gap (its section 5.2)."""

SEQUENTIAL = ("stepwise", "fivo")
"""Objectives whose guides propose step by step and are resampled: over whole words their weights scatter."""

ORDERS = (3, 5)
"""Orders of the n-gram models (the paper's section 5)."""

DISCOUNTS = {"": 0.1, "_d75": 0.75}
"""Kneser-Ney discounts by the suffix of the measure: the library's own, which comes nearest to the paper's scale (it
states none), and the customary one."""


def measure_words(run: Run, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
    """Cross-entropies (nats per word), set-based measures, entropy gap (nats) and n-gram perplexities of a word model.

    ``settings``: ``sentences`` drawn from each split, ``particles`` K of the importance-weighted bound,
    ``trajectories`` of the prior Monte Carlo, ``gap_words`` and ``gap_draws``, ``samples`` (default: as many as give
    the training words themselves the paper's share of distinct words). The entropy gap's box plots go into the run's
    ``figures/entropy-gap.png``.
    """
    found: Measures = {"steps": run.config.training.steps, **_entropies(run.corpus)}
    for split in ("train", "test"):
        report(f"cross-entropy of the {split} words")
        found |= _by_importance(run, split, settings)
    report("samples")
    found |= _samples(run, settings)
    if run.config.objective.startswith(SEQUENTIAL):
        report("cross-entropy by a particle filter")
        found |= _by_filter(run, settings)
    if not emits(run.model, "prior", "initial"):
        return Measured(finite_or_none(found | _tightest(run, found, settings)), {})
    report("cross-entropy by prior Monte Carlo")
    found |= _by_prior(run, settings)
    found |= _tightest(run, found, settings)
    report("entropy gap")
    gaps = {"": _gap(run, settings["gap_words"], settings["gap_draws"])}
    gaps[f"_{PAPER_DRAWS}"] = _gap(run, settings["gap_words"], PAPER_DRAWS)
    gap_figure(gaps[""], run.folder / "figures" / "entropy-gap.png")
    profiles = {}
    for suffix, gap in gaps.items():
        found |= _of_gap(gap, suffix)
        profiles[f"gap{suffix}_by_position"] = _profile(gap.by_position())
        profiles[f"gap{suffix}_by_length"] = _profile(gap.by_length())
    return Measured(finite_or_none(found), profiles)


def measure_word_oracle(
    corpus: Corpus, settings: Mapping[str, Any], seed: int, report: Callable[[str], None]
) -> Measured:
    """The same for "sampling from the training words": P̂ is their relative frequency; ``seed`` of the samples."""
    report("samples")
    train, test = corpus.splits["train"], corpus.splits["test"]
    number = _number_of_samples(corpus, settings)
    draws = np.random.default_rng(seed).choice(len(train), size=number, p=train.probabilities())
    found: Measures = {**_entropies(corpus), **_of_texts([train.texts[i] for i in draws.tolist()], corpus)}
    of_test = cross_entropy(train, test)
    found |= {"train": entropy(train.counts), "test": of_test, "tightest": of_test}
    found["distance"] = of_test - entropy(test.counts)
    return Measured(finite_or_none(found), {})


def _by_importance(run: Run, split: str, settings: Mapping[str, Any]) -> Measures:
    """Cross-entropy of words drawn from a split, by importance weighting through the guide."""
    limit = settings["sentences"]
    likelihood = run.evaluate(split, settings["particles"], limit, SEED)
    return {
        split: -likelihood.iw,
        f"{split}_se": likelihood.iw_se,
        f"{split}_elbo": -likelihood.elbo,
        f"{split}_per_token": -likelihood.iw_per_token,
        f"{split}_words": limit,
        f"{split}_sampling_se": likelihood.sampling_se,
    }


def _by_filter(run: Run, settings: Mapping[str, Any]) -> Measures:
    """That of the test words by FIVO's bound with K particles: for guides that were trained step by step."""
    bound, error = run.bound(f"fivo:{settings['particles']}", "test", settings["sentences"], SEED)
    return {"test_filter": -bound, "test_filter_se": error}


def _tightest(run: Run, found: Measures, settings: Mapping[str, Any]) -> Measures:
    """The lowest estimate of the test words' cross-entropy, and how far it is above the words' own entropy.

    Importance weighting, particle filter and prior Monte Carlo each take the logarithm of an unbiased estimate of
    P̂(w), so each is in expectation at or above the cross-entropy: the lowest is the nearest.
    """
    estimates = [found.get(key) for key in ("test", "test_filter", "test_prior")]
    lowest = min(value for value in estimates if value is not None and math.isfinite(value))
    return {"tightest": lowest, "distance": lowest - _surprise_of_drawn(run.corpus, settings)}


def _surprise_of_drawn(corpus: Corpus, settings: Mapping[str, Any]) -> float:
    """Mean of -ln P_test(w) over the very words that the cross-entropy was measured on, nats.

    It estimates the entropy of the test words; taken off a cross-entropy of the same draw, most of its noise goes.
    """
    data = build.evaluation_set(corpus, "test", settings["sentences"], SEED)
    test = corpus.splits["test"]
    log_p = dict(zip(test.texts, np.log(np.maximum(test.probabilities(), 1e-300)).tolist(), strict=True))
    total = 0.0
    for batch, texts in zip(data.batches, data.texts, strict=True):
        weights = batch.weights.tolist()[: len(texts)]  # what follows is filler
        total -= sum(weight * log_p[text] for weight, text in zip(weights, texts, strict=True))
    return total / data.total_weight


def _by_prior(run: Run, settings: Mapping[str, Any]) -> Measures:
    """That of the same test words by prior Monte Carlo, the paper's way."""
    data = build.evaluation_set(run.corpus, "test", settings["sentences"], SEED)
    prior = prior_cross_entropy(run.model, data, trajectories=settings["trajectories"], seed=SEED)
    return {
        "test_prior": prior.value,
        "test_prior_low": prior.low,
        "test_prior_high": prior.high,
        "test_prior_bias": prior.bias,
        "test_prior_alone": prior.alone,
        "trajectories": prior.trajectories,
    }


def _samples(run: Run, settings: Mapping[str, Any]) -> Measures:
    number, corpus = _number_of_samples(run.corpus, settings), run.corpus
    steps = 2 * corpus.max_steps
    drawn = sample_texts(run.model, corpus.tokenizer, number, steps=steps, seed=SEED, guide=run.guide)
    return {**_of_texts(drawn.texts, corpus), "unfinished": drawn.unfinished}


def _of_texts(texts: list[str], corpus: Corpus) -> Measures:
    """Set-based measures against the training words; n-gram perplexity under models of the test words.

    ``unique_in_list``: different words of the training list by the number of samples. That must be the paper's
    "unique": its measures "are wrt. the training set", and its models, with 40 % of non-words, lie below the oracle.
    """
    known = frozenset(corpus.splits["train"].texts)
    found: Measures = {"samples": len(texts), "unique": share_unique(texts), "in_list": share_in_list(texts, known)}
    found["unique_in_list"] = len(known.intersection(texts)) / len(texts)
    for order, (suffix, discount) in product(ORDERS, DISCOUNTS.items()):
        model = _ngrams(corpus.splits["test"], order, discount)
        found[f"kn{order}{suffix}"] = model.perplexity(texts)
        found[f"kn{order}{suffix}_nats"] = model.mean_surprise(texts)
    return found


def _gap(run: Run, words: int, draws: int) -> EntropyGap:
    return entropy_gap(run.model, words=words, draws=draws, steps=2 * run.corpus.max_steps, seed=SEED)


def _of_gap(gap: EntropyGap, suffix: str) -> Measures:
    mean = gap.mean()
    numbers = {"": mean.nats, "_se": mean.error, "_bits": mean.bits, "_draws": gap.draws}
    return {f"gap{suffix}{name}": value for name, value in numbers.items()}


def _profile(averages: Mapping[int, Average]) -> dict[str, list[float | int | None]]:
    """By position or length, as JSON has it; an error that one word does not know is None."""
    return {str(k): [a.nats, finite_or_none(a.error), a.words] for k, a in averages.items()}


def _entropies(corpus: Corpus) -> Measures:
    return {f"entropy_{split}": entropy(corpus.splits[split].counts) for split in ("train", "test")}


def _number_of_samples(corpus: Corpus, settings: Mapping[str, Any]) -> int:
    given = settings.get("samples")
    return int(given) if given else draws_for_unique(corpus.splits["train"].counts, PAPER_UNIQUE)


@lru_cache(maxsize=8)
def _ngrams(split: Split, order: int, discount: float) -> Any:
    """The n-gram model of a split; rows of one table share it."""
    from ..metrics.ngrams import kneser_ney

    return kneser_ney(split, order, discount=discount)
