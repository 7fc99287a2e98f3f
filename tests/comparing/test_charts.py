"""The figures of ``compare``: what is drawn is read back from the figure, and the picture from the file."""

import itertools

import numpy as np
import pytest

from ppl_text.comparing import charts
from ppl_text.comparing.charts import bounds_figure, khat_figure, snr_figure

PNG = b"\x89PNG\r\n\x1a\n"
GUIDES = ("diagonal", "tril", "bidirectional", "bootstrap")
FAMILIES = ("elbo", "elbo-analytic", "stl", "iwae", "dreg", "renyi:0.5", "stepwise", "fivo")


def row(guide="tril", objective="elbo", bound=-20.0, run="runs/words", **columns):
    plain = {"particles": 1, "bound_se": 0.1, "snr_model": 2.0, "snr_guide": 1.0, "family": objective.split(":")[0]}
    return {"run": run, "guide": guide, "objective": objective, "bound": bound, **plain, **columns}


def crowd():
    """Four guides and eight families at four K, the guides' signal-to-noise ratio falling as 1/√K."""
    return [
        row(guide, f"{family}:{k}", -20.0 - i, family=family, particles=k, snr_model=k**0.5, snr_guide=k**-0.5)
        for (i, guide), family, k in itertools.product(enumerate(GUIDES), FAMILIES, (1, 4, 16, 64))
    ]


def at(rows, particles):
    return [r for r in rows if r["particles"] == particles]


@pytest.fixture
def drawn(monkeypatch):
    """``drawn(function, content, target)``: draw, save, and return the figure."""
    save, figures = charts.save_figure, []

    def keep(figure, target):
        figures.append(figure)
        save(figure, target)

    monkeypatch.setattr(charts, "save_figure", keep)

    def draw(function, content, target):
        function(content, target)
        return figures[-1]

    return draw


def points(container):
    """(x, y, half width of the error bar) of every point of one objective."""
    line, _, (bars,) = container.lines
    widths = [np.ptp(segment[:, 0]) / 2 for segment in bars.get_segments()]
    return list(zip(*line.get_data(), widths, strict=True))


def texts(figure):
    """Everything that is written on a figure, with the pixels that it takes; ticks out of view are not written."""
    from matplotlib.text import Text

    written = []
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw
        patch.setattr(Text, "draw", lambda text, renderer: (written.append(text), draw(text, renderer)))
        figure.canvas.draw()
    return [(text.get_text(), text.get_window_extent()) for text in written if text.get_text() and text.get_visible()]


LONG = "/home/somebody/experiments/2026/november/runs/words"
FIGURES = {
    "bounds": (bounds_figure, [row(), row("diagonal", bound=-21.0)]),
    "bounds, a crowd": (bounds_figure, at(crowd(), 16)),
    "bounds, one point": (bounds_figure, [row()]),
    "bounds, none finite": (bounds_figure, [row(bound=None, bound_se=None), row(bound=float("-inf"))]),
    "bounds, no error": (bounds_figure, [row(bound_se=None)]),
    "bounds, a poor guide": (bounds_figure, [row("prior", bound=-80.0), *at(crowd(), 16)]),
    "bounds, two poor guides": (bounds_figure, [row("prior", bound=-1234.5), row("p", bound=-80.0), *at(crowd(), 16)]),
    "bounds, two runs": (bounds_figure, [row(run=LONG + "-1"), row(run=LONG + "-2")]),
    "bounds, many objectives": (bounds_figure, [row(objective=f"iwae:{k}") for k in range(1, 25)]),
    "khat": (khat_figure, {"diagonal": np.linspace(-0.4, 1.4, 50), "tril": np.linspace(-0.4, 0.4, 50)}),
    "khat, beyond": (khat_figure, {"a guide with a name of more than forty letters": np.array([-np.inf, 3, np.nan])}),
    "snr": (snr_figure, [row(particles=1), row(particles=4)]),
    "snr, a crowd": (snr_figure, crowd()),
    "snr, no gradient": (snr_figure, [row(snr_model=None, snr_guide=None)]),
    "snr, no finite one": (snr_figure, [row(snr_model=float("nan"), snr_guide=float("inf")), row(snr_model=0.0)]),
    "snr, two runs": (snr_figure, [row("bidirectional", run=LONG + n) for n in "12"]),
}


