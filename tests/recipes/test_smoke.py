"""Of words: every recipe, guide, objective and transition trains a few steps and says something sound."""

import json

import pytest

import ppl_text as pt
from guides import GUIDES
from ppl_text.core.errors import UnknownNameError
from ppl_text.objectives import OBJECTIVES
from ppl_text.recipes import recipe_names

from .soundness import SPECS, trained_soundly

SHORT = {
    "training.steps": 4,
    "training.log_every": 2,
    "report.particles": 3,
    "report.sentences": 40,
    "report.samples": 20,
}


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("words")])
def test_every_recipe_of_words_parses_and_trains(name, word_list, tmp_path, one_thread):
    """Only the corpus and the times are changed: the networks are the recipe's own."""
    trained_soundly(pt.fit(name, data=word_list, set=SHORT, out=tmp_path / "run"))


@pytest.mark.parametrize("name", GUIDES["deep_state_space"])
def test_every_guide_trains(name, tiny, tmp_path, one_thread):
    options = {k: v for k, v in tiny.items() if name != "prior" or not k.startswith("guide.")}
    run = pt.fit(set={**options, **SHORT}, guide=name, out=tmp_path / "run")
    trained_soundly(run)
    assert run.config.guide.name == name


@pytest.mark.parametrize("spec", SPECS)
def test_every_objective_trains(spec, tiny, tmp_path, one_thread):
    run = pt.fit(set={**tiny, **SHORT}, objective=spec, out=tmp_path / "run")
    trained_soundly(run)
    assert run.config.objective == spec


def test_no_objective_is_left_out():
    assert {spec.partition(":")[0] for spec in SPECS} >= set(OBJECTIVES)


TRANSITIONS = {
    "diag": {"model.transition": "diag"},
    "diag x2": {"model.transition": "diag", "model.layers": 2},
    "tril, inverse": {"model.transition": "tril", "model.parametrization": "inverse"},
    "tril, direct": {"model.transition": "tril", "model.parametrization": "direct"},
    "tril x2": {"model.transition": "tril", "model.layers": 2},
    "tril, clipped": {"model.transition": "tril", "model.diagonal": "clip"},
    "nvp, halves": {"model.transition": "nvp", "model.layers": 3},
    "tril-nvp": {"model.transition": "tril-nvp", "model.layers": 3},
    "tril-nvp, the paper's masks, direct": {
        "model.transition": "tril-nvp",
        "model.masks": "paper",
        "model.parametrization": "direct",
        "model.state_dim": 8,
    },
    "nvp, the paper's masks": {"model.transition": "nvp", "model.masks": "paper", "model.state_dim": 8},
}


@pytest.mark.parametrize("changes", TRANSITIONS.values(), ids=TRANSITIONS)
def test_every_transition_trains(changes, tiny, tmp_path, one_thread):
    trained_soundly(pt.fit(set={**tiny, **SHORT, **changes}, objective="elbo", out=tmp_path / "run"))


@pytest.mark.parametrize("transition", ["nvp", "tril-nvp"])
def test_fit_says_that_a_transition_has_no_closed_form(transition, ppl, tiny_arguments, tmp_path):
    options = [*tiny_arguments, "--steps", "2", "--set", f"model.transition={transition}", "--out", tmp_path / "run"]
    ended = ppl("fit", *options, "--objective", "elbo-analytic")
    assert ended.status == 0, ended.err
    assert "KL of site 'h': no closed form of KL(FlowChain ‖ FlowChain) for these two, so by Monte Carlo" in ended.err


@pytest.mark.parametrize("spec", ["elbo-analytic", "stl", "dreg:4/2", "fivo:3"])
def test_half_precision_trains(spec, tiny, tmp_path, one_thread):
    trained_soundly(pt.fit(set={**tiny, **SHORT}, objective=spec, precision="bf16", out=tmp_path / "run"))


@pytest.mark.parametrize("spec", ["stepwise:3", "fivo:3", "dreg:3", "elbo"])
def test_the_look_ahead_guide_trains_under_every_kind_of_objective(spec, tiny, tmp_path, one_thread):
    trained_soundly(pt.fit(set={**tiny, **SHORT}, guide="look-ahead", objective=spec, out=tmp_path / "run"))


@pytest.mark.parametrize("spec", ["elbo-analytic", "dreg:3", "fivo:3", "free-bits:1"])
def test_beta_by_site_follows_its_schedule(spec, tiny, tmp_path, one_thread):
    beta = {"h": {"name": "linear", "start": 0.0, "end": 1.0, "steps": 4}}
    run = pt.fit(set={**tiny, **SHORT, "training.beta": beta}, objective=spec, out=tmp_path / "run")
    trained_soundly(run)
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["beta"] for r in records if r["split"] == "train"] == [{"h": 0.25}, {"h": 0.75}]
    assert run.config.training.beta == beta


def test_beta_of_a_site_that_does_not_exist_is_refused_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown latent site or side loss in β 'hh' \\(did you mean 'h'\\?\\)"):
        pt.fit(set={**tiny, "training.beta": {"hh": 0.5}}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_built_in_words_train(tmp_path, one_thread):
    """The default recipe on its own corpus, cut short."""
    run = pt.fit(set={**SHORT, "data.limit": 3000, "training.steps": 2}, out=tmp_path / "run")
    trained_soundly(run)
    assert len(run.corpus.splits["train"]) == pytest.approx(3000, rel=0.05)
