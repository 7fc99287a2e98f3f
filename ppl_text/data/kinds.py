"""What kind of data a user's files hold, as far as their first rows tell."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ppl_text.core.errors import UserError
from ppl_text.core.numbers import is_whole

from .origins import Columns, file_origin, is_tabbed
from .split_files import JSON, split_files

TABLES = (".csv", ".parquet", *JSON)
"""Endings of files that are no lines of text."""

ROWS = 200
"""Texts that are looked at."""

SEVERAL = 2.0
"""Words a text, on average, from which texts are no list of words."""


class Held(NamedTuple):
    """What the first rows of data hold: words a text on average, and whether they are lines of ``word<TAB>count``."""

    words: float
    counted: bool

    @property
    def texts(self) -> bool:
        """Whether these are texts of several words."""
        return not self.counted and self.words >= SEVERAL


def held_in(name: str, column: str | None = None) -> Held | None:
    """Return what a file, or the training file of a folder, holds; None where that is not to be told.

    Data sets of the hub are not looked into, and what cannot be read is left to who reads it.
    """
    path = Path(os.path.expanduser(name))
    try:
        path = next(iter(split_files(path).values()), path) if os.path.isdir(path) else path
        if not os.path.isfile(path):
            return None
        rows = [raw.sides[0].split() for raw in islice(file_origin(path, Columns(column)).rows(), 5 * ROWS)]
    except UserError:
        return None
    texts = [words for words in rows if words][:ROWS]
    if not texts:
        return None
    numbers = all(len(words) == 1 and is_whole(words[0]) for words in texts)
    return Held(
        sum(map(len, texts)) / len(texts), counted=numbers and path.suffix.lower() not in TABLES and is_tabbed(path)
    )
