"""What a corpus is: splits of texts with counts, and the token ids of each side of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ppl_text.core.batch import Batch
from ppl_text.core.errors import DataError
from ppl_text.core.vocabulary import OWN_IDS, ReservedIds, Vocabulary

if TYPE_CHECKING:
    from .tokenizers import Tokenizer

SPLITS = ("train", "valid", "test")

CHUNK = 4096
"""Texts whose ids are held as Python lists at a time."""

Rows = NDArray[np.int64]
"""Numbers of rows of a split."""


@dataclass(frozen=True, eq=False)
class TokenTable:
    """N tokenised sentences, one after the other, without BOS and EOS.

    Args:
        ids: (n,) int32, their tokens.
        offsets: (N + 1,) int64, where each begins.
        reserved: the tokenizer's ids of padding, BOS and EOS.

    Example:
        >>> TokenTable.build([[5, 6], [7]]).lengths.tolist()
        [3, 2]
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    reserved: ReservedIds = OWN_IDS

    @classmethod
    def build(cls, sentences: Sequence[Sequence[int]], reserved: ReservedIds = OWN_IDS) -> TokenTable:
        """Store the ids of each sentence."""
        words = np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences))
        ids = np.fromiter(chain.from_iterable(sentences), dtype=np.int32, count=int(words.sum()))
        return cls.flat(ids, words, reserved)

    @classmethod
    def flat(cls, ids: NDArray[np.int32], words: NDArray[np.int64], reserved: ReservedIds = OWN_IDS) -> TokenTable:
        """Store N sentences of so many ``words`` (N,) each, whose ids (n,) stand one after the other."""
        return TokenTable(ids, np.concatenate([np.zeros(1, np.int64), words.cumsum()]), reserved)

    @classmethod
    def joined(cls, tables: Iterable[TokenTable], reserved: ReservedIds = OWN_IDS) -> TokenTable:
        """Store the sentences of some tables, one table after the other."""
        ids, words = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for table in tables:
            ids.append(table.ids)
            words.append(np.diff(table.offsets))
        return cls.flat(np.concatenate(ids), np.concatenate(words), reserved)

    def __post_init__(self) -> None:
        self.ids.setflags(write=False)
        self.offsets.setflags(write=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Scored tokens (N,) of each sentence, EOS counted."""
        return np.diff(self.offsets) + 1

    @property
    def scored_tokens(self) -> int:
        """Scored tokens of all sentences, Σ (|x| + 1): what a perplexity per token is divided by."""
        return len(self.ids) + len(self)

    def parts(self) -> Iterator[TokenTable]:
        """Yield the sentences in tables that are held in memory, one after the other: this one."""
        yield self

    def tokens(self, row: int) -> tuple[int, ...]:
        """Return the ids of one sentence."""
        return tuple(self.ids[self.offsets[row] : self.offsets[row + 1]].tolist())

    def take(self, rows: Rows) -> TokenTable:
        """Return the sentences ``rows`` (R,), in that order, as a table of their own."""
        starts, words = self.offsets[rows], self.lengths[rows] - 1
        ends = words.cumsum()
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - words), words)
        return TokenTable.flat(self.ids[places], words, self.reserved)

    def batch(self, rows: Rows, steps: int, weights: Tensor, size: int | None = None) -> Batch:
        """Return the sentences ``rows`` (R,) in T = ``steps`` with their weights (R,), filled up to ``size`` rows.

        ``decoder_inputs`` are BOS w_1 … w_n where ``tokens`` are w_1 … w_n EOS: EOS is never an input. A
        filler row is the empty sentence, EOS alone, with weight 0: valid, so that no number is NaN.
        """
        starts, words = self.offsets[rows], self.offsets[rows + 1]
        words -= starts
        if size is not None and size > len(rows):
            empty = np.zeros(size - len(rows), dtype=np.int64)
            starts, words = np.concatenate([starts, empty]), np.concatenate([words, empty])
            weights = torch.cat([weights, weights.new_zeros(len(empty))])
        places = np.arange(steps)
        # Beyond a sentence's end the next one's ids are read, and made padding.
        ids = self.ids if len(self.ids) else np.zeros(1, dtype=np.int32)
        read = ids.take(starts[:, None] + places, mode="clip")
        tokens = np.where(places < words[:, None], read, np.int64(self.reserved.pad))
        inputs = np.empty_like(tokens)
        inputs[:, 0], inputs[:, 1:] = self.reserved.bos, tokens[:, :-1]
        tokens[np.arange(len(words)), words] = self.reserved.eos
        words += 1
        return Batch(torch.from_numpy(tokens), torch.from_numpy(words), weights, torch.from_numpy(inputs))


class Side:
    """The N texts of one side of a split, and their ids under one tokenizer, encoded where they are first needed.

    Args:
        texts: as the tokenizer sees them.
        tokenizer: of these texts.
        table: their ids, where they are known already.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, table: TokenTable | None = None) -> None:
        if table is not None and len(table) != len(texts):
            raise ValueError(f"{len(texts)} texts have {len(table)} rows of ids")
        self.texts, self.tokenizer, self._table = texts, tokenizer, table

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def table(self) -> TokenTable:
        """Ids of all texts."""
        if self._table is None:
            parts = (TokenTable.build(self.tokenizer.encode(texts)) for texts in chunks(self.texts))
            self._table = TokenTable.joined(parts, self.tokenizer.vocabulary.ids)
        return self._table

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Scored tokens (N,) of each text, EOS counted; nothing is encoded where characters can be counted."""
        if self._table is None and (counted := self.tokenizer.count(self.texts)) is not None:
            return counted + 1
        return self.table.lengths

    @property
    def longest(self) -> int:
        """Scored tokens of the longest text, EOS counted; 0 without any."""
        return int(self.lengths.max(initial=0))

    def mass_by_length(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the scored lengths that occur, rising, and the sum of the ``counts`` (N,) of the texts of each."""
        present, places = np.unique(self.lengths, return_inverse=True)
        return present, np.bincount(places, weights=counts.astype(np.float64)).astype(np.float64)

    def take(self, rows: Rows) -> Side:
        """Return the texts ``rows`` (R,), in that order; they alone are encoded where no text has been yet."""
        table = None if self._table is None else self._table.take(rows)
        return Side(tuple(self.texts[i] for i in rows.tolist()), self.tokenizer, table)


