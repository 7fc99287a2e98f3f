"""Write the generated tables of all pages from their result files: ``python docs/fill.py``.

A table stands between ``<!-- table: FILE -->`` and ``<!-- /table -->`` in README.md or a page below ``docs/``. FILE is
a ``results.json`` that ``python -m ppl_text reproduce`` has written, named from the page's own folder; with a second
word, ``<!-- table: FILE GROUP -->``, the rows of that group stand alone. ``tests/test_docs.py`` fails where a page and
its result files differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_text.tables.page import table_markdown
from ppl_text.tables.results import read_results

ROOT = Path(__file__).resolve().parents[1]

BLOCK = re.compile(r"<!-- table: (?P<file>\S+)(?: (?P<group>\S+))? -->\n.*?<!-- /table -->", re.DOTALL)
"""A table's place in a page."""


def pages() -> list[Path]:
    """Return the pages that a reader opens: the Markdown files of the root and all below ``docs/``."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str, folder: Path) -> str:
    """Return a page's text with every table as its result file has it; files are named from ``folder``."""

    def block(found: re.Match[str]) -> str:
        results = read_results(folder / found["file"])
        chosen = results if found["group"] is None else of_group(results, found["group"])
        mark = found[0].split("\n", 1)[0]
        return f"{mark}\n{table_markdown(chosen)}\n<!-- /table -->"

    return BLOCK.sub(block, text)


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
