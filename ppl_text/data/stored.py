"""Splits that are not held in memory: token ids in files of their own, texts in the file that they came from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ppl_text.core.batch import Batch
from ppl_text.core.errors import DataError
from ppl_text.core.reading import open_regular
from ppl_text.core.vocabulary import ReservedIds
from ppl_text.core.watching import tell

from .corpus import CHUNK, Long, Rows, Side, Split, TokenTable
from .reading import clean
from .tokenizers import Tokenizer

ROWS = 2**16
"""Sentences of a part that is held in memory while all are gone through."""

IDS, OFFSETS, PLACES = "ids", "offsets", "places"
"""Files of a split: its tokens; where each sentence begins among them; where its line begins in the text file."""

KINDS: dict[str, Any] = {IDS: np.dtype("<i4"), OFFSETS: np.dtype("<i8"), PLACES: np.dtype("<i8")}
"""Numbers that they hold."""


class StoredArray:
    """Numbers in a file. Indexing reads a slice, or the rows of an array, into memory.

    They are read and not mapped: the pages of a map would count as memory of the process for as long as it is there.
    """

    def __init__(self, path: Path, kind: np.dtype[Any], length: int) -> None:
        self.path, self._kind, self._length = path, kind, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, chosen: slice | Rows) -> NDArray[Any]:
        if isinstance(chosen, slice):
            start, stop, _ = chosen.indices(self._length)
            return self.read(np.array([start]), np.array([max(start, stop)]))
        return self.read(*runs(chosen)) if len(chosen) else self.read(chosen, chosen)

    def read(self, starts: Rows, stops: Rows) -> NDArray[Any]:
        """Return the numbers of some stretches, one after the other."""
        found = np.empty(int((stops - starts).sum()), self._kind)
        size, at = self._kind.itemsize, 0
        view = memoryview(found.view(np.uint8).data)
        try:
            with open(self.path, "rb", buffering=0) as file:
                for start, length in zip((starts * size).tolist(), ((stops - starts) * size).tolist(), strict=True):
                    file.seek(start)
                    end = at + length
                    while at < end:
                        if not (read := file.readinto(view[at:end])):
                            raise DataError("the file has become shorter; remove its folder and start again", self.path)
                        at += read
        except OSError as error:
            raise DataError(f"the file cannot be read: {error.strerror}; start again", self.path) from error
        return found


def runs(rows: Rows) -> tuple[Rows, Rows]:
    """Return where stretches of rows that follow each other start and stop; there has to be a row.

    Example:
        >>> [ends.tolist() for ends in runs(np.array([4, 5, 6, 2, 9, 10]))]
        [[4, 2, 9], [7, 3, 11]]
    """
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    first, last = np.concatenate([[0], breaks]), np.concatenate([breaks, [len(rows)]]) - 1
    return rows[first], rows[last] + 1


class StoredTable(TokenTable):
    """N tokenised sentences in files, of which what is asked for is read."""

    def __init__(self, ids: StoredArray, offsets: StoredArray, reserved: ReservedIds) -> None:
        for name, value in (("_ids", ids), ("_offsets", offsets), ("reserved", reserved)):
            object.__setattr__(self, name, value)

    _ids: StoredArray
    _offsets: StoredArray

    @property
    def ids(self) -> NDArray[np.int32]:
        """All tokens, read anew."""
        return self._ids[:]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each sentence begins, read anew."""
        return self._offsets[:]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Scored tokens (N,) of each sentence, EOS counted: 8 bytes for each."""
        return np.diff(self.offsets) + 1

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def scored_tokens(self) -> int:
        """Scored tokens of all sentences."""
        return len(self._ids) + len(self)

    def parts(self) -> Iterator[TokenTable]:
        """Yield the sentences in tables of :data:`ROWS` that are held in memory."""
        for start in range(0, len(self), ROWS):
            yield self.take(np.arange(start, min(start + ROWS, len(self))))

    def tokens(self, row: int) -> tuple[int, ...]:
        """Return the ids of one sentence."""
        return self.take(np.array([row])).tokens(0)

    def take(self, rows: Rows) -> TokenTable:
        """Return the sentences ``rows`` (R,), in that order, as a table in memory."""
        if not len(rows):
            return TokenTable.build([], self.reserved)
        starts, stops = runs(rows)
        offsets = self._offsets.read(starts, stops + 1)
        ends = np.cumsum(stops + 1 - starts)
        # What lies between the last offset of a stretch and the first of the next is no sentence.
        words = np.delete(np.diff(offsets), ends[:-1] - 1)
        ids = (
            self._ids.read(offsets[np.concatenate([[0], ends[:-1]])], offsets[ends - 1]) if len(rows) else self.ids[:0]
        )
        return TokenTable.flat(ids, words, self.reserved)

    def batch(self, rows: Rows, steps: int, weights: Tensor, size: int | None = None) -> Batch:
        """Return the sentences ``rows`` (R,) as :meth:`TokenTable.batch` does."""
        return self.take(rows).batch(np.arange(len(rows)), steps, weights, size)


class TextFile:
    """A file of lines that texts are read from where they are asked for, as long as it is what it was.

    Args:
        path: of the file.
        line: makes a text of the bytes and the number of a line.

    Raises:
        DataError: it cannot be read.
    """

    def __init__(self, path: Path, line: Callable[[bytes, int], str]) -> None:
        self.path, self._line = path, line
        self.digest, self._mark = self._content()
        self.size = self._mark[0]

    def check(self) -> None:
        """Raise :class:`DataError` where the content has changed since; a new date alone does not matter."""
        try:
            with open_regular(self.path) as file:
                mark = _mark(file.fileno())
        except OSError as error:
            raise DataError(f"the file cannot be read any more: {error.strerror}; put it back", self.path) from error
        if mark == self._mark:
            return
        digest, self._mark = self._content()
        if digest != self.digest:
            raise DataError(
                "the file has changed since its sentences were read (data.stream reads texts from it when they are "
                "needed); put it back as it was, or start again with the new one",
                self.path,
            )

    def texts(self, places: NDArray[np.int64], cut: Callable[[str], str], *, lower: bool) -> list[str]:
        """Return the cleaned texts of the lines at some places; those at ~place are ``cut``."""
        self.check()
        found = []
        with open_regular(self.path) as file:
            for place in places.tolist():
                at = place if place >= 0 else ~place
                file.seek(at)
                # A byte-order mark is the first line's alone.
                text = clean(self._line(file.readline(), 1 if at == 0 else 2), lower)
                found.append(text if place >= 0 else cut(text))
        return found

    def _content(self) -> tuple[str, tuple[int, ...]]:
        """Return a SHA-256 (hex) of all bytes, and what tells whether the file is still the same."""
        digest = hashlib.sha256()
        try:
            with open_regular(self.path) as file:
                mark = _mark(file.fileno())
                while block := file.read(2**20):
                    digest.update(block)
                    tell(f"looking whether {self.path.name} is known", file.tell(), mark[0])
                if _mark(file.fileno()) != mark:
                    raise DataError("the file changes while it is read; wait until it is complete", self.path)
        except OSError as error:
            raise DataError(f"the file cannot be read: {error.strerror}", self.path) from error
        return digest.hexdigest(), mark


def _mark(descriptor: int) -> tuple[int, ...]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, found.st_ino


class FileTexts(Sequence[str]):
    """Texts of a split, each read from its line where it is asked for.

    Args:
        file: that holds the lines.
        places: where each begins; ~place where the text is truncated.
        tokenizer: by which it is truncated, to ``most`` tokens.
        lower: whether texts are in lower case.
    """

    def __init__(
        self, file: TextFile, places: StoredArray | Rows, tokenizer: Tokenizer, most: int | None, *, lower: bool
    ) -> None:
        self._file, self._places, self._tokenizer = file, places, tokenizer
        self._most, self._lower = most, lower

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self[start : start + CHUNK] for start in range(0, len(self), CHUNK))

    @overload
    def __getitem__(self, chosen: int) -> str: ...

    @overload
    def __getitem__(self, chosen: slice) -> list[str]: ...

    def __getitem__(self, chosen: int | slice) -> str | list[str]:
        if isinstance(chosen, slice):
            start, stop, step = chosen.indices(len(self))
            return self._read(self._places[start:stop])[::step] if step > 0 else list(self)[chosen]
        row = range(len(self))[chosen]
        return self._read(self._places[row : row + 1])[0]

    def take(self, rows: Rows) -> FileTexts:
        """Return the texts ``rows`` (R,), still to be read."""
        return FileTexts(self._file, self._places[rows], self._tokenizer, self._most, lower=self._lower)

    def _read(self, places: NDArray[np.int64]) -> list[str]:
        return self._file.texts(places, self._cut, lower=self._lower)

    def _cut(self, text: str) -> str:
        return text if self._most is None else self._tokenizer.prefix(text, self._most)


class StoredSide(Side):
    """The texts of a split that are not held in memory, nor are their ids; each counts once.

    Args:
        texts: to be read.
        tokenizer: of these texts.
        table: their ids.
        by_length: how many have each scored length, which rises.
    """

    def __init__(
        self, texts: FileTexts, tokenizer: Tokenizer, table: StoredTable, by_length: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__(texts, tokenizer, table)
        self._stored, self._by_length = texts, tuple(by_length)

    @property
    def longest(self) -> int:
        """Scored tokens of the longest text, EOS counted."""
        return self._by_length[-1][0]

    def mass_by_length(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the scored lengths that occur, rising, and how many texts have each."""
        present, numbers = zip(*self._by_length, strict=True)
        return np.array(present), np.array(numbers, np.float64)

    def take(self, rows: Rows) -> Side:
        """Return the texts ``rows`` (R,), in that order, with their ids in memory."""
        return Side(self._stored.take(rows), self.tokenizer, self.table.take(rows))


