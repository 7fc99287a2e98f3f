"""A program without a parameter to train: its modes, and a trainer that has nothing to do."""

import pytest
import torch
from torch import nn

from ppl_text.training.options import TrainingOptions
from ppl_text.training.stages import Stage
from ppl_text.training.trainer import Trainer
from ppl_text.training.update import Joint

from .conftest import metrics, stored_state
from .small_world import Batches, Elbo, held_out, programs


def parts():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5), nn.LSTM(2, 2))


def test_a_frozen_program_stays_in_evaluation_mode_but_for_recurrent_layers():
    """Statistics and dropout must not move what is frozen; cuDNN takes gradients through layers in training only."""
    model, guide = parts().requires_grad_(False), parts()
    joint = Joint(model, guide, nn.Identity())
    joint.train()
    assert [part.training for part in model] == [False, False, False, True]
    assert all(part.training for part in guide.modules())
    joint.eval()
    assert not any(part.training for part in joint.modules())
    model.requires_grad_(True)
    joint.train()
    assert all(part.training for part in joint.modules())


def test_a_program_without_parameters_is_not_frozen():
    joint = Joint(nn.Linear(2, 2), nn.Dropout(0.5), nn.Identity()).train()
    assert joint.guide.training


def untrained(folder, validation):
    model, guide = (program.requires_grad_(False) for program in programs())
    optimizer = torch.optim.Adam([{"params": []}], lr=0.1, fused=True)
    options = TrainingOptions(steps=9)
    return Trainer(model, guide, [Stage(Elbo(), options)], optimizer, Batches(), validation, folder)


@pytest.mark.parametrize("validation", [held_out(), None], ids=["validated", "not validated"])
def test_nothing_to_train_is_validated_saved_and_done(tmp_path, validation):
    trainer = untrained(tmp_path, validation)
    result = trainer.fit()
    assert (result.step, result.best_step, result.stopped) == (0, 0, "untrained")
    assert (result.best_bound is None) == (validation is None)
    state = stored_state(tmp_path / "checkpoints/step-00000000.pt")
    assert state["counters"]["best_bound"] == result.best_bound
    assert (tmp_path / "model.safetensors").is_file()
    again = untrained(tmp_path, validation)
    assert again.fit(resume=True) == result
    if validation:
        assert [r["step"] for r in metrics(tmp_path)] == [0]  # not validated again
