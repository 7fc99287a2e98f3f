"""Flat columns that may be larger than memory: numbers, or texts, one after the other, with offsets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ppl_text.core.atomic import refused

MEMORY = 64 * 2**20
"""Bytes of one column that are kept in memory; a longer column lives in a file and is memory-mapped."""

CHUNK = 4096
"""Texts that are held as Python strings at a time."""


class Spool:
    """One-dimensional numbers that grow at the end; beyond :data:`MEMORY` bytes they move to a temporary file.

    The file has no name (nothing is left behind, however the process ends) and lies in ``$TMPDIR``, or else in
    ``/var/tmp``, because ``/tmp`` may itself be memory. A disk that refuses raises :class:`CheckpointError`.
    """

    def __init__(self, dtype: DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._parts: list[NDArray[Any]] = []
        self._held = self._written = 0
        self._file: IO[bytes] | None = None

    def extend(self, values: Any) -> None:
        """Append a copy of the numbers (n,)."""
        part = np.array(values, dtype=self._dtype)
        self._parts.append(part)
        self._held += part.nbytes
        if self._held > MEMORY:
            self._flush()

    def column(self) -> NDArray[Any]:
        """All numbers (N,), read-only; nothing can be appended after."""
        if self._file is None:
            numbers = np.concatenate([np.empty(0, self._dtype), *self._parts])
            numbers.setflags(write=False)
        else:
            self._flush()
            numbers = np.memmap(self._file, dtype=self._dtype, mode="r", shape=(self._written // self._dtype.itemsize,))
            self._file.close()
        self._parts = []
        return numbers

    def _flush(self) -> None:
        folder = scratch_folder()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the column grows
            for part in self._parts:
                self._file.write(part.data)
            self._file.flush()
        except OSError as error:
            raise refused(folder / "(temporary file of the corpus)", error) from error
        self._written += self._held
        self._parts, self._held = [], 0


def scratch_folder() -> Path:
    """Where columns too long for memory go."""
    if not os.environ.get("TMPDIR") and os.access("/var/tmp", os.W_OK):  # noqa: S108 - files without a name
        return Path("/var/tmp")  # noqa: S108
    return Path(tempfile.gettempdir())


class TextColumn(Sequence[str]):
    """N texts as one column of UTF-8 bytes: a text is a Python string only while it is looked at.

    ``data`` (bytes,) uint8 holds the texts without separators, ``offsets`` (N + 1,) int64 where each begins. A
    slice is a tuple of strings.

    Example::

        >>> column = TextColumn.of(["ab", "", "é"])
        >>> len(column), column[2], column[:2]
        (3, 'é', ('ab', ''))
    """

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self._data, self._offsets = data, offsets

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextColumn:
        """Store the texts, :data:`CHUNK` of them at a time."""
        builder = TextBuilder()
        builder.extend(texts)
        return builder.column()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        place = range(len(self))[index]
        return self._data[self._offsets[place] : self._offsets[place + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self._span(start, min(start + CHUNK, len(self)))

    def _span(self, start: int, end: int) -> Iterator[str]:
        """Texts start … end − 1 from one read of the column."""
        edges = (self._offsets[start : end + 1] - self._offsets[start]).tolist()
        data = self._data[self._offsets[start] : self._offsets[end]].tobytes()
        return (data[a:b].decode() for a, b in pairwise(edges))


class TextBuilder:
    """A :class:`TextColumn` that grows; only :data:`CHUNK` texts are held as Python strings."""

    def __init__(self) -> None:
        self._data, self._offsets = Spool(np.uint8), Spool(np.int64)
        self._offsets.extend([0])
        self._waiting: list[bytes] = []
        self._stored = self._bytes = 0

    def __len__(self) -> int:
        return self._stored + len(self._waiting)

    def append(self, text: str) -> None:
        """Append one text."""
        self._waiting.append(text.encode())
        if len(self._waiting) >= CHUNK:
            self._store()

    def extend(self, texts: Iterable[str]) -> None:
        """Append some texts."""
        for text in texts:
            self.append(text)

    def column(self) -> TextColumn:
        """What was appended."""
        self._store()
        return TextColumn(self._data.column(), self._offsets.column())

    def _store(self) -> None:
        lengths = np.fromiter(map(len, self._waiting), dtype=np.int64, count=len(self._waiting))
        self._offsets.extend(self._bytes + np.cumsum(lengths))
        self._data.extend(np.frombuffer(b"".join(self._waiting), dtype=np.uint8))
        self._bytes += int(lengths.sum())
        self._stored += len(self._waiting)
        self._waiting = []


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of at most :data:`CHUNK` texts each."""
    left = iter(texts)
    while chunk := list(islice(left, CHUNK)):
        yield chunk
