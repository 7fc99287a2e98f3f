"""How varied texts are: entropy of words, shares of different ones, what each two have in common; pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

from ppl_text.core.errors import DataError


class Diversity(NamedTuple):
    """Of several texts taken together: they fall, Ent apart, as texts are added, so compare equal numbers of words.

    ``entropy``     H = -Σ_w p(w) ln p(w), nats, p the relative frequency of each word among all (Ent)
    ``distinct_1``  different words by words (Dist-1)
    ``distinct_2``  different pairs of neighbours by pairs of neighbours, none across two texts (Dist-2)
    """

    entropy: float
    distinct_1: float
    distinct_2: float


def diversity(texts: Sequence[Sequence[str]]) -> Diversity:
    """Pool the words of all texts and count; raises :class:`DataError` where no text has two words.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", section 5.2, who
    divide both counts by the number of words; here each is divided by the number of what it counts, so that both lie
    in (0, 1]. The DAVAM paper's Table V fits pooled texts only: 100 texts of 10 words with Dist-1 0.41 and an entropy
    of 5.4 nats, which one text of 10 words (ln 10 = 2.3 at most) cannot have.

    Example::

        >>> [round(share, 3) for share in diversity([["a", "b", "a"], ["a", "b"]])]
        [0.673, 0.4, 0.667]
    """
    words = Counter(word for text in texts for word in text)
    pairs = Counter(pair for text in texts for pair in pairwise(text))
    if not pairs:
        raise DataError("diversity needs a text of two words or more")
    return Diversity(*_of_words(words), len(pairs) / pairs.total())


class SourceDiversity(NamedTuple):
    """Means over the sources of what the texts that were written for one source have together.

    ``entropy`` (nats), ``distinct_1`` and ``distinct_2`` are those of :class:`Diversity`. ``distinct_2_paper`` is what
    the variational-attention paper prints as Dist-2 (specification 3D): the texts of a source joined to one, so that
    pairs lie across their borders, and different pairs divided by the number of *words*.
    """

    entropy: float
    distinct_1: float
    distinct_2: float
    distinct_2_paper: float


def diversity_by_source(sources: Iterable[Sequence[Sequence[str]]]) -> SourceDiversity:
    """Average over the sources the diversity of the texts of each, given as words without EOS.

    Compare equal numbers of texts a source: shares fall as texts are added. A source whose texts have no word (or, for
    pairs of words, no pair) has no variety, and counts as 0. Raises :class:`DataError` for no source.

    Example::

        >>> found = diversity_by_source([[["a", "b"], ["a", "c"]], [["d"], ["d"]]])
        >>> [round(share, 3) for share in found[1:]]  # (3/4 + 1/2)/2, (2/2 + 0)/2, (3/4 + 1/2)/2
        [0.625, 0.5, 0.625]
    """
    rows = [_of_source(texts) for texts in sources]
    if not rows:
        raise DataError("diversity by source needs one source or more")
    return SourceDiversity(*(math.fsum(column) / len(rows) for column in zip(*rows, strict=True)))


AT_ONCE = 512
"""Texts that are compared with all others at once: a product of matrices of texts by n-grams."""


def jaccard(texts: Sequence[Sequence[str]], n: int = 1) -> float:
    """Mean over all pairs of texts of |A ∩ B| / |A ∪ B|, A and B their *sets* of n-grams: from 0 to 1.

    **Higher is less diverse**: 1 where all texts have the same n-grams. Two texts without any have all in common, a
    text without any has nothing in common with others. Source: the layer-wise Transformer's appendix A.3, "the average
    n-gram Jaccard similarity between every two generated sequences", after Wang and Wan 2018, "SentiGAN", section 4.3
    (who take of each text the largest similarity, not the mean). Neither says n; here 1, words, without which the
    published 0.3 to 0.8 of texts of 20 to 100 words are out of reach. Unlike Dist and Self-BLEU it does not depend on
    how many texts there are. N² G operations for N texts of G different n-grams in all.

    Raises :class:`DataError` for fewer than two texts.

    Example::

        >>> round(jaccard([["a", "b"], ["b", "c"], ["a", "b", "b"]]), 3)  # 1/3, 1 and 1/3
        0.556
    """
    if len(texts) < 2:
        raise DataError(f"Jaccard similarity compares two texts or more; got {len(texts)}")
    grams = [{tuple(text[i : i + n]) for i in range(len(text) - n + 1)} for text in texts]
    columns = {gram: column for column, gram in enumerate(set(chain.from_iterable(grams)))}
    has = np.zeros((len(texts), len(columns)), np.float32)
    for row, own in enumerate(grams):
        has[row, [columns[gram] for gram in own]] = 1.0
    sizes, total = has.sum(1, dtype=np.float64), 0.0
    for start in range(0, len(texts), AT_ONCE):
        common = (has[start : start + AT_ONCE] @ has.T).astype(np.float64)
        union = sizes[start : start + AT_ONCE, None] + sizes - common
        total += float(np.divide(common, union, out=np.ones_like(common), where=union > 0).sum())
    # Each pair both ways, and each text with itself: 1.
    return (total - len(texts)) / (len(texts) * (len(texts) - 1))


def _of_source(texts: Sequence[Sequence[str]]) -> SourceDiversity:
    joined = list(chain.from_iterable(texts))
    found = diversity(texts) if any(len(text) > 1 for text in texts) else Diversity(*_of_words(Counter(joined)), 0.0)
    return SourceDiversity(*found, len(set(pairwise(joined))) / max(1, len(joined)))


def _of_words(words: Counter[str]) -> tuple[float, float]:
    """Return Ent and Dist-1 of counted words; 0 where there is none."""
    total = words.total()
    entropy = math.fsum(n / total * math.log(total / n) for n in words.values())
    return entropy, len(words) / max(1, total)
