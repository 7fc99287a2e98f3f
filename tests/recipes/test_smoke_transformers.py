"""Of Transformers: every composed recipe is sound, and one of each procedure, guide and objective trains when small."""

import pytest
import torch
from short_stages import short_stages

import ppl_text as pt
from guides import GUIDES
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.recipes import build, compositions
from ppl_text.recipes.config import load_config

from .soundness import SPECS, trained_soundly

WAYS = ("gpt2", "embedding", "memory", "softmax", "optimus", "residual", "della")
ABLATIONS = ("della-no-ltp", "della-no-lw", "della-separate", "della-kl-first", "della-kl-last", "della-kl-mean")
CONTROLS = [f"{way}-{what}" for way in ("embedding", "memory", "softmax") for what in ("wide", "kl-mean")]
TRICKED = ("embedding", "memory", "softmax", "della")
TRICKS = [f"{way}-{trick}" for way in TRICKED for trick in ("plain", "bow", "anneal-bow", "anneal-bn")]
STAGED = ("della-two-stage", "gpt2-two-stage", "della-two-stage-fitted", "della-fitted")
BEYOND = ("della-free-bits", "memory-free-bits", "della-iwae", "della-dreg", *STAGED)
BEHIND = (*WAYS, *(f"{way}bart" for way in ("", "embedding-", "memory-", "softmax-", "della-")))
PROCEDURES = (*WAYS, *ABLATIONS, *CONTROLS, *TRICKS, *BEYOND)
SMALL, PUBLISHED = ("verses", "ptb-small"), ("ptb", "yahoo", "yelp", "snli")
SMALL_PAIRS, PUBLISHED_PAIRS = ("pairs", "plays"), ("prompts", "summaries", "paraphrases")
COMPOSED = [
    *(f"{corpus}-{procedure}" for corpus in (*SMALL, *PUBLISHED) for procedure in PROCEDURES),
    *(f"{corpus}-{way}" for corpus in (*SMALL_PAIRS, *PUBLISHED_PAIRS) for way in BEHIND),
]

SIZES = {"model.layers": 4, "model.width": 8, "model.heads": 2, "model.positions": 64}
SHORT = {
    "data.buckets": 4,
    "data.batch_size": 16,
    "training.steps": 2,
    "training.log_every": 1,
    "report.particles": 2,
    "report.sentences": 6,
    "report.samples": 2,
}
TINY = {**SIZES, **SHORT, "data.vocabulary": 300}
"""Sizes and times alone: what is latent, the guide, the objective and the schedules are the recipe's own."""

EPOCH = 100


def has_sources(name):
    return name.startswith((*SMALL_PAIRS, *PUBLISHED_PAIRS))


def fitted_small(name, data, tmp_path, **options):
    changes = {**TINY, **options.pop("set", {})}
    return pt.fit(name, data=data, set=changes, out=tmp_path / "run", **options)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A table of 48 pairs: a line of four words, and the first of them back to front."""
    lines = []
    for number in range(48):
        source = ["abcde"[(number * step + number // 7) % 5] for step in (1, 2, 3, 4)]
        lines.append(" ".join(source) + "\t" + " ".join(reversed(source[: 1 + number % 4])))
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("source\ttarget\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_corpus_has_every_procedure():
    families = {name: load_config(name).model.family for name in compositions()}
    assert set(COMPOSED) == {name for name, family in families.items() if family == "layerwise_transformer"}


@pytest.mark.parametrize("name", COMPOSED)
def test_every_composed_recipe_is_sound(name):
    """Programs are built at the recipe's layers and a small width, and every β names a latent or a side loss."""
    config = load_config(name)
    build.data_options(config)
    small = load_config(name, {"model.width": 8, "model.heads": 2, "model.positions": 64})
    vocabulary = Vocabulary(300, source=Vocabulary(300) if has_sources(name) else None)
    model, guide = build.build_programs(small, vocabulary)
    build.build_objective(config)
    assert guide.family == model.family
    sites = {spec.name for spec in model.latents}
    beta = config.training.beta
    if isinstance(beta, dict) and "name" not in beta:
        assert {site for site in beta if "*" not in site} <= sites, "a weight of a KL that there is not"
    assert model.conditional == has_sources(name)
    assert bool(sites) != ("gpt2" in name or name in {f"{corpus}-bart" for corpus in (*SMALL_PAIRS, *PUBLISHED_PAIRS)})


@pytest.mark.parametrize("corpus", SMALL)
def test_a_wide_latent_is_as_wide_as_all_those_of_della(corpus):
    wide, whole = load_config(f"{corpus}-memory-wide").model, load_config(f"{corpus}-della").model
    assert wide.options["latent_dim"] == whole.options["latent_dim"] * whole.options["layers"]
    assert load_config("yelp-memory-wide").model.options["latent_dim"] == 384


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_every_procedure_trains(procedure, sentences, tmp_path, one_thread):
    stages = short_stages(f"verses-{procedure}")
    changes = {"training.stages": stages, "training.steps": sum(stage["steps"] for stage in stages)} if stages else {}
    trained_soundly(fitted_small(f"verses-{procedure}", sentences, tmp_path, set=changes))


