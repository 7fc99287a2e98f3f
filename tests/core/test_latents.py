"""What a model says about its latent sites."""

from __future__ import annotations

import pytest
import torch

from ppl_text.core.latents import LatentSpec

PATH = LatentSpec("h", axes=("T", "D"), sizes={"D": 8})
SOURCE = LatentSpec("z", axes=("S", "D"), sizes={"D": 3}, support="simplex")


def test_event_shape_takes_lengths_from_the_batch_and_widths_from_the_model() -> None:
    assert PATH.event_shape(5) == (5, 8)
    assert SOURCE.event_shape(5, source_steps=4) == (4, 3)
    assert LatentSpec("c", axes=(), sizes={}).event_shape(5) == ()
    assert LatentSpec("h", axes=("T",), sizes={"T": 2}).event_shape(5) == (2,)


def test_a_stride_has_one_step_for_so_many_tokens_and_one_for_what_is_left() -> None:
    few = LatentSpec("z", axes=("S", "D"), sizes={"D": 3}, stride=4)
    assert [few.own_steps(tokens) for tokens in (1, 4, 5, 8)] == [1, 1, 2, 2]
    assert few.own_steps(torch.tensor([3, 9])).tolist() == [1, 3]
    assert few.event_shape(9) == (3, 3)
    assert (PATH.own_steps(5), SOURCE.own_steps(5, 4), SOURCE.own_steps(5)) == (5, 4, None)
    assert LatentSpec("z", axes=("D",), sizes={"D": 3}).own_steps(5) is None


def test_an_axis_of_unknown_length_is_named() -> None:
    with pytest.raises(ValueError, match="latent 'z': the length of axis S is not known"):
        SOURCE.event_shape(5)
    with pytest.raises(ValueError, match="axis M"):
        LatentSpec("codes", axes=("T", "M"), sizes={}).event_shape(5)


def test_describe_shows_name_axes_and_support() -> None:
    assert PATH.describe() == "h: (T, D=8) real"
    assert SOURCE.describe() == "z: (S, D=3) simplex"
