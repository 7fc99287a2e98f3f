"""Pages in a real browser, at the width of a desk and of a phone."""

from pathlib import Path

import numpy as np
import pytest
from browser import Browser, chromium

from ppl_text.comparing.charts import khat_figure
from ppl_text.evaluation.page import page
from ppl_text.evaluation.report import Document, Picture, Points, Section

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium here: install the package chromium, or name the command in CHROMIUM"
)

DESK, PHONE, NARROW = 1280, 390, 400
LONG = "x" * 400
EVIL = '<script>window.hit = 1</script><img src="x" onerror="window.hit = 1">'
ROWS = (("b", "-9.5 ± 0.1", "–"), ("a", "-10.25", "3"), ("d", "1,000", "12 of 20"), ("c", "2e-3", "100"))


@pytest.fixture(scope="module")
def browser():
    with Browser(chromium()) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page with all that a page can have: wide tables, long words, figures, points, and texts that are scripts."""
    folder = tmp_path_factory.mktemp("page")
    khat_figure({"K = 64": np.linspace(-0.3, 0.9, 50)}, folder / "khat.png")
    points = Points((0.0, 1.0, 2.0), (0.0, 1.0, -1.0), ("the first", EVIL, LONG), ("axis 1", "axis 2"))
    header = tuple(f"a heading {n}" for n in range(15))
    sections = (
        Section("Figures", ("name", "value", "units"), ROWS, (f"Words that are long: {LONG}", EVIL)),
        Section("Wide", header, (tuple("cell of a table" for _ in header), (LONG, *header[1:]))),
        Section("Latents", pictures=(Picture("latents", "figures/latents.png", points),)),
        Section("Reconstructions", ("text", "reconstruction"), ((EVIL, LONG), ("short", "short"))),
        Section("Samples", quotes=(LONG, EVIL), beside=True),
        Section("Training", items=(EVIL, LONG), pictures=(Picture("a curve", "khat.png"), Picture(EVIL, "gone.png"))),
    )
    target = folder / "report.html"
    target.write_text(
        page(Document(f"A run {LONG}", {"corpus": LONG, "name": EVIL}, sections), folder), encoding="utf-8"
    )
    return target


@pytest.fixture(params=["all there can be", "a run's own"])
def shown(request, made, trained):
    return made if request.param == "all there can be" else trained.folder / "report.html"


OUTSIDE = """[...document.querySelectorAll("body *")]
    .filter((e) => !e.parentElement.closest(".scroll") && e.getBoundingClientRect().right > innerWidth + 0.5)
    .map((e) => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("width", [DESK, PHONE, NARROW, 320])
def test_nothing_leaves_the_window(browser, shown, width):
    browser.open(shown, width)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OUTSIDE) == []


def test_what_is_wider_than_a_phone_scrolls_within_its_own_box(browser, made):
    browser.open(made, PHONE)
    boxes = browser.run(
        "[...document.querySelectorAll('.scroll')].map((e) => [e.scrollWidth > e.clientWidth, e.tabIndex])"
    )
    assert [True, 0] in boxes
    assert browser.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "auto"
    assert browser.run("parseFloat(getComputedStyle(document.body).fontSize)") >= 14


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_nothing_is_loaded_from_elsewhere_and_no_fault_is_met(browser, shown, width):
    browser.open(shown, width)
    browser.run("document.fonts.ready.then(() => 0)")
    assert browser.asked[0] == shown.resolve().as_uri()
    assert all(address.startswith("data:image/png") for address in browser.asked[1:])
    assert browser.faults == []
    assert browser.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")


def test_the_policy_would_keep_an_address_from_being_loaded(browser, made, tmp_path):
    text = made.read_text(encoding="utf-8").replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">')
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    browser.open(tmp_path / "page.html", DESK)
    assert any("Content Security Policy" in fault for fault in browser.faults)


def test_texts_are_shown_and_never_run(browser, made):
    browser.open(made, DESK)
    assert browser.run("window.hit === undefined")
    assert browser.run("document.body.innerText").count(EVIL) >= 5


def cells(browser, place):
    """The cells of a column of the first table of a section."""
    return browser.run(
        f"[...document.querySelector('section table').tBodies[0].rows].map((row) => row.cells[{place}].textContent)"
    )


def test_a_column_is_sorted_both_ways_and_what_is_missing_is_last(browser, made):
    browser.open(made, DESK)
    headings = "section table th:nth-child({}) button"
    assert cells(browser, 0) == ["b", "a", "d", "c"], "as it was made"
    for column, order in ((1, "abcd"), (2, "abcd"), (3, "adcb")):
        browser.point(headings.format(column), press=True)
        heading = f"document.querySelectorAll('section table th')[{column - 1}].getAttribute('aria-sort')"
        assert "".join(cells(browser, 0)) == order
        assert browser.run(heading) == "ascending"
        browser.point(headings.format(column), press=True)
        missing = [name for name in order if column == 3 and name == "b"]
        assert "".join(cells(browser, 0)) == "".join([n for n in order[::-1] if n not in missing] + missing)
        assert browser.run(heading) == "descending"
    assert browser.run("document.querySelectorAll('[aria-sort]').length") == 1


@pytest.mark.parametrize(("width", "press"), [(DESK, False), (PHONE, True)], ids=["desk", "phone"])
def test_the_text_of_a_point_is_read_where_it_is_pointed_at(browser, made, width, press):
    browser.open(made, width)
    for number, text in enumerate(("the first", EVIL), 1):
        browser.point(f"circle:nth-of-type({number})", press=press)
        assert browser.run("document.querySelector('.said').textContent") == text
        assert browser.run("document.querySelectorAll('circle.chosen').length") == 1
    assert browser.run("window.hit === undefined")


def test_samples_stand_beside_reconstructions_where_there_is_room(browser, shown):
    places = """[...document.querySelectorAll("section.left, section.right")]
        .map((e) => e.getBoundingClientRect()).map(({left, top}) => [left, top])"""
    browser.open(shown, DESK)
    (left, top), (right, other) = browser.run(places)
    assert (top, left < right) == (other, True)
    browser.open(shown, PHONE)
    (left, top), (right, other) = browser.run(places)
    assert (left, top < other) == (right, True)


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_without_scripts_all_is_there_but_sorting_and_hovering(browser, made, width):
    browser.open(made, width)
    seen = set(browser.run("document.body.innerText").split())
    browser.open(made, width, scripts=False)
    assert browser.run("document.querySelectorAll('button').length") == 0
    assert set(browser.run("document.body.innerText").split()) == seen
    assert browser.run("document.querySelector('circle title').textContent") == "the first", "which browsers show"
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.images].every((i) => i.naturalWidth > 0)")


def test_a_page_can_be_read_in_the_dark(browser, made):
    ratio = """(() => {
        const style = getComputedStyle(document.body);
        const light = (c) => c.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 765;
        return Math.abs(light(style.color) - light(style.backgroundColor));
    })()"""
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(made, DESK)
        assert browser.run(ratio) > 0.6
    browser.call("Emulation.setEmulatedMedia", features=[])


def test_pictures_of_a_page_can_be_taken(browser, made, tmp_path):
    browser.open(made, PHONE)
    browser.picture(tmp_path / "page.png")
    assert Path(tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
