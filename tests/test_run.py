"""The Python face: fit, load, evaluate, generate, reconstruct, interpolate."""

import importlib
import json
import sys

import pyro.infer
import pytest
import torch

import ppl_text as pt
from guides.deep_state_space import TriangularGuide
from ppl_text.core.errors import Interrupted, RunFolderError, UserError
from ppl_text.objectives.bounds import elbo, monte_carlo_scores
from ppl_text.objectives.terms import trace_terms
from ppl_text.recipes.build import build_objective, build_programs, evaluation_set
from ppl_text.recipes.config import load_config
from ppl_text.recipes.start import dry_run, first_batch
from ppl_text.training.progress import Quiet

SHORT = {"training.steps": 4, "report.particles": 2, "report.sentences": 20, "report.samples": 10}


@pytest.fixture
def short(tiny):
    return {**tiny, **SHORT}


class Remembering(Quiet):
    def __init__(self):
        self.messages, self.steps = [], []

    def message(self, text):
        self.messages.append(text)

    def step(self, record):
        self.steps.append(record.step)


def test_the_record_of_the_machine_names_the_threads_that_the_run_was_given(short, tmp_path):
    """Another number than this process has."""
    threads = torch.get_num_threads() + 1
    run = pt.fit(set={**short, "threads": threads}, out=tmp_path / "run")
    recorded = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    assert recorded["torch_threads"] == threads
    assert torch.get_num_threads() == threads - 1


def test_fit_returns_a_run_that_load_opens_again(trained):
    again = pt.load(trained.folder)
    assert again.config == trained.config
    assert repr(again) == f"<Run {trained.folder} of words, guide diagonal, finished>"
    assert again.evaluate(particles=4) == trained.evaluate(particles=4)
    assert again.generate(5, seed=2) == trained.generate(5, seed=2)
    assert again.reconstruct(["bade", "ma"]) == trained.reconstruct(["bade", "ma"])
    assert again.interpolate("bade", "ma") == trained.interpolate("bade", "ma")
    assert len(again.interpolate("bade", "ma", points=3)) == 3
    assert not again.model.training


def test_the_report_is_what_evaluate_says(trained):
    stored = json.loads((trained.folder / "results.json").read_text(encoding="utf-8"))
    options = trained.config.report
    found = trained.evaluate("test", particles=options.particles, limit=options.sentences, seed=trained.config.seed)
    assert (stored["elbo"], stored["iw"], stored["kl_sum"]) == (found.elbo, found.iw, found.kl_sum)
    samples = trained.samples(options.samples, trained.config.seed)
    assert stored["samples"]["in_list"] == samples.in_list
    assert " ".join(word or "∅" for word in samples.texts) in (trained.folder / "report.md").read_text(encoding="utf-8")


def test_evaluate_agrees_with_the_objective_of_training(trained):
    """Both routes to the ELBO of one batch: the evaluator's mean, and many particles through the bound."""
    test = trained.evaluate("test", particles=200)
    total, bound = 0.0, 0.0
    data = evaluation_set(trained.corpus, "test", None, 0)
    torch.manual_seed(0)
    with torch.no_grad():
        for batch in data:
            reading = elbo(monte_carlo_scores(trace_terms(trained.model, trained.guide, batch, 200)))
            bound += float((batch.weights * reading.bound).sum())
            total += float(batch.weights.sum())
    assert total == test.n_sent
    assert test.elbo == pytest.approx(bound / total, abs=6 * test.elbo_se)


def test_fit_says_what_it_does(short, tmp_path):
    progress = Remembering()
    pt.fit(set=short, out=tmp_path / "run", progress=progress)
    assert progress.steps == [4]
    assert progress.messages[0].startswith("list.tsv: 200 types read")
    assert progress.messages[1] == "KL of site 'h': in closed form"
    assert "FlowChain" in progress.messages[2]
    assert progress.messages[-1] == "evaluating on the test split …"


