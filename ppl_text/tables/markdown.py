"""A result file as Markdown: ours beside the published figures, row by row, and what became of the claims."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.report import table

NOT_RUN = "not run"


def table_markdown(results: Mapping[str, Any]) -> str:
    """Tables by group (ours, the published figure in brackets), notes, and the published orderings looked up."""
    parts = []
    for group, title in results["groups"].items():
        rows = [row for row in results["rows"] if row["group"] == group]
        if rows:
            parts += [f"**{title}**", _group(results, rows)]
    if notes := [*results["notes"], *_data_notes(results), *_sentence_notes(results)]:
        parts.append("\n".join(f"- {note}" for note in notes))
    if results["claims"]:
        parts += ["**Published orderings, looked up** (in units of the column; positive: as published)"]
        parts += [_claims(results["claims"])]
    return "\n\n".join(parts)


def _group(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [c for c in results["columns"] if any(_has(row, c) for row in rows)]
    header = ["row", *(c["title"] for c in columns), "steps", "remark"]
    return table(
        header, [[row["title"], *(_cell(row, c) for c in columns), _steps(row), _remark(row, results)] for row in rows]
    )


def _has(row: Mapping[str, Any], column: Mapping[str, Any]) -> bool:
    return row["measures"].get(column["key"]) is not None or column["published"] in row["published"]


def _cell(row: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    """``ours [interval] ± spread over seeds (published)``; a dash stands for what there is not."""
    digits, value = column["digits"], row["measures"].get(column["key"])
    ours = "–"
    if value is not None:
        ends = [row["measures"].get(key) for key in column.get("interval") or ()]
        within = "" if None in ends or not ends else " [" + ", ".join(_fixed(end, digits) for end in ends) + "]"
        spread = row["spread"].get(column["key"])
        ours = _fixed(value, digits) + within + ("" if spread is None else f" ± {_fixed(spread, digits)}")
    published = row["published"].get(column["published"])
    return ours if published is None else f"{ours} ({_fixed(published, digits)})"


def _fixed(value: float, digits: int) -> str:
    """So many decimals; what rounds to zero has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _steps(row: Mapping[str, Any]) -> str:
    steps = row["measures"].get("steps")
    return "" if steps is None else f"{steps:,.0f}"


def _remark(row: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    if row["seeds"]:
        seeds = f"{len(row['seeds'])} seeds" if len(row["seeds"]) > 1 else ""
        return "; ".join(part for part in (seeds, row["remark"]) if part)
    command = f"reproduce {results['table']} --rows {row['name']} --budget {results['budget']}{data_option(results)}"
    return f"{NOT_RUN}: `python -m ppl_text {command}`"


def data_option(results: Mapping[str, Any]) -> str:
    """The option that names the data, with a blank in front; nothing where they are the table's own."""
    if not results["given"]:
        return ""
    given, part = shlex.quote(results["given"]), results["part"]
    return f" --data {part}={given}" if part else f" --data {given}"


def _sentence_notes(results: Mapping[str, Any]) -> list[str]:
    """What perplexities are divided by, and what mutual information cannot pass: of the rows that were measured."""
    rows = [row for row in results["rows"] if row["seeds"] and row["measures"].get("n_eos")]
    if not rows:
        return []
    # An exact row has one particle, whatever the others have.
    sentences, tokens, particles = max(
        tuple(r["measures"][key] for key in ("n_sent", "n_eos", "particles")) for r in rows
    )
    notes = [
        f"{sentences:,.0f} test sentences, {tokens:,.0f} scored tokens (EOS counted, BOS not), by which the nats of "
        f"perplexities are divided; the importance-weighted ones are from K = {particles:,.0f} draws (the published "
        "ones from 500)."
    ]
    caps: dict[int, list[str]] = {}
    for row in rows:
        if (compared := row["measures"].get("compared")) is not None:
            caps.setdefault(int(compared), []).append(row["title"])
    most = max(caps, default=0)
    for compared, titles in sorted(caps.items(), reverse=True):
        whose = "" if compared == most else f" of {', '.join(titles)}"
        notes.append(
            f"MI{whose} is against the aggregate posterior of {compared:,} of the sentences, and can be "
            f"{math.log(compared):.2f} nats at most."
        )
    return notes


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    rows = [[c["text"], _number(c["published"]), _ours(c), c["verdict"], c["remark"]] for c in claims]
    return table(["published claim", "published difference", "ours", "verdict", "why"], rows)


def _ours(claim: Mapping[str, Any]) -> str:
    error = "" if claim["error"] is None else f" ± {claim['error']:.2f}"
    return _number(claim["difference"]) + error


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _data_notes(results: Mapping[str, Any]) -> list[str]:
    """Entropies of the data, sample size, errors of the cross-entropies: by group, where they were measured."""
    notes = []
    for group, title in results["groups"].items():
        rows = [row["measures"] for row in results["rows"] if row["group"] == group and row["seeds"]]
        sampled = [m for m in rows if m.get("test_sampling_se") is not None]
        if sampled and sampled[0].get("entropy_test") is not None:
            m, error = sampled[0], max(m["test_se"] for m in sampled)
            notes.append(
                f"{title.split(':')[0]}: entropy of the test words {m['entropy_test']:.3f} nats, of the training words "
                f"{m['entropy_train']:.3f}; {m['samples']:,.0f} samples a row; Monte-Carlo standard error of H test at "
                f"most {error:.3f}; the draw of the words adds {m['test_sampling_se']:.2f}, the same for all rows."
            )
    return notes
