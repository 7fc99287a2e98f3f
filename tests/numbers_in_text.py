"""Compare texts with numbers in them: words letter by letter, numbers within what their printing promises.

A printed number is a rounded one. Two computations of the same quantity on different processors differ in their last
binary digits, which now and then moves a printed digit by one; two computations with different draws differ by their
standard errors, which stand behind ``±`` or in a column whose heading ends with ``s.e.``. So

- a number with decimals may differ by one unit of its last decimal (of the coarser of the two), and by ``sigmas``
  standard errors where both texts print one;
- a standard error, itself an estimate, may also be up to twice the other, where ``sigmas`` is positive;
- a number without decimals is a count, a size or a name: equal, unless a standard error belongs to it;
- the width of a column follows the numbers in it: runs of blanks and of dashes count as one.
"""

from __future__ import annotations

import math
import re
from itertools import zip_longest
from typing import NamedTuple

NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w|\.\w)")
"""``12``, ``-0.50``, ``1,234.5``, ``3e-05``; not the digits of ``kn3`` or ``2.13.0``, which are words."""


class Piece(NamedTuple):
    """A number as it is printed, with the standard error that belongs to it, or the words between two numbers."""

    text: str
    value: float | None = None
    unit: float = 0.0
    error: float | None = None
    is_error: bool = False


def assert_same_text(found: str, expected: str, *, sigmas: float = 0.0) -> None:
    """Fail where two texts differ in words, or in numbers beyond their rounding and ``sigmas`` standard errors."""
    wrong = differences(found, expected, sigmas=sigmas)
    assert not wrong, "\n".join(wrong)


def differences(found: str, expected: str, *, sigmas: float = 0.0) -> list[str]:
    """Return a message for each line, blank ones not counted, in which :func:`assert_same_text` finds a difference."""
    lines = zip_longest(_lines(found), _lines(expected), fillvalue=[])
    return [
        f"line {n}: found {_joined(mine)!r}, expected {_joined(theirs)!r}"
        for n, (mine, theirs) in enumerate(lines, 1)
        if len(mine) != len(theirs) or not all(_agree(a, b, sigmas) for a, b in zip(mine, theirs, strict=True))
    ]


def _joined(line: list[Piece]) -> str:
    return "".join(piece.text for piece in line)


def _agree(a: Piece, b: Piece, sigmas: float) -> bool:
    if a.value is None or b.value is None:
        return a.text == b.text
    allowed = max(a.unit, b.unit)
    if a.error is not None and b.error is not None:
        allowed += sigmas * math.hypot(a.error, b.error)
    if sigmas and a.is_error and b.is_error:
        allowed += max(a.value, b.value) / 2
    # Decimals are not exact in binary: a difference of one unit may come out a little above it.
    return abs(a.value - b.value) <= allowed + 1e-12 * max(abs(a.value), abs(b.value))


def _lines(text: str) -> list[list[Piece]]:
    """Return the pieces of every line that is not blank, each number with its standard error."""
    lines, columns = [], []
    for line in filter(str.strip, text.splitlines()):
        cells = line.split("|")
        if any(cell.strip().endswith("s.e.") for cell in cells):
            columns = [n for n, cell in enumerate(cells) if n and cell.strip().endswith("s.e.")]
        elif len(cells) == 1:
            columns = []
        lines.append(_row([_pieces(cell) for cell in cells], columns))
    return lines


def _pieces(cell: str) -> list[Piece]:
    """Divide a cell into words and numbers in turn, words first and last; a number before ``±`` gets its error."""
    pieces, end = [], 0
    for match in NUMBER.finditer(cell):
        pieces += [_words(cell[end : match.start()]), _number(match[0])]
        end = match.end()
        if len(pieces) > 2 and pieces[-2].text.strip() == "±":
            pieces[-3:] = _owned(pieces[-3], pieces[-2], pieces[-1])
    return [*pieces, _words(cell[end:])]


def _words(text: str) -> Piece:
    return Piece(re.sub(r"-{2,}", "--", re.sub(r"\s+", " ", text)))


def _number(text: str) -> Piece:
    digits, _, exponent = text.lower().replace("−", "-").replace(",", "").partition("e")
    decimals, power = len(digits.partition(".")[2]), int(exponent or 0)
    return Piece(text, float(digits) * 10.0**power, 10.0 ** (power - decimals) if decimals or exponent else 0.0)


def _owned(number: Piece, between: Piece, error: Piece) -> list[Piece]:
    return [number._replace(error=error.value), between, error._replace(is_error=True)]


def _row(cells: list[list[Piece]], columns: list[int]) -> list[Piece]:
    """Join the cells of a row; those in ``columns`` hold the standard errors of the single numbers on their left."""
    for n in (n for n in columns if n < len(cells)):
        left, right = cells[n - 1], cells[n]
        if len(left) == len(right) == 3:
            left[1], _, right[1] = _owned(left[1], left[2], right[1])
    return [piece for n, cell in enumerate(cells) for piece in [Piece("|" if n else ""), *cell]]
