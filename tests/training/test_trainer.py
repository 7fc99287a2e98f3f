"""The training loop: resume, stop, choose, leave no trace."""

import math
import os
import shutil
import signal
import threading
from dataclasses import replace

import pyro
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from ppl_text.core.errors import ConfigError, GuideMismatchError, Interrupted, RunFolderError, UserError
from ppl_text.schedules import build
from ppl_text.training.options import TrainingOptions
from ppl_text.training.programs import Joint
from ppl_text.training.validation import validate
from ppl_text.training.weights import load_weights

from .conftest import equal, leftovers, metrics, stored_state
from .small_world import Batches, Elbo, Guide, Model, held_out, programs


class Watched(Elbo):
    """The ELBO, with something done before the n-th training update."""

    def __init__(self, actions=None):
        self.actions, self.updates, self.betas = actions or {}, 0, []

    def __call__(self, model, guide, batch, beta=1.0):
        if model.training:
            self.updates += 1
            self.betas.append({k: float(v) for k, v in beta.items()} if isinstance(beta, dict) else float(beta))
            self.actions.get(self.updates, lambda: None)()
        return super().__call__(model, guide, batch, beta)


class Scripted(Elbo):
    """The ELBO, but the n-th validation bound is the n-th of a list."""

    def __init__(self, bounds):
        self.bounds = iter(bounds)

    def __call__(self, model, guide, batch, beta=1.0):
        estimate = super().__call__(model, guide, batch, beta)
        if model.training:
            return estimate
        return estimate._replace(bound=torch.full_like(estimate.bound, next(self.bounds)))


def send(number):
    return lambda: os.kill(os.getpid(), number)


def assert_same_run(a, b, step=12):
    """Two finished run folders are equal but for times."""
    name = f"checkpoints/step-{step:08d}.pt"
    assert equal(stored_state(a / name), stored_state(b / name))
    assert equal(stored_state(a / "checkpoints/best.pt"), stored_state(b / "checkpoints/best.pt"))
    assert metrics(a) == metrics(b)
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """An uninterrupted run of twelve steps: folder, parts and result; read only."""
    folder = tmp_path_factory.mktemp("whole")
    made = make(folder)
    return folder, made, made.trainer.fit()


def test_a_run_learns_and_keeps_its_folder(make, tmp_path):
    made = make(tmp_path, steps=120, log_every=20, validate_every=40, checkpoint_every=40, lr=3e-2)
    result = made.trainer.fit()
    train = [r for r in metrics(tmp_path) if r["split"] == "train"]
    assert [r["step"] for r in train] == [20, 40, 60, 80, 100, 120]
    assert train[-1]["bound"] > train[0]["bound"] + 0.1
    assert result.step == 120
    assert result.stopped == "steps"
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    steps = ["checkpoints/step-00000080.pt", "checkpoints/step-00000120.pt"]
    assert files == ["checkpoints/best.pt", *steps, "metrics.jsonl", "model.safetensors"]
    assert made.progress.started == (120, 0)
    assert made.progress.closed == 1
    assert any("site" in m and "z" in m for m in made.progress.messages)


def test_records_are_the_weighted_means_of_the_interval(make, tmp_path):
    seen = []

    class Keeping(Elbo):
        def __call__(self, model, guide, batch, beta=1.0):
            estimate = super().__call__(model, guide, batch, beta)
            seen.append((estimate, batch.weights))
            return estimate

    make(tmp_path, objective=Keeping(), validation=None).trainer.fit()
    for record, part in zip(metrics(tmp_path), (seen[0:4], seen[4:8], seen[8:12]), strict=True):
        weight = sum(w.sum() for _, w in part)
        for name in ("bound", "kl", "log_likelihood"):
            mean = sum((getattr(e, name) * w).sum() for e, w in part) / weight
            assert record[name] == pytest.approx(mean.item(), rel=1e-5)
        assert record["loss"] == pytest.approx(sum(e.loss.item() for e, _ in part) / 4, rel=1e-6)


