"""Updates of the gradients of several batches: one large batch in pieces, counted, resumed, and said where refused."""

import math
import signal
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric

from guides.language_model import ExactGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.errors import ConfigError, Interrupted, NonFiniteLossError, UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.language_model import LanguageModel
from ppl_text.nn.statistics import commit, discard
from ppl_text.schedules import build
from ppl_text.training.optimizers import build_optimizer
from ppl_text.training.options import TrainingOptions
from ppl_text.training.programs import Joint, set_up
from ppl_text.training.stopping import make_guard
from ppl_text.training.update import Setting, Update

from .conftest import metrics, stored_state
from .small_world import Batches, Elbo, make_batch, programs
from .test_capture import Tape
from .test_statistics import Book, counting_world, figures, texts
from .test_statistics import world as normalised
from .test_trainer import Watched, assert_same_run, send
from .test_update import Information, aggressive

N = 3


class Pieces(Batches):
    """The batches of a seed in float64, with 7, 5 and 8 rows that count in turn, some of which weigh more."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.drawn = 0

    def __next__(self):
        made = super().__next__()
        self.drawn += 1
        weights = torch.ones(8, dtype=torch.float64)
        weights[(7, 5, 8)[self.drawn % 3] :] = 0.0
        weights[0] = 2.5
        return Batch(made.tokens, made.lengths, weights, made.decoder_inputs)

    def state_dict(self):
        return {**super().state_dict(), "drawn": self.drawn}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.drawn = state["drawn"]


class Whole(Pieces):
    """The same, N at a time as one batch."""

    def __next__(self):
        parts = [super(Whole, self).__next__() for _ in range(N)]
        return Batch(*(torch.cat(column) for column in zip(*(part.tensors() for part in parts), strict=True)))


def language_model():
    """Without latents nothing is drawn: the loss is a function of texts and parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LanguageModel(Vocabulary(7), embedding_dim=4, hidden_dim=5).double()
        return model, ExactGuide(model)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_an_update_of_several_batches_is_that_of_one_large_batch(make, tmp_path, clip):
    """Texts of other numbers and weights in each batch, a rate that falls, and a clipping that bites."""
    rate = build({"name": "linear", "start": 0.1, "end": 0.0, "steps": 6})
    given = {
        "world": language_model,
        "objective": objectives.build("elbo"),
        "optimizer": partial(build_optimizer, "sgd"),
        "learning_rate": rate,
        "clip_norm": clip,
        "steps": 4,
        "log_every": 1,
        "validation": None,
    }
    pieces = make(tmp_path / "pieces", batches=Pieces, accumulate=N, **given)
    whole = make(tmp_path / "whole", batches=Whole, **given)
    for made in (pieces, whole):
        assert made.trainer.fit().step == 4
    assert pieces.batches.drawn == whole.batches.drawn == 4 * N
    for key, value in pieces.parameters().items():
        torch.testing.assert_close(value, whole.parameters()[key])
    for ours, theirs in zip(metrics(tmp_path / "pieces"), metrics(tmp_path / "whole"), strict=True):
        assert ours == {k: v if isinstance(v, str) else pytest.approx(v, rel=1e-9) for k, v in theirs.items()}
    norms = [record["grad_norm"] for record in metrics(tmp_path / "whole")]
    assert clip is None or min(norms) > clip


def test_one_step_is_counted_for_n_batches(make, tmp_path):
    """Intervals, records and schedules go by updates, figures by all texts of the interval."""
    seen = []

    class Keeping(Elbo):
        def __call__(self, model, guide, batch, beta=1.0):
            estimate = super().__call__(model, guide, batch, beta)
            if model.training:
                seen.append((estimate, batch.weights, float(beta)))
            return estimate

    beta = build({"name": "linear", "start": 0.0, "end": 1.0, "steps": 4})
    made = make(tmp_path, objective=Keeping(), accumulate=N, steps=6, log_every=2, beta=beta)
    made.trainer.fit()
    train, valid = ([r for r in metrics(tmp_path) if r["split"] == split] for split in ("train", "valid"))
    assert [r["step"] for r in train] == [2, 4, 6]
    assert [r["step"] for r in valid] == [5, 6]
    assert [own for _, _, own in seen] == [beta(step) for step in range(6) for _ in range(N)]
    for record, first in zip(train, range(0, 6 * N, 2 * N), strict=True):
        part = seen[first : first + 2 * N]
        weight = sum(w.sum() for _, w, _ in part)
        for name in ("bound", "kl", "log_likelihood"):
            mean = sum((getattr(e, name) * w).sum() for e, w, _ in part) / weight
            assert record[name] == pytest.approx(mean.item(), rel=1e-5)
        assert record["loss"] == pytest.approx(sum(e.loss.item() for e, _, _ in part) / len(part), rel=1e-5)
    expected = Batches()
    for _ in range(6 * N):
        next(expected)
    assert torch.equal(made.batches.generator.get_state(), expected.generator.get_state())


