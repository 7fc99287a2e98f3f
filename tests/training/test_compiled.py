"""Losses and gradients compiled for the CPU: equal to those that run as they stand, on the same draws."""

import math
import os
import shutil
import signal
import subprocess
import sys

import pyro
import pytest
import torch
from torch import nn

from guides.deep_state_space import DiagonalGuide
from ppl_text import objectives
from ppl_text.core.errors import Interrupted, NonFiniteLossError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.deep_state_space import DeepStateSpace
from ppl_text.schedules import build
from ppl_text.training import compiled
from ppl_text.training.capture import graphs_on
from ppl_text.training.compiled import CompiledGradients

from .conftest import metrics
from .small_world import Batches, Elbo, make_batch
from .test_statistics import world as normalised
from .test_trainer import Watched, send
from .test_update import Aggressive, Information, aggressive

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is here")

CPU = torch.device("cpu")
SAID = "compiling the loss and its gradient, which takes a minute or more at first, for each shape: 8 x 4 (1)"


def alike(a, b, tolerance=1e-3):
    """Whether two dictionaries of tensors are equal, but for gradients of rounding alone, which Adam scales up."""
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=tolerance, atol=tolerance) for k in a)


def numbers(folder):
    """Bound, KL and norm of the gradient in the lines of ``metrics.jsonl``."""
    return [[line[key] for key in ("bound", "kl", "grad_norm") if key in line] for line in metrics(folder)]


