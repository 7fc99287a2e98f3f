"""Rows of a comparison of guides and objectives, and its tables. What they say in words: ``verdict.py``."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.atomic import finite_or_none
from ..core.errors import UserError
from ..core.printing import MISSING, decimal, html_list, html_table, percent, plus_minus, significant
from ..evaluation.report import FACTS, Document, Picture, Section
from ..evaluation.standard_errors import DOUBT, doubt_explained, is_unreliable
from ..training.programs import Sizes
from .draws import SiteUse

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]


RECORD = "comparison.json"
"""In the folder of a comparison: its rows as plain values."""

PLAIN = ("elbo", "elbo-analytic", "stl", "free-bits", "reconstruction", "pyro")
"""Families whose bound is an ELBO at every K."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of one (run, guide, objective). Bounds are at β = 1, in nats; None where there is nothing.

    ============================== ====================================================================
    ``run``, ``guide``             folder of the run as it was given, and the guide
    ``folder``                     folder of the run whose weights were used: ``run``, or its child with that guide
    ``objective``                  as named on the command line; ``family`` without K; ``particles`` K
    ``draws``, ``seed``            draws per sentence behind ``bound``; seed of this row's random numbers
    ``bound``, ``bound_se``        at the objective's own K, per sentence, with Monte-Carlo standard error
    ``bound_per_token``, …         the same per scored token (EOS counted)
    ``equal_k``, ``bound_equal_k`` the same family at the comparison's common K; None where it has no K
    ``gradient_variance_*``        tr Cov of one gradient estimate, of the model's and the guide's parameters
    ``snr_*``                      ‖E g‖ / √(tr Cov g), the noise of the mean taken off
    ``snr_*_equal_draws``          the same for as many estimates as ``settings.draws`` pay for
    ``snr_floor``, …_equal_draws   1/√repeats: what is below it is not told from 0; the same at equal draws
    ``ess``                        effective sample size / K, 0 to 1; of the guide's weights where K = 1
    ``khat_good``, ``_ok``, ``_bad`` share of sentences with Pareto k̂ < 0.5, 0.5 to 0.7, > 0.7
    ``seconds_per_step``           median of loss and backward on one batch
    ``peak_bytes``                 most bytes of live tensors meanwhile
    ``kl``                         KL(q ‖ p), nats per sentence
    ``active_units``, ``units``    latent dimensions in use, of how many
    ``sites``                      ``kl``, ``active_units`` and ``units`` of each latent site by name
    ``mutual_information``, …_cap  of texts and latents, and the most it can be, nats; NaN where it cannot be known
    ``informed``                   the latent sites that this is the information of
    ``sizes``                      numbers of parameters of model and guide
    ``exact``                      nothing is latent: every bound is ln p(x) itself, and there is no k̂
    ``by_sentence``, ``weights``   (N,) ``bound_equal_k`` (or ``bound``) of each common sentence, and its weight
    ============================== ====================================================================
    """

    run: str
    folder: str
    guide: str
    objective: str
    family: str
    particles: int
    draws: int
    seed: int
    bound: float
    bound_se: float
    bound_per_token: float
    bound_per_token_se: float
    equal_k: int | None
    bound_equal_k: float | None
    bound_equal_k_se: float | None
    gradient_variance_model: float | None
    gradient_variance_guide: float | None
    snr_model: float | None
    snr_guide: float | None
    snr_model_equal_draws: float | None
    snr_guide_equal_draws: float | None
    ess: float | None
    khat_good: float | None
    khat_ok: float | None
    khat_bad: float | None
    khat_median: float | None
    seconds_per_step: float
    peak_bytes: int
    kl: float
    active_units: int | None
    units: int | None
    mutual_information: float
    mutual_information_cap: float
    by_sentence: Values = field(repr=False, compare=False)
    weights: Values = field(repr=False, compare=False)
    sizes: Sizes
    exact: bool = False
    snr_floor: float = 0.0
    snr_floor_equal_draws: float = 0.0
    sites: dict[str, SiteUse] = field(default_factory=dict)
    informed: tuple[str, ...] = ()

    def unreliable(self, particles: int | None) -> bool:
        """Tell whether the bound of so many particles hangs on a few draws, so that its error claims no coverage.

        Plain means of log-weights (:data:`PLAIN`) never do.
        """
        weighted = particles is not None and particles > 1 and self.family.partition(":")[0] not in PLAIN
        return weighted and is_unreliable(self.khat_bad)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Return a row as :meth:`as_dict` has written it, without what each sentence scored."""
        columns = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        numbers = {name for name, kind in cls.__annotations__.items() if kind == "float"}
        columns |= {name: math.nan for name in numbers if name in values and values[name] is None}
        columns |= {"sites": {name: SiteUse(**use) for name, use in values.get("sites", {}).items()}}
        columns |= {"informed": tuple(values.get("informed", ())), "by_sentence": np.empty(0), "weights": np.empty(0)}
        return cls(**columns, sizes=Sizes(values["model_parameters"], values["guide_parameters"]))

    def as_dict(self) -> dict[str, Any]:
        """Return the columns as plain values, ``sites`` where there are several; what is no finite number is None."""
        columns = (f.name for f in fields(self) if f.name not in ("by_sentence", "weights", "sites", "sizes"))
        values: dict[str, Any] = {name: getattr(self, name) for name in columns}
        values |= {f"{who}_parameters": number for who, number in self.sizes._asdict().items()}
        if len(self.sites) > 1:
            values["sites"] = {name: site._asdict() for name, site in self.sites.items()}
        return finite_or_none(values)


