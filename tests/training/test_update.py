"""Aggressive training of the encoder, against the loop written out with two optimizers."""

import math
import signal
from functools import partial

import pytest
import torch

from ppl_text.core.errors import Interrupted, UserError
from ppl_text.training.aggressive import Aggressive
from ppl_text.training.optimizers import build_optimizer

from .conftest import equal, metrics
from .small_world import Batches, Elbo, Guide, programs
from .test_trainer import Watched, assert_same_run, send

STEPS = 3


class Information:
    """A monitor with the mutual information of a script."""

    def __init__(self, values=()):
        self.values = iter(values)

    def __call__(self, model, guide):
        return {"mutual_information": next(self.values, 1.0)}


def aggressive(seed=7):
    return partial(Aggressive, batches=Batches(seed))


def written_out(optimizer, lr, clip=5.0):
    """Parameters and numbers of encoder updates after STEPS steps, with two optimizers and full gradients."""
    model, guide = programs()
    encoder, decoder = (optimizer([{"params": list(p.parameters())}], lr=lr) for p in (guide, model))
    batches, others, counts = Batches(), Batches(7), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for _ in range(STEPS):
            batch = next(batches)
            chosen, number, words, current, before = batch, 1, 0.0, 0.0, math.inf
            while number < 100:
                loss = Elbo()(model, guide, chosen).loss
                encoder.zero_grad()
                decoder.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(guide.parameters(), clip)
                encoder.step()
                current += loss.item() * chosen.weights.sum().item()
                words += (chosen.lengths * chosen.weights).sum().item()
                if number % 15 == 0:
                    if not current / words < before:
                        break
                    before, current, words = current / words, 0.0, 0.0
                if number < 99:
                    chosen = next(others)
                number += 1
            counts.append(min(number, 99))
            encoder.zero_grad()
            decoder.zero_grad()
            Elbo()(model, guide, batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            decoder.step()
    return {**model.state_dict(prefix="model."), **guide.state_dict(prefix="guide.")}, counts


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("lr", [0.003, 0.03])
def test_parameters_and_counts_are_those_of_the_loop_written_out(make, tmp_path, name, lr):
    optimizer = partial(build_optimizer, name)
    run = make(
        tmp_path, optimizer=optimizer, lr=lr, update=aggressive(), monitor=Information(), steps=STEPS, log_every=1
    )
    run.trainer.fit()
    parameters, counts = written_out(optimizer, lr)
    assert equal(run.parameters(), parameters)
    found = [r["encoder_updates"] for r in metrics(tmp_path) if r["split"] == "train"]
    assert found == counts
    assert all(count == 99 or count % 15 == 0 for count in counts)


def test_soap_trains_each_part_by_itself(make, tmp_path):
    optimizer = partial(build_optimizer, "soap")
    run = make(tmp_path, optimizer=optimizer, update=aggressive(), monitor=Information(), steps=STEPS, log_every=1)
    run.trainer.fit()
    assert all(torch.isfinite(value).all() for value in run.parameters().values())
    start = dict(zip(("model", "guide"), programs(), strict=True))
    for part, program in start.items():
        for key, value in program.state_dict(prefix=f"{part}.").items():
            if not key.endswith(("zero", "one")):
                assert not torch.equal(run.parameters()[key], value)


class Costs(Elbo):
    """Loss per sentence by a script, with a gradient that is nothing; notes what was run on."""

    def __init__(self, script):
        self.script, self.seen = script, []

    def __call__(self, model, guide, batch, beta=1.0):
        estimate = super().__call__(model, guide, batch, beta)
        if not model.training:
            return estimate
        self.seen.append(batch)
        words = (batch.weights * batch.lengths).sum() / batch.weights.sum()
        return estimate._replace(loss=0.0 * estimate.loss + self.script(len(self.seen)) * words)


WINDOWS = {
    "falls for ever": (lambda n: 100.0 - n, 99),
    "rises": (lambda n: 100.0 + n, 30),
    "stays": (lambda n: 0.0, 30),
    "rises in the fourth window": (lambda n: 100.0 - n if n <= 45 else 200.0, 60),
    "rises after the last look": (lambda n: 100.0 - n if n <= 90 else 999.0, 99),
    "falls between the looks only": (lambda n: 100.0 - n % 15 + 5 * (n > 15), 30),
}


@pytest.mark.parametrize(("script", "count"), WINDOWS.values(), ids=WINDOWS)
def test_every_fifteen_updates_the_encoder_is_left_where_the_loss_per_word_did_not_fall(make, tmp_path, script, count):
    objective = Costs(script)
    make(tmp_path, objective=objective, update=aggressive(), monitor=Information(), steps=1, log_every=1).trainer.fit()
    (record,) = [r for r in metrics(tmp_path) if r["split"] == "train"]
    assert record["encoder_updates"] == count
    assert len(objective.seen) == count + 1
    own, other = next(Batches()), Batches(7)
    expected = [own, *[next(other) for _ in range(count - 1)], own]
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(objective.seen, expected, strict=True))


