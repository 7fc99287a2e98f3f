"""What a word model is worth beside simple references."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.corpora import Corpus
from ..metrics.words import entropy, letter_cross_entropy, share_in_list, share_unique
from .generation import Generative, sample_texts


@dataclass(frozen=True)
class WordReferences:
    """What bounds are compared with; nats per word, EOS scored.

    ``letters``: cross-entropy of an i.i.d. letter model (letters and EOS, maximum likelihood on train);
    ``entropy``: of the split itself, below which no model's cross-entropy can fall.
    """

    letters: float
    entropy: float


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
    """References for a split of a word list."""
    data = corpus.splits[split]
    return WordReferences(letter_cross_entropy(corpus.splits["train"], data), entropy(data.counts))


def word_samples(model: Generative, corpus: Corpus, n: int, seed: int) -> WordSamples:
    """Draw n words; the step limit is twice the longest word of the corpus, so that cutting is rare."""
    samples = sample_texts(model, corpus.tokenizer, n, steps=2 * corpus.max_steps, seed=seed)
    known = frozenset(corpus.splits["train"].texts)
    return WordSamples(
        drawn=n,
        in_list=share_in_list(samples.texts, known),
        unique=share_unique(samples.texts),
        unfinished=samples.unfinished,
        words=tuple(samples.texts),
    )
