"""The entropy figures: what is drawn is what was given."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from ppl_text.core.errors import DataError
from ppl_text.plots.figures import draw_entropies, draw_gaps, entropies_figure, gap_figure

PNG = b"\x89PNG\r\n\x1a\n"


def gaps():
    rng = np.random.default_rng(0)
    length = rng.integers(2, 6, 40)
    rows = [(t + 1, n, abs(rng.normal(1 / (t + 1), 0.2))) for n in length for t in range(n + 1)]
    position, length, gap = map(np.array, zip(*rows, strict=True))
    return SimpleNamespace(position=position, length=length, gap=gap)


def boxplot_statistics(axes):
    """Quartiles and median by place. A box is a line of five points, its median the level line of the same width."""
    lines = [np.column_stack(line.get_data()) for line in axes.lines]
    closed = [line for line in lines if len(line) == 5 and np.array_equal(line[0], line[-1])]
    found = {}
    for box in closed:
        (left, low), (right, high) = box.min(0), box.max(0)
        level = [x for x in lines if len(x) == 2 and x[0, 1] == x[1, 1] and (x[:, 0] == (left, right)).all()]
        assert len(level) == 1
        found[round((left + right) / 2)] = (low, level[0][0, 1], high)
    return found


@pytest.mark.parametrize(("panel", "key"), [(0, "position"), (1, "length")])
def test_boxes_are_the_quartiles_of_the_gaps(panel, key):
    given = gaps()
    drawn = boxplot_statistics(draw_gaps(given).axes[panel])
    keys = getattr(given, key)
    assert sorted(drawn) == sorted(set(keys.tolist()))
    for place, (low, middle, high) in drawn.items():
        values = given.gap[keys == place]
        assert (low, middle, high) == pytest.approx(tuple(np.quantile(values, [0.25, 0.5, 0.75])))


def test_points_beyond_the_whiskers_are_drawn():
    values = np.array([1.0] * 20 + [1.1] * 20 + [7.0])
    given = SimpleNamespace(position=np.ones(41, dtype=int), length=np.full(41, 3), gap=values)
    axes = draw_gaps(given).axes[0]
    assert any(list(line.get_ydata()) == [7.0] for line in axes.lines)


def test_the_second_scale_is_in_bits():
    axes = draw_gaps(gaps()).axes[1]
    (bits,) = axes.child_axes
    draw = axes.figure.canvas.draw
    draw()
    assert np.array(bits.get_ylim()) == pytest.approx(np.array(axes.get_ylim()) / math.log(2))


def test_gaps_of_a_measurement_can_be_drawn(tmp_path):
    import torch

    from ppl_text.evaluation.trajectories import EntropyGap

    columns = [torch.tensor(c) for c in ([0, 0, 1], [1, 2, 1], [1, 1, 0], [2.0, 1.5, 1.0], [1.0, 1.0, 1.0])]
    gap_figure(EntropyGap(*columns, draws=10), tmp_path / "figures" / "gap.png")
    assert (tmp_path / "figures" / "gap.png").read_bytes().startswith(PNG)
    drawn = boxplot_statistics(draw_gaps(EntropyGap(*columns, draws=10)).axes[0])
    assert drawn == {1: (0.25, 0.5, 0.75), 2: (0.5, 0.5, 0.5)}


def test_no_gap_is_a_message():
    with pytest.raises(DataError, match="no entropy gap to draw"):
        draw_gaps(SimpleNamespace(position=[], length=[], gap=[]))


# -- entropies over training ------------------------------------------------------------------------


def line(step, gap, expected, marginal):
    monitor = {"entropy_gap": gap, "expected_entropy": expected, "marginal_entropy": marginal}
    return {"step": step, "split": "valid", "bound": -1.0, "kl": 1.0, "monitor": monitor}


@pytest.fixture
def metrics(tmp_path):
    records = [
        {"step": 5, "split": "train", "bound": -1.0, "kl": 1.0},
        line(10, 0.1, 2.9, 3.0),
        {"step": 15, "split": "valid", "bound": -1.0, "kl": 1.0},
        line(20, 0.4, None, 2.5),
        line(30, 1.0, 1.2, 2.2),
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def curve(axes, label):
    (found,) = [x for x in axes.lines if x.get_label().startswith(label)]
    return found.get_xdata(), found.get_ydata()


def test_the_curves_are_what_the_run_recorded(metrics):
    (axes,) = draw_entropies(metrics).axes
    expected = {"marginal": [3.0, 2.5, 2.2], "expected": [2.9, math.nan, 1.2], "gap": [0.1, 0.4, 1.0]}
    for label, values in expected.items():
        steps, drawn = curve(axes, label)
        np.testing.assert_array_equal(steps, [10, 20, 30])
        np.testing.assert_array_equal(drawn, values)
    assert len(axes.lines) == 3


def test_the_baseline_is_a_dashed_line(metrics, tmp_path):
    (axes,) = draw_entropies(metrics, baseline=2.25).axes
    (dashed,) = [x for x in axes.lines if x.get_linestyle() == "--"]
    assert set(dashed.get_ydata()) == {2.25}
    entropies_figure(metrics, tmp_path / "figures" / "entropies.png", baseline=2.25)
    assert (tmp_path / "figures" / "entropies.png").read_bytes().startswith(PNG)


def test_a_run_without_entropies_is_a_message(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "split": "valid", "bound": -1.0}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl holds no entropies: .* latent paths"):
        draw_entropies(path)
    assert not list(tmp_path.glob("*.png"))