@pytest.mark.parametrize("stop", [1, 5, 6, 35])
def test_a_run_stopped_within_an_update_ends_it_and_resumes_bit_by_bit(make, finished, tmp_path, stop):
    """``stop`` counts batches; draws, dropout and moments go on where the update after it begins."""
    optimizer = partial(build_optimizer, "adamw", weight_decay=0.1)
    whole = finished("accumulated", lambda folder: make(folder, optimizer=optimizer, accumulate=N).trainer.fit())
    part = make(tmp_path / "part", optimizer=optimizer, accumulate=N, objective=Watched({stop: send(signal.SIGTERM)}))
    with pytest.raises(Interrupted, match=f"after step {math.ceil(stop / N)} of 12"):
        part.trainer.fit()
    make(tmp_path / "part", optimizer=optimizer, accumulate=N).trainer.fit(resume=True)
    assert_same_run(tmp_path / "part", whole)


def test_running_statistics_move_once_an_update_by_all_of_its_texts(make, tmp_path):
    given = {"objective": objectives.build("stl"), "validation": None, "accumulate": N}
    made = make(tmp_path / "counted", world=counting_world, steps=4, **given)
    made.trainer.fit()
    assert made.guide.norm.moves == int(made.guide.norm.batches) == 4
    # The first update's share is all of it: the figures of its texts at the first weights.
    one = make(tmp_path / "one", world=normalised, steps=1, **given)
    expected = figures(one.guide, texts(N))
    one.trainer.fit()
    torch.testing.assert_close(one.guide.norm.running_mean, expected.mean(0))
    torch.testing.assert_close(one.guide.norm.running_variance, expected.var(0), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("bad", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_update_that_it_is_in(make, tmp_path, bad):
    class Broken(Watched):
        def __call__(self, model, guide, batch, beta=1.0):
            estimate = super().__call__(model, guide, batch, beta)
            return estimate._replace(loss=estimate.loss * (math.nan if self.updates == bad else 1.0))

    made = make(tmp_path, objective=Broken(), accumulate=N, validation=None)
    with pytest.raises(NonFiniteLossError, match=rf"step {math.ceil(bad / N)}: the loss is nan"):
        made.trainer.fit()
    state = stored_state(sorted((tmp_path / "checkpoints").glob("step-*.pt"))[-1])
    assert state["counters"]["step"] == 0, "the update is not half made"


def test_in_bf16_gradients_are_gathered_in_float32(make, tmp_path):
    made = make(tmp_path, fabric=Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"), accumulate=N)
    seen, step = set(), made.optimizer.step
    made.optimizer.step = lambda *a, **k: (seen.update(p.grad.dtype for p in made.model.parameters()), step(*a, **k))[1]
    assert made.trainer.fit().step == 12
    assert seen == {torch.float32}


def test_it_is_not_recorded_as_a_graph_and_says_so_once_a_fit():
    said, tape, fabric = [], Tape(), Fabric(accelerator="cpu", devices=1)
    model, guide = programs()
    joint = Joint(model, guide, Elbo())
    optimizer = build_optimizer("sgd", [{"params": list(joint.parameters())}], lr=0.1)
    module, wrapped = set_up(fabric, joint, optimizer)
    options = TrainingOptions(steps=9, accumulate=2)
    setting = Setting(
        fabric, module, wrapped, make_guard(fabric, optimizer), options, list(joint.parameters()), graphs=tape,
        report=said.append,
    )  # fmt: skip
    update, generator = Update(setting), torch.Generator().manual_seed(0)
    update.begin(monitored=False)
    for step in range(4):
        update([make_batch(generator), make_batch(generator)], step)
    assert said == ["not captured as a graph, step by step instead: each update gathers the gradients of 2 batches"]
    assert (tape.recorded, list(update.recorded)) == (0, [])


def test_what_it_does_not_go_with_is_refused(make, tmp_path):
    with pytest.raises(UserError, match="update: aggressive makes each update of one batch; use accumulate: 1"):
        make(tmp_path, update=aggressive(), monitor=Information(), accumulate=2)
    with pytest.raises(ConfigError, match="accumulate must be 1 or more; got 0"):
        TrainingOptions(steps=1, accumulate=0)


def test_a_part_that_cannot_pool_its_batches_says_what_to_define():
    book = Book()
    for _ in range(2):
        book(torch.ones(3, 2))
        book.set_aside()
    with pytest.raises(NotImplementedError, match=r"Book: define pool\(batches\).* or train with accumulate: 1"):
        commit([book])
    book(torch.ones(3, 2))
    book.set_aside()
    discard([book])
    commit([book])
    assert book.sums.tolist() == [0.0, 0.0], "what an update before left behind is forgotten"
