"""How far generated texts are from real ones as distributions: in the space of n-grams, and of a model's features."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import DataError, UserError

ORDERS = (1, 2, 3, 4)
"""Lengths of the n-grams."""

FEWEST = 20
"""Texts of a side that MAUVE needs: two clusters of ten."""

MOST_BUCKETS = 500
"""Clusters of features at most, as the authors of MAUVE advise."""


def ngram_divergence(
    texts: Sequence[Sequence[str]], references: Sequence[Sequence[str]], orders: Iterable[int] = ORDERS
) -> float:
    """CND, as far as it is known: mean over n of Σ_g (q(g) - p(g))² / Σ_g p(g)²; lower is nearer.

    p and q are the distributions of n-grams g of the references and of the texts; 0 where they are the same, 1 where
    nothing is shared and nothing repeated, and more where a few texts come again and again. With CR = Σ p q, what is
    covered, and NRR = -Σ q², what is not repeated, it is 1 - (2 CR + NRR) / Σ p². The three sums are estimated without
    bias: Σ p² by Σ c (c - 1) / (N (N - 1)) from the counts c of N n-grams, Σ q² likewise, and Σ p q by the product of
    the shares. Shares of what was counted, squared, would charge every text for n-grams that are seen once, whatever
    wrote it. An estimate may come out a little below 0. An n of which no n-gram comes twice among the references is
    left out, because Σ p² is not known then.

    **An approximation.** The layer-wise Transformer's appendix A.3 says "CND approximates the divergence of the
    empirical reference distribution and generated text distribution in n-gram spaces" and cites Li et al. 2020, "On the
    Relation between Quality-Diversity Evaluation and Distribution-Fitting Goal in Text Generation" (ICML), who show
    that a linear combination of a quality and a diversity is a divergence and propose CR and NRR of n-grams. Which n,
    what scale, and whether there is a logarithm is in no code that we know of; the published 0.1 to 2 have the size of
    this form. Compare such figures with each other only.

    Raises :class:`DataError` where no word comes twice among the references.

    Example::

        >>> texts, references = [["a", "b", "b", "c"]], [["a", "a", "b", "b"]]
        >>> round(ngram_divergence(texts, references, orders=[1]), 3)  # 1 - (2 · 3/8 - 1/6) / (1/3)
        -0.75
    """
    found = []
    for n in orders:
        p, q = _counts(references, n), _counts(texts, n)
        if scale := _repeated(p):
            covered = sum(count * p[gram] for gram, count in q.items()) / max(1, p.total() * q.total())
            found.append(1.0 - (2.0 * covered - _repeated(q)) / scale)
    if not found:
        raise DataError("CND needs references in which some word comes twice; give more of them")
    return math.fsum(found) / len(found)


def _counts(texts: Iterable[Sequence[str]], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1))


def _repeated(counts: Counter[tuple[str, ...]]) -> float:
    """Return the share of pairs of different occurrences that are the same n-gram: Σ p² without bias."""
    total = counts.total()
    return sum(count * (count - 1) for count in counts.values()) / max(1, total * (total - 1))


class Mauve(NamedTuple):
    """``score``: from 0, disjoint, to 1, the same; ``buckets``: clusters that the features were put into."""

    score: float
    buckets: int


def mauve(features: NDArray[np.floating], references: NDArray[np.floating], seed: int = 0) -> Mauve:
    """MAUVE of texts (N, D) beside references (M, D), both features of one pretrained model; higher is nearer.

    Features of both together are clustered (k-means); with the shares p and q of the clusters and r = λ p + (1 - λ) q,
    it is the area under the curve of (exp(-5 KL(q ‖ r)), exp(-5 KL(p ‖ r))) for 0 < λ < 1. Source: Pillutla et al.
    2021, "MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence Frontiers", and their package
    ``mauve-text`` with its defaults (90% of the variance, a cluster for ten texts). It depends on the model, the number
    of texts and the clustering: compare figures of the same of each.

    Args:
        features: of the texts, see :class:`~ppl_text.metrics.features.Features`.
        references: of real texts.
        seed: of the clustering.

    Raises:
        UserError: the package is not installed.
        DataError: there are fewer than :data:`FEWEST` rows on a side.
    """
    least = min(len(features), len(references))
    if least < FEWEST:
        raise DataError(f"MAUVE needs {FEWEST} texts or more on each side; got {least}")
    with warnings.catch_warnings():
        # The compiled classes of faiss have no module of their own, at which Python warns.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from mauve import compute_mauve
        except ImportError as error:
            raise UserError(
                "MAUVE needs the package mauve-text (GPLv3), which is in the extra metrics: "
                "pip install 'ppl-text[metrics]'; or leave mauve out of the metrics"
            ) from error
    buckets = min(MOST_BUCKETS, max(2, round(least / 10)))
    sides = [np.ascontiguousarray(side, np.float32) for side in (features, references)]
    found = compute_mauve(p_features=sides[0], q_features=sides[1], num_buckets=buckets, seed=seed)
    return Mauve(float(found.mauve), buckets)
