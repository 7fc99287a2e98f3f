"""Word lists: which words are kept, how they are divided into splits, how they become a corpus.

What the built-in list and a user's own list have in common; only how the words are read differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import compress
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import ConfigError, DataError, nearest

from .corpora import SPLITS, Corpus, Split, fingerprint
from .tokenizers import character_tokenizer


@dataclass(frozen=True)
class WordOptions:
    """How a word list is filtered and divided.

    ============ ================================================================================
    split        ``standard``: binomial thinning, each *token* goes to test with ``test_share``;
                 ``alternative``: that share of the *types*, whatever their frequency, is test only
    seed         of the division; test and valid have independent streams
    limit        keep the most frequent types only; None keeps all
    min_count    drop types that occur less often
    min_length,  drop types with fewer or more letters
    max_length
    test_share   share that goes to test
    valid_share  share of what then remains that goes to valid, drawn in the same way
    ============ ================================================================================
    """

    split: str = "standard"
    seed: int = 0
    limit: int | None = None
    min_count: int = 1
    min_length: int = 2
    max_length: int = 12
    test_share: float = 0.1
    valid_share: float = 0.05


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < 1


_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "split": (lambda v: v in ("standard", "alternative"), "'standard' or 'alternative'"),
    "seed": (lambda v: _whole(v, 0), "a whole number, 0 or more"),
    "limit": (lambda v: v is None or _whole(v, 1), "a whole number, 1 or more, or none for all types"),
    "min_count": (lambda v: _whole(v, 1), "a whole number, 1 or more"),
    "min_length": (lambda v: _whole(v, 1), "a whole number, 1 or more"),
    "max_length": (lambda v: _whole(v, 1), "a whole number, 1 or more"),
    "test_share": (_share, "a number between 0 and 1, both excluded"),
    "valid_share": (_share, "a number between 0 and 1, both excluded"),
}


def word_options(given: Mapping[str, Any], defaults: WordOptions) -> WordOptions:
    """Return ``defaults`` with what was given; raises :class:`ConfigError` with all faults at once."""
    known = [f.name for f in fields(WordOptions)]
    faults = [
        f"unknown option '{name}'{nearest(name, known)}; known: {', '.join(known)}"
        for name in given
        if name not in known
    ]
    merged = {**asdict(defaults), **{k: v for k, v in given.items() if k in known}}
    wrong = [name for name, value in merged.items() if not _VALID[name][0](value)]
    faults += [f"{name} must be {_VALID[name][1]}; got {merged[name]!r}" for name in wrong]
    if not {"min_length", "max_length"} & set(wrong) and merged["min_length"] > merged["max_length"]:
        faults.append(f"min_length {merged['min_length']} is greater than max_length {merged['max_length']}")
    if faults:
        raise ConfigError("corpus options: " + "; ".join(faults))
    return replace(defaults, **merged)


@dataclass
class Tally:
    """What became of the types that were read: ``removed`` maps a reason to a number of types."""

    read: int
    removed: dict[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """One line: how many were read, which filter removed how many."""
        parts = [f"{number:,} {reason}" for reason, number in self.removed.items() if number]
        return f"{self.read:,} types read" + (f", dropped: {', '.join(parts)}" if parts else ", none dropped")


def frequent(found: Mapping[str, int], options: WordOptions, tally: Tally) -> Split:
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
    return Split(tuple(texts[i] for i in kept), counts[kept])


def thin(words: Split, share: float, rng: np.random.Generator) -> tuple[Split, Split]:
    """Binomial thinning: every token is taken with probability ``share``; returns (rest, taken)."""
    taken = rng.binomial(words.counts, share)
    return _with_counts(words, words.counts - taken), _with_counts(words, taken)


def set_apart(words: Split, share: float, rng: np.random.Generator) -> tuple[Split, Split]:
    """Take ``share`` of the types with all their tokens, whatever their frequency; returns (rest, taken)."""
    chosen = np.zeros(len(words), dtype=bool)
    chosen[rng.permutation(len(words))[: round(share * len(words))]] = True
    return _with_counts(words, np.where(chosen, 0, words.counts)), _with_counts(
        words, np.where(chosen, words.counts, 0)
    )


def _with_counts(words: Split, counts: NDArray[np.int64]) -> Split:
    """Return the same order with other counts; types with none left drop out."""
    left = counts > 0
    return Split(tuple(compress(words.texts, left)), counts[left])


def divide(words: Split, options: WordOptions, wanted: Iterable[str] = ("test", "valid")) -> dict[str, Split]:
    """Draw test, then valid from what remains; the rest is train. Nothing is lost or counted twice.

    ``wanted`` leaves out a split that comes from elsewhere. Each split has its own stream of
    ``PCG64``, so that the test set is the same whatever becomes of valid. Raises :class:`DataError`
    where there are too few words for every split to get one.
    """
    take = {"standard": thin, "alternative": set_apart}[options.split]
    streams = np.random.SeedSequence(options.seed).spawn(2)
    rest, parts = words, {}
    for name, share, stream in zip(("test", "valid"), (options.test_share, options.valid_share), streams, strict=True):
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


def character_corpus(name: str, splits: Mapping[str, Split], alphabet: str, notes: Iterable[str]) -> Corpus:
    """Build a corpus whose tokens are the code points of ``alphabet``; the texts are in NFC."""
    tokenizer = character_tokenizer(alphabet)
    return Corpus(
        name=name,
        splits={key: splits[key] for key in SPLITS},
        tokenizer=tokenizer,
        max_steps=1 + max(max(map(len, split.texts)) for split in splits.values()),
        notes=tuple(notes),
        fingerprint=fingerprint(splits, tokenizer),
    )
