"""The figure of texts in two dimensions takes whatever a text holds."""

import pytest

from ppl_text.plots import points
from ppl_text.plots.points import LABELLED, LONGEST, points_figure

TEXTS = {
    "words": ["the king", "a dog", "the sea"],
    "formulas": ["$x^2$", "$\\nothing$", "$ 5 and $"],
    "letters that the font lacks": ["中文", "🙂", "\ufffd"],
    "controls": ["a\x07b", "tab\there", "line\nbreak"],
    "nothing": ["", "", ""],
    "one long": ["x" * 1000],
    "none": [],
    "many": [f"text {n}" for n in range(200)],
}


@pytest.fixture
def drawn(monkeypatch):
    figures, save = [], points.save_figure
    monkeypatch.setattr(points, "save_figure", lambda figure, target: (figures.append(figure), save(figure, target)))
    return figures


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_texts_are_drawn_at_their_places_and_some_are_written(tmp_path, drawn, texts):
    x, y = [float(n) for n in range(len(texts))], [0.5 * n for n in range(len(texts))]
    points_figure(x, y, texts, ("across", "up"), tmp_path / "figures" / "points.png")
    assert (tmp_path / "figures" / "points.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    assert axes.collections[0].get_offsets().tolist() == [list(place) for place in zip(x, y, strict=True)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("across", "up")
    written = [text.get_text() for text in axes.texts]
    assert min(len(texts), LABELLED) <= len(written) <= 2 * LABELLED
    assert all(len(text) <= LONGEST for text in written)
