"""Lines of UTF-8 files with their numbers, and the words of errors about them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppl_text.core.errors import DataError
from ppl_text.core.printing import quoted_path
from ppl_text.core.reading import open_regular

NOT_TEXT = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip (an .xlsx is one)",
    b"\xfd7zXZ": "xz",
    b"BZh9": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PAR1": "Parquet",
}
"""First bytes of files that are often taken for text, with the name of their format."""


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines of a UTF-8 file, blank ones too; raise :class:`DataError` with file and line."""
    try:
        with open_regular(path) as file:
            for number, raw in enumerate(file, 1):
                yield number, decoded(raw, path, number)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", path) from error


def decoded(raw: bytes, path: Path, line: int) -> str:
    """Return a line as text, without a byte-order mark; raise :class:`DataError` where it is not UTF-8 or has a NUL."""
    if line == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
        kind = next((kind for start, kind in NOT_TEXT.items() if raw.startswith(start)), None)
        if kind is not None:
            advice = "give it the ending .parquet" if kind == "Parquet" else "unpack it, or write it as csv or jsonl"
            raise DataError(f"this is no text but {kind}; {advice}", path)
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
