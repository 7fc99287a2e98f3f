"""What a corpus is: splits of texts with counts, the tokenizer that they share, and what they are told apart by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import DataError
from ppl_text.core.vocabulary import Vocabulary

from .columns import chunks

if TYPE_CHECKING:
    from .tokenizers import Tokenizer

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """P(text) ∝ counts: texts, each with how often it occurs.

    ``texts`` are N texts, each of them once; ``counts`` is (N,) int64, at least 0 and summing to less
    than 2^62 (it is copied and made read-only). Words carry token counts; sentences, which count once and may
    repeat, are a :class:`~ppl_text.data.tables.SentenceSplit`.

    Raises :class:`DataError` for counts that are not of that form.

    Example::

        >>> Split(("the", "of"), np.array([3, 1])).probabilities().tolist()
        [0.75, 0.25]
    """

    texts: Sequence[str]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        given = np.asarray(self.counts)
        if given.shape != (len(self.texts),) or not (np.issubdtype(given.dtype, np.integer) or given.size == 0):
            raise DataError(
                f"a split needs one whole count for each of its {len(self.texts)} texts; "
                f"got shape {given.shape} of {given.dtype}"
            )
        if given.size and (given.min() < 0 or given.sum(dtype=np.float64) >= 2.0**62):
            raise DataError("the counts of a split must be 0 or more and sum to less than 2^62")
        counts = given.astype(np.int64)
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def total(self) -> int:
        """Sum of the counts: tokens for words, sentences for sentences."""
        return int(self.counts.sum())

    def probabilities(self) -> NDArray[np.float64]:
        """(N,) float64, counts / total; raises :class:`DataError` where the total is 0."""
        if not self.total:
            raise DataError("a split without any text has no probabilities")
        return self.counts / self.total


@dataclass(frozen=True, eq=False)
class Corpus:
    """Train, valid and test of one text, with the tokenizer that all three share.

    ``max_steps`` is the longest text of any split in scored tokens (EOS counted), ``notes`` say what
    was dropped while reading (to be printed), ``fingerprint`` is :func:`fingerprint` of splits and
    tokenizer: equal for equal data, so that a run can check that it is evaluated on its own. ``clean`` is what was
    done to every text before the tokenizer saw it, to be done to a text that is typed later. ``noun``: what a text is
    called ("word", "sentence"), ``symbol``: what it is made of ("letter", "token"); ``weighted``: whether the rows are
    types with counts, drawn from ∝ counts without end, rather than texts that count once and come by epochs.
    """

    name: str
    splits: Mapping[str, Split]
    tokenizer: Tokenizer
    max_steps: int
    notes: tuple[str, ...]
    fingerprint: str
    noun: str
    symbol: str
    weighted: bool
    clean: Callable[[str], str] = str

    @property
    def vocabulary(self) -> Vocabulary:
        """What models are built from."""
        return self.tokenizer.vocabulary


def fingerprint(splits: Mapping[str, Split], tokenizer: Tokenizer) -> str:
    """SHA-256 (hex) over the splits' names, texts and counts, in order, and the tokenizer."""
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    for name in sorted(splits):
        digest.update(f"\n{name} {split_fingerprint(splits[name])}".encode())
    return digest.hexdigest()


def split_fingerprint(split: Split) -> str:
    """SHA-256 (hex) over texts and counts, in their order.

    The lengths go in too: a text may hold any character, so that no separator is safe alone.
    """
    lengths = np.fromiter(map(len, split.texts), dtype=np.int64, count=len(split))
    digest = hashlib.sha256(lengths.astype("<i8").tobytes())
    digest.update(split.counts.astype("<i8").tobytes())
    for texts in chunks(split.texts):
        digest.update("".join(texts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
