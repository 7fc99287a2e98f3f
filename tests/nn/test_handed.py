"""What a guide leaves for its model is handed over once, and never outlives the step."""

import copy

import pytest
import torch
from torch import nn

from ppl_text.data.batches import collate
from ppl_text.nn.handed import HandedOn


def made():
    owner, seen = nn.Linear(1, 1), []

    def compute(batch):
        seen.append(batch)
        return len(seen)

    return owner, HandedOn(owner, compute)


def batch():
    return collate([[4, 5]], [1.0], 3, 1)


def test_the_model_gets_what_the_guide_computed_and_only_once():
    _, handed = made()
    given = batch()
    assert [handed.leave(given), handed.take(given)] == [1, 1]
    assert [handed.take(given), handed.take(given)] == [2, 3]
    assert [handed.leave(given), handed.leave(given), handed.take(given)] == [4, 5, 5]


def changed_batch(owner):
    return batch()


def changed_mode(owner):
    owner.eval()


def changed_parameter(owner):
    with torch.no_grad():
        owner.weight.add_(1.0)


@pytest.mark.parametrize("change", [changed_batch, changed_mode, changed_parameter])
def test_what_was_left_for_another_step_is_not_taken(change):
    owner, handed = made()
    given = batch()
    handed.leave(given)
    assert handed.take(change(owner) or given) == 2


def test_what_was_left_without_a_graph_is_not_taken_for_a_gradient():
    _, handed = made()
    given = batch()
    with torch.no_grad():
        handed.leave(given)
    assert handed.take(given) == 2


def test_a_copy_has_nothing_left():
    _, handed = made()
    given = batch()
    handed.leave(given)
    assert copy.deepcopy(handed)._left is None
    assert handed.take(given) == 1
