"""Write the reproduction tables of README.md from their result files: ``python docs/fill_readme.py``.

A table stands between ``<!-- table: FILE -->`` and ``<!-- /table -->``; FILE is a ``results.json`` that ``python -m
ppl_text reproduce`` has written. ``tests/test_readme.py`` fails where the README and the files differ.
"""

from __future__ import annotations

import re
from pathlib import Path

from ppl_text.tables.markdown import table_markdown
from ppl_text.tables.results import read_results

ROOT = Path(__file__).resolve().parents[1]

BLOCK = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- /table -->", re.DOTALL)
"""A table's place in the README."""


def filled(text: str) -> str:
    """The README with every table as its result file has it."""

    def block(found: re.Match[str]) -> str:
        table = table_markdown(read_results(ROOT / found[1]))
        return f"<!-- table: {found[1]} -->\n{table}\n<!-- /table -->"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