@needs_compiler
@pytest.mark.parametrize(
    "given",
    [
        {"beta": build({"name": "linear", "start": 0.1, "end": 1.0, "steps": 9}), "clip_norm": 0.3},
        {"world": normalised, "objective": objectives.build("elbo"), "kl_sites": "mean"},
        {"update": Aggressive, "steps": 3},
    ],
    ids=["dropout and warm-up", "running means, mean KL", "aggressive"],
)
def test_a_training_with_compiled_gradients_is_that_without(make, tmp_path, given):
    def trained(folder, graphs):
        fresh = {"update": aggressive(), "monitor": Information([1.0])} if "update" in given else {}
        made = make(folder, graphs=graphs, **given | fresh)
        made.trainer.fit()
        return made

    plain, made = trained(tmp_path / "plain", None), trained(tmp_path / "compiled", CompiledGradients(CPU))
    assert SAID in made.progress.messages
    assert (SAID.replace("(1)", "(2)") in made.progress.messages) == ("update" in given)
    assert not any("step by step" in message for message in made.progress.messages)
    assert alike(made.parameters(), plain.parameters())
    for ours, theirs in zip(numbers(tmp_path / "compiled"), numbers(tmp_path / "plain"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@needs_compiler
def test_the_recurrences_and_their_gradients_are_compiled():
    """In float64, where no rounding hides a wrong term; with other lengths and weights, and moved parameters."""
    torch.manual_seed(0)
    model = DeepStateSpace(Vocabulary(7), state_dim=2, hidden=[3])
    guide = DiagonalGuide(model, embedding_dim=2, gru_dim=3, hidden=[3])
    model.double(), guide.double()
    parameters = [*model.parameters(), *guide.parameters()]
    objective = objectives.build("elbo")
    generator = torch.Generator().manual_seed(1)
    held = make_batch(generator).map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def run():
        estimate = objective(model, guide, held)
        return estimate._replace(loss=estimate.loss.detach()), torch.autograd.grad(estimate.loss, parameters)

    with pyro.validation_enabled(False):
        before = torch.get_rng_state()
        replay = CompiledGradients(CPU).record(run)
        assert torch.equal(torch.get_rng_state(), before)
        for seed in range(3):
            for place, tensor in zip(held.tensors(), make_batch(generator).tensors(), strict=True):
                place.copy_(tensor)
            with torch.no_grad():
                for parameter in parameters:
                    parameter.mul_(1.01)
            torch.manual_seed(seed)
            estimate, gradient = replay()
            after = torch.get_rng_state()
            torch.manual_seed(seed)
            expected, gradient_as_it_stands = run()
            assert torch.equal(torch.get_rng_state(), after)
            torch.testing.assert_close(
                list(estimate[:4]), [value.detach() for value in expected[:4]], rtol=1e-9, atol=1e-9
            )
            torch.testing.assert_close(gradient, gradient_as_it_stands, rtol=1e-9, atol=1e-9)


@needs_compiler
def test_what_a_compiler_finds_equal_is_not_one_tensor_and_none_is_an_input():
    weight, other = nn.Parameter(torch.ones(3)), torch.ones(3)
    found = CompiledGradients(CPU).record(lambda: {"twice": (weight * 2, weight * 2), "held": [other], "none": None})()
    first, second = found["twice"]
    first.mul_(5.0), found["held"][0].mul_(7.0)
    assert second.tolist() == [2.0, 2.0, 2.0]
    assert other.tolist() == [1.0, 1.0, 1.0]
    assert found["none"] is None


class Asking(Elbo):
    """An objective that asks for a number."""

    def __call__(self, model, guide, batch, beta=1.0):
        estimate = super().__call__(model, guide, batch, beta)
        return estimate if math.isfinite(float(estimate.loss.detach())) else estimate._replace(ess=None)


def test_what_asks_for_a_number_is_said_once_and_trains_as_it_stands(make, tmp_path):
    plain = make(tmp_path / "plain", objective=Asking())
    plain.trainer.fit()
    made = make(tmp_path / "compiled", objective=Asking(), graphs=CompiledGradients(CPU))
    made.trainer.fit()
    said = [message for message in made.progress.messages if "step by step" in message]
    assert len(said) == 1
    assert said[0].startswith("not captured as a graph, step by step instead: a value is asked for as a Python number")
    assert "test_compiled.py:" in said[0]
    assert all(torch.equal(value, plain.parameters()[name]) for name, value in made.parameters().items())


@needs_compiler
def test_a_loss_that_is_not_finite_stops_before_parameters_change(make, tmp_path):
    made = make(tmp_path, graphs=CompiledGradients(CPU), validation=None, checkpoint_every=1)
    spoilt = iter(range(20))

    class Spoilt(Batches):
        def __next__(self):
            batch = super().__next__()
            if next(spoilt) == 8:
                batch.weights.fill_(math.nan)
            return batch

    made.trainer._state.batches.__class__ = Spoilt
    with pytest.raises(NonFiniteLossError, match=r"step 8: the loss is nan"):
        made.trainer.fit()
    assert all(bool(value.isfinite().all()) for value in made.parameters().values())


@needs_compiler
def test_a_signal_is_obeyed_while_something_is_compiled(make, tmp_path):
    """The batch whose update it interrupted is the first of the run that is resumed."""
    make(tmp_path / "whole").trainer.fit()
    stopped = Watched({3: send(signal.SIGINT)})  # two updates, the first of them the check; then what is written down
    made = make(tmp_path / "run", objective=stopped, graphs=CompiledGradients(CPU))
    with pytest.raises(Interrupted, match=r"stopped by SIGINT after step 2 of 12; the state is saved"):
        made.trainer.fit()
    again = make(tmp_path / "run", graphs=CompiledGradients(CPU))
    again.trainer.fit(resume=True)
    for ours, theirs in zip(numbers(tmp_path / "run"), numbers(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_cpu_records_only_where_it_is_asked_to():
    assert graphs_on(CPU) is graphs_on(CPU, False) is None
    assert isinstance(graphs_on(CPU, True), compiled.CompiledGradients)


def test_without_a_compiler_the_training_says_so_and_goes_on(word_list, tmp_path):
    command = [sys.executable, "-m", "ppl_text", "fit", "words", "--capture", "--out", str(tmp_path / "run")]
    small = {"model.hidden": "[8]", "guide.gru_dim": 4, "training.steps": 4, "data.validation_sentences": 20}
    quick = {"report.sentences": 10, "report.particles": 2, "report.samples": 4, "data.batch_size": 4}
    for key, value in {**small, **quick, "data.corpus": word_list}.items():
        command += ["--set", f"{key}={value}"]
    place = {"CXX": "/nonexistent/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "not captured as a graph, step by step instead: " in done.stderr
    assert "Traceback" not in done.stderr
