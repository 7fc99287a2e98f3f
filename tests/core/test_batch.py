"""The batch: shapes are checked when it is made, and it moves whole."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from ppl_text.core.batch import Batch, device_of
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID

TOKENS = torch.tensor([[5, EOS_ID, PAD_ID], [6, 7, EOS_ID]])
INPUTS = torch.tensor([[BOS_ID, 5, PAD_ID], [BOS_ID, 6, 7]])
LENGTHS, WEIGHTS = torch.tensor([2, 3]), torch.tensor([1.0, 0.0])


def test_size_and_steps_count_filler_and_padding() -> None:
    batch = Batch(TOKENS, LENGTHS, WEIGHTS, INPUTS)
    assert (batch.size, batch.steps) == (2, 3)
    assert batch.source is None


FAULTS = {
    "inputs of another shape": ({"decoder_inputs": INPUTS[:, :2]}, "got (2, 3) and (2, 2)"),
    "tokens without a batch axis": ({"tokens": TOKENS[0], "decoder_inputs": INPUTS[0]}, "must both have shape (B, T)"),
    "lengths": ({"lengths": torch.tensor([2, 3, 1])}, "lengths must have shape (B,) = (2,); got (3,)"),
    "lengths by step": ({"lengths": TOKENS}, "lengths must have shape (B,) = (2,); got (2, 3)"),
    "weights": ({"weights": torch.ones(1)}, "weights must have shape (B,) = (2,); got (1,)"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_wrong_shapes_are_refused(change: dict, message: str) -> None:
    fields = {"tokens": TOKENS, "lengths": LENGTHS, "weights": WEIGHTS, "decoder_inputs": INPUTS}
    with pytest.raises(ValueError, match="Batch: ") as caught:
        Batch(**{**fields, **change})
    assert message in str(caught.value)


def test_to_moves_every_field_and_the_source() -> None:
    source = Batch(TOKENS, LENGTHS, WEIGHTS, INPUTS)
    moved = Batch(TOKENS, LENGTHS, WEIGHTS, INPUTS, source).to("meta")
    for batch in (moved, moved.source):
        kinds = {t.device.type for t in (batch.tokens, batch.lengths, batch.weights, batch.decoder_inputs)}
        assert kinds == {"meta"}
    back = Batch(TOKENS, LENGTHS, WEIGHTS, INPUTS).to(torch.device("cpu"))
    assert torch.equal(back.tokens, TOKENS)
    assert back.source is None


def test_a_batch_is_frozen_and_ids_are_distinct() -> None:
    batch = Batch(TOKENS, LENGTHS, WEIGHTS, INPUTS)
    with pytest.raises(FrozenInstanceError):
        batch.tokens = TOKENS
    assert len({PAD_ID, BOS_ID, EOS_ID}) == 3
    assert max(PAD_ID, BOS_ID) < EOS_ID == EOS_ID


def test_the_device_of_a_module_is_that_of_its_parameters_and_the_cpu_without_any() -> None:
    assert device_of(torch.nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(torch.nn.Dropout()).type == "cpu"
