"""What a row's measurement is made of: plain numbers under plain names, as JSON and the tables have them."""

from __future__ import annotations

from typing import NamedTuple

Measures = dict[str, float | int | None]


class Measured(NamedTuple):
    """Numbers by name, and profiles: a number by position or length, ``{name: {key: [nats, s.e., words]}}``."""

    numbers: Measures
    profiles: dict[str, dict[str, list[float | int | None]]]


VERSIONS = {"words": 1, "sentences": 2}
"""By kind of measure: raised whenever a figure is measured otherwise than before, so that rows that lie finished are
measured again."""

SEED = 0
"""Of the texts, draws and samples behind every figure: the same for all rows and all seeds of training, so that rows
differ by what was trained."""