@dataclass(frozen=True, repr=False)
class Comparison:
    """Rows, how they were measured, what they say, and the folder in which all that is kept."""

    rows: list[Measurement]
    settings: dict[str, Any]
    notes: list[str]
    verdict: list[str] = field(default_factory=list)
    folder: Path | None = None

    def __repr__(self) -> str:
        """Return in one line what is compared, which bound is highest, and where it is kept."""
        guides = len({(row.run, row.guide) for row in self.rows})
        objectives = len({row.objective for row in self.rows})
        best = max(self.rows, key=lambda row: row.bound)
        place = "" if self.folder is None else f", in {self.folder}"
        return (
            f"<Comparison of {len(self.rows)} rows ({_counted(guides, 'guide')}, {_counted(objectives, 'objective')}), "
            f"highest bound {decimal(best.bound)} of '{best.guide}' by {best.objective}{place}>"
        )

    def _repr_html_(self) -> str:
        """Return tables and verdict as a notebook shows them."""
        shown = [html_table(header, cells, title) for title, header, cells in tables(self.rows, self.noun)]
        return "".join([*shown, html_list(self.verdict)])

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each pair of guide and objective, its columns those of :class:`Measurement`.

        What there is of each site stands in columns of its own, ``sites.NAME.kl``.
        """
        import pandas as pd

        return pd.json_normalize([row.as_dict() for row in self.rows])

    @property
    def noun(self) -> str:
        """What a text is called."""
        return str(self.settings.get("noun", "sentence"))

    @property
    def text(self) -> str:
        """The tables in columns and the verdict under them, for a terminal."""
        parts = [_in_columns(title, [header, *cells]) for title, header, cells in tables(self.rows, self.noun)]
        return "\n\n".join([*parts, "\n".join(["Verdict", *(f"- {line}" for line in self.verdict)])])

    @property
    def next_commands(self) -> list[str]:
        """What to run next, without the ``python -m ppl_text`` before it."""
        best = max(self.rows, key=lambda row: row.bound)
        quoted = shlex.quote(best.folder)
        return [f"evaluate {quoted}", f"generate {quoted} -n 20", "list guides"]

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as in ``comparison.json``; what is no finite number is None."""
        return {
            "rows": [row.as_dict() for row in self.rows],
            "verdict": self.verdict,
            "settings": self.settings,
            "notes": self.notes,
            "folder": None if self.folder is None else str(self.folder),
        }

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Read a comparison from its ``comparison.json``; raises :class:`UserError` where there is none that is whole.

        What each sentence scored is not kept there, so that nothing can be said of differences any more; the verdict is
        the one that was found.
        """
        try:
            stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            rows = [Measurement.from_dict(row) for row in stored["rows"]]
            return cls(rows, stored["settings"], stored["notes"], stored["verdict"], folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder / RECORD} holds no comparison that can be read ({error}); make it again with: "
                "python -m ppl_text compare RUN"
            ) from error

    def markdown(self) -> str:
        """Return ``comparison.md``."""
        return self.document.markdown()

    @property
    def document(self) -> Document:
        """The comparison as a report: verdict, tables, charts (PNG files below ``figures/``), settings, notes."""
        found = [Section("Verdict", items=tuple(self.verdict))]
        for title, header, cells in tables(self.rows, self.noun):
            found.append(Section(title, tuple(header), tuple(tuple(row) for row in cells)))
        about = {
            "bounds": "bounds by guide and objective, with their Monte-Carlo errors",
            "khat": f"Pareto k̂ over the {self.noun}s, by guide",
            "snr": "signal-to-noise ratio of the gradients against K",
        }
        pictures = tuple(Picture(what, f"figures/{name}.png") for name, what in about.items())
        settings = tuple((key, str(value)) for key, value in self.settings.items())
        found += [Section("Figures", pictures=pictures), Section("How it was measured", FACTS, settings)]
        return Document(
            "Comparison", {}, (*found, *([Section("Notes", items=tuple(self.notes))] if self.notes else []))
        )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _in_columns(title: str, lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["  " + "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([title, *padded])


Columns = dict[str, Callable[[Measurement], str]]
"""By heading, how a row's cell is written."""

