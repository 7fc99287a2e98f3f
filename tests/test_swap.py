"""Another guide on a trained model: the child, what is frozen, what is measured, and how it goes on."""

import json
import shutil

import pytest
import torch

import ppl_text as pt
from guides import GUIDES
from ppl_text.core.errors import GuideMismatchError, Interrupted, RunFolderError, UserError
from ppl_text.plots.inference_data import FEWEST_DRAWS
from ppl_text.recipes import build, folders, swap
from ppl_text.recipes.config import load_config
from ppl_text.training.progress import Quiet
from ppl_text.training.weights import weights_digest

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 6
REPORT = {"report.particles": FEWEST_DRAWS}


def weights(folder, part):
    """Tensors of ``model`` or ``guide`` in a run's safetensors."""
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")
    return {name: value for name, value in found.items() if name.startswith(f"{part}.")}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def parent(trained, tmp_path_factory):
    """A copy of the finished run, for the children of this file."""
    return pt.load(shutil.copytree(trained.folder, tmp_path_factory.mktemp("parent") / "run"))


@pytest.fixture(scope="module")
def child(parent):
    return parent.swap_guide("tril", steps=STEPS, set=REPORT)


def test_a_child_is_a_run_that_knows_its_parent(parent, child):
    assert child.folder == parent.folder / "swaps" / "tril-1"
    assert child.finished
    again = pt.load(child.folder)
    assert again.config == child.config
    assert again.parent.folder == parent.folder
    assert parent.parent is None
    assert (again.config.guide.name, again.config.training.train) == ("tril", ("guide",))
    record = json.loads((child.folder / "parent.json").read_text(encoding="utf-8"))
    stored = json.loads((parent.folder / "results.json").read_text(encoding="utf-8"))
    assert record == {
        "folder": str(parent.folder),
        "recipe": "words",
        "guide": "diagonal",
        "step": stored["trained"]["best_step"],
        "validation_bound": pytest.approx(best_bound(parent.folder)),
        "sha256": weights_digest(parent.folder / "model.safetensors"),
    }
    report = (child.folder / "report.md").read_text(encoding="utf-8")
    assert f"| parent | {parent.folder}: words, guide diagonal, weights of step" in report
    assert "parameters, frozen |" in report
    assert "before: diagonal | after: tril" in report
    assert again.generate(3) == parent.generate(3)  # the model is the same one


