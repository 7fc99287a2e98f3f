"""A result file as a page: ours beside the published figures, row by row, what became of the claims, and figures."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.printing import decimal
from ..evaluation.report import table
from ..measures import load_measure
from ..measures.base import Measure
from ..plots.scans import curves_figure, scan_figure
from ..training.programs import Sizes
from .table import Table, load_table

NOT_RUN = "not run"


def table_markdown(results: Mapping[str, Any]) -> str:
    """Return tables by group (ours, the published figure in brackets), texts, notes, and the published orderings."""
    parts = []
    for group, title in results["groups"].items():
        rows = [row for row in results["rows"] if row["group"] == group]
        if rows:
            parts += [f"**{title}**", *_group(results, rows)]
    parts += _texts(results)
    changed = [f"Set by hand, in every row: {', '.join(_set(results))}."] if _set(results) else []
    if notes := [*changed, *results["notes"], *_measure(results).notes(results)]:
        parts.append("\n".join(f"- {note}" for note in notes))
    if results["claims"]:
        parts += _claims(results["claims"])
    return "\n\n".join(parts)


def _measure(results: Mapping[str, Any]) -> Measure:
    """Return the kind of measures that filled the rows; results of older versions name the table only."""
    return load_measure(results.get("measure") or load_table(results["table"], results["part"]).measure)


def figure_links(table: Table, place: Path, results: Mapping[str, Any]) -> str:
    """Draw the figures of a reproduction in its folder; return the Markdown that shows them, "" where there is none.

    Figures that were drawn when a row was measured are shown, too.
    """
    drawn = [*_measure(results).figures(place, results, table.baselines), *drawings(place, results)]
    links = [f"![{about}]({path.relative_to(place).as_posix()})" for about, path in drawn]
    return "\n\n".join(["**Figures**", *links]) if links else ""


def drawings(place: Path, results: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """Draw the table's own drawings: scans over a number that rows differ in, and curves of their training."""
    found = []
    known = {row["name"]: row for row in results["rows"] if row["seeds"]}
    for drawing in results["drawings"]:
        rows = [row for row in known.values() if row["group"] == drawing["group"]]
        target = place / "figures" / f"{drawing['group']}.png"
        if drawing["kind"] == "scan" and rows:
            scan_figure(rows, drawing["label"], drawing["panels"], target, known.get(drawing["beside"]))
        paths = {row["title"]: place / f"{row['name']}-s{row['seeds'][0]}" / "metrics.jsonl" for row in rows}
        metrics = {title: path for title, path in paths.items() if path.is_file()}
        if drawing["kind"] == "curves" and metrics:
            curves_figure(metrics, target)
        found += [(drawing["about"], target)] if target.is_file() else []
    return found