class StoredSplit(Split):
    """A split on disk, whose fingerprint is known."""

    def __init__(self, target: StoredSide, long: Long, fingerprint: str) -> None:
        super().__init__(target, long=long)
        self._fingerprint = fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over its texts, as that of any split."""
        return self._fingerprint


class _File:
    """A file of numbers that is being written, with its SHA-256."""

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self.path, self._kind = path, kind
        self._file, self._digest = open(path, "xb"), hashlib.sha256()  # noqa: SIM115 - closed with the others

    def add(self, numbers: NDArray[Any]) -> None:
        data = numbers.astype(self._kind).tobytes()
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> str:
        """Put all on the disk and return its digest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        # What is left to be written may find no room, and is not wanted.
        with suppress(OSError):
            self._file.close()


@dataclass(frozen=True)
class Written:
    """What was written of a split: numbers of sentences and tokens, sentences by length, digests by file."""

    rows: int
    tokens: int
    by_length: tuple[tuple[int, int], ...]
    digests: dict[str, str]


class SplitWriter:
    """Writes the files of a split, sentence by sentence; raises ``OSError`` where the machine refuses."""

    def __init__(self, folder: Path, split: str) -> None:
        self._files = {name: _File(file_of(folder, split, name), kind) for name, kind in KINDS.items()}
        self._rows = self._tokens = 0
        self._lengths = np.zeros(0, np.int64)

    def add(self, places: Iterable[int], ids: Iterable[Sequence[int]]) -> None:
        """Write the ids of some sentences, and where their lines begin."""
        table = TokenTable.build(list(ids))
        if not len(table):
            return
        self._files[IDS].add(table.ids)
        self._files[OFFSETS].add(table.offsets[bool(self._rows) :] + self._tokens)
        self._files[PLACES].add(np.fromiter(places, np.int64, count=len(table)))
        self._rows += len(table)
        self._tokens += len(table.ids)
        found = np.bincount(table.lengths, minlength=len(self._lengths))
        found[: len(self._lengths)] += self._lengths
        self._lengths = found

    def close(self) -> Written:
        """Put all on the disk and say what it is."""
        present = np.flatnonzero(self._lengths)
        by_length = tuple(zip(present.tolist(), self._lengths[present].tolist(), strict=True))
        digests = {name: file.close() for name, file in self._files.items()}
        return Written(self._rows, self._tokens, by_length, digests)

    def abandon(self) -> None:
        """Let go of the files, whatever is in them."""
        for file in self._files.values():
            file.abandon()


def file_of(folder: Path, split: str, name: str) -> Path:
    """Return the path of a file of a split."""
    return folder / f"{split}.{name}"


def arrays_of(folder: Path, split: str, rows: int, tokens: int) -> dict[str, StoredArray]:
    """Return the numbers of a split by the name of their file."""
    lengths = {IDS: tokens, OFFSETS: rows + 1, PLACES: rows}
    return {name: StoredArray(file_of(folder, split, name), KINDS[name], lengths[name]) for name in KINDS}
