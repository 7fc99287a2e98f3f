"""What a report is made of: sections with a table, prose and plain values, and the section on the latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.printing import MISSING, Quote, decimal, escaped, without_html
from .collapse import NO_CURES, Cures, verdict_of
from .latents import LatentFigures, SiteFigures, StepFigures

Row = tuple[str, ...]


@dataclass(frozen=True)
class Points:
    """N texts in two dimensions: coordinates (N,) of each, the texts, and what the two axes are."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    texts: tuple[str, ...]
    axes: tuple[str, str]


@dataclass(frozen=True)
class Picture:
    """A figure of a report: what it shows, and its PNG, relative to the report's folder.

    ``points``: what the PNG shows, where a page can show each text.
    """

    about: str
    path: str
    points: Points | None = None


@dataclass(frozen=True)
class Section:
    """A part of a report: what a reader sees, and the same figures as plain values for ``results.json``.

    Args:
        title: its heading.
        header: headings of its table; no table where it is empty.
        rows: cells of the table, as text.
        lines: paragraphs below the table.
        terminal: further lines, which only a terminal shows.
        values: the figures by name; what is no finite number is left to whoever writes them.
        quotes: paragraphs of texts as a model wrote them.
        items: a list.
        pictures: figures, last of all.
        beside: whether it may stand beside the section before it, where there is room.
    """

    title: str
    header: Row = ()
    rows: tuple[Row, ...] = ()
    lines: tuple[str, ...] = ()
    terminal: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    quotes: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    beside: bool = False

    def markdown(self) -> str:
        """Return the section as Markdown, every paragraph beginning with a capital."""
        parts = [f"## {self.title}", *([table(self.header, self.rows)] if self.header else [])]
        parts += [capitalised(line) for line in self.lines]
        parts += ["> " + "\n>\n> ".join(map(escaped, self.quotes))] if self.quotes else []
        parts += ["\n".join(f"- {without_html(item)}" for item in self.items)] if self.items else []
        return "\n\n".join([*parts, *(f"![{picture.about}]({picture.path})" for picture in self.pictures)])


def capitalised(line: str) -> str:
    """Return a line with a capital at its beginning, the rest as it is."""
    return line[:1].upper() + line[1:]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a line break in a cell is a space.

    What makes tags, links and further cells is escaped, and of a :class:`~ppl_text.core.printing.Quote` all markup.
    """
    cells = [[_cell(text) for text in row] for row in [header, *rows]]
    first, *others = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([first, "|" + " --- |" * len(header), *others])


def _cell(text: str) -> str:
    if isinstance(text, Quote):
        return escaped(" ".join(text.splitlines()))
    return without_html(text).replace("|", "\\|")


@dataclass(frozen=True)
class Document:
    """A report: its title, the table of what was run, and sections. ``report.md`` and the page are made from it."""

    title: str
    facts: Mapping[str, str]
    sections: tuple[Section, ...]

    def markdown(self) -> str:
        """Return ``report.md``."""
        facts = [table(FACTS, list(self.facts.items()))] if self.facts else []
        return (
            "\n\n".join([f"# {without_html(self.title)}", *facts, *(section.markdown() for section in self.sections)])
            + "\n"
        )


FACTS = ("what", "value")
"""Headings of the table of facts."""


def values_of(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the plain values of all sections."""
    return {name: value for section in sections for name, value in section.values.items()}


def latent_sections(figures: LatentFigures | None, cures: Cures = NO_CURES, noun: str = "sentence") -> list[Section]:
    """Return the section on what the latents carry; none where there is nothing to say. ``noun`` of a text.

    One site has a table of its quantities. Several have a row each, and one for those of whole sentences together
    where these are several; the verdict is on each of whole sentences, those of one verdict together.
    """
    if figures is None:
        return []
    values = figures.as_dict()
    if figures.together is not None:
        values["latents"] = verdict_of(figures.together, cures, noun)
    whole = {name: site for name, site in figures.sites.items() if isinstance(site, SiteFigures)}
    if len(figures.sites) == 1:
        (name, site), *_ = whole.items()
        said, quantities = (verdict_of(site, cures, noun),), _quantities(name, site, noun)
        return [Section("What the latents carry", ("quantity", "value"), quantities, said, (), values)]
    rows = [_row(name, site) for name, site in figures.sites.items()]
    if len(whole) > 1 and figures.together is not None:
        rows.append(_row(f"{', '.join(whole)} together", figures.together))
    verdicts = dict[str, list[str]]()
    for name, site in whole.items():
        verdicts.setdefault(verdict_of(site, cures, noun), []).append(name)
    lines = tuple(f"{', '.join(names)}: {verdict}" for verdict, names in verdicts.items())
    if len(whole) > 1 and figures.together is not None:
        lines += (
            f"I(x; sites so far) is of a site and those that q draws before it, as that of all is among "
            f"{figures.together.compared:,} {noun}s: what a site adds is what it adds given those before.",
        )
    return [Section("What the latents carry", _HEADER, tuple(rows), lines, (), values)]


def _quantities(name: str, figures: SiteFigures, noun: str) -> tuple[Row, ...]:
    """Return what a lone latent of whole texts carries, as text."""
    dimensions = sorted(figures.kl_by_dimension, reverse=True)
    active = [("0.01", figures.active_units), ("0.2", figures.active_units_02)]
    return (
        (f"KL(q({name} given x) ‖ p({name}))", f"{decimal(figures.kl)} nats"),
        (
            f"mutual information I(x; {name})",
            f"{decimal(figures.mutual_information)} nats; cap {decimal(figures.mutual_information_cap)}, the entropy "
            f"of the {figures.compared:,} {noun}s compared",
        ),
        (f"KL(q({name}) ‖ p({name})) of their aggregate", f"{decimal(figures.marginal_kl)} nats"),
        *((f"units active at {at}", f"{n} of {figures.latent_units}") for at, n in active if n is not None),
        *([("KL by dimension, largest first", " ".join(decimal(kl, 2) for kl in dimensions))] if dimensions else []),
    )


_HEADER = (
    *("site", "KL, nats", "a step", "I(x; site), nats", "its cap", "I(x; sites so far)", "KL of the aggregate"),
    *("active, 0.01", "0.2"),
)


def _row(name: str, figures: SiteFigures | StepFigures) -> Row:
    """Return one of several sites as text; a dash stands for what does not apply."""
    if isinstance(figures, StepFigures):
        return (name, decimal(figures.kl), decimal(figures.kl_per_step), *[MISSING] * 6)
    so_far = figures.mutual_information if figures.so_far is None else figures.so_far
    information = (
        _known(figures.mutual_information),
        decimal(figures.mutual_information_cap),
        _known(so_far),
        _known(figures.marginal_kl),
    )
    active = (figures.active_units, figures.active_units_02)
    units = (MISSING if n is None else f"{n} of {figures.latent_units}" for n in active)
    return (name, decimal(figures.kl), MISSING, *information, *units)


def _known(nats: float) -> str:
    """Return a figure as text, or that it cannot be known."""
    return "unknown" if math.isnan(nats) else decimal(nats)
