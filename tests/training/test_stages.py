"""Stages: one after the other in one folder, each beginning where it should."""

import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric

from ppl_text.core.errors import Interrupted, RunFolderError
from ppl_text.schedules import build
from ppl_text.training.optimizers import build_optimizer
from ppl_text.training.options import Decay, TrainingOptions
from ppl_text.training.programs import Joint
from ppl_text.training.state import Stage
from ppl_text.training.validation import validate
from ppl_text.training.weights import load_weights

from .conftest import equal, metrics, stored_state
from .small_world import Batches, Elbo, held_out, programs
from .test_trainer import Scripted, Watched, assert_same_run, send
from .test_update import Information, aggressive


class AutoEncoding(Elbo):
    """Loss and criterion are the reconstruction; the bound is infinite, as that of a point mass."""

    name, criterion = "auto", "log_likelihood"

    def __call__(self, model, guide, batch, beta=1.0):
        estimate = super().__call__(model, guide, batch, 0.0)
        bound = torch.where(batch.weights > 0, -torch.inf, 0.0)
        return estimate._replace(bound=bound, kl=-bound)


def fresh():
    return {"model": programs(seed=77)[0]}


BETA = build({"name": "linear", "start": 0.0, "end": 1.0, "steps": 4})
COMMON = {"log_every": 2, "validate_every": 3, "checkpoint_every": 4}


def two(first=None, second=None, *, steps=(5, 8), **options):
    """An autoencoder, then the ELBO with β from 0 and another model."""
    return [
        Stage(first or AutoEncoding(), TrainingOptions(steps=steps[0], **COMMON | options), name="auto"),
        Stage(second or Elbo(), TrainingOptions(steps=steps[1], beta=BETA, **COMMON), name="vae", fresh=fresh),
    ]


def test_stages_follow_each_other_in_one_folder(make, tmp_path):
    watched = Watched()
    run = make(tmp_path, stages=two(second=watched))
    result = run.trainer.fit()
    assert (result.step, result.stopped) == (13, "steps")
    assert run.progress.started == (13, 0)
    assert watched.betas == [BETA(step) for step in range(8)], "schedules count from the beginning of the stage"
    records = metrics(tmp_path)
    places = {split: [(r["step"], r["stage"]) for r in records if r["split"] == split] for split in ("train", "valid")}
    assert places["train"] == [(n, "auto") for n in (2, 4, 5)] + [(n, "vae") for n in (7, 9, 11, 13)]
    assert places["valid"] == [(n, "auto") for n in (3, 5)] + [(n, "vae") for n in (8, 11, 13)]
    said = [m for m in run.progress.messages if m.startswith("stage")]
    assert said == [
        "stage 1 of 2: auto, 5 steps from step 0, objective auto",
        "stage 2 of 2: vae, 8 steps from step 5, objective elbo",
    ]
    assert [r.total for r in run.progress.steps] == [13] * 7
    counters = stored_state(tmp_path / "checkpoints/step-00000013.pt")["counters"]
    assert (counters["stage"], counters["number"], counters["began"]) == ("vae", 1, 5)


def test_a_stage_begins_with_the_best_before_it_and_with_fresh_programs_where_it_says_so(make, tmp_path):
    """Validations of the first stage are compared by the reconstruction; the third of four is the best."""

    class Staged(AutoEncoding):
        def __init__(self):
            self.scores, self.states = iter([-5.0, -4.0, -3.0, -3.5]), []

        def __call__(self, model, guide, batch, beta=1.0):
            estimate = super().__call__(model, guide, batch, beta)
            if model.training:
                return estimate
            self.states.append({k: v.clone() for k, v in guide.state_dict().items()})
            return estimate._replace(log_likelihood=torch.full_like(estimate.kl, next(self.scores)))

    class First(Elbo):
        seen = None

        def __call__(self, model, guide, batch, beta=1.0):
            if self.seen is None and model.training:
                self.seen = {p: {k: v.clone() for k, v in x.state_dict().items()} for p, x in
                             (("model", model), ("guide", guide))}  # fmt: skip
                self.moments = [dict(run.optimizer.state.get(p, {})) for p in model.parameters()]
            return super().__call__(model, guide, batch, beta)

    staged, first = Staged(), First()
    stages = two(staged, first, steps=(8, 4), validate_every=2)
    run = make(tmp_path, stages=stages, validation=held_out(1))
    run.trainer.fit()
    assert [v.best for v in run.progress.validations[:4]] == [True, True, True, False]
    assert equal(first.seen["guide"], staged.states[2])
    assert equal(first.seen["model"], programs(seed=77)[0].state_dict())
    assert first.moments == [{}, {}]
    steps = {int(entry["step"]) for entry in run.optimizer.state.values()}
    assert steps == {4}, "the guide went back to its third validation, and so begins with moments of its own"