def _group(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of the rows, or one for each block of columns, of the rows that have something there.

    The first has all rows, and says what was trained, too.
    """
    columns = [c for c in results["columns"] if any(_has(row, c) for row in rows)]
    header, found = ["parameters (model + guide)", "steps", "remark"], list[str]()
    for block in dict.fromkeys(c.get("block", "") for c in columns) or ("",):
        own = [c for c in columns if c.get("block", "") == block]
        shown = [row for row in rows if header or any(_has(row, c) for c in own)]
        ends = [[_parameters(row), _steps(row), _remark(row, results)] if header else [] for row in shown]
        body = [[row["title"], *(_cell(row, c) for c in own), *end] for row, end in zip(shown, ends, strict=True)]
        found += [f"*{block}*"] if block else []
        found.append(table(["row", *(c["title"] for c in own), *header], body))
        header = []
    return found


def _texts(results: Mapping[str, Any]) -> list[str]:
    """Return the texts that rows show, by what they are of: a line each, with the row's title in front."""
    rows = [row for row in results["rows"] if row.get("texts")]
    found = ["**Texts, the first of each row**"] if rows else []
    width = max((len(row["title"]) for row in rows), default=0)
    for heading in dict.fromkeys(heading for row in rows for heading in row["texts"]):
        texts = [(row["title"], " ".join(text.splitlines())) for row in rows for text in row["texts"].get(heading, ())]
        lines = [f"{title:{width}}  {text}" for title, text in texts]
        longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
        fence = "`" * max(3, longest + 1)
        found += [f"*{heading}*", "\n".join([f"{fence}text", *lines, fence])]
    return found


def _has(row: Mapping[str, Any], column: Mapping[str, Any]) -> bool:
    return row["measures"].get(column["key"]) is not None or column["published"] in row["published"]


def _cell(row: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    """``ours [interval] ± spread over seeds (published)``; a dash stands for what there is not.

    A published figure that is not printed but follows from those that are is marked ``*``.
    """
    digits, value = column["digits"], row["measures"].get(column["key"])
    ours = "–"
    if value is not None:
        ends = [row["measures"].get(key) for key in column.get("interval") or ()]
        within = "" if None in ends or not ends else " [" + ", ".join(decimal(end, digits) for end in ends) + "]"
        spread = row["spread"].get(column["key"])
        ours = decimal(value, digits) + within + ("" if spread is None else f" ± {decimal(spread, digits)}")
    published = row["published"].get(column["published"])
    mark = "*" if column["published"] in row.get("recomputed", ()) else ""
    return ours if published is None else f"{ours} ({decimal(published, digits)}{mark})"


def _steps(row: Mapping[str, Any]) -> str:
    steps = row["measures"].get("steps")
    return "" if steps is None else f"{steps:z,.0f}"


def _parameters(row: Mapping[str, Any]) -> str:
    """Write those of model and guide; what was not trained has none."""
    return str(Sizes(*(int(row["measures"].get(f"{who}_parameters", 0)) for who in Sizes._fields)))


def _remark(row: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    if row["seeds"]:
        seeds = f"{len(row['seeds'])} seeds" if len(row["seeds"]) > 1 else ""
        return "; ".join(part for part in (seeds, row["remark"]) if part)
    command = f"reproduce {results['table']} --rows {row['name']} --budget {results['budget']}{own_options(results)}"
    return f"{NOT_RUN}: `python -m ppl_text {command}`"


def own_options(results: Mapping[str, Any]) -> str:
    """Return the options by which data and recipes are not the table's own, each with a blank in front."""
    given, part = results["given"], results["part"]
    options = [f"--data {part}={shlex.quote(given)}" if part else f"--data {shlex.quote(given)}"] if given else []
    options += [f"--set {shlex.quote(setting)}" for setting in _set(results)]
    return "".join(f" {option}" for option in options)


def _set(results: Mapping[str, Any]) -> list[str]:
    """Return what a user has changed of every row's recipe as ``KEY=VALUE``; files of older versions lack it."""
    changes: Mapping[str, Any] = results.get("set", {})
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changes.items()]


def _claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return heading and table: of published orderings, or of claims of this project's own where none is published."""
    ours = [[_ours(c), c["verdict"], c["unequal"], c["remark"]] for c in claims]
    heads, said = ["ours", "verdict", "not equal", "why"], [c["text"] for c in claims]
    if all(c["published"] is None for c in claims):
        rows = [[text, *row] for text, row in zip(said, ours, strict=True)]
        title = "**Claims, looked up** (in units of the column; positive: it holds)"
        return [title, table(["claim", *heads], rows)]
    published = [_number(c["published"], _digits(c)) for c in claims]
    rows = [[text, theirs, *row] for text, theirs, row in zip(said, published, ours, strict=True)]
    title = "**Published orderings, looked up** (in units of the column; positive: as published)"
    return [title, table(["published claim", "published difference", *heads], rows)]


def _ours(claim: Mapping[str, Any]) -> str:
    digits = _digits(claim)
    error = "" if claim["error"] is None else f" ± {claim['error']:z.{digits}f}"
    return _number(claim["difference"], digits) + error


def _digits(claim: Mapping[str, Any]) -> int:
    """Return how many digits a claim's differences have: two in files that do not say it."""
    return int(claim.get("digits", 2))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:+z.{digits}f}"
