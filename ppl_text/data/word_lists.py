"""Word lists: which words are kept, how they are divided into splits, how they become a corpus.

What the built-in list and a user's own list have in common; only how the words are read differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import DataError

from .corpus import SPLITS, Corpus, Side, Split
from .options import WordListOptions
from .tokenizers import character_tokenizer


@dataclass(frozen=True, eq=False)
class WordCounts:
    """Word types, each once, with how often each occurs: (N,) int64."""

    texts: tuple[str, ...]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def total(self) -> int:
        """Sum of the counts."""
        return int(self.counts.sum())


@dataclass
class Tally:
    """What became of the types that were read: ``removed`` maps a reason to a number of types."""

    read: int
    removed: dict[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """One line: how many were read, which filter removed how many."""
        parts = [f"{number:,} {reason}" for reason, number in self.removed.items() if number]
        return f"{self.read:,} types read" + (f", dropped: {', '.join(parts)}" if parts else ", none dropped")


def frequent(found: Mapping[str, int], options: WordListOptions, tally: Tally) -> WordCounts:
    """Filter types by length, count and rank; most frequent first, ties in alphabetical order.

    The order does not depend on that of ``found``. ``tally`` is told what each filter removed.
    """
    texts = sorted(found)
    counts = np.fromiter(map(found.__getitem__, texts), dtype=np.int64, count=len(texts))
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    sized = (lengths >= options.min_length) & (lengths <= options.max_length)
    kept = np.flatnonzero(sized & (counts >= options.min_count))
    kept = kept[np.argsort(-counts[kept], kind="stable")]
    tally.removed[f"with fewer than {options.min_length} or more than {options.max_length} letters"] = int(
        (~sized).sum()
    )
    tally.removed[f"with a count below {options.min_count}"] = int((sized & (counts < options.min_count)).sum())
    if options.limit is not None:
        tally.removed[f"beyond the {options.limit:,} most frequent"] = max(0, len(kept) - options.limit)
    kept = kept[: options.limit]
    return WordCounts(tuple(texts[i] for i in kept), counts[kept])


def thin(words: WordCounts, share: float, rng: np.random.Generator) -> tuple[WordCounts, WordCounts]:
    """Binomial thinning: every token is taken with probability ``share``; returns (rest, taken)."""
    taken = rng.binomial(words.counts, share)
    return _with_counts(words, words.counts - taken), _with_counts(words, taken)


def set_apart(words: WordCounts, share: float, rng: np.random.Generator) -> tuple[WordCounts, WordCounts]:
    """Take ``share`` of the types with all their tokens, whatever their frequency; returns (rest, taken)."""
    chosen = np.zeros(len(words), dtype=bool)
    chosen[rng.permutation(len(words))[: round(share * len(words))]] = True
    return _with_counts(words, np.where(chosen, 0, words.counts)), _with_counts(
        words, np.where(chosen, words.counts, 0)
    )


def _with_counts(words: WordCounts, counts: NDArray[np.int64]) -> WordCounts:
    """Return the same order with other counts; types with none left drop out."""
    left = counts > 0
    return WordCounts(tuple(compress(words.texts, left)), counts[left])


def divide(
    words: WordCounts, options: WordListOptions, wanted: Iterable[str] = ("test", "valid")
) -> dict[str, WordCounts]:
    """Draw test, then valid from what remains; the rest is train. Nothing is lost or counted twice.

    ``wanted`` leaves out a split that comes from elsewhere. Each split has its own stream of
    ``PCG64``, so that the test set is the same whatever becomes of valid. Raises :class:`DataError`
    where there are too few words for every split to get one.
    """
    take = {"standard": thin, "alternative": set_apart}[options.split]
    streams = np.random.SeedSequence(options.seed).spawn(2)
    most = options.test_tokens or words.total
    shares = min(options.test_share, most / max(1, words.total)), options.valid_share
    rest, parts = words, {}
    for name, share, stream in zip(("test", "valid"), shares, streams, strict=True):
        if name in set(wanted):
            rest, parts[name] = take(rest, share, np.random.Generator(np.random.PCG64(stream)))
    parts["train"] = rest
    empty = [name for name in SPLITS if name in parts and not len(parts[name])]
    if empty:
        raise DataError(
            f"too few words to divide: {len(words):,} types ({words.total:,} tokens) leave none for "
            f"{' and '.join(empty)} with split={options.split}, test_share={options.test_share:g}, "
            f"valid_share={options.valid_share:g}, seed={options.seed}; give more words or larger shares, "
            "or a folder with train.txt, valid.txt and test.txt"
        )
    return parts


def character_corpus(name: str, parts: Mapping[str, WordCounts], alphabet: str, notes: Iterable[str]) -> Corpus:
    """Build a corpus whose tokens are the code points of ``alphabet``; the texts are in NFC."""
    tokenizer = character_tokenizer(alphabet)
    return Corpus(
        name=name,
        splits={split: Split(Side(parts[split].texts, tokenizer), parts[split].counts) for split in SPLITS},
        notes=tuple(notes),
        noun="word",
        symbol="letter",
        weighted=True,
    )
