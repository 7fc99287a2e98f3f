"""How numbers are printed: one way for tables, verdicts, reports and the lines of a training.

A number that rounds to zero has no sign, and what is not there is a dash.
"""

from __future__ import annotations

import math
import time

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
