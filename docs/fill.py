"""Write the generated tables of all pages from their result files: ``python docs/fill.py``.

A table stands between ``<!-- table: FILE -->`` and ``<!-- /table -->`` in README.md or a page below ``docs/``. FILE is
a ``results.json`` that ``python -m ppl_text reproduce`` has written, named from the page's own folder; with a second
word, ``<!-- table: FILE GROUP -->``, the rows of that group stand alone. Or it is what ``python -m benchmarks.table``,
``benchmarks.growth`` or ``benchmarks.streaming`` has written, which says so under ``benchmark``.
``tests/test_docs.py`` fails where a page and its result files differ.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # benchmarks/ is no installed package
    sys.path.append(str(ROOT))

from benchmarks import page as speed  # noqa: E402
from benchmarks import streaming  # noqa: E402
from ppl_text.tables.page import table_markdown  # noqa: E402
from ppl_text.tables.results import read_results  # noqa: E402

BENCHMARKS = {
    "table": speed.table_markdown,
    "growth": speed.growth_markdown,
    "streaming": streaming.table_markdown,
}
"""What makes the table of a benchmark's file."""

BLOCK = re.compile(r"<!-- table: (?P<file>\S+)(?: (?P<group>\S+))? -->\n.*?<!-- /table -->", re.DOTALL)
"""A table's place in a page."""


def pages() -> list[Path]:
    """Return the pages that a reader opens: the Markdown files of the root and all below ``docs/``."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str, folder: Path) -> str:
    """Return a page's text with every table as its result file has it; files are named from ``folder``."""

    def block(found: re.Match[str]) -> str:
        mark = found[0].split("\n", 1)[0]
        return f"{mark}\n{markdown(folder / found['file'], found['group'])}\n<!-- /table -->"

    return BLOCK.sub(block, text)


def markdown(file: Path, group: str | None) -> str:
    """Return the table of a file: of a benchmark, of all rows of a reproduction, or of one group of them."""
    report = json.loads(file.read_text(encoding="utf-8"))
    if "benchmark" in report:
        return BENCHMARKS[report["benchmark"]](report)
    results = read_results(file)
    return table_markdown(results if group is None else of_group(results, group))


def of_group(results: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the results of one group of rows, without the claims."""
    if group not in results["groups"]:
        raise ValueError(f"no group '{group}' among {', '.join(results['groups'])}")
    rows = [row for row in results["rows"] if row["group"] == group]
    return {**results, "groups": {group: results["groups"][group]}, "rows": rows, "claims": []}


if __name__ == "__main__":
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before, page.parent)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: tables written")
