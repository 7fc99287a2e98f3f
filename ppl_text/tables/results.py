"""What is known of a table: every row with its seeds, the claims, and the one file that all that is kept in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.errors import RunFolderError
from ..recipes import folders
from ..recipes.tree import corpus_reference
from .rows import RECORD, Task, is_current, sized, trained_values
from .table import Claim, Row, Table

RESULTS = "results.json"
"""The result file in the folder of a reproduction; the README's table is made of it."""


@dataclass(frozen=True)
class Finding:
    """A published ordering and ours: ``difference`` is by how much ``better`` is better, in units of the column.

    ``error``: its standard error, between the ``seeds`` that both rows were run with where there are two or more; for
    one, the Monte-Carlo errors of the two figures, None where those are not known. ``verdict``: ``holds``, ``does not
    hold`` (for one seed both with ``in one run``: runs differ by more than their Monte-Carlo errors), ``too close to
    call`` (within two standard errors), or ``not run``. ``unequal``: in what else the two rows differ than in what
    their model and guide are, the better row's value first. ``digits``: of the differences, where they are printed.
    """

    text: str
    verdict: str
    difference: float | None
    error: float | None
    seeds: int
    published: float | None
    remark: str
    unequal: str
    digits: int


def gather(table: Table, out: Path, budget: str, corpus: str | None = None) -> dict[str, Any]:
    """Read the rows of a reproduction's folder into one plain value, as it is kept in ``results.json``.

    Rows of another budget or corpus, or measured otherwise than today, do not count.
    """
    given, corpus = corpus, corpus or table.corpus or ""
    rows = [_row(row, _records(table, row, out, budget, corpus)) for row in table.rows]
    known = {row["name"]: row for row in rows}
    tasks = {row.name: Task(table, row, budget, 0, out, given) for row in table.rows}
    settings = table.budget(budget).measure
    return {
        "table": table.name,
        "part": table.part,
        "title": table.title,
        "source": table.source,
        "measure": table.measure,
        "corpus": corpus,
        "given": given,
        "set": table.by_hand,
        "budget": budget,
        "about": table.budget(budget).about,
        "settings": settings,
        "columns": [column.model_dump() for column in table.columns],
        "groups": table.groups,
        "rows": rows,
        "claims": [asdict(look_up(claim, table, known, tasks)) for claim in table.claims],
        "notes": [note.format_map(settings) for note in table.notes],
        "drawings": [drawing.model_dump() for drawing in table.drawings],
    }


def _records(table: Table, row: Row, out: Path, budget: str, corpus: str) -> list[dict[str, Any]]:
    """Records of a row by seed, in the order of the seeds."""
    found = [folders.read_record(path) for path in out.glob(f"{row.name}-s*/{RECORD}")]
    wanted, settings = (row.name, budget, corpus_reference(corpus)), table.budget(budget).measure
    named = [r for r in found if (r.get("row"), r.get("budget"), corpus_reference(str(r.get("corpus")))) == wanted]
    fitting = [r for r in named if is_current(r, settings, table.measure)]
    return sorted(fitting if row.recipe is None else map(sized, fitting), key=lambda record: record["seed"])


