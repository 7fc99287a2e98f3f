"""How numbers and texts are printed: one way for tables, verdicts, reports and the lines of a training.

A number that rounds to zero has no sign, and what is not there is a dash. Texts, names of files, docstrings and
messages come from anywhere: what a terminal would obey in them is shown instead.
"""

from __future__ import annotations

import html
import math
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

MISSING = "–"
"""Stands for a number that there is not."""

PAUSE = 10.0
"""Seconds of work after which a line says how far it is, where no terminal shows it all the time."""


class Pause:
    """Tell whether a line on progress is due: :data:`PAUSE` seconds after the one before, or after the beginning."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self) -> bool:
        """Return whether it is, and count from now on where it is."""
        now = time.monotonic()
        if now - self._last < PAUSE:
            return False
        self._last = now
        return True


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a number with so many decimals, one of ten digits or more by its power of ten.

    Example::

        >>> decimal(-12.34567), decimal(-0.0001), decimal(None), decimal(2.5e195, 2)
        ('-12.346', '0.000', '–', '2.50e+195')
    """
    if value is None:
        return MISSING
    return f"{value:z.{digits}e}" if 1e9 <= abs(value) < math.inf else f"{value:z.{digits}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits.

    Example::

        >>> significant(0.012345), significant(1234.5), significant(-0.0)
        ('0.0123', '1.23e+03', '0')
    """
    return MISSING if value is None else f"{value:z.{digits}g}"


def percent(share: float | None, digits: int = 0) -> str:
    """Write a share of 1; NaN, which nobody knows, in a word.

    Example::

        >>> percent(0.123), percent(0.123, 1), percent(math.nan)
        ('12%', '12.3%', 'unknown')
    """
    if share is None:
        return MISSING
    return "unknown" if math.isnan(share) else f"{share:z.{digits}%}"


def plus_minus(value: float | None, error: float | None, digits: int = 3) -> str:
    """Write a number with its standard error, alone where the error is not known.

    Example::

        >>> plus_minus(-12.3456, 0.0123), plus_minus(1.0, math.nan, 1)
        ('-12.346 ± 0.012', '1.0')
    """
    known = value is not None and error is not None and not math.isnan(error)
    return decimal(value, digits) + (f" ± {decimal(error, digits)}" if known else "")


def shortened(text: str, width: int = 60) -> str:
    """Return a text in quotes, cut where it is long."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")


_TAG = re.compile(r"<(?=[!?/]|[A-Za-z][A-Za-z0-9-]*(?:[\s/>:@.+]|$))")
"""Begins what Markdown takes for a tag, a comment or a link, as in h_{<t} it does not."""


class Quote(str):
    """A text from data, in a cell of a table: nothing of it is markup there."""

    __slots__ = ()


def escaped(text: str) -> str:
    """Write a text from data in Markdown, where nothing of it is markup.

    Example::

        >>> print(escaped("<unk> **a** [b](c)"))
        \\<unk\\> \\*\\*a\\*\\* \\[b\\](c)
    """
    return re.sub(r"([\\`*_<>\[\]&#~|])", r"\\\1", text)


def without_html(text: str) -> str:
    """Write a line of Markdown in which a name from data may stand: neither tags nor links nor pictures come of it."""
    return _TAG.sub(r"\\<", " ".join(text.splitlines())).replace("](", "]\\(")


LONGEST_LINE = 8000
"""Most characters of a line of a message; lists of names are shorter."""


def cut(message: str) -> str:
    """Leave out the middle of lines that nobody reads to the end; a message ends with what to do.

    Example::

        >>> len(cut("x" * 9000))
        8000
    """
    keep = (LONGEST_LINE - 3) // 2
    lines = message.split("\n")
    return "\n".join(x if len(x) <= LONGEST_LINE else f"{x[: LONGEST_LINE - 3 - keep]} … {x[-keep:]}" for x in lines)


def quoted_path(path: object) -> str:
    """Write a path as a shell reads it in a printed command; what begins with ``-`` would be an option.

    Example::

        >>> quoted_path("runs/words-1"), quoted_path("my run; rm x"), quoted_path("-x")
        ('runs/words-1', "'my run; rm x'", './-x')
    """
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


# -- texts ------------------------------------------------------------------------------------------

_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What terminals obey: C0 but for tabs and line ends, DEL, C1, separators of lines, overrides of the direction."""


def printable(text: str) -> str:
    r"""Show the characters that a terminal obeys as ``\uXXXX``, which JSON reads back.

    Example::

        >>> print(printable("a\x1b[31mb"))
        a\u001b[31mb
    """
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


class Screened:
    """A stream of text that passes everything through :func:`printable`.

    Args:
        stream: what is written to; programs of ours that move its cursor write there, by :func:`unscreened`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text, screened."""
        self.stream.write(printable(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write texts, screened."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # a way around
            raise AttributeError(name)
        return getattr(self.stream, name)


def screened(stream: Any) -> Any:
    """Return a stream behind a screen; one that has a screen as it is."""
    return stream if isinstance(stream, Screened) else Screened(stream)


def unscreened(stream: TextIO) -> TextIO:
    """Return the stream behind a screened one, for what is printed with control sequences of ours."""
    return stream.stream if isinstance(stream, Screened) else stream


@contextmanager
def screened_output() -> Iterator[None]:
    """Context in which nothing reaches ``sys.stdout`` and ``sys.stderr`` that a terminal would obey.

    That goes for whoever prints: libraries, warnings, tracebacks, programs of the user's.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(screened, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """Write a table for a notebook; every cell is escaped, so that no text of a user's is read as HTML.

    Example::

        >>> html_table(["guide"], [["<b>"]])
        '<table><thead><tr><th>guide</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    head = f"<thead>{_html_row('th', header)}</thead>" if header else ""
    return f"<table>{caption}{head}<tbody>{''.join(_html_row('td', row) for row in rows)}</tbody></table>"


def html_list(lines: Sequence[str]) -> str:
    """Write lines as a list for a notebook, each escaped."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