def test_only_what_is_updated_gets_a_gradient_and_moves(make, tmp_path):
    run = make(tmp_path, update=aggressive(), monitor=Information(), steps=1)
    step, moves = run.optimizer.step, []
    parts = {"model": list(run.model.parameters()), "guide": list(run.guide.parameters())}

    def watched(*a, **k):
        moves.append({name for name, part in parts.items() if any(p.grad is not None for p in part)})
        return step(*a, **k)

    run.optimizer.step = watched
    run.trainer.fit()
    assert moves[-1] == {"model"}
    assert all(move == {"guide"} for move in moves[:-1])
    assert len(moves) > 15


def test_the_mode_ends_for_good_when_the_mutual_information_falls(make, tmp_path):
    monitor = Information([0.5, 0.7, 0.7, 0.6, 0.9, 0.1])
    run = make(tmp_path, update=aggressive(), monitor=monitor, steps=6, log_every=1, validate_every=1)
    run.trainer.fit()
    train = [r for r in metrics(tmp_path) if r["split"] == "train"]
    assert [r["encoder_updates"] > 0 for r in train] == [True] * 4 + [False] * 2
    (said,) = [m for m in run.progress.messages if "aggressive" in m]
    assert "mutual information 0.7 -> 0.6; joint from here" in said
    assert all("encoder_updates" in r for r in train)


@pytest.mark.parametrize("left", [0.99, 0.8, 0.5, 3, 1])
def test_a_run_stopped_within_the_mode_or_after_it_equals_an_uninterrupted_one(make, finished, tmp_path, left):
    """``left``: the updates of encoder, decoder or both that are still to come, or their share."""
    script = [0.5, 0.7, 0.6, 0.9, 0.8, 0.7]
    options = {"steps": 6, "log_every": 4, "validate_every": 1, "checkpoint_every": 2, "update": None}

    def run(folder, done=0, **more):
        given = options | {"update": aggressive(), "monitor": Information(script[done:])} | more
        return make(folder, **given)

    whole = finished("aggressive", lambda folder: run(folder).trainer.fit())
    counted = [r for r in metrics(whole) if r["split"] == "train"]
    updates = 6 + sum(record["encoder_updates"] for record in counted)
    stop = updates - (left if isinstance(left, int) else int(left * updates))
    with pytest.raises(Interrupted):
        run(tmp_path / "part", objective=Watched({stop: send(signal.SIGTERM)})).trainer.fit()
    there = (tmp_path / "part" / "metrics.jsonl").exists()  # not where the first update was being made
    done = sum(record["split"] == "valid" for record in metrics(tmp_path / "part")) if there else 0
    run(tmp_path / "part", done).trainer.fit(resume=True)
    assert_same_run(tmp_path / "part", whole, step=6)


def test_what_it_cannot_train_is_told(make, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="which nobody measures here"):
        make(tmp_path / "a", update=aggressive()).trainer.fit()
    with pytest.raises(UserError, match=r"not among what this model's monitor measures \(norm\)"):
        make(tmp_path / "b", update=aggressive(), monitor=lambda model, guide: {"norm": 1.0}, steps=1).trainer.fit()
    monkeypatch.setattr(Guide, "parameters", lambda self: iter(()))
    with pytest.raises(UserError, match="the guide has no parameter to train; use update: joint"):
        make(tmp_path / "c", update=aggressive(), monitor=Information())