@pytest.mark.parametrize(("stop", "number"), [(1, signal.SIGINT), (5, signal.SIGTERM), (11, signal.SIGINT)])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(make, whole, tmp_path, stop, number):
    part = make(tmp_path / "part", objective=Watched({stop: send(number)}))
    with pytest.raises(Interrupted, match=r"the state is saved in .*\.pt$") as caught:
        part.trainer.fit()
    assert caught.value.exit_code == 128 + number
    assert part.progress.closed == 1
    assert (tmp_path / "part" / "checkpoints" / f"step-{stop:08d}.pt").exists()
    rest = make(tmp_path / "part")
    result = rest.trainer.fit(resume=True)
    assert rest.progress.started == (12, stop)
    assert result == whole[2]
    assert equal(rest.parameters(), whole[1].parameters())
    assert_same_run(tmp_path / "part", whole[0])
    assert not leftovers(tmp_path)


def test_a_run_stopped_after_every_step_equals_an_uninterrupted_one(make, whole, tmp_path):
    folder = tmp_path / "part"
    for step in range(12):
        with pytest.raises(Interrupted):
            make(folder, objective=Watched({1: send(signal.SIGTERM)})).trainer.fit(resume=step > 0)
    assert make(folder).trainer.fit(resume=True) == whole[2]
    assert_same_run(folder, whole[0])


def test_signals_are_heeded_during_fit_only(make, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during = []
    watched = Watched({2: lambda: during.append(signal.getsignal(signal.SIGINT))})
    make(tmp_path, objective=watched).trainer.fit()
    assert during[0] is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_fit_works_outside_of_the_main_thread(make, whole, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(make(tmp_path / "thread").trainer.fit()))
    thread.start()
    thread.join()
    # A thread of its own has its own number of torch threads, hence another order of summation.
    assert results == [replace(whole[2], best_bound=pytest.approx(whole[2].best_bound, rel=1e-4))]


def test_fit_leaves_global_state_as_it_was(make, tmp_path):
    made = make(tmp_path)
    made.model.dropout.eval()
    torch.manual_seed(11)
    with pyro.validation_enabled(True):
        state = torch.get_rng_state()
        made.trainer.fit()
        assert torch.equal(torch.get_rng_state(), state)
        with pytest.raises(ValueError, match="scale"):
            pyro.distributions.Normal(torch.zeros(1), -torch.ones(1))
    assert made.model.training
    assert not made.model.dropout.training


def test_pyro_validates_the_first_update_only(make, tmp_path):
    seen = []

    class Asking(Elbo):
        def __call__(self, model, guide, batch, beta=1.0):
            try:
                pyro.distributions.Normal(torch.zeros(1), -torch.ones(1))
                seen.append(False)
            except ValueError:
                seen.append(True)
            return super().__call__(model, guide, batch, beta)

    make(tmp_path, objective=Asking(), validation=None, steps=3).trainer.fit()
    assert seen == [True, False, False]


def test_what_pyro_refuses_in_the_first_update_is_a_message(make, tmp_path):
    made = make(tmp_path)
    with torch.no_grad():
        made.guide.net.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"do not pass Pyro's validation: .*loc") as caught:
        made.trainer.fit()
    assert caught.value.exit_code == 2
    assert "nan" not in str(caught.value)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_guide_that_does_not_fit_leaves_no_checkpoint(make, tmp_path, monkeypatch):
    monkeypatch.setattr(Guide, "forward", lambda self, batch: None)
    with pytest.raises(GuideMismatchError):
        make(tmp_path).trainer.fit()
    assert not list(tmp_path.rglob("*.pt"))


def test_checking_the_programs_draws_nothing_from_the_training(make, tmp_path, monkeypatch, whole):
    from ppl_text.objectives import sites

    def greedy(model, guide, batch):
        torch.rand(1000)
        return "table"

    monkeypatch.setattr(sites, "check_sites", greedy)
    made = make(tmp_path / "other")
    made.trainer.fit()
    assert "table" in made.progress.messages
    assert equal(made.parameters(), whole[1].parameters())


def test_validation_does_not_disturb_the_training(make, whole, tmp_path):
    without = make(tmp_path / "without", validation=None)
    result = without.trainer.fit()
    assert equal(without.parameters(), whole[1].parameters())
    assert metrics(tmp_path / "without") == [r for r in metrics(whole[0]) if r["split"] == "train"]
    assert (result.best_step, result.best_bound) == (0, None)