@pytest.mark.parametrize(("function", "content"), FIGURES.values(), ids=FIGURES)
def test_a_figure_is_a_png_of_a_readme_s_width_whose_labels_keep_clear_of_each_other(
    tmp_path, drawn, function, content
):
    target = tmp_path / "figures" / "figure.png"
    figure = drawn(function, content, target)
    picture = target.read_bytes()
    assert picture.startswith(PNG)
    assert int.from_bytes(picture[16:20], "big") == 900
    assert [p.name for p in target.parent.iterdir()] == ["figure.png"]
    written = texts(figure)
    assert [(a, b) for (a, x), (b, y) in itertools.combinations(written, 2) if x.overlaps(y)] == []
    for text, box in written:
        assert figure.bbox.x0 <= box.x0, text
        assert figure.bbox.x1 >= box.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert figure.bbox.y1 >= box.y1, text


def test_the_floor_below_which_a_ratio_is_noise_is_drawn(tmp_path, drawn):
    rows = [row(particles=k, snr_floor=0.25) for k in (1, 4)]
    for axes in drawn(snr_figure, rows, tmp_path / "snr.png").axes:
        assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [0.25]
    assert not any(
        line.get_linestyle() == ":"
        for axes in drawn(snr_figure, [row()], tmp_path / "old.png").axes
        for line in axes.lines
    )


def test_texts_are_called_what_the_corpus_calls_them(tmp_path, drawn):
    figure = drawn(lambda rows, target: bounds_figure(rows, target, "word"), [row()], tmp_path / "bounds.png")
    assert "(nats per word)" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("name", ["bounds, a crowd", "khat, beyond", "snr, two runs"])
def test_the_same_content_gives_the_same_picture(tmp_path, name):
    function, content = FIGURES[name]
    function(content, tmp_path / "a.png")
    function(content, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_bounds_stand_at_their_values_with_their_errors_in_the_strip_of_their_guide(tmp_path, drawn):
    rows = [row(guide, f"{family}:16", -20 - i - j, bound_se=0.1 * (1 + i + j))
            for i, guide in enumerate(GUIDES) for j, family in enumerate(FAMILIES)]  # fmt: skip
    axes = drawn(bounds_figure, rows, tmp_path / "bounds.png").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(GUIDES)
    for j, container in enumerate(axes.containers):
        for i, (x, y, error) in enumerate(points(container)):
            assert x == -20 - i - j
            assert error == pytest.approx(0.1 * (1 + i + j))
            assert round(y) == axes.get_yticks()[i] == i
    heights = [y for container in axes.containers for _, y, _ in points(container)]
    assert len(set(heights)) == len(rows), "two points in one lane"
    assert len({c.lines[0].get_color() for c in axes.containers}) == len(FAMILIES)
    assert len({c.lines[0].get_marker() for c in axes.containers}) == len(FAMILIES), "colour would speak alone"
    assert "nats per sentence" in axes.get_xlabel()


def looks(legend):
    """Colour and marker of every line in a legend; the caps of its error bars have no such marker."""
    from matplotlib.lines import Line2D

    lines = [(line.get_color(), line.get_marker()) for line in legend.findobj(Line2D)]
    return [look for look in lines if look[1] in charts.MARKERS]


def test_the_legend_names_the_objective_of_each_look(tmp_path, drawn):
    figure = drawn(bounds_figure, at(crowd(), 16), tmp_path / "bounds.png")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{family}:16" for family in FAMILIES]
    drawn_looks = [(c.lines[0].get_color(), c.lines[0].get_marker()) for c in figure.axes[0].containers]
    assert looks(legend) == drawn_looks


def test_a_bound_that_is_not_finite_is_counted_at_its_guide_and_not_drawn(tmp_path, drawn):
    rows = [row(bound=None), row(objective="iwae:4"), row("diagonal", bound=float("nan")), row("diagonal", "stl", -3.0)]
    axes = drawn(bounds_figure, rows, tmp_path / "bounds.png").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "tril\n(1 not finite)",
        "diagonal\n(1 not finite)",
    ]
    assert sorted(x for c in axes.containers for x, _, _ in points(c)) == [-20.0, -3.0]