@pytest.mark.parametrize("way", BEHIND)
def test_every_way_in_trains_behind_a_source(way, pairs, tmp_path, one_thread):
    run = fitted_small(f"pairs-{way}", pairs, tmp_path)
    trained_soundly(run)
    assert len(run.generate(1, source=["a b c d", "b c"])) == 2


WHOLE = [spec for spec in SPECS if not spec.startswith(("stepwise", "fivo"))]


@pytest.mark.parametrize("spec", WHOLE)
def test_every_objective_trains(spec, sentences, tmp_path, one_thread):
    """At β = 1, as a stock objective of Pyro has it."""
    trained_soundly(fitted_small("verses-della-plain", sentences, tmp_path, objective=spec))


@pytest.mark.parametrize("name", [name for name in GUIDES["layerwise_transformer"] if name != "exact"])
def test_every_guide_trains_and_can_be_swapped_in(name, sentences, tmp_path, one_thread):
    run = fitted_small("verses-della", sentences, tmp_path, guide=name)
    trained_soundly(run)
    child = run.swap_guide("layer-wise" if name != "layer-wise" else "independent", steps=2, out=tmp_path / "child")
    assert child.evaluate(particles=2, limit=6).iw < 0


def test_it_trains_in_bf16_with_adamw_on_several_batches_an_update(sentences, tmp_path, one_thread):
    """Positions that no text reaches have no gradient: AdamW alone shrinks them, by 1 - lr · decay at each update."""
    changes = {
        "precision": "bf16",
        "model.checkpointing": True,
        "training.optimizer": "adamw",
        "training.lr": 0.01,
        "training.weight_decay": 0.5,
        "training.accumulate": 2,
        "training.beta": 1.0,
    }
    run = fitted_small("verses-della", sentences, tmp_path, set=changes)
    trained_soundly(run)
    begun, _ = build.build_programs(run.config, run.corpus.vocabulary)
    first, last = (model.backbone.network.wpe.weight[40:] for model in (begun, run.model.cpu()))
    torch.testing.assert_close(last, first * (1 - 0.01 * 0.5) ** run.config.training.steps, rtol=1e-5, atol=1e-8)
    assert last.dtype == torch.float32


@pytest.mark.parametrize("corpus", PUBLISHED)
def test_as_published_it_has_the_published_size(corpus):
    """193,353,984 with GPT-2's symbols, model and guide together (specification 2A), and the mean of the KLs (2G.1)."""
    config = load_config(f"{corpus}-della", {"preset": "paper"})
    assert config.training.kl_sites == "mean"
    with torch.device("meta"):
        model, guide = build.build_programs(config, Vocabulary(50_259))
    assert sum(p.numel() for p in [*model.parameters(), *guide.parameters()]) == 193_353_984


@pytest.mark.parametrize("corpus", PUBLISHED)
def test_the_published_constants(corpus):
    """Specification 2C: 40 epochs of 32 texts at 5e-5, β as good as 0 in each first epoch of two."""
    config = load_config(f"{corpus}-della")
    (stage,) = config.training.in_stages()
    steps = stage.in_steps(EPOCH)
    assert (steps.steps, steps.clip_norm, stage.optimizer) == (40 * EPOCH, None, "adam")
    assert [steps.learning_rate(step) for step in (0, 39 * EPOCH)] == [5e-5, 5e-5]
    betas = {0: 1e-5, 99: 1e-5, 125: 0.5, 150: 1.0, 199: 1.0, 200: 1e-5}
    assert {step: round(steps.beta(step), 4) or steps.beta(step) for step in betas} == pytest.approx(betas, abs=1e-4)
    model, _ = build.build_programs(load_config(f"{corpus}-gpt2", {"model.width": 12}), Vocabulary(300))
    assert (model.backbone.number, model.backbone.positions, config.data.batch_size) == (12, 1024, 32)


@pytest.mark.parametrize("corpus", SMALL_PAIRS)
def test_bart_is_trained_at_half_the_rate_of_the_others(corpus):
    """Whatever is latent in it, so that rows of a table differ in that alone."""
    peaks = {}
    for way in BEHIND:
        (stage,) = load_config(f"{corpus}-{way}").training.in_stages()
        peaks.setdefault(way.endswith("bart"), set()).add(stage.in_steps(EPOCH).learning_rate(100))
    assert peaks == {False: {0.002}, True: {0.001}}


@pytest.mark.parametrize(("corpus", "layers"), [("verses", 4), ("yelp", 12)])
def test_a_mean_over_layers_is_a_small_weight(corpus, layers):
    """Specification 2G.1: for one latent, what a mean makes of the β of each of several."""
    steps = load_config(f"{corpus}-memory-kl-mean").training.in_stages()[0].in_steps(EPOCH)
    whole = load_config(f"{corpus}-memory").training.in_stages()[0].in_steps(EPOCH)
    assert steps.beta(199) == pytest.approx(whole.beta(199) / layers)
    assert load_config(f"{corpus}-della-kl-mean").training.kl_sites == "mean"