def test_without_validation_the_newest_weights_are_kept(make, tmp_path):
    made = make(tmp_path, validation=None)
    made.trainer.fit()
    assert not (tmp_path / "checkpoints" / "best.pt").exists()
    assert equal(load_file(tmp_path / "model.safetensors"), made.parameters())


def test_validation_is_the_weighted_mean_per_sentence_and_token():
    model, guide = programs()
    joint = Joint(model, guide, Elbo())
    fabric = Fabric(accelerator="cpu", devices=1)
    data = [replace(b, weights=torch.tensor([0.0, 1.0, 2.5, 1.0, 7.0, 0.5])) for b in held_out(3)]
    record = validate(joint, data, fabric, step=7, seed=3)
    model.eval()
    torch.manual_seed(3)
    bound = sentences = tokens = 0.0
    for batch in data:
        estimate = Elbo()(model, guide, batch, 1.0)
        for b in range(6):
            bound += estimate.bound[b].item() * batch.weights[b].item()
            sentences += batch.weights[b].item()
            tokens += batch.lengths[b].item() * batch.weights[b].item()
    assert (record.step, record.sentences, record.tokens) == (7, sentences, tokens)
    assert record.bound == pytest.approx(bound / sentences, rel=1e-6)
    assert record.bound_per_token == pytest.approx(bound / tokens, rel=1e-6)
    assert validate(joint, data, fabric, step=7, seed=3) == record


class Watching:
    """A monitor that draws random numbers, and remembers in which state it found the programs."""

    def __init__(self):
        self.seen = []

    def __call__(self, model, guide):
        self.seen.append((model.training, guide.training, model.dropout.training, torch.is_grad_enabled()))
        return {"norm": model.head.weight.norm(), "draw": torch.rand(()).item(), "no number": math.nan}


def without_monitor(records):
    return [{k: v for k, v in record.items() if k != "monitor"} for record in records]


def test_a_monitor_is_written_beside_the_bound_and_does_not_disturb_the_training(make, whole, tmp_path):
    monitor = Watching()
    made = make(tmp_path / "watched", monitor=monitor)
    assert made.trainer.fit() == whole[2]
    assert equal(made.parameters(), whole[1].parameters())
    records = metrics(tmp_path / "watched")
    assert without_monitor(records) == metrics(whole[0])
    valid = [r for r in records if r["split"] == "valid"]
    assert [r["step"] for r in valid] == [5, 10, 12]
    assert not any("monitor" in r for r in records if r["split"] == "train")
    assert monitor.seen == [(False, False, False, False)] * 3
    assert valid[-1]["monitor"]["norm"] == pytest.approx(made.model.head.weight.norm().item())
    assert len({r["monitor"]["norm"] for r in valid}) == 3
    assert len({r["monitor"]["draw"] for r in valid}) == 1, "the same random numbers every time"
    assert [r["monitor"]["no number"] for r in valid] == [None] * 3
    assert [v.monitor.keys() for v in made.progress.validations] == [{"norm", "draw", "no number"}] * 3
    assert made.model.training
    name = "checkpoints/step-00000012.pt"
    assert equal(stored_state(tmp_path / "watched" / name), stored_state(whole[0] / name))


def test_a_monitored_run_resumes(make, tmp_path):
    make(tmp_path / "whole", monitor=Watching()).trainer.fit()
    for stop, folder in ((5, tmp_path / "on a validation"), (7, tmp_path / "between")):
        with pytest.raises(Interrupted):
            make(folder, objective=Watched({stop: send(signal.SIGTERM)}), monitor=Watching()).trainer.fit()
        make(folder, monitor=Watching()).trainer.fit(resume=True)
        assert_same_run(folder, tmp_path / "whole")


def test_validation_data_without_a_sentence_are_refused(make, tmp_path):
    with pytest.raises(UserError, match="hold no sentence"):
        make(tmp_path, validation=[]).trainer.fit()