def test_what_is_not_reset_keeps_its_moments_where_the_last_parameters_are_the_best(make, tmp_path):
    run = make(tmp_path, stages=two(validate_every=100, steps=(4, 2)))
    run.trainer.fit()
    count = {id(p): int(entry["step"]) for p, entry in run.optimizer.state.items()}
    assert {count[id(p)] for p in run.guide.parameters()} == {6}
    assert {count[id(p)] for p in run.model.parameters()} == {2}


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 6, 8, 12])
def test_a_run_stopped_anywhere_equals_an_uninterrupted_one(make, finished, tmp_path, stop):
    whole = finished("two stages", lambda folder: make(folder, stages=two()).trainer.fit())

    def interrupting(kind):
        def call(self, model, guide, batch, beta=1.0):
            if model.training:
                calls.append(1)
                if len(calls) == stop:
                    send(signal.SIGINT)()
            return kind.__call__(self, model, guide, batch, beta)

        return type(kind.__name__, (kind,), {"__call__": call})()

    calls = []
    with pytest.raises(Interrupted, match=rf"stopped by SIGINT after step {stop} of 13"):
        make(tmp_path / "part", stages=two(interrupting(AutoEncoding), interrupting(Elbo))).trainer.fit()
    rest = make(tmp_path / "part", stages=two())
    rest.trainer.fit(resume=True)
    assert_same_run(tmp_path / "part", whole, step=13)


RATES = {"descent": ("sgd", 0.1), "adam": ("adam", 0.01), "soap": ("soap", 0.01)}
IN_TURN = (("descent", 3, True), ("adam", 4, True), ("more adam", 2, False), ("soap", 3, True))
"""Stages by name with their updates, and whether they have an optimizer of their own."""


def with_optimizers():
    options = {"log_every": 2, "validate_every": 100, "checkpoint_every": 4}
    return [
        Stage(
            Elbo(),
            TrainingOptions(steps=steps, learning_rate=build(RATES[name.split()[-1]][1]), **options),
            name=name,
            optimizer=partial(build_optimizer, RATES[name][0], lr=RATES[name][1]) if own else None,
        )
        for name, steps, own in IN_TURN
    ]


def trained_by_each(make, folder, objective=None):
    stages = [replace(stage, objective=objective or stage.objective) for stage in with_optimizers()]
    return make(folder, stages=stages, optimizer=partial(build_optimizer, "sgd"), lr=0.1)


def test_each_stage_has_its_own_optimizer_or_goes_on_with_that_before_it(make, tmp_path):
    run = trained_by_each(make, tmp_path)
    run.trainer.fit()
    model, guide = programs()
    parameters, batches = [*model.parameters(), *guide.parameters()], Batches()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for stage, steps, own in IN_TURN:
            if own:
                name, lr = RATES[stage]
                optimizer = build_optimizer(name, [{"params": parameters}], lr=lr)
            for _ in range(steps):
                optimizer.zero_grad()
                Elbo()(model, guide, next(batches)).loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 5.0)
                optimizer.step()
    assert equal(run.parameters(), {**model.state_dict(prefix="model."), **guide.state_dict(prefix="guide.")})
    assert [r["lr"] for r in metrics(tmp_path) if r["split"] == "train"] == [0.1, 0.1, *[0.01] * 5]


@pytest.mark.parametrize("stop", [3, 4, 7, 8, 10])
def test_stages_with_optimizers_of_their_own_resume_anywhere(make, finished, tmp_path, stop):
    whole = finished("optimizers", lambda folder: trained_by_each(make, folder).trainer.fit())
    calls = []

    class Stopping(Elbo):
        def __call__(self, model, guide, batch, beta=1.0):
            calls.extend([1] * model.training)
            if model.training and len(calls) == stop:
                send(signal.SIGINT)()
            return super().__call__(model, guide, batch, beta)

    with pytest.raises(Interrupted, match=rf"after step {stop} of 12"):
        trained_by_each(make, tmp_path / "part", Stopping()).trainer.fit()
    trained_by_each(make, tmp_path / "part").trainer.fit(resume=True)
    assert_same_run(tmp_path / "part", whole, step=12)


def test_the_best_is_that_of_the_last_stage(make, tmp_path):
    """The first stage's bounds are higher: of another objective, they are not compared."""
    stages = [
        Stage(Scripted([-1.0] * 4), TrainingOptions(steps=4, **COMMON), name="one"),
        Stage(Scripted([-9.0] * 2 + [-8.0] * 2 + [-8.5] * 2), TrainingOptions(steps=8, **COMMON), name="two"),
    ]
    result = make(tmp_path, stages=stages).trainer.fit()
    assert (result.best_step, result.best_bound) == (10, -8.0)
    assert stored_state(tmp_path / "checkpoints/best.pt")["counters"]["step"] == 10
    assert load_weights(tmp_path / "model.safetensors", *programs()) == {"step": 10, "validation_bound": -8.0}


def test_an_early_end_of_a_stage_lets_the_next_begin(make, tmp_path):
    options = {"patience": 1, "validate_every": 2}
    stages = two(Scripted([-1.0, -2.0]), steps=(50, 4), **options)
    run = make(tmp_path, stages=stages, validation=held_out(1))
    result = run.trainer.fit()
    assert (result.step, result.stopped) == (8, "steps")
    assert [r.total for r in run.progress.steps] == [54, 54, 8, 8]


