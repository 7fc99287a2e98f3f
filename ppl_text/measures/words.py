"""Words with counts: what a run shows of them, and the rows of the state-space paper's tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.atomic import finite_or_none
from ..core.printing import decimal, plus_minus
from ..data.batches import EvaluationSet
from ..data.corpus import Corpus, Split
from ..evaluation.generation import sample_texts
from ..evaluation.likelihood import Likelihood
from ..evaluation.sentences import evaluation_set
from ..evaluation.trajectories import Average, EntropyGap, emits, entropy_gap, entropy_monitor, prior_cross_entropy
from ..metrics.words import (
    cross_entropy,
    draws_for_unique,
    entropy,
    letter_cross_entropy,
    share_in_list,
    share_unique,
)
from ..plots.figures import distances_figure, entropies_figure, entropy_records, gap_figure
from .base import SEED, Measured, Numbers, Subject
from .texts import TextMeasure

if TYPE_CHECKING:
    from ..training.validation import Monitor

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


class WordMeasure(TextMeasure):
    """Word types with counts: cross-entropies beside those of letters, samples against the list, the entropy gap."""

    name = "words"
    version = 2
    shown = 60
    in_line = True

    def applies(self, corpus: Corpus) -> bool:
        """Return whether rows are types with counts."""
        return corpus.weighted

    def symbol_cross_entropy(self, train: Split, data: Split) -> float:
        """Return that of the i.i.d. letter model of the training words."""
        return letter_cross_entropy(train, data)

    def taken(self, likelihood: Likelihood, corpus: Corpus) -> str:
        """Say whether words were drawn ∝ counts, or every type with its count."""
        n = f"{likelihood.n_sent:z,.0f}"
        if likelihood.sampling_se:
            return (
                f"{n} {corpus.noun}s drawn from the split ∝ counts (± {decimal(likelihood.sampling_se)} from the draw)"
            )
        return f"every type of the split, weighted by its count ({n} tokens)"

    def asides(self, likelihood: Likelihood) -> tuple[str, ...]:
        """Return nats and perplexity per token."""
        error = math.nan if likelihood.exact else likelihood.perplexity_se
        token = f"{decimal(likelihood.iw_per_token, 4)} nats, perplexity {plus_minus(likelihood.perplexity, error)}"
        return (f"Per scored token: {token} (EOS counted)",)

    def monitor(self, subject: Subject, validation: EvaluationSet, *, everything: bool = False) -> Monitor | None:
        """Return the entropies of the paper's figure 2, for a model with prior paths."""
        return entropy_monitor(subject.model, steps=2 * subject.corpus.max_steps)

    def row(self, subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
        """Cross-entropies (nats per word), set-based measures, entropy gap (nats) and n-gram perplexities.

        ``settings``: ``sentences`` drawn from each split, ``particles`` K of the importance-weighted bound,
        ``trajectories`` of the prior Monte Carlo, ``gap_words`` and ``gap_draws``, ``samples`` (default: as many as
        give the training words themselves the paper's share of distinct words). The entropy gap's box plots go into
        the subject's ``figures/entropy-gap.png``.
        """
        found: Numbers = {"steps": subject.steps, **_entropies(subject.corpus)}
        for split in ("train", "test"):
            report(f"cross-entropy of the {split} words")
            found |= _by_importance(subject, split, settings)
        report("samples")
        found |= _samples(subject, settings)
        if subject.objective.startswith(SEQUENTIAL):
            report("cross-entropy by a particle filter")
            found |= _by_filter(subject, settings)
        if not emits(subject.model, "prior", "initial"):
            return Measured(finite_or_none(found | _tightest(subject.corpus, found, settings)), {})
        report("cross-entropy by prior Monte Carlo")
        found |= _by_prior(subject, settings)
        found |= _tightest(subject.corpus, found, settings)
        report("entropy gap")
        gaps = {"": _gap(subject, settings["gap_words"], settings["gap_draws"])}
        gaps[f"_{PAPER_DRAWS}"] = _gap(subject, settings["gap_words"], PAPER_DRAWS)
        if subject.folder is not None:
            gap_figure(gaps[""], subject.folder / "figures" / "entropy-gap.png")
        profiles = {}
        for suffix, gap in gaps.items():
            found |= _of_gap(gap, suffix)
            profiles[f"gap{suffix}_by_position"] = _profile(gap.by_position())
            profiles[f"gap{suffix}_by_length"] = _profile(gap.by_length())
        return Measured(finite_or_none(found), profiles)

    def data_row(
        self, corpus: Corpus, settings: Mapping[str, Any], seed: int, report: Callable[[str], None]
    ) -> Measured:
        """Measure "sampling from the training words": P̂ is their relative frequency; ``seed`` of the samples."""
        report("samples")
        train, test = corpus.splits["train"], corpus.splits["test"]
        number = _number_of_samples(corpus, settings)
        draws = np.random.default_rng(seed).choice(len(train), size=number, p=train.probabilities())
        found: Numbers = {**_entropies(corpus), **_of_texts([train.texts[i] for i in draws.tolist()], corpus)}
        of_test = cross_entropy(train, test)
        found |= {"train": entropy(train.counts), "test": of_test, "tightest": of_test}
        found |= {"offset": of_test - entropy(test.counts), "test_tokens": test.total}
        return Measured(finite_or_none(found), {})

    def notes(self, results: Mapping[str, Any]) -> list[str]:
        """Entropies of the data, sample size, errors of the cross-entropies: by group, where they were measured.

        And by how much each oracle misses the entropy of its own test words, which grows as they become fewer.
        """
        notes = []
        for row in results["rows"]:
            if (offset := row["measures"].get("offset")) is not None:
                m, published = row["measures"], row["published"].get("offset")
                notes.append(
                    f"{row['title']}: H test lies {offset:z.3f} nats above the entropy of its {m['test_tokens']:z,.0f} "
                    f"test tokens, {m['entropy_test']:z.3f}" + ("." if published is None else f" (paper: {published}).")
                )
        for group, title in results["groups"].items():
            rows = [row["measures"] for row in results["rows"] if row["group"] == group and row["seeds"]]
            sampled = [m for m in rows if m.get("test_sampling_se") is not None]
            if sampled and sampled[0].get("entropy_test") is not None:
                m, error = sampled[0], max(m["test_se"] for m in sampled)
                notes.append(
                    f"{title.split(':')[0]}: entropy of the test words {m['entropy_test']:z.3f} nats, of the training "
                    f"words {m['entropy_train']:z.3f}; {m['samples']:z,.0f} samples a row; Monte-Carlo standard error "
                    f"of H test at most {error:z.3f}; the draw of the words adds {m['test_sampling_se']:z.2f}, the "
                    "same for all rows."
                )
        return notes

    def figures(self, place: Path, results: Mapping[str, Any], baselines: Sequence[str]) -> list[tuple[str, Path]]:
        """Distances to the oracle, all rows in one; entropies over training, each row in its folder.

        ``baselines``: rows whose entropy per letter is a dashed line in the figures of their group.
        """
        distance = place / "figures" / "distance.png"
        if any(row["measures"].get("distance") is not None for row in results["rows"]):
            distances_figure(results["rows"], distance)
        dashed = {r["group"]: r["measures"].get("test_per_token") for r in results["rows"] if r["name"] in baselines}
        found = [("test cross-entropy above the oracle's, ours and published", distance)]
        for row in results["rows"]:
            for seed in row["seeds"]:
                folder = place / f"{row['name']}-s{seed}"
                metrics, entropies = folder / "metrics.jsonl", folder / "figures" / "entropies.png"
                if metrics.is_file() and entropy_records(metrics):
                    entropies_figure(metrics, entropies, dashed.get(row["group"]))
                gap = folder / "figures" / "entropy-gap.png"
                found += [(f"{row['title']}: entropy gap by position and word length", gap)]
                found += [(f"{row['title']}: entropies over training", entropies)]
        return [(about, path) for about, path in found if path.is_file()]


def _by_importance(subject: Subject, split: str, settings: Mapping[str, Any]) -> Numbers:
    """Estimate the cross-entropy of words drawn from a split, by importance weighting through the guide."""
    limit = settings["sentences"]
    likelihood = subject.evaluate(split, settings["particles"], limit, SEED)
    return {
        split: -likelihood.iw,
        f"{split}_se": likelihood.iw_se,
        f"{split}_khat_bad": likelihood.khat_bad,
        f"{split}_elbo": -likelihood.elbo,
        f"{split}_per_token": -likelihood.iw_per_token,
        f"{split}_words": limit,
        f"{split}_sampling_se": likelihood.sampling_se,
    }


def _by_filter(subject: Subject, settings: Mapping[str, Any]) -> Numbers:
    """That of the test words by FIVO's bound with K particles: for guides that were trained step by step."""
    bound, error = subject.bound(f"fivo:{settings['particles']}", "test", settings["sentences"], SEED)
    return {"test_filter": -bound, "test_filter_se": error}


def _tightest(corpus: Corpus, found: Numbers, settings: Mapping[str, Any]) -> Numbers:
    """Return the lowest estimate of the test words' cross-entropy with its error, and how far it is above the oracle's.

    Importance weighting, particle filter and prior Monte Carlo each take the logarithm of an unbiased estimate of
    P̂(w), so each is in expectation at or above the cross-entropy: the lowest is the nearest. No value of distances
    where a test word never occurs in training.
    """
    estimates = [(found.get(key), found.get(f"{key}_se")) for key in ("test", "test_filter", "test_prior")]
    found_ones = [(value, error) for value, error in estimates if value is not None and math.isfinite(value)]
    lowest, error = min(found_ones, key=lambda estimate: estimate[0])
    oracle = _oracle_on_drawn(corpus, settings)
    return {"tightest": lowest, "tightest_se": error, "oracle": oracle, "distance": lowest - oracle}


def _oracle_on_drawn(corpus: Corpus, settings: Mapping[str, Any]) -> float:
    """Return the mean of -ln P_train(w) over the very words that the cross-entropy was measured on, nats.

    It estimates the oracle's cross-entropy (P̂ is the relative frequency among the training words); taken off a
    cross-entropy of the same draw, most of its noise goes. Infinite where a drawn word never occurs in training.
    """
    data = evaluation_set(corpus, "test", settings["sentences"], SEED)
    train = corpus.splits["train"]
    log_p = dict(zip(train.texts, np.log(train.probabilities()).tolist(), strict=True))
    total = 0.0
    for batch, texts in zip(data.batches, data.texts, strict=True):
        weights = batch.weights.tolist()[: len(texts)]  # what follows is filler
        total -= sum(weight * log_p.get(text, -math.inf) for weight, text in zip(weights, texts, strict=True))
    return total / data.total_weight


def _by_prior(subject: Subject, settings: Mapping[str, Any]) -> Numbers:
    """That of the same test words by prior Monte Carlo, the paper's way."""
    data = evaluation_set(subject.corpus, "test", settings["sentences"], SEED)
    prior = prior_cross_entropy(subject.model, data, trajectories=settings["trajectories"], seed=SEED)
    return {
        "test_prior": prior.value,
        "test_prior_se": (prior.high - prior.low) / 4,  # of the 95 % interval
        "test_prior_low": prior.low,
        "test_prior_high": prior.high,
        "test_prior_bias": prior.bias,
        "test_prior_alone": prior.alone,
        "trajectories": prior.trajectories,
    }


def _samples(subject: Subject, settings: Mapping[str, Any]) -> Numbers:
    number, corpus = _number_of_samples(subject.corpus, settings), subject.corpus
    steps = 2 * corpus.max_steps
    drawn = sample_texts(subject.model, corpus.tokenizer, number, steps=steps, seed=SEED, guide=subject.guide)
    return {**_of_texts(drawn.texts, corpus), "unfinished": drawn.unfinished}


def _of_texts(texts: list[str], corpus: Corpus) -> Numbers:
    """Set-based measures against the training words; n-gram perplexity under models of the test words.

    ``unique_in_list``: different words of the training list by the number of samples. That must be the paper's
    "unique": its measures "are wrt. the training set", and its models, with 40 % of non-words, lie below the oracle.
    """
    known = frozenset(corpus.splits["train"].texts)
    found: Numbers = {"samples": len(texts), "unique": share_unique(texts), "in_list": share_in_list(texts, known)}
    found["unique_in_list"] = len(known.intersection(texts)) / len(texts)
    for order, (suffix, discount) in product(ORDERS, DISCOUNTS.items()):
        model = _ngrams(corpus.splits["test"], order, discount)
        found[f"kn{order}{suffix}"] = model.perplexity(texts)
        found[f"kn{order}{suffix}_nats"] = model.mean_surprise(texts)
    return found


def _gap(subject: Subject, words: int, draws: int) -> EntropyGap:
    return entropy_gap(subject.model, words=words, draws=draws, steps=2 * subject.corpus.max_steps, seed=SEED)


def _of_gap(gap: EntropyGap, suffix: str) -> Numbers:
    mean = gap.mean()
    numbers = {"": mean.nats, "_se": mean.error, "_bits": mean.bits, "_draws": gap.draws}
    return {f"gap{suffix}{name}": value for name, value in numbers.items()}


def _profile(averages: Mapping[int, Average]) -> dict[str, list[float | int | None]]:
    """By position or length, as JSON has it; an error that one word does not know is None."""
    return {str(k): [a.nats, a.error if math.isfinite(a.error) else None, a.words] for k, a in averages.items()}


def _entropies(corpus: Corpus) -> Numbers:
    return {f"entropy_{split}": entropy(corpus.splits[split].counts) for split in ("train", "test")}


def _number_of_samples(corpus: Corpus, settings: Mapping[str, Any]) -> int:
    given = settings.get("samples")
    return int(given) if given else draws_for_unique(corpus.splits["train"].counts, PAPER_UNIQUE)


@lru_cache(maxsize=8)
def _ngrams(split: Split, order: int, discount: float) -> Any:
    """Return the n-gram model of a split; rows of one table share it."""
    from ..metrics.ngrams import kneser_ney

    return kneser_ney(split, order, discount=discount)
