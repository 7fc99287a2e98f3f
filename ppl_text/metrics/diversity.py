"""How varied texts are: entropy of their words, shares of different words and pairs of words; pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

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
    total = words.total()
    entropy = math.fsum(n / total * math.log(total / n) for n in words.values())
    return Diversity(entropy, len(words) / total, len(pairs) / pairs.total())