GRADIENTS: Columns = {
    "SNR model": lambda r: _ratio(r.snr_model, r.snr_floor),
    "SNR guide": lambda r: _ratio(r.snr_guide, r.snr_floor),
    "model, equal": lambda r: _ratio(r.snr_model_equal_draws, r.snr_floor_equal_draws),
    "guide, equal": lambda r: _ratio(r.snr_guide_equal_draws, r.snr_floor_equal_draws),
    "variance model": lambda r: significant(r.gradient_variance_model),
    "variance guide": lambda r: significant(r.gradient_variance_guide),
}

USED: Columns = {
    "parameters (model + guide)": lambda r: str(r.sizes),
    "KL": lambda r: decimal(r.kl),
    "active units": lambda r: MISSING if r.active_units is None else f"{r.active_units}/{r.units}",
}

WEIGHTS: Columns = {
    "k̂ < 0.5": lambda r: percent(r.khat_good),
    "0.5-0.7": lambda r: percent(r.khat_ok),
    "> 0.7": lambda r: percent(r.khat_bad),
    "median k̂": lambda r: decimal(r.khat_median, 2),
}


def tables(rows: Sequence[Measurement], noun: str = "sentence") -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, header and cells of each table: bounds and cost, gradients, guides; ``noun`` of a text."""
    who: Columns = {"run": lambda r: _short(r.run)} if len({row.run for row in rows}) > 1 else {}
    who |= {"guide": lambda r: _short(r.guide)}
    objective: Columns = {**who, "objective": lambda r: r.objective}
    k = next((r.equal_k for r in rows if r.equal_k is not None), None)
    guides = list({(r.run, r.guide): r for r in rows}.values())
    bounds: Columns = {
        **objective,
        "bound ± s.e.": lambda r: plus_minus(r.bound, r.bound_se) + _doubt(r, r.particles),
        "per token": lambda r: plus_minus(r.bound_per_token, r.bound_per_token_se, 4),
        f"at K = {MISSING if k is None else k}": lambda r: (
            plus_minus(r.bound_equal_k, r.bound_equal_k_se) + _doubt(r, r.equal_k)
        ),
        "k̂ > 0.7": lambda r: percent(r.khat_bad),
        "ESS/K": lambda r: significant(r.ess, 2),
        "ms/step": lambda r: decimal(1e3 * r.seconds_per_step, 1),
        "peak MiB": lambda r: decimal(r.peak_bytes / 2**20, 1),
    }
    doubt = any(row.unreliable(row.particles) or row.unreliable(row.equal_k) for row in rows)
    title = f"Bounds, nats per {noun}" + (f" ({DOUBT} {doubt_explained(noun)})" if doubt else "")
    return [
        (title, *_filled(bounds, rows)),
        ("Gradients (SNR at its own K, and at equal draws)", *_filled(objective | GRADIENTS, rows)),
        ("Guides", *_filled(who | USED | _informed(guides) | WEIGHTS | _by_site(guides), guides)),
    ]


def _informed(guides: Sequence[Measurement]) -> Columns:
    """Make the column of the mutual information, headed by the latents as their models name them."""
    latents = "/".join(dict.fromkeys(", ".join(row.informed) for row in guides if row.informed))
    return {f"I(x; {latents or 'latents'})": lambda r: _information(r.mutual_information, r.mutual_information_cap)}


def _by_site(guides: Sequence[Measurement]) -> Columns:
    """Make a column of KL and active units for each site, where there are several."""
    sites = list(dict.fromkeys(name for row in guides if len(row.sites) > 1 for name in row.sites))
    return {f"KL, units of {name}": partial(_used, name) for name in sites}


def _used(name: str, row: Measurement) -> str:
    site = row.sites.get(name)
    if site is None:
        return MISSING
    return decimal(site.kl) + ("" if site.active_units is None else f", {site.active_units}/{site.units}")


def _filled(columns: Columns, rows: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    return list(columns), [[cell(row) for cell in columns.values()] for row in rows]


def _doubt(row: Measurement, particles: int | None) -> str:
    return f" {DOUBT}" if row.unreliable(particles) else ""


def _ratio(value: float | None, floor: float) -> str:
    """Write a signal-to-noise ratio; one that is not told from 0 by what it is below."""
    return f"< {significant(floor, 2)}" if value is not None and value < floor else significant(value)


def _information(value: float, cap: float) -> str:
    return MISSING if math.isnan(value) else f"{decimal(value)} of {decimal(cap)}"


def _short(name: str) -> str:
    """Keep the end of a long path, by which a reader knows it."""
    return name if len(name) <= 24 else "…" + name[-23:]
