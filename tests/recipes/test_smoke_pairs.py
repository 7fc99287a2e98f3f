"""Of pairs: every composed recipe is sound, and one of each procedure, as published but small, trains."""

import pytest

import ppl_text as pt
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.recipes import build, compositions
from ppl_text.recipes.config import load_config

from .soundness import trained_soundly

SYSTEMS = (
    "ded",
    "ded-attn",
    "ved",
    "ved-init",
    "ved-attn",
    "ved-attn-2stage",
    "vattn-0",
    "vattn-h",
    "vattn-h-released",
)
WEIGHTS = ("dirichlet", "logistic-normal", "weibull", "exact-attn")
CORPORA = ("pairs", "plays", "squad", "dialogue", "copies", "snli-copies")
COMPOSED = [f"{corpus}-{procedure}" for corpus in CORPORA for procedure in (*SYSTEMS, *WEIGHTS)]

TINY = {
    "data.buckets": 4,
    "data.batch_size": 16,
    "model.embedding_dim": 6,
    "model.encoder_dim": 3,
    "model.hidden_dim": 8,
    "model.output_dim": 5,
    "training.steps": 2,
    "training.log_every": 1,
    "report.particles": 2,
    "report.sentences": 6,
    "report.samples": 2,
}
"""Sizes and times alone: what is latent, the guide, the objective and the schedules are the recipe's own."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A table of 48 pairs: a line of four words, and the first of them back to front."""
    words = ["a", "b", "c", "d", "e"]
    lines = []
    for number in range(48):
        source = [words[(number * step + number // 7) % 5] for step in (1, 2, 3, 4)]
        lines.append(" ".join(source) + "\t" + " ".join(reversed(source[: 1 + number % 4])))
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("source\ttarget\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_corpus_has_every_procedure():
    assert set(COMPOSED) == {name for name in compositions() if load_config(name).model.family == "encoder_decoder"}


@pytest.mark.parametrize("name", COMPOSED)
def test_every_composed_recipe_is_sound(name):
    config = load_config(name)
    build.data_options(config)
    model, guide = build.build_programs(shrunk(name), Vocabulary(9, source=Vocabulary(9)))
    build.build_objective(config)
    betas = [stage.beta for stage in config.training.in_stages()]
    sites = {spec.name for spec in model.latents}
    assert guide.family == model.family
    for beta in betas:
        assert not isinstance(beta, dict) or set(beta) <= {*sites, "last_step_kl"}, "a weight of a KL that there is not"
    assert any(isinstance(beta, dict) for beta in betas) == bool(sites), "the KL of every latent rises"


def shrunk(name):
    return load_config(name, {key: value for key, value in TINY.items() if key.startswith("model.")})


@pytest.mark.parametrize("procedure", [*SYSTEMS, *WEIGHTS])
def test_every_procedure_trains(procedure, pairs, tmp_path, one_thread):
    trained_soundly(pt.fit(f"squad-{procedure}", data=pairs, set=TINY, out=tmp_path / "run"))


@pytest.mark.parametrize("corpus", ["squad", "dialogue", "snli-copies"])
def test_the_published_constants(corpus):
    """Specification 3A, 3C and 3E."""
    config = load_config(f"{corpus}-vattn-h")
    (stage,) = config.training.in_stages()
    steps = stage.in_steps(705)
    weights = {site: steps.beta[site] for site in ("z", "a")}
    for step, value in {0: 0.000123, 3000: 0.0474, 4500: 0.5, 7000: 0.9933}.items():
        assert weights["z"](step) == pytest.approx(value, rel=0.01)
        assert weights["a"](step) == pytest.approx(0.1 * weights["z"](step)), "γ_a"
    rates = [steps.learning_rate(step) for step in (0, 704, 705, 9 * 705, 10**6)]
    assert rates == pytest.approx([0.005, 0.005, 0.005 * 0.95, 0.005 * 0.95**9, 1e-5])
    assert (steps.steps, stage.optimizer) == (7050, "adam")
    assert (config.data.batch_size, config.data.word_dropout) == (100, 0.25)
    sizes = {key: config.model.options.get(key) for key in ("latent_dim", "encoder_dim", "hidden_dim", "embedding_dim")}
    assert sizes == {"latent_dim": 100, "encoder_dim": 100, "hidden_dim": 200, "embedding_dim": 300}


def test_two_stages_go_on_with_one_weight_and_one_rate():
    """Specification 3B: six epochs without attention; λ in the second stage is that of one schedule."""
    first, second = load_config("squad-ved-attn-2stage").training.in_stages()
    before, after = (stage.in_steps(705).beta["z"] for stage in (first, second))
    assert (first.epochs, second.epochs) == (6, 4)
    for step in (0, 500, 2000):
        assert after(step) == pytest.approx(before(6 * 705 + step))
    before, after = (stage.in_steps(705).learning_rate for stage in (first, second))
    for step in (0, 705, 2000):
        assert after(step) == pytest.approx(before(6 * 705 + step), rel=1e-3)
