"""Which submodules are trained: by name, in which mode the others are, and a training that has nothing to do."""

import itertools
import signal
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn

from ppl_text.core.errors import Interrupted, UserError
from ppl_text.training.optimizers import OPTIMIZERS, build_optimizer
from ppl_text.training.options import TrainingOptions
from ppl_text.training.programs import EVERYTHING, Joint, count_parameters, find_submodules, trained_parameters
from ppl_text.training.state import Stage
from ppl_text.training.trainer import Trainer

from .conftest import equal, metrics, stored_state
from .small_world import Batches, Elbo, held_out, programs
from .test_trainer import assert_same_run, send
from .test_update import aggressive


def tree(**parts):
    """A module with these children."""
    return nn.Sequential(OrderedDict(parts))


MODEL = tree(prior=tree(net=nn.Linear(2, 2)), reader=nn.Linear(2, 2), head=nn.Linear(2, 2))
GUIDE = tree(reader=tree(net=nn.Linear(2, 2), drop=nn.Dropout(0.5)), norm=nn.BatchNorm1d(2))


def test_parameters_are_counted_once_and_buffers_not():
    shared = nn.Linear(3, 4)
    model, guide = tree(a=shared, b=shared, c=nn.Linear(4, 1)), tree(a=shared, norm=nn.BatchNorm1d(5))
    model.c.requires_grad_(False)
    assert count_parameters(model, guide) == (3 * 4 + 4 + 4 + 1, 5 + 5)


NAMES = {
    "model": MODEL,
    "guide": GUIDE,
    "model.prior": MODEL.prior,
    "prior": MODEL.prior,
    "prior.net": MODEL.prior.net,
    "guide.reader": GUIDE.reader,
    "reader.net": GUIDE.reader.net,
    "norm": GUIDE.norm,
}


@pytest.mark.parametrize("name", NAMES)
def test_submodules_have_dotted_paths_and_a_program_only_where_both_have_one(name):
    assert find_submodules(MODEL, GUIDE, [name]) == [NAMES[name]]
    assert trained_parameters(MODEL, GUIDE, [name]) == list(NAMES[name].parameters())


def test_names_that_there_are_not_are_told_together_with_those_that_there_are():
    with pytest.raises(UserError) as caught:
        find_submodules(MODEL, GUIDE, ["reader", "proir", "guide.decoder", "head"])
    assert str(caught.value) == (
        "train: 'reader' is in both programs; write model.reader or guide.reader; there is no 'proir' (did you mean "
        "'model.prior'?); there is no 'guide.decoder' (did you mean 'guide.reader'?). "
        "Submodules are model, model.prior, model.reader, model.head, guide, guide.reader, guide.norm and what lies "
        "below these"
    )


def test_a_part_that_the_programs_share_is_one():
    shared = nn.Linear(2, 2)
    model, guide = tree(embedding=shared), tree(embedding=shared)
    assert find_submodules(model, guide, ["embedding"]) == [shared]
    assert trained_parameters(model, guide, EVERYTHING) == [shared.weight, shared.bias]


def parts():
    return tree(linear=nn.Linear(2, 2), norm=nn.BatchNorm1d(2), drop=nn.Dropout(0.5), lstm=nn.LSTM(2, 2))


MODES = {
    "everything": (EVERYTHING, "linear norm drop lstm", "linear norm drop lstm"),
    "a program": (["guide"], "lstm", "linear norm drop lstm"),
    "a part": (["guide.linear"], "lstm", "linear lstm"),
    "parts of both": (["model.drop", "model.linear", "guide.norm"], "linear drop lstm", "norm lstm"),
}


@pytest.mark.parametrize(("names", "model", "guide"), MODES.values(), ids=MODES)
def test_what_is_not_trained_stays_in_evaluation_mode_but_for_recurrent_layers(names, model, guide):
    """Statistics and dropout must not move what is frozen; cuDNN takes gradients through layers in training only."""
    joint = Joint(parts(), parts(), Elbo())
    joint.choose(names)
    joint.train()
    for program, wanted in ((joint.model, model), (joint.guide, guide)):
        assert [name for name, part in program.named_children() if part.training] == wanted.split()
    trained = {p for part in find_submodules(joint.model, joint.guide, names) for p in part.parameters()}
    assert {p for p in joint.parameters() if p.requires_grad} == trained
    joint.eval()
    assert not any(part.training for part in joint.modules())
    joint.choose(EVERYTHING)
    assert all(part.training for part in joint.train().modules())


