"""A report as one HTML page that needs no network: styles, script and figures stand in it.

All that comes from data (texts, names of files, options) is escaped. Without its script the page shows all but the text
of the point that is pointed at, which a browser shows by itself, and sorting.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from .report import FACTS, Document, Picture, Points, Section, capitalised

GENERATOR = '<meta name="generator" content="ppl_text">'
"""By which a page of ours is known."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a browser may load: nothing that does not stand in the page."""

WIDTH, HEIGHT, MARGIN = 640, 400, 36
"""Of a figure of points, in its own units."""

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""What stands for nothing in HTML, and halves of characters, which no encoding has."""


def page(document: Document, folder: Path) -> str:
    """Return the page of a report, whose pictures lie below ``folder``; one that is gone is named."""
    css, js = ((files(__package__) / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    facts = _table(FACTS, list(document.facts.items())) if document.facts else ""
    parts = [f"<header>\n<h1>{_text(document.title)}</h1>\n{facts}</header>"]
    for section, place in zip(document.sections, _places(document.sections), strict=True):
        parts.append(f"<section{place}>\n{_section(section, folder)}</section>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n{GENERATOR}\n'
        f"<title>{_text(document.title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>\n{js}</script>\n</body>\n</html>\n"
    )


def _places(sections: Sequence[Section]) -> list[str]:
    """Return the attribute of each section: which of two columns it stands in, or none where it has both."""
    right = [section.beside and index > 0 for index, section in enumerate(sections)]
    left = [*right, False][1:]
    return [' class="right"' if r else ' class="left"' if before else "" for r, before in zip(right, left, strict=True)]


def _section(section: Section, folder: Path) -> str:
    parts = [f"<h2>{_text(section.title)}</h2>\n"]
    parts += [_table(section.header, section.rows)] if section.header else []
    parts += [f"<p>{_text(capitalised(line))}</p>\n" for line in section.lines]
    if section.quotes:
        parts.append(
            "<blockquote>\n" + "".join(f"<p>{_text(quote)}</p>\n" for quote in section.quotes) + "</blockquote>\n"
        )
    if section.items:
        parts.append("<ul>\n" + "".join(f"<li>{_text(item)}</li>\n" for item in section.items) + "</ul>\n")
    return "".join([*parts, *(_figure(picture, folder) for picture in section.pictures)])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in header)
    lines = ["<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>\n" for row in rows]
    return (
        f'<div class="scroll" tabindex="0">\n<table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{''.join(lines)}</tbody>\n</table>\n</div>\n"
    )


def _cell(text: str) -> str:
    """Return the content of a cell, in which no number is parted from its error."""
    return _text(text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"))


def _figure(picture: Picture, folder: Path) -> str:
    about, path = _text(picture.about), folder / picture.path
    if picture.points is not None:
        said = '<p class="said" aria-live="polite">Point at a text to read it.</p>'
        kind, shown = ' class="points"', _points(picture.points, about) + said
    elif path.is_file():
        kind, data = "", base64.b64encode(path.read_bytes()).decode()
        shown = f'<div class="scroll" tabindex="0"><img alt="{about}" src="data:image/png;base64,{data}"></div>'
    else:
        return f"<p>The figure {_text(picture.path)} ({about}) is not there.</p>\n"
    return f"<figure{kind}>\n{shown}\n<figcaption>{about}</figcaption>\n</figure>\n"


def _points(points: Points, about: str) -> str:
    """Return texts at their places as SVG; each point holds its text, which a browser shows where it is pointed at."""
    places = zip(_scaled(points.x, MARGIN, WIDTH - MARGIN), _scaled(points.y, HEIGHT - MARGIN, MARGIN), strict=True)
    circles = [
        f'<circle cx="{x:z.1f}" cy="{y:z.1f}" r="5"><title>{_text(text or "∅")}</title></circle>\n'
        for (x, y), text in zip(places, points.texts, strict=True)
    ]
    across, up = map(_text, points.axes)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">\n'
        f'<line x1="{MARGIN}" x2="{WIDTH}" y1="{HEIGHT - 22}" y2="{HEIGHT - 22}"/>\n'
        f'<line x1="22" x2="22" y1="0" y2="{HEIGHT - MARGIN}"/>\n'
        f'<text x="{WIDTH // 2}" y="{HEIGHT - 6}" text-anchor="middle">{across}</text>\n'
        f'<text transform="translate(15 {HEIGHT // 2}) rotate(-90)" text-anchor="middle">{up}</text>\n'
        f"{''.join(circles)}</svg>\n"
    )


def _scaled(values: Sequence[float], low: float, high: float) -> list[float]:
    """Bring values to a range; those that are all alike into its middle."""
    least, most = min(values, default=0.0), max(values, default=0.0)
    if most == least:
        return [(low + high) / 2] * len(values)
    return [low + (high - low) * (value - least) / (most - least) for value in values]


def _text(text: str) -> str:
    """Return a text as HTML shows it, in elements and in attributes."""
    return escape(_CONTROLS.sub("\ufffd", text), quote=True)
