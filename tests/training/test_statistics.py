"""Running statistics: one move per update whatever the objective runs, and figures of the very weights that are judged.

The programs are real ones, a sentence VAE with the batch-normalised guide, which has no dropout here.
"""

import copy
import itertools
import signal
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from guides.sentence_vae import BatchNormGuide
from ppl_text import objectives
from ppl_text.core.errors import Interrupted
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.sentence_vae import SentenceVAE
from ppl_text.nn.statistics import RowNorm, RunningStatistics, commit, statistics_of
from ppl_text.training.options import Decay
from ppl_text.training.programs import Joint
from ppl_text.training.validation import refresh_statistics, validate
from ppl_text.training.weights import load_weights

from .conftest import equal, metrics, stored_state
from .small_world import Batches, held_out
from .test_trainer import assert_same_run, send
from .test_update import Information, aggressive

STEPS = 3


def world(seed=5, gamma=0.5):
    """A sentence VAE and its batch-normalised guide, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"latent_dim": 3, "embedding_dim": 4, "hidden_dim": 5}
        model = SentenceVAE(Vocabulary(7), dropout_in=0.0, dropout_out=0.0, **sizes)
        return model, BatchNormGuide(model, gamma=gamma)


def texts(count=6, seed=0):
    return list(itertools.islice(Batches(seed), count))


def figures(guide, batches):
    """μ before it is normalised, of all rows that count, (N, D)."""
    with torch.no_grad():
        means = [guide.projection(guide.summary(batch)).chunk(2, -1)[0][batch.weights > 0] for batch in batches]
    return torch.cat(means)


def statistics(guide):
    return {name: value.clone() for name, value in guide.norm.named_buffers()}


class Counted(RowNorm):
    """Counts its own forwards and moves."""

    forwards = moves = 0

    def forward(self, x, weights):
        self.forwards += self.training
        return super().forward(x, weights)

    def follow(self, figures, total):
        self.moves += 1
        super().follow(figures, total)


def counting_world():
    model, guide = world()
    norm = Counted(3, gamma=0.5)
    norm.load_state_dict(guide.norm.state_dict())
    guide.norm = norm
    return model, guide


RUNS = {
    **dict.fromkeys(("elbo", "elbo-analytic", "reconstruction"), 1),
    **dict.fromkeys(("stl", "dreg:4", "pyro:Trace_ELBO"), 2),
    "iwae:4/1": 8,
    "dreg:4/1": 16,
}
"""How often each objective runs the guide in one update, the way back counted."""


@pytest.mark.parametrize("spec", RUNS)
def test_statistics_move_once_per_update_whatever_the_objective_runs(make, tmp_path, spec):
    made = make(tmp_path, world=counting_world, objective=objectives.build(spec), validation=None, steps=STEPS)
    made.trainer.fit()
    norm = made.guide.norm
    assert (norm.forwards - 1, norm.moves) == (RUNS[spec] * STEPS, STEPS), "one run more checked the programs"
    assert int(norm.batches) == STEPS
    # The first update's share is all of it, so that one update leaves the figures of its batch at the first weights.
    one = make(tmp_path / "one", world=world, objective=objectives.build(spec), validation=None, steps=1)
    expected = figures(one.guide, texts(1))
    one.trainer.fit()
    torch.testing.assert_close(one.guide.norm.running_mean, expected.mean(0))
    torch.testing.assert_close(one.guide.norm.running_variance, expected.var(0), rtol=1e-4, atol=0.0)


def test_each_update_of_an_aggressive_training_counts_once(make, tmp_path):
    made = make(
        tmp_path, world=counting_world, objective=objectives.build("elbo"), update=aggressive(), steps=1, log_every=1,
        monitor=Information(),
    )  # fmt: skip
    made.trainer.fit()
    (record,) = [r for r in metrics(tmp_path) if r["split"] == "train"]
    assert made.guide.norm.moves == record["encoder_updates"] + 1


def test_a_run_that_no_update_follows_leaves_no_trace(make, tmp_path):
    """A dry run, gradients that are looked at, and both of them before a training that forgets them."""
    model, guide = world()
    before = copy.deepcopy(guide.state_dict())
    estimate = objectives.build("stl")(model, guide, texts(1)[0])
    estimate.loss.backward()
    assert equal(dict(guide.state_dict()), dict(before))

    def looked_at():
        programs = world()
        objectives.build("elbo")(*programs, next(Batches(9)))
        return programs

    plain = make(tmp_path / "plain", world=world, objective=objectives.build("elbo"))
    other = make(tmp_path / "other", world=looked_at, objective=objectives.build("elbo"))
    for made in (plain, other):
        made.trainer.fit()
    assert equal(plain.parameters(), other.parameters())


def test_a_frozen_program_keeps_its_statistics(make, tmp_path):
    def frozen():
        model, guide = world()
        return model, guide.requires_grad_(False)

    made = make(tmp_path, world=frozen, objective=objectives.build("elbo"), statistics=texts())
    before = statistics(made.guide)
    made.trainer.fit()
    assert equal(statistics(made.guide), before)


def test_refreshed_statistics_are_those_of_the_texts_at_the_weights_that_are_there():
    model, guide = world()
    before, data = statistics(guide), texts(5)
    kept = refresh_statistics(model, guide, data)
    expected = figures(guide, data)
    assert len(expected) == 35, "seven rows of each batch count"
    torch.testing.assert_close(guide.norm.running_mean, expected.mean(0))
    torch.testing.assert_close(guide.norm.running_variance, expected.var(0), rtol=1e-4, atol=0.0)
    assert equal(kept, {f"guide.norm.{name}": value for name, value in before.items()})
    assert model.training
    assert guide.training
    assert guide.norm.take() is None
    again = statistics(guide)
    refresh_statistics(model, guide.eval(), texts(3))
    assert equal(statistics(guide), again), "a part in evaluation mode stays"


def test_statistics_of_a_model_are_estimated_with_latents_of_its_guide():
    model, guide = world()
    model.network.norm = RowNorm(3, gamma=1.0)
    seen = []
    forward = model.network.forward

    def normalised(inputs, z):
        seen.append(z)
        return forward(inputs, model.network.norm(z, torch.ones(len(z))))

    model.network.forward = normalised
    torch.manual_seed(0)
    assert set(refresh_statistics(model, guide, texts(4))) >= {"model.network.norm.batches", "guide.norm.batches"}
    torch.testing.assert_close(model.network.norm.running_mean, torch.cat(seen).mean(0))


def ignoring(**options):
    """A model whose decoder does not hear z."""
    model, guide = world(**options)
    with torch.no_grad():
        model.network.bridge.weight.zero_()
        model.network.lstm.weight_ih_l0[:, 4:].zero_()
    return model.requires_grad_(False), guide


def test_the_bound_of_a_normalised_guide_is_that_of_its_weights_and_not_of_weights_before(make, tmp_path):
    """Swapped in on a model that ignores its latents; what is learned here are the figures, which lag far behind.

    E[KL] of a training text is D γ²/2 (n - 1)/n, of n texts, plus what the scales cost.
    """
    wanted = {}
    for name, given in {"estimated": texts(), "lagging": ()}.items():
        made = make(
            tmp_path / name, world=ignoring, objective=objectives.build("elbo-analytic"), statistics=given, lr=3e-2,
            steps=12, validate_every=12, validation=texts(),
        )  # fmt: skip
        made.trainer.fit()
        (wanted[name],) = [r["kl"] for r in metrics(tmp_path / name) if r["split"] == "valid"]
    least = 3 * 0.5**2 / 2 * 41 / 42
    assert least <= wanted["estimated"] < 2 * least
    assert wanted["lagging"] > 10 * least


def test_what_is_saved_as_weights_has_the_statistics_of_these_weights(make, tmp_path):
    """The best checkpoint and model.safetensors; training goes on with its own, as if nothing had been validated."""
    given = {"world": world, "objective": objectives.build("elbo"), "statistics": texts(), "lr": 3e-2}
    made = make(tmp_path / "validated", **given)
    result = made.trainer.fit()
    model, guide = world(seed=77)
    load_weights(tmp_path / "validated/model.safetensors", model, guide)
    weights = load_file(tmp_path / "validated/model.safetensors")
    stored = stored_state(tmp_path / "validated/checkpoints/best.pt")
    assert all(torch.equal(value, stored["parameters"][name]) for name, value in weights.items())
    assert set(stored["running"]) == {f"guide.norm.{name}" for name in statistics(guide)}
    expected = figures(guide, texts())
    torch.testing.assert_close(guide.norm.running_mean, expected.mean(0))
    torch.testing.assert_close(guide.norm.running_variance, expected.var(0), rtol=1e-4, atol=0.0)
    joint = Joint(model, guide, objectives.build("elbo"))
    record = validate(joint, held_out(), Fabric(accelerator="cpu", devices=1), step=1, seed=3)
    assert record.bound == pytest.approx(result.best_bound, rel=1e-6), "what is printed is what the file holds"
    plain = make(tmp_path / "plain", **given, validation=None)
    plain.trainer.fit()
    assert equal(made.parameters(), plain.parameters())
    newest = stored_state(tmp_path / "validated/checkpoints/step-00000012.pt")
    assert equal(dict(newest["parameters"]), made.parameters())
    assert "running" not in newest
    # Without validation the newest weights are saved, with statistics of theirs.
    last = load_file(tmp_path / "plain/model.safetensors")
    torch.testing.assert_close(last["guide.norm.running_mean"], figures(plain.guide, texts()).mean(0))


@pytest.mark.parametrize("stop", [2, 5, 7])
def test_a_run_stopped_and_resumed_equals_an_uninterrupted_one(make, finished, tmp_path, stop):
    def run(folder, actions=None):
        objective = objectives.build("stl")
        made = make(folder, world=world, objective=objective, statistics=texts(), lr=3e-2)
        step, counted = made.optimizer.step, itertools.count(1)
        made.optimizer.step = lambda *a, **k: (step(*a, **k), (actions or {}).get(next(counted), lambda: None)())[0]
        return made

    whole = finished("statistics", lambda folder: run(folder).trainer.fit())
    with pytest.raises(Interrupted):
        run(tmp_path / "part", {stop: send(signal.SIGTERM)}).trainer.fit()
    run(tmp_path / "part").trainer.fit(resume=True)
    assert_same_run(tmp_path / "part", whole)


def test_a_run_that_falls_back_to_its_best_checkpoint_goes_on_with_the_statistics_of_the_training(make, tmp_path):
    given = {"world": world, "objective": objectives.build("elbo"), "statistics": texts(), "lr": 3e-2}
    whole = make(tmp_path / "whole", **given)
    whole.trainer.fit()
    make(tmp_path / "part", **given, steps=10).trainer.fit()
    for path in (tmp_path / "part/checkpoints").glob("step-*.pt"):
        path.unlink()
    part = make(tmp_path / "part", **given)
    part.trainer.fit(resume=True)
    assert part.progress.started == (12, 10)
    assert equal(part.parameters(), whole.parameters())


def test_a_decay_takes_up_the_statistics_with_the_weights(make, tmp_path):
    from ppl_text.schedules import build

    class Falling(type(objectives.build("elbo"))):
        seen = 0

        def __call__(self, model, guide, batch, beta=1.0):
            estimate = super().__call__(model, guide, batch, beta)
            if model.training:
                return estimate
            Falling.seen += 1
            return estimate._replace(bound=torch.full_like(estimate.bound, -float(Falling.seen)))

    elbo = objectives.build("elbo")
    made = make(
        tmp_path, world=world, objective=Falling(elbo.name, elbo.particles, elbo.bound), statistics=texts(),
        validation=held_out(1), learning_rate=build(0.03), decay=Decay(0.5, 1, 0, 1), steps=8, validate_every=4,
    )  # fmt: skip
    assert made.trainer.fit().stopped == "decays"
    assert equal(made.parameters(), dict(stored_state(tmp_path / "checkpoints/best.pt")["parameters"]))


class Book(RunningStatistics):
    """Sums of what was seen, which training reads."""

    estimated = False

    def __init__(self):
        super().__init__()
        self.register_buffer("sums", torch.zeros(2))

    def forward(self, x):
        self.note(x.sum(0))
        return x + self.sums

    def follow(self, figures, total):
        self.sums += total(figures[0])


def test_a_part_of_ones_own_says_what_it_notes_and_how_it_moves():
    book, other = Book(), nn.Sequential(Book(), nn.Linear(2, 2))
    shared = nn.ModuleList([book, other])
    assert statistics_of(shared, book) == [book, other[0]]
    book(torch.ones(3, 2))
    book(torch.full((3, 2), 2.0))
    commit([book, other[0]], lambda value: 10 * value)
    assert book.sums.tolist() == [60.0, 60.0], "the last run counts, summed over processes"
    commit([book])
    assert book.sums.tolist() == [60.0, 60.0]
    book.eval()(torch.ones(3, 2))
    commit([book])
    assert book.sums.tolist() == [60.0, 60.0]
    with pytest.raises(NotImplementedError, match=r"Bare: define follow\(figures, total\)"):
        type("Bare", (RunningStatistics,), {})().follow((), partial(torch.sum))
    with pytest.raises(NotImplementedError, match="or say estimated = False"):
        book.estimate([], torch.sum)
