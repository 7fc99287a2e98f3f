"""BLEU of texts beside one reference each: by words as ``nltk`` counts them, and sacreBLEU; in per cent."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

from nltk.translate.bleu_score import corpus_bleu
from sacrebleu.metrics import BLEU

from ppl_text.core.errors import DataError

WEIGHTS = ((1.0,), (0.5, 0.5), (0.34, 0.33, 0.33), (0.25, 0.25, 0.25, 0.25))
"""What the logarithms of the n-gram precisions count in BLEU-1, …, BLEU-4 (specification 3D)."""


class Bleu(NamedTuple):
    """BLEU-1 to BLEU-4 without smoothing, and sacreBLEU; per cent, of all texts together."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    sacrebleu: float


def bleu(texts: Sequence[str], references: Sequence[str]) -> Bleu:
    """Compare texts with one reference each.

    BLEU-n = 100 · BP · exp(Σ_i w_i ln p_i), with p_i the share of the i-grams of all texts that their references have
    (each as often as there at most), BP = min(1, exp(1 - r/c)) for r words of the references and c of the texts, and w
    the :data:`WEIGHTS`. Words stand between white space. Nothing is smoothed: where no text shares an n-gram of some
    length with its reference, the figure is 0 (to a hundred digits). To ``nltk`` a text of less than i words has one
    i-gram, which no reference has, so that texts with such ones among them stay below 100. Source: Papineni et al.
    2002, "BLEU: a Method for Automatic Evaluation of Machine Translation".

    sacreBLEU is BLEU-4 of the texts as strings, with a tokenizer and a smoothing of its own (:func:`signature`).

    Raises :class:`DataError` for no text, and for unequal numbers of texts and references.

    Example::

        >>> round(bleu(["the cat sat"], ["the cat slept"]).bleu2, 2)
        57.74
    """
    if not texts or len(texts) != len(references):
        raise DataError(f"BLEU compares one text or more with as many references; got {len(texts)}, {len(references)}")
    words = [text.split() for text in texts]
    with warnings.catch_warnings():
        # nltk warns of every precision of 0.
        warnings.simplefilter("ignore", UserWarning)
        found = corpus_bleu([[reference.split()] for reference in references], words, weights=list(WEIGHTS))
    of_strings = _SACRE.corpus_score(list(texts), [list(references)]).score
    return Bleu._make([*(100.0 * share for share in found), of_strings])


def signature() -> str:
    """Return what sacreBLEU is to be quoted with: its tokenizer, smoothing and version."""
    _SACRE.corpus_score(["a"], [["a"]])
    return str(_SACRE.get_signature())


# Texts that look tokenised, as those of words do, are no mistake.
_SACRE = BLEU(force=True)
