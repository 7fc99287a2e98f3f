"""Numbers as users write them: with the digits 0 to 9, in options, names, recipes and data alike.

Python takes the digits of all scripts for digits (``int("١٢")`` is 12), and for some, such as ``²``, disagrees with
itself.
"""

from __future__ import annotations

import re

_WHOLE = re.compile(r"[-+]?[0-9]+")
_REAL = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|inf|nan)", re.IGNORECASE)

DIGITS = "write numbers with the digits 0 to 9"
"""What to do about other ones."""


def is_whole(text: str) -> bool:
    """Tell whether a text is a whole number without a sign.

    Example::

        >>> [is_whole(text) for text in ("12", "١٢", "²", "-1", "")]
        [True, False, False, False, False]
    """
    return _WHOLE.fullmatch(text) is not None and text[0] not in "-+"


def is_real(text: str) -> bool:
    """Tell whether a text is a number, whole or not."""
    return _REAL.fullmatch(text) is not None


def whole(text: str) -> int:
    """Return a whole number; raise ``ValueError`` where the text is none."""
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no whole number; {DIGITS}")
    return int(text)


def real(text: str) -> float:
    """Return a number; raise ``ValueError`` where the text is none.

    Example::

        >>> real("1e-3"), real("-inf")
        (0.001, -inf)
    """
    if not is_real(text):
        raise ValueError(f"{text!r} is no number; {DIGITS}")
    return float(text)
