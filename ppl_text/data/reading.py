"""Words and counts out of one file: ``word<TAB>count`` lines, or plain text whose words are counted."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ppl_text.core.errors import DataError

LARGEST_COUNT = 10**15
"""A count above this is taken for a mistake; the counts of a whole list must fit into 62 bits."""


@dataclass
class Reading:
    """What one file holds: ``counts`` by word (lower case, NFC, letters only) and what was passed over.

    ``listed`` says whether the file was a list with counts, ``blank`` counts lines without text,
    ``merged`` entries whose word came before, ``not_letters`` are the entries that are no words.
    """

    counts: Counter[str] = field(default_factory=Counter)
    listed: bool = False
    blank: int = 0
    merged: int = 0
    not_letters: set[str] = field(default_factory=set)

    @property
    def types(self) -> int:
        """Types that were read, those that are not words counted."""
        return len(self.counts) + len(self.not_letters)


class _SpaceForNonLetters(dict[int, str]):
    """A table for ``str.translate``: letters and combining marks stay, all else parts words.

    Marks must stay, because in many scripts a word is not made of letters alone (vowel signs of
    Devanagari), and not every accent has a composed form.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if character.isalpha() or _is_mark(character) else " "
        return self[code]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def is_word(text: str) -> bool:
    """Whether a text is a letter followed by letters and combining marks only."""
    return text.isalpha() or (text[:1].isalpha() and all(c.isalpha() or _is_mark(c) for c in text))


def read_words(path: Path) -> Reading:
    """Count the words of a file; raises :class:`DataError` with file and line for what cannot be read."""
    reading = Reading()
    for _, word, count in entries(path, reading):
        if not is_word(word):
            reading.not_letters.add(word)
            continue
        reading.merged += word in reading.counts
        reading.counts[word] += count
    if reading.counts.total() >= 2**62:
        raise DataError("the counts sum to more than 2^62; divide all of them by the same number", path)
    return reading


def entries(path: Path, reading: Reading | None = None) -> Iterator[tuple[int, str, int]]:
    """Each ``(line number, word, count)`` of a file, lower-cased and in NFC.

    A ``.tsv``, or a file whose first line with text has a tab, holds ``word<TAB>count`` lines; anything
    else is plain text, in which whatever is neither letter nor combining mark parts words ("don't"
    gives "don" and "t").
    """
    reading = Reading() if reading is None else reading
    lines = _text_lines(path, reading)
    first = next(lines, None)
    if first is None:
        raise DataError(
            "the file is empty; expected one 'word<TAB>count' on each line, or plain text whose words are counted",
            path,
        )
    lines = chain([first], lines)
    reading.listed = path.suffix.lower() == ".tsv" or "\t" in first[1]
    if reading.listed:
        for number, line in lines:
            word, count = _counted_word(line, path, number)
            yield number, _normal(word), count
    else:
        table = _SpaceForNonLetters()
        for number, line in lines:
            for word in _normal(line).translate(table).split():
                yield number, word, 1


def _normal(text: str) -> str:
    # Lower case first: of J and j with a caron, only the small one has a composed form.
    return unicodedata.normalize("NFC", text.lower())


def _text_lines(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank, without surrounding space; the blank ones are counted."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                text = decoded(raw, path, number).strip()
                if text:
                    yield number, text
                else:
                    reading.blank += 1
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", path) from error


def decoded(raw: bytes, path: Path, line: int) -> str:
    """One line as text, without a byte-order mark; raises :class:`DataError` for what is not UTF-8 or has a NUL."""
    if line == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
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
            f"iconv -f {encoding} -t UTF-8 '{path.name}' > new.txt (-f names the encoding that it has)",
            path,
            line,
        )
    return text


def _counted_word(line: str, path: Path, number: int) -> tuple[str, int]:
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) != 2:
        raise DataError(
            f"expected two columns, 'word<TAB>count'; got {len(columns)}: {shortened(line)}; "
            "plain text belongs into a .txt whose first line has no tab",
            path,
            number,
        )
    word, count = columns
    if not re.fullmatch("[0-9]+", count) or not 0 < int(count[:20]) <= LARGEST_COUNT:
        header = "; remove the line if it is a heading" if not any(c.isdigit() for c in count) else ""
        raise DataError(
            f"the count must be a whole number from 1 to 10^15; got {shortened(count)} for the word "
            f"{shortened(word)}{header}",
            path,
            number,
        )
    return word, int(count)


def shortened(text: str, width: int = 60) -> str:
    """A text in quotes, cut where it is long."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")