POOR = {
    "none": ([-20.0, -20.5, -21.0], [(-21.0, -20.0)]),
    "two bounds": ([-90.0, -20.0], [(-90.0, -20.0)]),
    "one": ([-90.0, -20.5, -20.0], [(-90.0, -90.0), (-20.5, -20.0)]),
    "two alike": ([-90.0, -89.5, -20.5, -20.0], [(-90.0, -89.5), (-20.5, -20.0)]),
    "two, one worse": ([-900.0, -90.0, -20.5, -20.0], [(-900.0, -900.0), (-90.0, -90.0), (-20.5, -20.0)]),
    "three, each worse": ([-9e4, -900.0, -90.0, -20.5, -20.0], [(-9e4, -9e4), (-900.0, -900.0), (-90.0, -20.0)]),
    "a better one": ([-90.0, -89.0, -20.0], [(-90.0, -89.0), (-20.0, -20.0)]),
    "equal ones": ([-20.0, -20.0], [(-20.0, -20.0)]),
}


@pytest.mark.parametrize(("bounds", "parts"), POOR.values(), ids=POOR)
def test_an_axis_is_broken_where_poor_bounds_would_squeeze_the_good_ones(tmp_path, drawn, bounds, parts):
    assert charts.parts_of([(bound, bound) for bound in bounds]) == parts
    rows = [row(f"guide {i}", bound=bound, bound_se=None) for i, bound in enumerate(bounds)]
    figure = drawn(bounds_figure, rows, tmp_path / "bounds.png")
    assert len(figure.axes) == len(parts)
    for axes, (low, high) in zip(figure.axes, parts, strict=True):
        left, right = axes.get_xlim()
        assert left < low <= high < right
    shown = [bound for bound in bounds for axes in figure.axes if axes.get_xlim()[0] < bound < axes.get_xlim()[1]]
    assert shown == bounds, "each stands in one part"
    label = figure.axes[0].get_xlabel() or figure.get_supxlabel()
    assert ("the axis is broken" in label) == (len(parts) > 1)
    assert "nats per sentence" in label


def test_an_error_bar_is_part_of_what_is_shown():
    assert charts.parts_of([(-100.0, -20.0), (-20.5, -20.0), (-21.0, -20.1)]) == [(-100.0, -20.0)]
    assert charts.parts_of([]) == [(0.0, 1.0)]


def test_runs_are_told_apart_by_the_end_of_their_names(tmp_path, drawn):
    axes = drawn(bounds_figure, [row(run=LONG + "-1"), row(run=LONG + "-2")], tmp_path / "bounds.png").axes[0]
    first, second = (label.get_text() for label in axes.get_yticklabels())
    assert first.startswith("tril\n…")
    assert first.endswith("runs/words-1")
    assert second.endswith("runs/words-2")


