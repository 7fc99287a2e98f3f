"""BLEU of texts beside a whole set of references: the test set, or all other generated texts (Self-BLEU); per cent.

Counting every n-gram of all references anew for each text would take as long as there are pairs of texts; here the
references are counted once, and what a text would add to its own references is taken off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ppl_text.core.errors import DataError

ORDERS = (1, 2, 3, 4)
"""Lengths of the n-grams, all of the same weight."""

INSTEAD_OF_NOTHING = 0.1
"""What counts as the number of matches where there is none: the smoothing of Chen and Cherry 2014, method 1."""

Words = tuple[str, ...]


def mean_bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Mean over the texts of BLEU-4 with *all* references at once.

    For each text BLEU-4 = 100 · BP · exp(¼ Σ_n ln p_n): p_n is the share of its n-grams that the references have, each
    counted at most as often as in the one that has it most; BP = min(1, exp(1 - r/c)) for the text's c words and the r
    words of the reference whose length is nearest (of two, the shorter). A p_n of no match counts 0.1 matches, since
    few texts share all n-grams; a text that shares no word has 0. Words stand between white space. Sources: Papineni et
    al. 2002; for generated texts beside a whole test set Yu et al. 2017, "SeqGAN", section 5.2, and the layer-wise
    Transformer's appendix A.3 (specification 2D). Smoothing and mean over texts are those of Zhu et al. 2018,
    "Texygen", from whom :func:`self_bleu` comes, by ``nltk``'s formula. Higher: more of what is written stands in the
    references, of which there must be equally many where two figures are compared.

    Raises :class:`DataError` where there is no text or no reference.

    Example::

        >>> round(mean_bleu(["a b c d"], ["a b c d e", "x"]), 2)  # BP = exp(-1/4)
        77.88
    """
    if not texts or not references:
        raise DataError(f"BLEU needs a text and a reference or more; got {len(texts)} and {len(references)}")
    known = _References(references)
    return math.fsum(known.bleu(_words(text)) for text in texts) / len(texts)


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over the texts of BLEU-4 with all *others* as references, per cent; arithmetic as in :func:`mean_bleu`.

    **Higher is less diverse**: 100 where all texts are the same one of four words or more. The layer-wise
    Transformer's appendix says the opposite (specification 2D), and its table orders models as here. It rises with the
    number of texts. Source: Zhu et al. 2018, "Texygen: A Benchmarking Platform for Text Generation Models", section 3.

    Raises :class:`DataError` for fewer than two texts.

    Example::

        >>> round(self_bleu(["a b c d", "a b c d", "e f g h"]), 2)  # of 100, 100 and 0
        66.67
    """
    if len(texts) < 2:
        raise DataError(f"Self-BLEU compares two texts or more with each other; got {len(texts)}")
    known = _References(texts)
    return math.fsum(known.bleu(_words(text), row) for row, text in enumerate(texts)) / len(texts)


class _Most(NamedTuple):
    """How often the reference ``row`` has an n-gram, the one that has it most; ``second``: the next one's number."""

    number: int
    row: int
    second: int


class _References:
    """The n-gram counts and lengths of a set of references."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._most: dict[Words, _Most] = {}
        self._lengths: Counter[int] = Counter()
        for row, text in enumerate(texts):
            words = _words(text)
            self._lengths[len(words)] += 1
            for n in ORDERS:
                for gram, count in _grams(words, n).items():
                    self._most[gram] = _with(self._most.get(gram, _Most(0, -1, 0)), count, row)

    def bleu(self, words: Words, without: int | None = None) -> float:
        """BLEU-4 of one text with all references; ``without``: the row of it among them, which does not count."""
        logs = 0.0
        for n in ORDERS:
            counts = _grams(words, n)
            matches = sum(min(count, self._count(gram, without)) for gram, count in counts.items())
            if n == 1 and not matches:
                return 0.0
            logs += math.log((matches or INSTEAD_OF_NOTHING) / max(1, counts.total())) / len(ORDERS)
        nearest = self._nearest(len(words), without)
        return 100.0 * math.exp(min(0.0, 1.0 - nearest / len(words)) + logs)

    def _count(self, gram: Words, without: int | None) -> int:
        most = self._most.get(gram)
        if most is None:
            return 0
        return most.second if most.row == without else most.number

    def _nearest(self, length: int, without: int | None) -> int:
        """Return the length of a reference that is nearest, of two the smaller."""
        own = 0 if without is None else 1
        lengths = (other for other, number in self._lengths.items() if other != length or number > own)
        return min(lengths, key=lambda other: (abs(other - length), other))


def _with(most: _Most, count: int, row: int) -> _Most:
    if count > most.number:
        return _Most(count, row, most.number)
    return most._replace(second=max(most.second, count))


def _words(text: str) -> Words:
    return tuple(text.split())


def _grams(words: Words, n: int) -> Counter[Words]:
    return Counter(words[i : i + n] for i in range(len(words) - n + 1))
