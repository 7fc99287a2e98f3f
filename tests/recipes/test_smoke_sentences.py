"""Of sentences: every recipe, guide and objective trains a few steps and says something sound."""

import json

import pytest

import ppl_text as pt
from guides import GUIDES
from ppl_text.core.errors import UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.recipes import build, recipe_names
from ppl_text.recipes.config import load_config
from ppl_text.recipes.stages import build_stages

from .soundness import SPECS, trained_soundly

ROWS = ("lm", "vae", "anneal", "cyclical", "aggressive", "free-bits", "fbp", "pretrain-fbp", "bow", "bn", "iaf")
WIDTHS = {"ptb": (256, 256), "yahoo": (512, 1024), "snli": (128, 512)}
"""Embedding and hidden width by corpus (specification 0)."""

SHORT = {
    "data.buckets": 4,
    "training.steps": 4,
    "training.log_every": 1,
    "report.particles": 3,
    "report.sentences": 12,
    "report.samples": 4,
}
TINY = {**SHORT, "model.latent_dim": 3, "model.embedding_dim": 6, "model.hidden_dim": 8}
EPOCH = 10


def records(run, split="train"):
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


@pytest.fixture
def fit(sentences, tmp_path, one_thread):
    """``fit(**options)``: a run of ``verses-vae`` with tiny networks on the short sentences."""

    def run(recipe="verses-vae", **options):
        changes = {**TINY, **options.pop("set", {})}
        return pt.fit(recipe, data=sentences, set=changes, out=tmp_path / "run", **options)

    return run


def test_there_is_a_recipe_for_every_row_and_corpus():
    expected = {f"{corpus}-{row}" for corpus in ("verses", "ptb-small", *WIDTHS) for row in ROWS}
    built_in = (name for name in recipe_names() if not name.startswith(("words", "text-")))
    assert expected == {name for name in built_in if load_config(name).model.family == "sentence_vae"}


@pytest.mark.parametrize("row", ROWS)
def test_every_recipe_of_verses_trains(row, sentences, tmp_path, one_thread):
    """Only the corpus and the times are changed: the networks are the recipe's own."""
    steps = 2 if row == "aggressive" else 4
    run = pt.fit(f"verses-{row}", data=sentences, set={**SHORT, "training.steps": steps}, out=tmp_path / "run")
    trained_soundly(run)
    last = records(run, "valid")[-1]
    assert (last["step"], last["bound"] < 0) == (steps, True)
    assert ("mutual_information" in last.get("monitor", {})) == (row != "lm")


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("corpus", WIDTHS)
def test_every_published_recipe_builds_its_programs_and_stages(corpus, row):
    config = load_config(f"{corpus}-{row}")
    model, guide = build.build_programs(config, Vocabulary(20))
    assert (model.embedding_dim, model.hidden_dim) == WIDTHS[corpus]
    assert (model.latent_dim, config.data.batch_size) == (0 if row == "lm" else 32, 32)
    assert any(True for _ in guide.parameters()) == (row != "lm")
    stages = build_stages(config.training, build.build_objective(config), EPOCH, lambda *_: {}, lambda: None)
    lengths = {"cyclical": [40], "pretrain-fbp": [100, 100]}.get(row, [100])
    assert [stage.options.steps for stage in stages] == [EPOCH * length for length in lengths]
    optimizer, rate = {"cyclical": ("adam", 1e-3), "fbp": ("sgd", 0.5), "pretrain-fbp": ("sgd", 0.5)}.get(
        row, ("sgd", 1.0)
    )
    assert config.training.optimizer == optimizer
    for stage in stages:
        assert stage.options.learning_rate(0) == rate
        assert stage.options.clip_norm == 5.0
        assert stage.options.validate_every == EPOCH
        assert (stage.options.decay is None) == (row == "cyclical")


def betas(name):
    """β of the last stage at its first step, and in the middle and at the end of its tenth epoch."""
    config = load_config(name)
    stages = build_stages(config.training, build.build_objective(config), EPOCH, lambda *_: {}, lambda: None)
    beta = stages[-1].options.beta
    return [beta(step) for step in (0, 5 * EPOCH, 10 * EPOCH)]


