"""A report as a page: it holds what ``report.md`` holds, loads nothing, and shows data as they are."""

import base64
import re

import pytest
from pages import Page

from ppl_text.evaluation.page import GENERATOR, page
from ppl_text.evaluation.report import Document, Picture, Points, Section

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>&amp;\' | \x00\x07'
SEEN = EVIL.removesuffix("\x00\x07")


def document(**parts):
    return Document("Run x", {"model": "m"}, (Section("Figures", **parts),))


def rendered(tmp_path, **parts):
    return Page(page(document(**parts), tmp_path))


def test_a_page_is_one_document_for_phones_too(tmp_path):
    text = page(document(), tmp_path)
    assert text.startswith("<!doctype html>\n<html lang=")
    found = Page(text)
    assert found.title == "Run x"
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert GENERATOR in text
    assert "default-src 'none'" in text


def test_all_parts_of_a_section_are_shown_in_the_order_of_the_markdown(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    parts = {
        "header": ("quantity", "value"),
        "rows": (("ELBO", "-1.5 ± 0.1"), ("KL", "0.3")),
        "lines": ("a line",),
        "quotes": ("as written", "again"),
        "items": ("one", "two"),
        "pictures": (Picture("a curve", "a.png"),),
        "terminal": ("of a terminal",),
    }
    found = rendered(tmp_path, **parts)
    assert found.tables == [
        [["what", "value"], ["model", "m"]],
        [["quantity", "value"], ["ELBO", "-1.5\xa0±\xa00.1"], ["KL", "0.3"]],
    ]
    shown = ["Figures", "ELBO", "A line", "as written", "again", "one", "two", "a curve"]
    places = [found.text.index(part) for part in shown]
    assert places == sorted(places)
    markdown = document(**parts).markdown()
    assert [markdown.index(part) for part in shown] == sorted(markdown.index(part) for part in shown)
    assert "of a terminal" not in found.text
    assert found.sources == ["data:image/png;base64," + base64.b64encode(PNG).decode()]


PLACES = {
    "title": lambda: Document(EVIL, {}, ()),
    "fact": lambda: Document("x", {EVIL: EVIL}, ()),
    "heading": lambda: Document("x", {}, (Section(EVIL),)),
    "header": lambda: document(header=(EVIL, "b"), rows=(("1", "2"),)),
    "cell": lambda: document(header=("a", "b"), rows=((EVIL, "2"),)),
    "line": lambda: document(lines=(EVIL,)),
    "quote": lambda: document(quotes=(EVIL,)),
    "item": lambda: document(items=(EVIL,)),
    "about a picture": lambda: document(pictures=(Picture(EVIL, "a.png"),)),
    "picture that is gone": lambda: document(pictures=(Picture("x", EVIL.replace("\x00", "")),)),
    "point": lambda: document(pictures=(Picture("x", "y", Points((1.0,), (2.0,), (EVIL,), ("a", "b"))),)),
    "axis": lambda: document(pictures=(Picture("x", "y", Points((1.0,), (2.0,), ("t",), (EVIL, EVIL))),)),
}


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_what_comes_from_data_is_shown_and_never_run(tmp_path, make):
    (tmp_path / "a.png").write_bytes(PNG)
    found = Page(page(make(), tmp_path))
    assert SEEN in found.text + " ".join(found.attributes)
    assert "\x00" not in found.text
    assert found.tags.count("script") == 1, "our own"
    assert "onerror" not in found.names
    assert all(source.startswith("data:") for source in found.sources)


def test_a_point_holds_its_text_and_lies_within_the_figure(tmp_path):
    points = Points((0.0, 5.0, 10.0), (1.0, -1.0, 3.0), ("first", "second", ""), ("across", "up"))
    found = rendered(tmp_path, pictures=(Picture("latents", "figures/latents.png", points),))
    assert found.circles == [("first", 36.0, 200.0), ("second", 320.0, 364.0), ("∅", 604.0, 36.0)]
    assert {"across", "up", "latents"} <= set(found.pieces)


@pytest.mark.parametrize("values", [(), (2.0,), (2.0, 2.0)], ids=["none", "one", "all alike"])
def test_points_without_a_spread_lie_in_the_middle(tmp_path, values):
    points = Points(values, values, ("t",) * len(values), ("across", "up"))
    found = rendered(tmp_path, pictures=(Picture("latents", "x.png", points),))
    assert found.circles == [("t", 320.0, 200.0)] * len(values)


def test_a_figure_that_is_gone_is_named(tmp_path):
    found = rendered(tmp_path, pictures=(Picture("a curve", "figures/gone.png"),))
    assert "The figure figures/gone.png (a curve) is not there." in found.text
    assert found.sources == []


def test_a_section_may_stand_beside_the_one_before(tmp_path):
    sections = tuple(Section(str(n), beside=n in (0, 2)) for n in range(4))
    text = page(Document("x", {}, sections), tmp_path)
    assert re.findall(r"<section[^>]*>", text) == [
        "<section>",
        '<section class="left">',
        '<section class="right">',
        "<section>",
    ]