def test_what_its_owner_has_frozen_is_never_trained():
    joint = Joint(parts().requires_grad_(False), parts(), Elbo())
    joint.choose(EVERYTHING)
    joint.train()
    assert [part.training for part in joint.model] == [False, False, False, True]
    assert not any(p.requires_grad for p in joint.model.parameters())
    assert joint.trained(["model"]) == []


def test_a_program_without_parameters_is_not_frozen():
    assert Joint(nn.Linear(2, 2), nn.Dropout(0.5), Elbo()).train().guide.training


COMMON = {"log_every": 2, "validate_every": 3, "checkpoint_every": 2}


def after_each_step(made, action):
    """Call ``action(n)`` after the n-th step of the optimizer."""
    step, count = made.optimizer.step, itertools.count(1)
    made.optimizer.step = lambda *given, **options: (step(*given, **options), action(next(count)))[0]


def has_gradient(program):
    return any(p.grad is not None for p in program.parameters())


def in_turn():
    """Everything, then the guide alone, then the model's head alone."""
    return [
        Stage(Elbo(), TrainingOptions(steps=steps, **COMMON), name=name, train=train)
        for name, steps, train in (("both", 3, EVERYTHING), ("guide", 4, ("guide",)), ("head", 3, ("head",)))
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stage_trains_its_submodules_and_leaves_the_moments_of_the_others(make, tmp_path, name):
    made = make(tmp_path, stages=in_turn(), optimizer=partial(build_optimizer, name), keep_checkpoints=9)
    seen = []
    after_each_step(made, lambda _: seen.append({n for n in EVERYTHING if has_gradient(getattr(made, n))}))
    made.trainer.fit()
    assert seen == [{"model", "guide"}] * 3 + [{"guide"}] * 4 + [{"model"}] * 3
    order = {p: n for n, p in enumerate(p for group in made.optimizer.param_groups for p in group["params"])}
    for first, last, trained, other in ((5, 7, "guide", made.model), (9, 10, "model", made.guide)):
        states = [stored_state(tmp_path / f"checkpoints/step-{step:08d}.pt") for step in (first, last)]
        before, now = (state["parameters"] for state in states)
        assert {key.partition(".")[0] for key in now if not torch.equal(before[key], now[key])} == {trained}
        still = {order[p] for p in other.parameters()}
        moments = [{n: v for n, v in state["optimizer"]["state"].items() if n in still} for state in states]
        assert equal(*moments)
    assert all(p.requires_grad for p in order), "as it was before"


@pytest.mark.parametrize("stop", [2, 3, 5, 7, 8, 9])
def test_stages_that_train_in_turn_resume_anywhere(make, finished, tmp_path, stop):
    whole = finished("in turn", lambda folder: make(folder, stages=in_turn()).trainer.fit())
    part = make(tmp_path / "part", stages=in_turn())
    after_each_step(part, lambda step: step == stop and send(signal.SIGTERM)())
    with pytest.raises(Interrupted):
        part.trainer.fit()
    make(tmp_path / "part", stages=in_turn()).trainer.fit(resume=True)
    assert_same_run(tmp_path / "part", whole, step=10)


def test_what_a_stage_cannot_train_is_told_before_the_first_begins(make, tmp_path):
    options = TrainingOptions(steps=3)
    with pytest.raises(
        UserError, match=r"train: there is no 'decoder'.*\. Submodules are model, model\.head, model\.d"
    ):
        make(tmp_path, stages=[Stage(Elbo(), options), Stage(Elbo(), options, name="b", train=["decoder"])])
    with pytest.raises(UserError, match="stage 'b' has no parameter to train; name other submodules under its 'train'"):
        make(tmp_path, stages=[Stage(Elbo(), options), Stage(Elbo(), options, name="b", train=["dropout"])])
    with pytest.raises(UserError, match="update: aggressive trains the guide before the model, and the model has no"):
        make(tmp_path, stages=[Stage(Elbo(), options, update=aggressive(), train=["guide"])])
    assert not list(tmp_path.iterdir())


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
