"""Pages read back: what is shown, and what would be loaded."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "line", "circle"}
"""Elements that may have no end."""


class Page(HTMLParser):
    """A page as a strict reader sees it; raises :class:`AssertionError` where elements are not closed in order.

    ``text`` of all but styles and scripts, its ``pieces``, ``tables`` as lists of rows, ``circles`` as (text, x, y),
    ``sources`` and links of anything, ``tags``, and the ``names`` and values (``attributes``) of attributes.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.title, self.pieces, self.tables, self.circles = "", [], [], []
        self.sources, self.tags, self.names, self.attributes = [], [], set(), []
        self._open, self._content = [], {}
        self.feed(text)
        self.close()
        assert self._open == [], "not closed"

    @property
    def text(self) -> str:
        """Everything that is shown."""
        return "\n".join(self.pieces)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, closed=True)

    def handle_starttag(self, tag, attributes, closed=False):
        self.tags.append(tag)
        named = dict(attributes)
        assert len(named) == len(attributes), f"an attribute of {tag} stands twice"
        self.names |= named.keys()
        self.attributes += [value or "" for value in named.values()]
        self.sources += [named[name] for name in ("src", "href", "srcset", "xlink:href", "action") if name in named]
        if not closed and tag not in VOID - {"circle"}:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "circle":
            self.circles.append(("", float(named["cx"]), float(named["cy"])))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> without a beginning"
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] in (["style"], ["script"]):
            self._content.setdefault(self._open[-1], []).append(data)
            return
        if self._open[-2:] == ["head", "title"]:
            self.title += data
            return
        if self._open[-2:] == ["circle", "title"]:
            self.circles[-1] = (self.circles[-1][0] + data, *self.circles[-1][1:])
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if data.strip():
            self.pieces.append(data)

    @property
    def loads(self) -> list[str]:
        """All addresses outside the page that styles, scripts or elements name."""
        written = "".join(part for parts in self._content.values() for part in parts)
        found = re.findall(
            r"https?:|//[\w.]+\.\w|@import|url\(", re.sub(r"^\s*//.*$|/\*.*?\*/", "", written, flags=re.M)
        )
        return [*(source for source in self.sources if not source.startswith("data:")), *found]


def numbers(text: str) -> set[str]:
    """Return all numbers in a text, as they are written."""
    return set(re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?%?", text))


def shown_in_markdown(text: str) -> str:
    """Return what a reader of Markdown sees of it, without its figures."""
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    return re.sub(r"\\([\\`*_<>\[\]&#~|(])", r"\1", text)