def test_early_stopping_keeps_the_best(make, tmp_path):
    options = {"validation": held_out(1), "steps": 100, "validate_every": 2, "checkpoint_every": 50, "patience": 2}
    made = make(tmp_path, objective=Scripted([-5.0, -4.0, float("nan"), -4.0]), **options)
    result = made.trainer.fit()
    assert (result.step, result.best_step, result.best_bound, result.stopped) == (8, 4, -4.0, "patience")
    assert [v.best for v in made.progress.validations] == [True, True, False, False]
    assert stored_state(tmp_path / "checkpoints" / "best.pt")["counters"]["step"] == 4
    assert list((tmp_path / "checkpoints").glob("step-*8.pt"))
    # The weights of the best validation are those that a run of four steps ends with.
    four = make(tmp_path / "four", objective=Scripted([-5.0, -4.0]), **(options | {"steps": 4}))
    four.trainer.fit()
    assert equal(load_file(tmp_path / "model.safetensors"), four.parameters())
    assert not equal(made.parameters(), four.parameters())
    model, guide = programs(seed=77)
    assert load_weights(tmp_path / "model.safetensors", model, guide) == {"step": 4, "validation_bound": -4.0}
    assert equal(Joint(model, guide, None).state_dict(), four.parameters())
    # Nothing is left to do when it is resumed.
    again = make(tmp_path, objective=Scripted([]), **options)
    assert again.trainer.fit(resume=True) == result
    assert any("already trained to step 8" in m for m in again.progress.messages)


def test_schedules_reach_objective_and_optimizer(make, tmp_path):
    beta = build({"name": "linear", "start": 0.0, "end": 1.0, "steps": 4})
    rate = build({"name": "warmup", "value": 0.5, "warmup_steps": 2, "steps": 12, "decay": "linear"})
    rates = []
    objective = Watched()
    made = make(tmp_path, objective=objective, beta=beta, learning_rate=rate)
    step = made.optimizer.step
    made.optimizer.step = lambda *a, **k: (rates.append(made.optimizer.param_groups[0]["lr"]), step(*a, **k))[1]
    made.trainer.fit()
    assert objective.betas == [beta(s) for s in range(12)] == [0.0, 0.25, 0.5, 0.75] + [1.0] * 8
    assert rates == [rate(s) for s in range(12)]
    assert rates[:3] == [0.25, 0.5, 0.5]
    train = [r for r in metrics(tmp_path) if r["split"] == "train"]
    assert [(r["beta"], r["lr"]) for r in train] == [(beta(s - 1), rate(s - 1)) for s in (4, 8, 12)]


def test_beta_by_site_and_a_rate_in_a_tensor(make, tmp_path):
    """Both keep their place in memory, as a captured step needs it, also when a run is resumed."""
    rate = torch.tensor(0.0)
    options = {
        "beta": {"z": build({"name": "linear", "start": 0.0, "end": 1.0, "steps": 12})},
        "learning_rate": build({"name": "linear", "start": 0.012, "end": 0.0, "steps": 12}),
        "lr": rate,
    }
    make(tmp_path, **(options | {"steps": 6})).trainer.fit()
    assert rate.item() == pytest.approx(0.012 - 0.005)
    objective = Watched()
    made = make(tmp_path, objective=objective, **options)
    made.trainer.fit(resume=True)
    assert made.optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.001)
    assert objective.betas == [{"z": pytest.approx(s / 12)} for s in range(6, 12)]


def gradients_stepped_by(made):
    """All entries of the gradient, joined, at each step of the optimizer; filled while it trains."""
    seen, step = [], made.optimizer.step
    parameters = [*made.model.parameters(), *made.guide.parameters()]

    def observed(*a, **k):
        seen.append(torch.cat([p.grad.flatten() for p in parameters]))
        return step(*a, **k)

    made.optimizer.step = observed
    return seen


def test_the_gradient_is_clipped_as_a_whole(make, tmp_path):
    made = make(tmp_path, clip_norm=0.01, optimizer=torch.optim.Adam)
    seen = gradients_stepped_by(made)
    made.trainer.fit()
    assert [g.norm().item() for g in seen] == [pytest.approx(0.01, rel=1e-3)] * 12
    assert all(r["grad_norm"] > 0.02 for r in metrics(tmp_path) if r["split"] == "train")


