"""The pages of the project as tests see them: blocks, commands, links, headings."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]
}
"""Every page by its name."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`]+)`")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def read(page: str) -> str:
    """Return the text of a page."""
    return PAGES[page].read_text(encoding="utf-8")


def blocks(text: str, language: str = "") -> list[str]:
    """Return the fenced blocks of a language, or all of them."""
    return [body for name, body in FENCE.findall(text) if not language or name == language]


def marked(text: str, mark: str, language: str) -> list[str]:
    """Return, for each ``<!-- mark -->`` of a page, the first block of a language after it."""
    return [blocks(part, language)[0] for part in text.split(f"<!-- {mark} -->")[1:]]


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", text)


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Yield the arguments of every ``python -m program …`` of a page: lines of blocks, and code within prose.

    ``a|b|c`` stands for one of them and gives one command each; a comment at the end of a line is left out.
    """
    lines = [line for body in blocks(text) for line in body.replace("\\\n", " ").splitlines()]
    codes = [code.replace("\n", " ").replace("\\|", "|") for code in INLINE.findall(prose(text))]
    for line in [*lines, *codes]:
        _, found, rest = line.partition(f"python -m {program}")
        if found and (not rest or rest[0] in " "):
            words = shlex.split(rest.split("&&")[0], comments=True)
            yield from (list(choice) for choice in itertools.product(*(_alternatives(word) for word in words)))


def _alternatives(word: str) -> list[str]:
    return word.split("|") if re.fullmatch(r"[\w-]+(\|[\w-]+)+", word) else [word]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        copies = (f"{slug}-{n}" if n else slug for n in itertools.count())
        found.add(next(name for name in copies if name not in found))
    return found
