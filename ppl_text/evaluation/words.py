"""What a word model is worth beside simple references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.corpus import Corpus
from ..data.tables import SentenceSplit, TokenTable
from ..metrics.words import entropy, letter_cross_entropy, share_in_list, share_unique
from .generation import sample_texts


@dataclass(frozen=True)
class WordReferences:
    """What bounds are compared with; nats per word (or sentence: ``unit``), EOS scored.

    ``letters``: cross-entropy of an i.i.d. letter model (letters and EOS, maximum likelihood on train), for sentences
    of an i.i.d. token model; ``entropy``: of the split itself, below which no model's cross-entropy can fall.
    """

    letters: float
    entropy: float
    unit: str = "word"

    @property
    def symbol(self) -> str:
        """What a text is made of."""
        return "letter" if self.unit == "word" else "token"


@dataclass(frozen=True)
class WordSamples:
    """Words drawn from the prior: how many, the share of them that are words of the training list, the share
    of distinct ones, how many were cut off at the step limit, and the words themselves.
    """

    drawn: int
    in_list: float
    unique: float
    unfinished: int
    words: tuple[str, ...]


def word_references(corpus: Corpus, split: str) -> WordReferences:
    """References for a split of a word list, or of sentences."""
    train, data = corpus.splits["train"], corpus.splits[split]
    if isinstance(train, SentenceSplit) and isinstance(data, SentenceSplit):
        return WordReferences(token_cross_entropy(train.table, data.table), entropy(data.counts), unit="sentence")
    return WordReferences(letter_cross_entropy(corpus.splits["train"], data), entropy(data.counts))


def token_cross_entropy(train: TokenTable, data: TokenTable) -> float:
    """-(1/N) Σ_sentences ln p(x), nats per sentence, p(x) = Π_i p(x_i) · p(EOS) with the frequencies of ``train``.

    In closed form from the counts of the tokens (specification 5.i); infinite where ``train`` lacks a token of
    ``data``.
    """
    size = 1 + max(int(table.ids.max(initial=0)) for table in (train, data))
    of_train, of_data = (np.bincount(table.ids, minlength=size).astype(float) for table in (train, data))
    total = of_train.sum() + len(train)
    used = of_data > 0
    with np.errstate(divide="ignore"):
        log_p = np.log(of_train[used] / total)
    return float(-(of_data[used] @ log_p) / len(data) - np.log(len(train) / total))


def word_samples(model: Any, guide: Any, corpus: Corpus, n: int, seed: int) -> WordSamples:
    """Draw n words; the step limit is twice the longest word of the corpus, so that cutting is rare."""
    samples = sample_texts(model, corpus.tokenizer, n, steps=2 * corpus.max_steps, seed=seed, guide=guide)
    known = frozenset(corpus.splits["train"].texts)
    return WordSamples(
        drawn=n,
        in_list=share_in_list(samples.texts, known),
        unique=share_unique(samples.texts),
        unfinished=samples.unfinished,
        words=tuple(samples.texts),
    )
