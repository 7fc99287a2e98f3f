"""The learning rate that falls for want of progress, against the rule written out over scripted validation losses."""

import math
import random
import signal

import pytest
import torch

from ppl_text.core.errors import ConfigError, Interrupted
from ppl_text.schedules import build
from ppl_text.training.options import Decay, Plateau, TrainingOptions

from .conftest import equal, metrics
from .small_world import Elbo, held_out
from .test_trainer import assert_same_run, send

EPOCH = 2


def simulated(losses, *, factor, patience, from_epoch, limit):
    """The rule as the papers' code has it, after each epoch, on losses to be made small.

    Returns for each epoch the rate that the next one trains at, and the epoch whose parameters it begins from.
    """
    rate, reference, failed, decays = 1.0, math.inf, 0, 0
    best, best_epoch, after = math.inf, 0, []
    for epoch, loss in enumerate(losses, 1):
        if loss < best:
            best, best_epoch = loss, epoch
        begins_from = epoch
        if loss > reference:
            failed += 1
            if failed >= patience and epoch >= from_epoch:
                reference, failed, rate, decays = loss, 0, rate * factor, decays + 1
                begins_from = best_epoch
        else:
            reference, failed = loss, 0
        after.append((rate, begins_from))
        if decays == limit:
            break
    return after


class Epochs(Elbo):
    """Scripted validation losses; remembers parameters after each epoch and before each first update of one."""

    def __init__(self, losses, actions=None, seen=0):
        self.losses, self.actions, self.updates, self.validated = losses, actions or {}, seen * EPOCH, seen
        self.ends, self.begins = {}, {}

    def __call__(self, model, guide, batch, beta=1.0):
        state = {k: v.clone() for k, v in [*model.state_dict().items(), *guide.state_dict().items()]}
        estimate = super().__call__(model, guide, batch, beta)
        if model.training:
            if self.updates % EPOCH == 0:
                self.begins[self.updates // EPOCH + 1] = state
            self.updates += 1
            self.actions.get(self.updates, lambda: None)()
            return estimate
        self.validated += 1
        self.ends[self.validated] = state
        return estimate._replace(bound=torch.full_like(estimate.bound, -self.losses[self.validated - 1]))


def made(make, folder, objective, **rule):
    decay = Decay(rule["factor"], rule["patience"], rule["from_epoch"] * EPOCH, rule["limit"])
    options = {"decay": decay, "learning_rate": build(0.01), "steps": EPOCH * len(objective.losses)}
    options |= {"log_every": 1, "validate_every": EPOCH, "checkpoint_every": 3}
    return make(folder, objective=objective, validation=held_out(1), **options)


RULES = {
    "the papers', in small": {"factor": 0.5, "patience": 2, "from_epoch": 4, "limit": 3},
    "at once": {"factor": 0.25, "patience": 1, "from_epoch": 0, "limit": 2},
    "late": {"factor": 0.5, "patience": 3, "from_epoch": 9, "limit": 5},
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rates_and_parameters_are_those_of_the_rule_written_out(make, tmp_path, rule, seed):
    rng = random.Random(seed)
    losses = [float(rng.choice([3, 4, 5, 6, 7]) - 0.1 * epoch) for epoch in range(16)]
    wanted = simulated(losses, **rule)
    assert len({rate for rate, _ in wanted}) > 1, "a script without a decay tests nothing"
    objective = Epochs(losses)
    run = made(make, tmp_path, objective, **rule)
    result = run.trainer.fit()
    assert result.step == EPOCH * len(wanted)
    assert result.stopped == ("decays" if len(wanted) < len(losses) else result.stopped)
    train = [r for r in metrics(tmp_path) if r["split"] == "train"]
    rates = [1.0, *[rate for rate, _ in wanted]]
    assert [r["lr"] for r in train] == [0.01 * rates[step // EPOCH] for step in range(result.step)]
    for epoch, (_, begins_from) in enumerate(wanted[:-1], 1):
        assert equal(objective.begins[epoch + 1], objective.ends[begins_from]), epoch
    assert sum("decay" in m for m in run.progress.messages) == len({rate for rate, _ in wanted} - {1.0})


def test_the_moments_of_the_parameters_that_are_gone_are_dropped(make, tmp_path):
    """The update after a decay is Adam's first: each entry moves by the rate."""
    losses = [5.0, 6.0, 6.0, 6.0]
    objective = Epochs(losses)
    made(make, tmp_path, objective, factor=0.5, patience=1, from_epoch=0, limit=9).trainer.fit()
    start, state = objective.begins[3], torch.load(tmp_path / "checkpoints/step-00000008.pt", weights_only=True)
    assert equal(start, objective.ends[1])
    steps = {int(entry["step"]) for entry in state["state"]["optimizer"]["state"].values()}
    assert steps == {4}, "the decay was after the second epoch; what followed equalled its reference"


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 8, 11])
def test_a_run_stopped_anywhere_decays_as_an_uninterrupted_one(make, finished, tmp_path, stop):
    losses, rule = [5.0, 4.0, 6.0, 6.0, 5.5, 7.0], {"factor": 0.5, "patience": 1, "from_epoch": 0, "limit": 3}
    whole = finished("decays", lambda folder: made(make, folder, Epochs(losses), **rule).trainer.fit())
    with pytest.raises(Interrupted):
        made(make, tmp_path / "part", Epochs(losses, {stop: send(signal.SIGTERM)}), **rule).trainer.fit()
    # A validation that falls due with the signal is left to the rest.
    rest = made(make, tmp_path / "part", Epochs(losses, seen=(stop - 1) // EPOCH), **rule)
    rest.trainer.fit(resume=True)
    assert_same_run(tmp_path / "part", whole, step=12)


def test_a_validation_that_is_no_number_counts_as_worse():
    plateau, rule = Plateau(), Decay(patience=2)
    assert [plateau.see(rule, score, 1) for score in (math.nan, -3.0, math.nan, math.nan, -3.0)] == [
        False, False, False, True, False
    ]  # fmt: skip
    assert (plateau.reference, plateau.decays) == (-3.0, 1)


def test_faults_are_named():
    with pytest.raises(ConfigError, match=r"patience must be 1 or more; got 0; factor .* got 1.0; from_step .* got -1"):
        Decay(factor=1.0, patience=0, from_step=-1)
    with pytest.raises(ConfigError, match="decay lowers a learning_rate: give its schedule"):
        TrainingOptions(steps=1, decay=Decay())
