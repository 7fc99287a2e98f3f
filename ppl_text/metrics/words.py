"""Measures of word models and of word lists: pure functions; information in nats."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_text.core.errors import DataError


class CountedTexts(Protocol):
    """Texts and how often each occurs, such as a split of a corpus."""

    @property
    def texts(self) -> Sequence[str]:
        """N different texts."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,) how often each occurs."""


class LetterModel(NamedTuple):
    """P(word) = Π_i p(c_i) · p(EOS): letters are independent of each other and of their place.

    ``letters`` maps a character to log p(c), ``eos`` is log p(EOS), both in nats; together they sum to one.
    """

    letters: dict[str, float]
    eos: float

    def log_prob(self, word: str) -> float:
        """Return the log-probability of a word in nats, EOS scored; −inf for a word with an unknown character."""
        return self.eos + sum(self.letters.get(c, -np.inf) for c in word)


def entropy(counts: ArrayLike) -> float:
    """H = −Σ p ln p in nats, p ∝ counts; raises :class:`DataError` for counts that are no distribution.

    Example::

        >>> round(entropy([1, 1]), 4)
        0.6931
    """
    p = _probabilities(counts, "entropy")
    return float(max(0.0, -(p * np.log(p)).sum()))


def merged_counts(rows: Iterable[Hashable], counts: ArrayLike) -> NDArray[np.float64]:
    """Sum the counts of equal rows: one number for each different row, in the order of their first occurrence.

    Example::

        >>> merged_counts(["a", "b", "a"], [1, 1, 2]).tolist()
        [3.0, 1.0]
    """
    places: dict[Hashable, int] = {}
    numbers = [places.setdefault(row, len(places)) for row in rows]
    sums = np.zeros(len(places))
    np.add.at(sums, numbers, np.asarray(counts, dtype=np.float64))
    return sums


def cross_entropy(model: CountedTexts, data: CountedTexts) -> float:
    """H[P_data, P̂] = -Σ_w P_data(w) ln P̂(w) in nats per text, P̂ the relative frequencies of ``model``.

    What "sampling from the training texts" achieves; infinite where a text of ``data`` is not in ``model``. Raises
    :class:`DataError` for counts that are no distribution.
    """
    if not sum(model.counts) or not sum(data.counts):
        raise DataError("a cross-entropy needs a text or more with a count above 0 on both sides")
    q = dict(zip(model.texts, np.asarray(model.counts, np.float64) / np.sum(model.counts), strict=True))
    p = np.asarray(data.counts, np.float64) / np.sum(data.counts)
    with np.errstate(divide="ignore"):
        surprise = -np.log([q.get(text, 0.0) for text in data.texts])
    return float((p[p > 0] * surprise[p > 0]).sum())


def letter_model(split: CountedTexts) -> LetterModel:
    """Fit the i.i.d. letter model by maximum likelihood: each word counts as often as it occurs.

    p(c) = n_c / n and p(EOS) = n_words / n, where n = Σ_c n_c + n_words. Raises :class:`DataError`
    for an empty split.
    """
    letters, words = _letter_counts(split)
    total = words + sum(letters.values())
    return LetterModel({c: float(np.log(n / total)) for c, n in letters.items()}, float(np.log(words / total)))


def letter_cross_entropy(train: CountedTexts, test: CountedTexts) -> float:
    """H[P_test, P̂] = −Σ_w P_test(w) ln P̂(w) in nats per word, EOS scored; P̂ is the letter model of ``train``.

    In closed form, since Σ_w count(w)·ln P̂(w) depends on the test words through their letter counts
    only. Infinite where a test word has a letter that training never saw. Raises :class:`DataError`
    for an empty split.
    """
    model = letter_model(train)
    letters, words = _letter_counts(test)
    log_likelihood = words * model.eos + sum(n * model.letters.get(c, -np.inf) for c, n in letters.items())
    return float(-log_likelihood / words)


def _letter_counts(split: CountedTexts) -> tuple[dict[str, float], float]:
    """Return how often each letter occurs, words weighted by their counts, and the number of words."""
    counts = np.asarray(split.counts, dtype=np.float64)
    if not counts.sum():
        raise DataError("a letter model needs one word or more with a count above 0")
    lengths = np.fromiter(map(len, split.texts), dtype=np.int64, count=len(counts))
    points = np.frombuffer("".join(split.texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    found, places = np.unique(points, return_inverse=True)
    sums = np.bincount(places, weights=np.repeat(counts, lengths), minlength=len(found))
    return {chr(p): float(n) for p, n in zip(found, sums, strict=True) if n}, float(counts.sum())


def share_in_list(samples: Iterable[str], words: Collection[str]) -> float:
    """Return the share of the samples, repeated ones counted each time, that are in the list ("w in V")."""
    drawn, known = _drawn(samples), set(words)
    return sum(sample in known for sample in drawn) / len(drawn)


def share_unique(samples: Iterable[str]) -> float:
    """Return the number of different samples over the number of samples ("w unique"); it falls as samples are added."""
    drawn = _drawn(samples)
    return len(set(drawn)) / len(drawn)


def expected_unique(counts: ArrayLike, n: int) -> float:
    """Return the expected share of distinct words among n i.i.d. draws ∝ counts: Σ_w (1 - (1 - p_w)^n) / n.

    1 for n = 1; it falls as n grows and is at most (number of words) / n. Raises :class:`DataError` for counts that are
    no distribution and for n below 1.

    Example::

        >>> expected_unique([1, 1], 2)
        0.75
    """
    if n < 1:
        raise DataError(f"a share of distinct words needs 1 draw or more; got {n}")
    p = _probabilities(counts, "the expected share of distinct words")
    with np.errstate(divide="ignore"):  # ln(1 - p) = -inf for the only word there is, which is then seen for certain
        return float(-np.expm1(n * np.log1p(-p)).sum() / n)


def draws_for_unique(counts: ArrayLike, share: float) -> int:
    """Return the smallest n at which :func:`expected_unique` has fallen to ``share``: how many words someone has drawn.

    Found by bisection, since the expected share falls with n. Raises :class:`DataError` for a share outside (0, 1],
    which no number of draws has.
    """
    if not 0 < share <= 1:
        raise DataError(f"a share of distinct words is above 0 and at most 1; got {share}")
    p = _probabilities(counts, "the expected share of distinct words")
    few, many = 0, math.ceil(len(p) / share)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if expected_unique(p, middle) <= share else (middle, many)
    return many


def _probabilities(counts: ArrayLike, what: str) -> NDArray[np.float64]:
    """Divide counts above 0 by their sum; raises :class:`DataError` where they are no distribution."""
    numbers = np.asarray(counts, dtype=np.float64)
    if not numbers.size or not np.isfinite(numbers).all() or numbers.min() < 0 or not numbers.sum():
        raise DataError(f"{what} needs finite counts, 0 or more, not all of them 0")
    return numbers[numbers > 0] / numbers.sum()


def _drawn(samples: Iterable[str]) -> list[str]:
    drawn = list(samples)
    if not drawn:
        raise DataError("no samples were given, so that there is no share of them")
    return drawn
