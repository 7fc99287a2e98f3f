"""What a guide is worth on a trained model, and two guides side by side: before and after a swap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..core.atomic import finite_or_none
from ..core.printing import MISSING, decimal, percent, plus_minus
from ..core.registry import is_file_reference
from ..evaluation.standard_errors import DOUBT, doubt_explained, is_unreliable


@dataclass(frozen=True)
class GuideFigures:
    """What a guide is worth on a trained model; bounds in nats per text, ``*_se`` by Monte Carlo.

    ``iw``: importance-weighted bound with K particles; ``gap`` = iw - elbo: what is left of KL(q ‖ posterior) as far
    as K particles see it. ``khat_good``, ``khat_ok``, ``khat_bad``: shares of the texts whose Pareto k̂ lies below
    0.5 (importance weights of finite variance), from 0.5 to 0.7, and above (their averages are not to be trusted); NaN
    where K is too small to tell. ``parameters``: how many the guide has; NaN where an older version did not
    count.
    """

    guide: str
    elbo: float
    elbo_se: float
    iw: float
    iw_se: float
    gap: float
    gap_se: float
    kl: float
    khat_good: float
    khat_ok: float
    khat_bad: float
    parameters: float = math.nan

    def bounds(self) -> tuple[str, str, str, str]:
        """Write ELBO, importance-weighted bound and gap with their standard errors, and KL.

        The errors of what is importance-weighted are marked where they hang on a few draws.
        """
        mark = f" {DOUBT}" if is_unreliable(self.khat_bad) else ""
        elbo, iw, gap = (
            plus_minus(value, error)
            for value, error in ((self.elbo, self.elbo_se), (self.iw, self.iw_se), (self.gap, self.gap_se))
        )
        return elbo, iw + mark, gap + mark, decimal(self.kl)

    @property
    def size(self) -> str:
        """Write the number of parameters."""
        return MISSING if math.isnan(self.parameters) else f"{self.parameters:z,.0f}"

    @property
    def khat(self) -> tuple[float, float, float]:
        """The three shares of the sentences."""
        return self.khat_good, self.khat_ok, self.khat_bad


@dataclass(frozen=True)
class BeforeAfter:
    """Two guides on the same texts with the same seed; see :class:`GuideFigures`.

    ``particles`` = K; ``sentences``: how many texts were drawn from the test split; ``noun``: what one is called.
    """

    before: GuideFigures
    after: GuideFigures
    particles: int
    sentences: int
    seed: int
    noun: str = "sentence"

    def rows(self) -> list[tuple[str, str, str]]:
        """Write quantity, before, after."""
        names = (
            "ELBO",
            f"importance-weighted bound, K = {self.particles}",
            "gap: IW - ELBO",
            "KL(q ‖ p)",
            f"{self.noun}s with k̂ < 0.5",
            "0.5 ≤ k̂ ≤ 0.7",
            "k̂ > 0.7",
            "parameters of the guide",
        )
        columns = ([*f.bounds(), *(percent(share, 1) for share in f.khat), f.size] for f in (self.before, self.after))
        return list(zip(names, *columns, strict=True))

    def header(self) -> tuple[str, str, str]:
        """Return the heads of the columns."""
        return "quantity", f"before: {label(self.before.guide)}", f"after: {label(self.after.guide)}"

    def how(self) -> str:
        """Say how it was measured, and what a mark means where there is one."""
        doubt = any(is_unreliable(figures.khat_bad) for figures in (self.before, self.after))
        return (
            f"Nats per {self.noun} ± Monte-Carlo s.e., the same {self.sentences:,} test {self.noun}s and seed "
            f"{self.seed} for both; Pareto k̂ of the same {self.particles} draws."
            + (f" {DOUBT} {doubt_explained(self.noun)}." if doubt else "")
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> BeforeAfter:
        """Read what :meth:`as_json` has written, or an older version with more beside it."""
        pair = {key: GuideFigures(**_numbers(stored[key])) for key in ("before", "after")}
        known = {field.name for field in fields(cls)}
        return cls(**{**{key: value for key, value in stored.items() if key in known}, **pair})

    def as_json(self) -> dict[str, Any]:
        """Return plain values; what is no finite number is None."""
        return finite_or_none(asdict(self))


def label(guide: str) -> str:
    """Name a guide as tables do: a file without its folder."""
    return Path(guide).name if is_file_reference(guide) else guide


def _numbers(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Turn None, which stands for what is no finite number, into NaN."""
    return {key: math.nan if value is None else value for key, value in stored.items()}