def best_bound(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return max(r["bound"] for r in records if r["split"] == "valid")


def test_the_frozen_model_stays_bit_for_bit_and_the_free_one_moves(parent, child, tmp_path):
    assert same(weights(child.folder, "model"), weights(parent.folder, "model"))
    free = parent.swap_guide("tril", steps=STEPS, freeze="none", out=tmp_path / "free")
    moved = weights(free.folder, "model")
    assert not any(torch.equal(moved[n], v) for n, v in weights(parent.folder, "model").items() if v.numel() > 1)
    start = build.build_programs(child.config, parent.corpus.vocabulary).guide.state_dict(prefix="guide.")
    assert not same(weights(child.folder, "guide"), dict(start))


def test_a_frozen_model_gets_no_gradient_and_no_place_in_the_optimizer(child, tmp_path):
    programs = build.build_programs(child.config, child.corpus.vocabulary)
    folders.inherit(child.config, child.corpus, programs.model)
    parts = (build.build_objective(child.config), tmp_path / "run", build.build_fabric(child.config), Quiet())
    trainer = build.build_trainer(child.config, child.corpus, programs, *parts)
    trainer.fit()
    assert all(p.grad is None for p in programs.model.parameters())
    assert all(p.grad is not None for p in programs.guide.parameters())
    state = torch.load(tmp_path / "run/checkpoints/best.pt", weights_only=True)["state"]
    assert len(state["optimizer"]["param_groups"][0]["params"]) == len(list(programs.guide.parameters()))


@pytest.mark.parametrize("name", GUIDES["deep_state_space"])
def test_every_guide_can_be_swapped_in(parent, name, tmp_path):
    found = parent.swap_guide(name, steps=2, out=tmp_path / name)
    assert found.finished
    assert same(weights(found.folder, "model"), weights(parent.folder, "model"))
    assert len(found.reconstruct(["ba"])) == 1
    assert swap.before_after(found).after.guide == name


def test_before_and_after_are_what_evaluate_says_on_the_same_sentences(parent, child):
    pair, options = swap.before_after(child), child.config.report
    for figures, run in ((pair.before, parent), (pair.after, child)):
        found = run.evaluate("test", options.particles, options.sentences, child.config.seed)
        assert (figures.elbo, figures.iw, figures.kl) == (found.elbo, found.iw, found.kl)
        assert (figures.elbo_se, figures.iw_se, figures.gap_se) == (found.elbo_se, found.iw_se, found.gap_se)
        assert figures.gap == pytest.approx(found.iw - found.elbo) == found.gap
        assert sum(figures.khat) == pytest.approx(1.0)
        assert figures.khat == (found.khat_good, found.khat_ok, found.khat_bad)
    assert pair.before != pair.after
    stored = json.loads((child.folder / "results.json").read_text(encoding="utf-8"))["swap"]
    assert stored == pair.as_json()
    assert (stored["particles"], stored["sentences"]) == (options.particles, options.sentences)


def test_a_run_without_a_swap_has_no_figures_of_one(parent):
    assert "swap" not in json.loads((parent.folder / "results.json").read_text(encoding="utf-8"))
    with pytest.raises(RunFolderError, match="holds no figures of a swap"):
        swap.before_after(parent)


def test_a_guide_without_parameters_is_not_trained_and_counts_as_finished(parent, tmp_path):
    progress = Remembering()
    found = parent.swap_guide("prior", out=tmp_path / "prior", progress=progress)
    assert any("no parameter to train" in text for text in progress.messages)
    assert found.finished
    assert json.loads((found.folder / "results.json").read_text())["trained"] == {
        "step": 0,
        "best_step": 0,
        "stopped": "untrained",
    }
    assert "0 steps (the model is frozen and the guide has no parameter)" in (found.folder / "report.md").read_text()
    assert same(weights(found.folder, "model"), weights(parent.folder, "model"))
    assert swap.before_after(found).after.kl == pytest.approx(0.0, abs=1e-6)
    assert pt.fit(resume=found.folder).finished
    again = pt.fit(str(found.folder / "config.yaml"), out=tmp_path / "again")
    assert swap.before_after(again) == swap.before_after(found)


class Remembering(Quiet):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


class StopsAt(Quiet):
    """Presses Ctrl-C after a step."""

    def __init__(self, step):
        self._step = step

    def step(self, record):
        import signal

        if record.step == self._step:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_refit_resumes_and_ends_as_if_it_had_not_been(parent, child, tmp_path):
    with pytest.raises(Interrupted, match=r"stopped by SIGINT after step 3 of 6.*fit --resume"):
        parent.swap_guide("tril", steps=STEPS, set=REPORT, out=tmp_path / "part", progress=StopsAt(3))
    assert not pt.load(tmp_path / "part").finished
    resumed = pt.fit(resume=tmp_path / "part")
    for name in ("model.safetensors", "results.json", "parent.json", "config.yaml"):
        assert (resumed.folder / name).read_bytes() == (child.folder / name).read_bytes(), name


def test_a_child_is_repeated_from_its_config_bit_for_bit(child, tmp_path):
    again = pt.fit(str(child.folder / "config.yaml"), out=tmp_path / "again")
    for name in ("model.safetensors", "results.json", "parent.json"):
        assert (again.folder / name).read_bytes() == (child.folder / name).read_bytes(), name


def test_a_child_goes_on_with_more_steps_but_not_with_another_model(child, tmp_path):
    copy = shutil.copytree(child.folder, tmp_path / "copy")
    with pytest.raises(RunFolderError, match="freeze: 'model' in the checkpoint, 'not set' now"):
        pt.fit(resume=copy, set={"training.train": ["model", "guide"], "training.steps": 8})
    copy = shutil.copytree(child.folder, tmp_path / "second")
    assert pt.fit(resume=copy, steps=8).finished
    with pytest.raises(UserError, match="parent cannot change"):
        pt.fit(resume=copy, set={"parent": str(tmp_path)})


def test_a_child_can_be_a_parent(child, tmp_path):
    grandchild = child.swap_guide("mean-field", steps=2, out=tmp_path / "grandchild")
    assert grandchild.parent.folder == child.folder
    assert same(weights(grandchild.folder, "model"), weights(child.folder, "model"))
    assert swap.before_after(grandchild).before == swap.before_after(child).after


def test_a_child_of_a_run_whose_processes_held_parts_is_trained_in_one(copied):
    path = copied / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("strategy: ddp", "strategy: fsdp"), encoding="utf-8")
    assert pt.load(copied).config.strategy == "fsdp"
    assert swap.child_parts(pt.load(copied), "tril", steps=2).config.strategy == "ddp"
    with pytest.raises(UserError, match="it needs several processes, and this is the only one"):
        pt.load(copied).swap_guide("tril", steps=2, set={"strategy": "fsdp"})


