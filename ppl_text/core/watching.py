"""Who hears how far long work is that begins before anything shows progress, such as reading a large corpus.

Light: commands set it before anything else is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Hears = Callable[[str, int, int], object]
"""``hears(what, done, total)``: told how far some work is; total 0 where nobody knows it."""


def _nobody(what: str, done: int, total: int) -> None:
    """Hear nothing."""


_HEARS: ContextVar[Hears] = ContextVar("hears", default=_nobody)


@contextmanager
def heard_by(hears: Hears) -> Iterator[None]:
    """Context in which :func:`tell` is heard by a function."""
    token = _HEARS.set(hears)
    try:
        yield
    finally:
        _HEARS.reset(token)


def tell(what: str, done: int = 0, total: int = 0) -> None:
    """Say how far some work is, to whoever wants to hear it."""
    _HEARS.get()(what, done, total)