@pytest.mark.parametrize("corpus", WIDTHS)
def test_published_warm_ups(corpus):
    """Specification 0: linear over 10 epochs from 0.1, from 0 for FBP; cyclical restarts at 0.1 after 10."""
    for row in ("anneal", "aggressive", "bow"):
        assert betas(f"{corpus}-{row}") == pytest.approx([0.1, 0.55, 1.0])
    for row in ("fbp", "pretrain-fbp"):
        assert betas(f"{corpus}-{row}") == pytest.approx([0.0, 0.5, 1.0])
    assert betas(f"{corpus}-cyclical") == pytest.approx([0.1, 1.0, 0.1])
    for row in ("lm", "vae", "free-bits", "bn", "iaf"):
        assert betas(f"{corpus}-{row}") == [1.0, 1.0, 1.0]


def test_a_published_recipe_trains(sentences, tmp_path, one_thread):
    run = pt.fit("ptb-pretrain-fbp", data=sentences, set={**SHORT, "training.steps": 2}, out=tmp_path / "run")
    trained_soundly(run)
    assert [record["stage"] for record in records(run)] == ["autoencoder", "fbp"]


@pytest.mark.parametrize("name", [name for name in GUIDES["sentence_vae"] if name not in ("exact", "point")])
def test_every_guide_trains(name, fit):
    run = fit(guide=name)
    trained_soundly(run)
    assert run.config.guide.name == name
    assert 0.0 <= run.latents("test").together.kl < 100.0


def test_a_point_mass_trains_as_an_autoencoder_and_has_no_bound(fit):
    run = fit(guide="point", objective="reconstruction")
    assert run.finished
    results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    assert [results[name] for name in ("elbo", "iw", "kl", "kl_sum", "perplexity")] == [None] * 5
    assert 0 < results["rec"] < 100
    train, valid = records(run), records(run, "valid")
    assert [record["bound"] for record in train + valid] == [None] * (len(train) + len(valid))
    assert all(0 < record["loss"] == pytest.approx(-record["log_likelihood"]) for record in train)
    assert valid[-1]["best"], "compared by the reconstruction, where no bound is finite"


def test_nothing_latent_trains(fit):
    run = fit(guide="exact", objective="elbo", set={"model.latent_dim": 0})
    trained_soundly(run)
    assert run.latents("test") is None


STEP_BY_STEP = ("stepwise", "fivo")
WHOLE = [*(spec for spec in SPECS if not spec.startswith((*STEP_BY_STEP, "rate"))), "free-bits:2:dimension"]
"""The last needs a KL that is a sum over dimensions; by the rate alone N(0, I) has nothing to learn."""


@pytest.mark.parametrize("spec", WHOLE)
def test_every_objective_trains(spec, fit):
    run = fit(objective=spec)
    trained_soundly(run)
    assert run.config.objective == spec


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.startswith(STEP_BY_STEP)])
def test_step_by_step_objectives_say_what_they_lack(spec, fit, tmp_path):
    with pytest.raises(UserError, match=r"draws the latents step by step: the model SentenceVAE lacks smc_init\(\)"):
        fit(objective=spec)
    assert not (tmp_path / "run").exists()


def test_the_bound_of_an_autoencoder_with_a_gaussian_is_the_elbo(fit):
    """The loss leaves the KL out, the bound does not."""
    for record in records(fit(objective="reconstruction")):
        assert record["loss"] == pytest.approx(-record["log_likelihood"], rel=1e-5)
        assert record["bound"] == pytest.approx(record["log_likelihood"] - record["kl"], rel=1e-5)


@pytest.mark.parametrize("spec", ["elbo-analytic", "dreg:4/2", "free-bits:4:dimension", "reconstruction"])
def test_half_precision_trains(spec, fit):
    trained_soundly(fit(objective=spec, precision="bf16"))


@pytest.mark.parametrize(
    "changes", [{"model.tied": True, "model.embedding_dim": 8}, {"data.word_dropout": 0.4}], ids=str
)
def test_options_of_model_and_data_train(changes, fit):
    trained_soundly(fit(set=changes))
