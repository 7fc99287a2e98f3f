"""What is known of a table: every row with its seeds, the claims, and the one file that all that is kept in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.errors import RunFolderError
from ..recipes import folders
from .rows import RECORD
from .table import Claim, Row, Table

RESULTS = "results.json"
"""The result file in the folder of a reproduction; the README's table is made of it."""


@dataclass(frozen=True)
class Finding:
    """A published ordering and ours: ``difference`` is by how much ``better`` is better, in units of the column.

    ``error``: its standard error from what is known (Monte-Carlo errors, or the spread over seeds); None where nothing
    is. ``verdict``: ``holds``, ``does not hold``, ``too close to call`` (within two standard errors), or ``not run``.
    """

    text: str
    verdict: str
    difference: float | None
    error: float | None
    published: float | None
    remark: str


def gather(table: Table, out: Path, budget: str) -> dict[str, Any]:
    """Read the rows of a reproduction's folder into one plain value, as it is kept in ``results.json``."""
    rows = [_row(table, row, _records(out, row)) for row in table.rows]
    known = {row["name"]: row for row in rows}
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "budget": budget,
        "about": table.budget(budget).about,
        "columns": [column.model_dump() for column in table.columns],
        "groups": table.groups,
        "rows": rows,
        "claims": [asdict(look_up(claim, table, known)) for claim in table.claims],
        "notes": list(table.notes),
    }


def _records(out: Path, row: Row) -> list[dict[str, Any]]:
    """Records of a row by seed, in the order of the seeds."""
    found = [folders.read_record(path) for path in out.glob(f"{row.name}-s*/{RECORD}")]
    return sorted((record for record in found if record.get("row") == row.name), key=lambda record: record["seed"])


def _row(table: Table, row: Row, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
            spread[key] = math.sqrt(sum((v - means[key]) ** 2 for v in values) / (len(values) - 1))
    return {
        "name": row.name,
        "title": row.title,
        "group": row.group,
        "remark": row.remark,
        "published": dict(row.published),
        "seeds": [record["seed"] for record in records],
        "measures": means,
        "spread": spread,
        "budgets": sorted({record["budget"] for record in records}),
        "training_seconds": [record["training_seconds"] for record in records],
        "profiles": records[0]["profiles"] if records else {},
        "machine": records[0]["machine"] if records else None,
    }


def look_up(claim: Claim, table: Table, rows: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Whether a published ordering holds in our rows."""
    sign, better, worse = (1 if claim.higher else -1), rows[claim.better], rows[claim.worse]
    column = next(c for c in table.columns if c.key == claim.column)
    published = _difference(better["published"], worse["published"], column.published or "", sign)
    difference = _difference(better["measures"], worse["measures"], claim.column, sign)
    if difference is None:
        return Finding(claim.text, "not run", None, None, published, claim.remark)
    errors = [_error(row, claim.column, column.error) for row in (better, worse)]
    error = None if None in errors else math.hypot(*(e for e in errors if e is not None))
    close = error is not None and abs(difference) <= 2 * error
    verdict = "too close to call" if close else "holds" if difference > 0 else "does not hold"
    return Finding(claim.text, verdict, difference, error, published, claim.remark)


def _difference(better: Mapping[str, Any], worse: Mapping[str, Any], key: str, sign: int) -> float | None:
    values = better.get(key), worse.get(key)
    return None if None in values else sign * (values[0] - values[1])  # type: ignore[operator]


def _error(row: Mapping[str, Any], key: str, error_key: str | None) -> float | None:
    """Standard error of a row's mean: between the seeds where there are several, else the Monte-Carlo one."""
    if key in row["spread"]:
        return float(row["spread"][key]) / math.sqrt(len(row["seeds"]))
    found = row["measures"].get(error_key) if error_key else None
    return None if found is None else float(found)


def read_results(path: Path) -> dict[str, Any]:
    """A result file; raises :class:`RunFolderError` where it is none."""
    values = folders.read_record(path)
    if not {"table", "columns", "rows", "claims"} <= values.keys():
        raise RunFolderError(f"{path} holds no results of a table; give the results.json that reproduce has written")
    return values