class Long(NamedTuple):
    """How many texts (or pairs) were too long for a split: ``truncated`` ones stand in it, ``dropped`` ones do not."""

    truncated: int = 0
    dropped: int = 0


NONE_LONG = Long()


class Split:
    """P(text) ∝ counts: texts, each with how often it occurs; for a conditional model with a source beside each.

    Args:
        target: the N texts that are modelled.
        counts: (N,) whole numbers, at least 0 and summing to less than 2^62 (copied and made read-only); None for
            texts that count once each. Word types carry token counts and occur once; sentences may repeat.
        source: what stands beside each text; None for unconditional text.
        long: what became of texts that were too long.
        read: how many texts were read for it, those that were dropped counted; None: these N and the dropped ones.

    Raises:
        DataError: counts that are not of that form.

    Example:
        >>> from ppl_text.data.tokenizers import character_tokenizer
        >>> Split(Side(["ab", "b"], character_tokenizer("ab")), [3, 1]).probabilities().tolist()
        [0.75, 0.25]
    """

    def __init__(
        self,
        target: Side,
        counts: ArrayLike | None = None,
        source: Side | None = None,
        long: Long = NONE_LONG,
        read: int | None = None,
    ) -> None:
        if source is not None and len(source) != len(target):
            raise ValueError(f"{len(target)} texts have {len(source)} sources")
        self.target, self.source, self.long = target, source, long
        self.read = len(target) + long.dropped if read is None else read
        # Ones that take no memory.
        self.counts: NDArray[np.int64] = np.broadcast_to(np.int64(1), len(target))
        if counts is not None:
            self.counts = _checked_counts(np.asarray(counts), len(target))

    def __len__(self) -> int:
        return len(self.target)

    @property
    def texts(self) -> Sequence[str]:
        """The texts of the target side."""
        return self.target.texts

    @property
    def total(self) -> int:
        """Sum of the counts: tokens for words, sentences for sentences."""
        return int(self.counts.sum())

    def probabilities(self) -> NDArray[np.float64]:
        """(N,) float64, counts / total; raises :class:`DataError` where the total is 0."""
        if not self.total:
            raise DataError("a split without any text has no probabilities")
        return self.counts / self.total

    def take(self, rows: Rows) -> Split:
        """Return the texts ``rows`` (R,) with their counts and sources, in that order; ``long`` is as it was read."""
        source = None if self.source is None else self.source.take(rows)
        return Split(self.target.take(rows), self.counts[rows], source, self.long, self.read)

    def batch(
        self,
        rows: Rows,
        steps: int | None = None,
        weights: Tensor | None = None,
        size: int | None = None,
        source_steps: Sequence[int] = (),
    ) -> Batch:
        """Return the texts ``rows`` (R,) as one batch, with their sources where there are any.

        Args:
            rows: numbers of texts.
            steps: T; None for the longest text of the batch.
            weights: (R,); None for ones.
            size: rows of the batch; those beyond R are filler of weight 0.
            source_steps: rising widths, the first of which that holds the longest source of the batch is taken; none
                for just that longest source.
        """
        weights = torch.ones(len(rows)) if weights is None else weights
        table = self.target.table
        batch = table.batch(rows, int(table.lengths[rows].max()) if steps is None else steps, weights, size)
        if self.source is None:
            return batch
        longest = int(self.source.table.lengths[rows].max(initial=1))
        width = next((steps for steps in source_steps if steps >= longest), longest)
        return replace(batch, source=self.source.table.batch(rows, width, weights, size))

    def digests(self) -> Iterator[NDArray[np.uint64]]:
        """Yield a hash of the ids of each text, those of its source too: equal for rows that are scored alike.

        They come in parts, in the order of the rows.
        """
        tables = [side.table for side in (self.target, self.source) if side is not None]
        return (_digests_of(part) for part in zip(*(table.parts() for table in tables), strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over texts and counts, in their order, and the sources where there are any.

        The lengths go in too: a text may hold any character, so that no separator is safe alone.
        """
        digest = hashlib.sha256()
        for side, counts in ((self.target, self.counts), (self.source, None)):
            if side is None:
                continue
            for chunk in chunks(side.texts):
                digest.update(np.fromiter(map(len, chunk), dtype="<i8", count=len(chunk)).tobytes())
            for start in range(0, 0 if counts is None else len(counts), CHUNK):
                digest.update(self.counts[start : start + CHUNK].astype("<i8").tobytes())
            for chunk in chunks(side.texts):
                digest.update("".join(chunk).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def _checked_counts(given: NDArray[np.generic], texts: int) -> NDArray[np.int64]:
    if given.shape != (texts,) or not (np.issubdtype(given.dtype, np.integer) or given.size == 0):
        raise DataError(
            f"a split needs one whole count for each of its {texts} texts; got shape {given.shape} of {given.dtype}"
        )
    if given.size and (given.min() < 0 or given.sum(dtype=np.float64) >= 2.0**62):
        raise DataError("the counts of a split must be 0 or more and sum to less than 2^62")
    counts = given.astype(np.int64)
    counts.setflags(write=False)
    return counts


def _digests_of(tables: Sequence[TokenTable]) -> NDArray[np.uint64]:
    parts = zip(*(zip(table.offsets, table.offsets[1:], strict=False) for table in tables), strict=True)
    rows = (b"".join(_row_as_bytes(t, *ends) for t, ends in zip(tables, row, strict=True)) for row in parts)
    hashed = (int.from_bytes(hashlib.blake2b(row, digest_size=8).digest()) for row in rows)
    return np.fromiter(hashed, dtype=np.uint64, count=len(tables[0]))


def _row_as_bytes(table: TokenTable, start: int, end: int) -> bytes:
    # The reserved id of EOS ends a row, so that what belongs to a text and what to its source is plain.
    return table.ids[start:end].tobytes() + np.int32(table.reserved.eos).tobytes()


class Repeat(NamedTuple):
    """How many ``texts`` of ``split`` stand in ``other`` too, each counted as often as it occurs."""

    split: str
    other: str
    texts: int


class _Found:
    """The different digests of a split, how many rows have each, and which of them stand elsewhere."""

    def __init__(self, digests: Iterable[NDArray[np.uint64]]) -> None:
        together = np.concatenate([np.empty(0, np.uint64), *digests])
        self.values, self._rows = np.unique(together, return_counts=True)

    def rows_among(self, digests: Iterable[NDArray[np.uint64]]) -> int:
        """Return how many rows have a digest that is among those given."""
        seen = np.zeros(len(self.values), dtype=bool)
        for part in digests if len(self.values) else ():
            places = np.searchsorted(self.values, part).clip(max=len(self.values) - 1)
            seen[places[self.values[places] == part]] = True
        return int(self._rows[seen].sum())


def repeats(splits: Mapping[str, Split]) -> tuple[Repeat, ...]:
    """Return what stands in two splits, by the ids that are scored: of valid and test in train, of test in valid."""
    found = {name: _Found(splits[name].digests()) for name in ("valid", "test")}
    numbers = [
        *(Repeat(one, "train", found[one].rows_among(splits["train"].digests())) for one in ("valid", "test")),
        Repeat("test", "valid", found["test"].rows_among([found["valid"].values])),
    ]
    return tuple(repeat for repeat in numbers if repeat.texts)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Train, valid and test of one text, or other texts that a run is measured on; all splits share their tokenizers.

    Args:
        name: what it is called.
        splits: by name.
        notes: what was read, assumed and dropped, to be printed.
        noun: what a text is called ("word", "sentence").
        symbol: what it is made of ("letter", "token").
        weighted: whether the rows are types with counts, drawn from ∝ counts without end, rather than texts that
            count once and come by epochs.
        clean: what was done to every text before the tokenizer saw it, to be done to a text that is typed later.
        repeats: texts that stand in several splits; none of a weighted corpus, whose types stand in all of them.
    """

    name: str
    splits: Mapping[str, Split]
    notes: tuple[str, ...]
    noun: str
    symbol: str
    weighted: bool
    clean: Callable[[str], str] = str
    repeats: tuple[Repeat, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the texts."""
        return next(iter(self.splits.values())).target.tokenizer

    @property
    def source_tokenizer(self) -> Tokenizer | None:
        """That of the sources; None where there are none."""
        source = next(iter(self.splits.values())).source
        return None if source is None else source.tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """What models are built from."""
        source = self.source_tokenizer
        return replace(self.tokenizer.vocabulary, source=None if source is None else source.vocabulary)

    @cached_property
    def max_steps(self) -> int:
        """Length of the longest text of any split in scored tokens, EOS counted."""
        return max(max(1, split.target.longest) for split in self.splits.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over splits and tokenizers: equal for equal data, so that a run knows its own."""
        source = self.source_tokenizer
        digest = hashlib.sha256(self.tokenizer.fingerprint.encode())
        digest.update(b"" if source is None else f"\nsource {source.fingerprint}".encode())
        for name in sorted(self.splits):
            digest.update(f"\n{name} {self.splits[name].fingerprint}".encode())
        return digest.hexdigest()


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the texts in lists of at most :data:`CHUNK`."""
    return (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))


def found_among(texts: Sequence[str], wanted: Iterable[str]) -> frozenset[str]:
    """Return which of the ``wanted`` texts are among ``texts``, which need not be in memory."""
    asked = frozenset(wanted)
    return frozenset(chain.from_iterable(asked.intersection(chunk) for chunk in chunks(texts)))