def test_k_hats_are_counted_in_bins_and_beyond_them(tmp_path, drawn):
    khat = np.array([-np.inf, -0.7, -0.23, 0.12, 0.13, 0.49, 0.51, 0.69, 0.71, 2.0, np.inf])
    axes = drawn(khat_figure, {"tril": khat}, tmp_path / "khat.png").axes[0]
    bars = {round(bar.get_x() + bar.get_width() / 2, 3): bar.get_height() for bar in axes.patches if bar.get_height()}
    assert bars == {-0.475: 2, -0.225: 1, 0.125: 2, 0.475: 1, 0.525: 1, 0.675: 1, 0.725: 1, 1.475: 2}
    assert sorted(line.get_xdata()[0] for line in axes.lines) == [0.5, 0.7]
    assert axes.get_title("left") == "tril"
    assert axes.get_title("right") == "< 0.5: 55%   to 0.7: 18%   > 0.7: 27%   (2 below −0.5, 2 above 1.5)"


def test_k_hats_count_by_the_weights_of_their_texts(tmp_path, drawn):
    def weighed(khats, target):
        khat_figure(khats, target, "word", np.array([3.0, 1.0]))

    axes = drawn(weighed, {"tril": np.array([0.12, 0.9])}, tmp_path / "khat.png").axes[0]
    assert sorted(bar.get_height() for bar in axes.patches if bar.get_height()) == [1, 3]
    assert axes.get_title("right") == "< 0.5: 75%   to 0.7: 0%   > 0.7: 25%"


def test_the_colour_of_a_bar_says_where_it_lies(tmp_path, drawn):
    axes = drawn(khat_figure, {"tril": np.array([0.49, 0.51, 0.69, 0.71])}, tmp_path / "khat.png").axes[0]
    colours = [bar.get_facecolor() for bar in axes.patches if bar.get_height()]
    assert colours[1] == colours[2]
    assert len(set(colours)) == 3


def test_every_guide_has_its_panel_of_k_hats(tmp_path, drawn):
    figure = drawn(khat_figure, {"a": np.zeros(3), "b": np.ones(4)}, tmp_path / "khat.png")
    assert [axes.get_title("left") for axes in figure.axes] == ["a", "b"]
    assert [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes] == [3, 4]


def slopes(axes):
    """Slope in log-log of every line of two points or more."""
    lines = [line.get_data() for line in axes.lines if len(line.get_xdata()) > 1]
    return [np.polyfit(np.log(x), np.log(y), 1)[0] for x, y in lines]


def test_signal_to_noise_is_drawn_log_log_by_guide_and_family(tmp_path, drawn):
    rows = crowd()
    figure = drawn(snr_figure, rows[::-1], tmp_path / "snr.png")
    assert len(figure.axes) == 2 * len(GUIDES)
    for model, guide in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        assert (model.get_title("right"), guide.get_title("right")) == ("model parameters", "guide parameters")
        assert slopes(model) == pytest.approx([0.5] * len(FAMILIES))
        assert slopes(guide) == pytest.approx([-0.5] * len(FAMILIES))
        assert all(list(line.get_xdata()) == [1, 4, 16, 64] for line in model.lines)
        assert (model.get_xscale(), model.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(FAMILIES[::-1])
    assert [axes.get_title("left") for axes in figure.axes[::2]] == list(GUIDES[::-1])


def test_near_equal_ratios_do_not_look_far_apart(tmp_path, drawn):
    rows = [row(snr_model=2.0, snr_guide=2.0), row(snr_model=2.01, snr_guide=2.0, particles=4)]
    low, high = drawn(snr_figure, rows, tmp_path / "snr.png").axes[0].get_ylim()
    assert low < 2.0 < 2.01 < high
    assert high >= 9.99 * low


def test_what_has_no_gradient_is_left_out_and_said(tmp_path, drawn):
    rows = [row(snr_guide=None), row(objective="iwae:4", particles=4, snr_model=0.0, snr_guide=None)]
    model, guide = drawn(snr_figure, rows, tmp_path / "snr.png").axes
    assert [len(line.get_xdata()) for line in model.lines] == [1, 0]
    assert [text.get_text() for text in model.texts] == []
    assert [text.get_text() for text in guide.texts] == ["no gradient"]
    assert [label.get_text() for label in guide.get_xticklabels()] == ["1", "4"]