def test_the_gradient_is_clipped_entry_by_entry(make, tmp_path):
    """At a rate of 0 all updates see the same parameters: the gradients are the free ones, cut off."""
    frozen = {"optimizer": torch.optim.Adam, "learning_rate": build(0.0), "steps": 2, "clip_norm": None}
    free, clipped = make(tmp_path / "free", **frozen), make(tmp_path / "clipped", **frozen, clip_value=0.01)
    expected, seen = gradients_stepped_by(free), gradients_stepped_by(clipped)
    free.trainer.fit()
    clipped.trainer.fit()
    assert any((g.abs() > 0.01).any() and (g.abs() < 0.01).any() for g in expected)
    for given, found in zip(expected, seen, strict=True):
        torch.testing.assert_close(found, given.clamp(-0.01, 0.01))


def test_mixed_precision(make, tmp_path):
    seen = set()
    made = make(tmp_path, fabric=Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"))
    made.model.head.register_forward_hook(lambda module, given, out: seen.add((module.training, out.dtype)))
    result = made.trainer.fit()
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert result.step == 12


def test_two_seeds_differ_and_one_seed_repeats(make, whole, tmp_path):
    torch.manual_seed(123)
    same, other = make(tmp_path / "same"), make(tmp_path / "other", seed=4)
    same.trainer.fit()
    other.trainer.fit()
    assert equal(same.parameters(), whole[1].parameters())
    assert not equal(other.parameters(), whole[1].parameters())


def test_a_new_run_does_not_overwrite_another(make, whole):
    with pytest.raises(RunFolderError, match="already holds checkpoints; resume that run or give an empty folder"):
        make(whole[0]).trainer.fit()


def test_a_folder_without_a_run_is_neither_resumed_nor_made(make, tmp_path):
    made = make(tmp_path / "mistyped")
    with pytest.raises(RunFolderError, match="holds no checkpoint to resume from"):
        made.trainer.fit(resume=True)
    assert made.progress.closed == 1
    assert not (tmp_path / "mistyped").exists()


def test_a_finished_run_is_resumed_at_once(make, whole):
    made = make(whole[0])
    before = metrics(whole[0])
    assert made.trainer.fit(resume=True) == whole[2]
    assert metrics(whole[0]) == before
    assert any("already trained to step 12: nothing is left to do" in m for m in made.progress.messages)


def test_more_steps_continue_a_finished_run(make, whole, tmp_path):
    longer = make(shutil.copytree(whole[0], tmp_path / "longer"), steps=20)
    longer.trainer.fit(resume=True)
    at_once = make(tmp_path / "at once", steps=20)
    at_once.trainer.fit()
    assert equal(longer.parameters(), at_once.parameters())


def test_another_architecture_is_refused(make, whole):
    made = make(whole[0])
    made.model.head = torch.nn.Linear(3, 9)
    with pytest.raises(RunFolderError, match=r"does not fit this model, guide and optimizer .*head\.weight"):
        made.trainer.fit(resume=True)


def test_the_last_weights_are_kept_where_a_training_says_so(make, tmp_path):
    options = {"validation": held_out(1), "steps": 4, "validate_every": 2, "keep": "last"}
    made = make(tmp_path, objective=Scripted([-4.0, -5.0]), **options)
    result = made.trainer.fit()
    assert (result.best_step, result.best_bound) == (4, -5.0)
    assert equal(load_file(tmp_path / "model.safetensors"), made.parameters())


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"clip_norm and clip_value are two ways"):
        TrainingOptions(steps=1, clip_value=5.0)
    with pytest.raises(ConfigError, match=r"keep: last .* leave out patience and decay"):
        TrainingOptions(steps=1, patience=3, keep="last")


def test_a_sampler_whose_position_cannot_be_read_back_is_refused_when_saved(make, tmp_path, monkeypatch):
    monkeypatch.setattr(Batches, "state_dict", lambda self: {"deep": [{"generator": self.generator}]})
    with pytest.raises(TypeError, match=r"batches.state_dict\(\)\['deep'\]\[0\]\['generator'\] is a .*Generator"):
        make(tmp_path).trainer.fit()


def test_faults_of_the_options_are_named_at_once():
    with pytest.raises(ConfigError, match=r"steps must be 1 or more; got 0; log_every .*patience .*clip_norm"):
        TrainingOptions(steps=0, log_every=0, patience=0, clip_norm=-1.0)


def test_a_model_inside_the_guide_is_saved_once(make, tmp_path):
    make(tmp_path).trainer.fit()
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == {f"model.{n}" for n in Model().state_dict()} | {"guide.net.weight", "guide.net.bias"}
