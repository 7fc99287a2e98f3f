"""Lines of UTF-8 files with their numbers, and the words of errors about them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ppl_text.core.errors import DataError
from ppl_text.core.printing import quoted_path
from ppl_text.core.reading import open_regular

ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip (an .xlsx is one)",
    b"PK\x05\x06": "zip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x04\x22\x4d\x18": "lz4",
}
"""First bytes of files that hold others, or more than they are long, with the name of their format."""

TAR = 257, b"ustar"
"""Where a tar file says what it is."""

UNPACK = "unpack it, or write it as csv or jsonl"


def packed(start: bytes) -> str:
    """Return the format of an archive by the first bytes of a file, "" where it is none."""
    place, mark = TAR
    if start[place : place + len(mark)] == mark:
        return "tar"
    # A text may begin with BZh; what is packed has the size of its blocks behind it, and a mark.
    found = next((kind for mark, kind in ARCHIVES.items() if start.startswith(mark)), "")
    return "" if found == "bzip2" and start[4:10] not in (b"1AY&SY", b"\x17rE8P\x90") else found


def refuse_packed(path: Path) -> None:
    """Raise :class:`DataError` for a file that is an archive by its content, whatever its name says."""
    try:
        with open_regular(path) as file:
            kind = packed(file.read(512))
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", path) from error
    if kind:
        raise DataError(f"this is no text but {kind}; {UNPACK}", path)


class Line(NamedTuple):
    """A line as it stands in a file: its number from 1, the byte where it begins, and its bytes, line end too."""

    number: int
    place: int
    raw: bytes


def raw_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file, blank ones too; raise :class:`DataError` where it cannot be read or is packed."""
    place = 0
    try:
        refuse_packed(path)
        with open_regular(path) as file:
            for number, raw in enumerate(file, 1):
                yield Line(number, place, raw)
                place += len(raw)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", path) from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines of a UTF-8 file, blank ones too; raise :class:`DataError` with file and line."""
    return ((number, decoded(raw, path, number)) for number, _, raw in raw_lines(path))


def decoded(raw: bytes, path: Path, line: int) -> str:
    """Return a line as text, without a byte-order mark; raise :class:`DataError` where it is not UTF-8 or has a NUL."""
    if line == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
        if raw.startswith(b"PAR1"):
            raise DataError("this is no text but Parquet; give it the ending .parquet", path)
    wide = line == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "UTF-16" if wide or b"\0" in raw else "ISO-8859-1"
    try:
        text = raw.decode("utf-8")
        found = "a NUL byte" if "\0" in text else ""
    except UnicodeDecodeError as error:
        text, found = "", f"byte 0x{raw[error.start]:02X} (byte {error.start + 1} of the line)"
    if found:
        raise DataError(
            f"not UTF-8 text: {found}; convert the file first, for example with "
            f"iconv -f {encoding} -t UTF-8 {quoted_path(path.name)} > new.txt (-f names the encoding that it has)",
            path,
            line,
        )
    return text


def fault(where: object, unit: str, number: int, message: str) -> DataError:
    """Return the error for a numbered line or row of ``where``."""
    if unit == "line":
        return DataError(message, where, number)
    return DataError(f"{unit} {number}: {message}", where)


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return names in a row, with "and n more" for those beyond ``most``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