def test_fit_says_where_the_closed_form_is_missing(short, tmp_path):
    progress = Remembering()
    pt.fit(
        "words-nvp",
        set={**short, "model.layers": 2},
        objective="elbo-analytic",
        out=tmp_path / "run",
        progress=progress,
    )
    assert (
        "KL of site 'h': no closed form of KL(FlowChain ‖ FlowChain) for these two, so by Monte Carlo"
        in progress.messages
    )


def test_arguments_are_the_options_of_the_command_line(short, tmp_path, word_list):
    chosen = {"steps": 3, "seed": 5, "device": "cpu", "precision": 32, "out": str(tmp_path / "run")}
    run = pt.fit("words", data=word_list, set=short, **chosen)
    config = run.config
    assert (config.training.steps, config.seed, config.device, config.precision) == (3, 5, "cpu", "32")
    assert config.data.corpus == str(word_list)


def test_another_seed_is_another_run(short, tmp_path, one_thread):
    runs = [pt.fit(set=short, seed=seed, out=tmp_path / str(i)) for i, seed in enumerate((1, 1, 2))]
    weights = [(run.folder / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] != weights[2]


GUIDE = """from guides.deep_state_space import MeanFieldGuide

class Mine(MeanFieldGuide):
    '''q: mine.'''

class Outer:
    class Inner(MeanFieldGuide):
        '''q: hidden.'''
"""


@pytest.fixture
def my_guides(tmp_path, monkeypatch):
    """An imported module of the user's."""
    (tmp_path / "my_guides.py").write_text(GUIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("my_guides")
    del sys.modules["my_guides"]


def test_a_guide_may_be_a_class(short, tmp_path, my_guides):
    run = pt.fit(set=short, guide=my_guides.Mine, out=tmp_path / "run")
    assert run.config.guide.name == f"{tmp_path / 'my_guides.py'}:Mine"
    assert type(pt.load(run.folder, trust=True).guide).__name__ == "Mine"


def test_a_class_of_ours_is_kept_by_its_name(short, tmp_path):
    run = pt.fit(set=short, guide=TriangularGuide, out=tmp_path / "run")
    assert run.config.guide.name == "tril"
    assert type(run.guide) is TriangularGuide


def test_a_class_that_cannot_be_loaded_again_is_passed_again(short, tmp_path, my_guides, monkeypatch):
    class Local(TriangularGuide):
        pass

    monkeypatch.setattr(my_guides.Mine, "__module__", "__main__")
    for guide in (Local, my_guides.Outer.Inner, my_guides.Mine):
        run = pt.fit(set=short, guide=guide, out=tmp_path / guide.__name__)
        assert run.config.guide.name == f"live:{guide.__name__}"
        with pytest.raises(UserError, match=r"was passed in Python and has no file of its own(.|\n)*; pass it again"):
            pt.load(run.folder, trust=True)
        assert type(pt.load(run.folder, guide=guide).guide) is guide


STOCK = {
    "Trace_ELBO": pyro.infer.Trace_ELBO,
    "RenyiELBO": lambda: pyro.infer.RenyiELBO(num_particles=2, vectorize_particles=True),
    "RenyiELBO of order 0.5": lambda: pyro.infer.RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True),
    "TraceMeanField_ELBO": pyro.infer.TraceMeanField_ELBO,
}


@pytest.mark.parametrize("make", STOCK.values(), ids=STOCK)
def test_a_stock_pyro_objective_trains_and_is_found_again_by_name(short, tmp_path, make):
    run = pt.fit(set=short, objective=make(), out=tmp_path / "run")
    assert run.finished
    assert run.config.objective.startswith(f"pyro:{type(make()).__name__}")
    assert pt.fit(resume=run.folder, steps=6).config.training.steps == 6


def test_stock_and_own_objective_train_alike(short, tmp_path, one_thread):
    """Trace_ELBO and elbo have the same gradients, so that the same noise leads to the same weights.

    Up to float32, in one step (Pyro's draws again for the figures that are printed) of an optimizer that is linear in
    the gradient: SOAP's first step only begins its preconditioner, Adam's rule turns rounding into a whole step.
    """
    changes = {**short, "training.optimizer": "sgd", "training.lr": 0.1, "training.steps": 1}
    start = pt.fit(set={**changes, "training.lr": 0.0}, objective="elbo", out=tmp_path / "start")
    ours = pt.fit(set=changes, objective="elbo", out=tmp_path / "ours")
    stock = pt.fit(set=changes, objective=pyro.infer.Trace_ELBO(), out=tmp_path / "stock")
    found, expected, before = (run.model.state_dict() for run in (ours, stock, start))
    moved = max(float((value - before[name]).abs().max()) for name, value in expected.items())
    assert moved > 1e-2
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5 * moved, msg=name)


