"""A picture of attention shows the weights, the tokens, and how wide each step is."""

import numpy as np
import pytest

from ppl_text.plots.attention import MemoryShares, Pair, attention_figure, draw_attention, draw_memory, memory_figure

WEIGHTS = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
TARGET, SOURCE = ["a", "</s>"], ["x", "$y$", "</s>"]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_weights_stand_by_their_tokens():
    figure = draw_attention(Pair(TARGET, SOURCE, WEIGHTS, np.array([0.5, 0.25])))
    left, right = figure.axes[:2]
    (image,) = left.images
    assert np.array_equal(image.get_array(), WEIGHTS)
    assert image.get_clim() == (0.0, 1.0)
    assert ticks(left.yaxis) == TARGET
    assert ticks(left.xaxis) == ["x", r"\$y\$", "</s>"]
    assert [bar.get_width() for bar in right.patches] == [0.5, 0.25]
    assert [bar.get_y() + bar.get_height() / 2 for bar in right.patches] == pytest.approx([0, 1])


def test_attention_that_is_no_random_variable_is_one_map():
    figure = draw_attention(Pair(TARGET, SOURCE, WEIGHTS))
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == ["attention"]
    assert np.array_equal(shown[0].images[0].get_array(), WEIGHTS)


def test_a_spread_of_each_weight_is_a_second_map(tmp_path):
    spread = WEIGHTS * (1 - WEIGHTS)
    pair = Pair(TARGET, SOURCE, WEIGHTS, spread)
    second = draw_attention(pair).axes[1]
    assert np.array_equal(second.images[0].get_array(), spread)
    attention_figure(pair, tmp_path / "figures" / "attention.png")
    assert (tmp_path / "figures" / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_shares_of_a_memory_stand_by_layer_above_those_among_equals(tmp_path):
    equal = np.array([1 / 2, 1 / 3])
    shares = np.array([[0.1, 0.05], [0.6, 0.3], [0.2, 0.0]])
    figure = draw_memory(MemoryShares(TARGET, shares, equal))
    (image,) = figure.axes[0].images
    np.testing.assert_allclose(image.get_array(), np.vstack([shares, equal]))
    assert ticks(figure.axes[0].yaxis) == ["layer 1", "layer 2", "layer 3", "if all are equal"]
    assert ticks(figure.axes[0].xaxis) == TARGET
    memory_figure(MemoryShares(TARGET, shares, equal), tmp_path / "figures" / "memory.png")
    assert (tmp_path / "figures" / "memory.png").read_bytes().startswith(b"\x89PNG")