def test_a_parent_that_has_changed_or_is_gone_is_told(copied, tmp_path):
    found = pt.load(copied).swap_guide("tril", steps=2, out=tmp_path / "child")
    config, weights_file = str(found.folder / "config.yaml"), copied / "model.safetensors"
    old = weights_file.read_bytes()
    shutil.copy(found.folder / "model.safetensors", weights_file)
    with pytest.raises(RunFolderError, match=r"the weights of the parent run .* have changed since this run was made"):
        pt.fit(config, out=tmp_path / "new")
    weights_file.write_bytes(old[:-4] + b"\0\0\0\1")
    assert pt.fit(config, set={"parent_weights": None}, out=tmp_path / "advice").finished
    shutil.rmtree(copied)
    with pytest.raises(RunFolderError, match=r"the parent run .* is gone .* say where it is with --set parent=DIR"):
        pt.fit(config, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    resumed = pt.fit(resume=found.folder, steps=3)  # nothing of the parent is needed any more
    assert resumed.finished
    assert "Not measured: the parent run" in (found.folder / "report.md").read_text(encoding="utf-8")
    with pytest.raises(RunFolderError, match="holds no figures"):
        swap.before_after(resumed)


def test_a_parent_on_other_data_is_refused(copied, tmp_path, word_list):
    found = pt.load(copied).swap_guide("prior", out=tmp_path / "child")
    other = tmp_path / "other.tsv"
    other.write_text(word_list.read_text(encoding="utf-8").replace("\t40\n", "\t50\n"), encoding="utf-8")
    with pytest.raises(RunFolderError, match="was trained on other data than corpus"):
        pt.fit(str(found.folder / "config.yaml"), data=other, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_schedules_and_intervals_are_stretched(parent, tmp_path):
    config = swap.child_parts(parent, "tril", steps=50).config
    assert config.training.lr == {**parent.config.training.lr, "warmup_steps": 250.0}  # 100 of 20 steps
    training = config.training
    assert (training.validate_every, training.checkpoint_every, training.log_every) == (10, 10, 2)
    given = {"training.validate_every": 7, "training.lr": 0.5}
    changed = swap.child_parts(parent, "tril", steps=50, set=given).config.training
    assert (changed.validate_every, changed.lr) == (7, 0.5)
    assert swap.child_parts(parent, "tril").config.training.steps == swap.REFIT_STEPS
    by_site = {"h": {"name": "linear", "start": 0.0, "end": 1.0, "steps": 10, "delay": 4}, "z": 0.5}
    assert swap.stretched(by_site, 0.5)["h"] == {**by_site["h"], "steps": 5.0, "delay": 2.0}
    assert swap.stretched(by_site, 0.5)["z"] == 0.5


def test_objective_seed_and_report_are_the_parents_unless_given(parent):
    same_one = swap.child_parts(parent, "tril").config
    assert (same_one.objective, same_one.seed, same_one.report) == (
        parent.config.objective,
        parent.config.seed,
        parent.config.report,
    )
    other = swap.child_parts(parent, "tril", objective="iwae:3", seed=7, set={"guide.gru_dim": 5}).config
    assert (other.objective, other.seed, other.guide.options["gru_dim"]) == ("iwae:3", 7, 5)
    assert other.guide.options.keys() == {"gru_dim", "embedding_dim", "hidden", "delta"}


BAD = {
    "name": ({"guide": "trill"}, UserError, "unknown guide for deep_state_space 'trill'"),
    "steps": ({"guide": "tril", "steps": -3}, UserError, "'training.steps': expected greater than 0; got -3"),
    "freeze": ({"guide": "tril", "freeze": "guide"}, UserError, "freeze: expected 'none' or 'model'; got 'guide'"),
    "model": ({"guide": "tril", "set": {"model.layers": 2}}, UserError, "keeps the parent's model and data: model.lay"),
    "file": ({"guide": "no.py:Mine"}, UserError, "no.py' does not exist"),
}


@pytest.mark.parametrize(("arguments", "kind", "says"), BAD.values(), ids=BAD)
def test_what_cannot_be_swapped_leaves_nothing(copied, arguments, kind, says):
    with pytest.raises(kind, match=says):
        pt.load(copied).swap_guide(**arguments)
    assert not (copied / "swaps").exists()


def test_several_faults_are_told_at_once(copied):
    with pytest.raises(UserError) as caught:
        pt.load(copied).swap_guide("trill", steps=0, objective="iwea:2", set={"data.corpus": "x"}, out=copied)
    for text in ("'trill'", "'training.steps'", "'iwea'", "data.corpus cannot change", "is not empty"):
        assert text in str(caught.value)


def test_a_guide_of_other_sites_is_refused_with_the_table(copied, tmp_path):
    text = "import pyro\nimport pyro.distributions as dist\nfrom guides.deep_state_space import ChainGuide\n"
    body = "class Mine(ChainGuide):\n    def forward(self, batch):\n        with pyro.plate('sentences', batch.size):\n"
    site = "            pyro.sample('z', dist.Normal(batch.weights, 1.0))\n"
    (tmp_path / "mine.py").write_text(text + body + site, encoding="utf-8")
    with pytest.raises(GuideMismatchError, match=r"site  model(.|\n)*site 'h' is missing from the guide"):
        pt.load(copied).swap_guide(f"{tmp_path / 'mine.py'}:Mine")
    assert not (copied / "swaps").exists()


def test_an_untrained_run_has_nothing_to_swap_on(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match="has no weights yet; train it"):
        pt.load(copied).swap_guide("tril")


def test_a_parent_in_a_recipe_is_kept_by_its_absolute_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config("words", {"parent": "here"}).parent == str(tmp_path / "here")