def test_something_else_is_no_objective(short, tmp_path):
    with pytest.raises(UserError, match=r"a pyro\.infer\.ELBO instance, or an object .*; got 3"):
        pt.fit(set=short, objective=3, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resume_from_python(short, tmp_path, one_thread):
    whole = pt.fit(set=short, steps=8, out=tmp_path / "whole")
    run = pt.fit(set=short, steps=4, out=tmp_path / "part")
    resumed = pt.fit("words", resume=run.folder, steps=8)
    assert resumed.finished
    for name, value in whole.programs.model.state_dict().items():
        assert torch.equal(value, resumed.programs.model.state_dict()[name])


def test_training_ends_early_when_validation_no_longer_rises(short, tmp_path):
    changes = {"training.steps": 400, "training.validate_every": 2, "training.patience": 2, "training.lr": 0.0}
    run = pt.fit(set={**short, **changes}, out=tmp_path / "run")
    assert run.finished
    assert (
        "6 steps (validation stopped rising); weights of the best validation, step 2"
        in (run.folder / "report.md").read_text()
    )


def test_ctrl_c_while_the_report_is_written_says_what_is_left(short, tmp_path, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ppl_text.run.training_figure", pressed)
    with pytest.raises(Interrupted, match="training is done and saved") as caught:
        pt.fit(set=short, out=tmp_path / "run")
    assert caught.value.exit_code == 130
    assert not pt.load(tmp_path / "run").finished


def test_an_unfinished_run_does_not_pretend(short, tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_text.run.Run.report", lambda *_: None)
    run = pt.fit(set=short, out=tmp_path / "run")
    assert not run.finished
    assert "unfinished" in repr(run)
    assert len(run.generate(3)) == 3
    (run.folder / "model.safetensors").unlink()
    for ask in (run.evaluate, run.generate, run.samples, lambda: run.reconstruct(["ma"])):
        with pytest.raises(RunFolderError, match="has no weights yet; train it: python -m ppl_text fit --resume"):
            ask()


def test_bad_numbers_are_refused(trained):
    with pytest.raises(UserError, match="particles must be 1 or more; got 0"):
        trained.evaluate(particles=0)
    with pytest.raises(UserError, match="number of texts must be 1 or more; got 0"):
        trained.generate(0)
    with pytest.raises(UserError, match="unknown split 'tst'"):
        trained.evaluate("tst")


def test_the_dry_run_changes_nothing(trained):
    """Parameters, gradients and the random state are as before."""
    programs = build_programs(trained.config, trained.corpus.vocabulary)
    before = [p.clone() for program in programs for p in program.parameters()]
    state = torch.get_rng_state()
    for spec in ("elbo", "pyro:RenyiELBO:2"):
        bound = build_objective(load_config("words", {"objective": spec}))
        table = dry_run(*programs, bound, first_batch(trained.corpus, 16), trained.config.training).sites
        assert table.splitlines()[1].startswith("h ")
    after = [p for program in programs for p in program.parameters()]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)
    assert torch.equal(torch.get_rng_state(), state)