def test_each_stage_decays_from_its_own_rate(make, tmp_path):
    options = TrainingOptions(
        steps=8, log_every=1, validate_every=2, learning_rate=build(0.01), decay=Decay(patience=1, limit=2)
    )
    stages = [Stage(Scripted(bounds), options, name=name) for name, bounds in
              (("one", [-1.0, -2.0, -2.0, -3.0]), ("two", [-1.0, -1.0, -2.0, -3.0]))]  # fmt: skip
    result = make(tmp_path, stages=stages, validation=held_out(1)).trainer.fit()
    assert result.stopped == "decays"
    rates = [r["lr"] for r in metrics(tmp_path) if r["split"] == "train"]
    assert rates == [0.01] * 4 + [0.005] * 4 + [0.01] * 6 + [0.005] * 2


def test_a_later_stage_may_be_aggressive(make, tmp_path):
    def stages():
        options = TrainingOptions(steps=3, log_every=1, validate_every=1)
        return [Stage(Elbo(), options, name="joint"), Stage(Elbo(), options, name="hard", update=aggressive())]

    make(tmp_path, stages=stages(), monitor=Information()).trainer.fit()
    counts = [r.get("encoder_updates", 0) for r in metrics(tmp_path) if r["split"] == "train"]
    assert counts[:3] == [0, 0, 0]
    assert min(counts[3:]) >= 30


def test_infinite_bounds_are_told_and_written_as_such(make, tmp_path):
    run = make(tmp_path, stages=two())
    run.trainer.fit()
    assert {v.bound for v in run.progress.validations[:2]} == {-torch.inf}
    assert all(r.bound == -torch.inf and r.kl == torch.inf for r in run.progress.steps[:3])
    first = metrics(tmp_path)[0]
    assert (first["bound"], first["kl"]) == (None, None)
    assert first["log_likelihood"] < 0
    only = make(tmp_path / "only", stages=two()[:1])
    result = only.trainer.fit()
    assert result.best_bound == -torch.inf
    assert load_weights(tmp_path / "only/model.safetensors", *programs()) == {
        "step": result.best_step, "validation_bound": None
    }  # fmt: skip


def test_a_checkpoint_of_a_stage_that_there_no_longer_is(make, tmp_path):
    make(tmp_path, stages=two()).trainer.fit()
    with pytest.raises(RunFolderError, match=r"is of stage 2 \('vae'\) of a training that has only 1 now"):
        make(tmp_path, stages=two()[:1]).trainer.fit(resume=True)


def test_a_checkpoint_of_another_optimizer(make, tmp_path):
    make(tmp_path, steps=3).trainer.fit()
    other = make(tmp_path, optimizer=partial(build_optimizer, "sgd"))
    with pytest.raises(RunFolderError, match=r"written while Adam made the updates, and now SGD would; resume it with"):
        other.trainer.fit(resume=True)


def test_a_checkpoint_from_before_there_were_stages_is_resumed(make, tmp_path):
    """What later versions of a state have more is not asked of older ones, and their best bound stays the best."""

    def run(bounds, **options):
        return make(tmp_path, objective=Scripted(bounds), validation=held_out(1), **options)

    run([-1.0, -2.0], steps=6).trainer.fit()
    path = tmp_path / "checkpoints/step-00000006.pt"
    stored = torch.load(path, weights_only=True)
    del stored["state"]["rule"]
    for name in ("number", "began", "best_score", "plateau"):
        del stored["state"]["counters"][name]
    for process in stored["state"]["processes"]:
        del process["update"]
    torch.save(stored, path)
    result = run([-2.0, -3.0]).trainer.fit(resume=True)
    assert (result.step, result.best_step, result.best_bound) == (12, 5, -1.0)


def test_an_infinite_bound_of_what_does_not_count_does_not_count():
    class Infinite(Elbo):
        def __call__(self, model, guide, batch, beta=1.0):
            estimate = super().__call__(model, guide, batch, beta)
            return estimate._replace(bound=torch.where(batch.weights > 0, -2.0, -torch.inf))

    joint = Joint(*programs(), Infinite())
    batch = held_out(1)[0]
    assert batch.weights.min() == 0
    assert validate(joint, [batch], Fabric(accelerator="cpu", devices=1), step=0, seed=0).bound == -2.0


class Remarking(Information):
    def __call__(self, model, guide):
        return {"gap": torch.tensor(1.0), "by dimension": [1, 2.5], "tensor": torch.arange(2)}

    def remark(self, values):
        self.heard = [*getattr(self, "heard", []), values]
        return ["collapsed", "collapsed", "", "collapsed", "fine"][len(self.heard) - 1]


def test_a_remark_of_the_monitor_is_shown_when_it_changes(make, tmp_path):
    monitor = Remarking()
    run = make(tmp_path, monitor=monitor, steps=5, validate_every=1)
    run.trainer.fit()
    assert [m for m in run.progress.messages if m in ("collapsed", "fine", "")] == ["collapsed", "collapsed", "fine"]
    assert monitor.heard[0] == {"gap": 1.0, "by dimension": [1.0, 2.5], "tensor": [0.0, 1.0]}
    assert metrics(tmp_path)[0]["monitor"] == monitor.heard[0]