def _row(row: Row, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds and, for two seeds or more, the standard deviation between them."""
    means: dict[str, float | None] = {}
    spread: dict[str, float] = {}
    for key in dict.fromkeys(key for record in records for key in record["measures"]):
        values = [record["measures"].get(key) for record in records]
        if any(value is None for value in values):
            means[key] = None
            continue
        means[key] = sum(values) / len(values)
        if len(values) > 1:
            spread[key] = _deviation(values)
    return {
        "name": row.name,
        "title": row.title,
        "group": row.group,
        "remark": row.remark,
        "published": dict(row.published),
        "recomputed": list(row.recomputed),
        "at": row.at,
        "seeds": [record["seed"] for record in records],
        "measures": means,
        "spread": spread,
        "by_seed": {str(record["seed"]): record["measures"] for record in records},
        "profiles": records[0]["profiles"] if records else {},
        "texts": records[0].get("texts", {}) if records else {},
        "training_seconds": [record["training_seconds"] for record in records],
        "machine": records[0]["machine"] if records else None,
    }


def _deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of two values or more."""
    mean = sum(values) / len(values)
    # Squares of perplexities that a model pays for its whole KL may lie beyond the range of floats; hypot scales.
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def look_up(claim: Claim, table: Table, rows: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Task]) -> Finding:
    """Return whether a published ordering holds in our rows, seed by seed where both were run with several."""
    sign, better, worse = (1 if claim.higher else -1), rows[claim.better], rows[claim.worse]
    column = next(c for c in table.columns if c.key == claim.column)
    published = _difference(better["published"], worse["published"], column.published or "", sign)
    pairs = [
        (better["by_seed"][seed], worse["by_seed"][seed]) for seed in better["by_seed"] if seed in worse["by_seed"]
    ]
    found, digits = [_difference(a, b, claim.column, sign) for a, b in pairs], max(2, column.digits)
    differences = [value for value in found if value is not None]
    if not differences:
        return Finding(claim.text, "not run", None, None, 0, published, claim.remark, "", digits)
    several = len(differences) > 1
    error = (
        _deviation(differences) / math.sqrt(len(differences)) if several else _monte_carlo_error(pairs[0], column.error)
    )
    difference = sum(differences) / len(differences)
    # What is printed as nothing is nothing.
    verdict = _verdict(difference if round(difference, digits) else 0.0, error, several)
    unequal = _unequal((tasks[claim.better], better), (tasks[claim.worse], worse))
    return Finding(claim.text, verdict, difference, error, len(differences), published, claim.remark, unequal, digits)


def _verdict(difference: float, error: float | None, several: bool) -> str:
    if difference == 0 or (error is not None and abs(difference) <= 2 * error):
        return "too close to call"
    return ("holds" if difference > 0 else "does not hold") + ("" if several else " in one run")


def _difference(better: Mapping[str, Any], worse: Mapping[str, Any], key: str, sign: int) -> float | None:
    values = better.get(key), worse.get(key)
    return None if None in values else sign * (values[0] - values[1])  # type: ignore[operator]


def _monte_carlo_error(pair: tuple[Mapping[str, Any], Mapping[str, Any]], key: str | None) -> float | None:
    """Return the standard error of the difference of two figures from their own ones; None where one has none."""
    errors = [None if key is None else measures.get(key) for measures in pair]
    return None if None in errors else math.hypot(*errors)  # type: ignore[arg-type]


_PROGRAMS = ("model", "guide", "recipe")
"""What a claim is about: named in its row's title, and told of by the number of parameters."""


def _unequal(better: tuple[Task, Mapping[str, Any]], worse: tuple[Task, Mapping[str, Any]]) -> str:
    """Return in what two rows differ, model and guide by their number of parameters; "" for nothing."""
    a, b = (_compared(*row) for row in (better, worse))
    different = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    return ", ".join(f"{key} {_short(a.get(key))} : {_short(b.get(key))}".removesuffix(" … : …") for key in different)


def _compared(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of parameters, and by dotted key what a row was trained with beside its model and guide."""
    found = {f"{who} parameters": row["measures"].get(f"{who}_parameters") for who in ("model", "guide")}
    if task.row.recipe is None:
        return found
    for section, value in trained_values(task.config()).items():
        inner = value.items() if isinstance(value, Mapping) and section not in _PROGRAMS else ()
        found |= {f"{section}.{key}": part for key, part in inner}
        found |= {} if inner or section in _PROGRAMS else {section: value}
    return found


def _short(value: Any) -> str:
    """Return a value of a few characters as it is, "…" for a longer one."""
    text = "–" if value is None else f"{value:z,.10g}" if isinstance(value, int | float) else str(value)
    return text if len(text) <= 20 else "…"


def read_results(path: Path) -> dict[str, Any]:
    """Read a result file; raises :class:`RunFolderError` where it is none."""
    values = folders.read_record(path)
    if not {"table", "columns", "rows", "claims"} <= values.keys():
        raise RunFolderError(f"{path} holds no results of a table; give the results.json that reproduce has written")
    return values
