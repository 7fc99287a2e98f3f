"""The measures of pairs on every kind of the encoder-decoder: what each must give, and which way its source goes."""

import math

import pytest
from models.pair_cases import EXACT, LATENT, exact, programs

from ppl_text.data.corpus import Corpus, Side, Split
from ppl_text.data.tokenizers import word_tokenizer
from ppl_text.measures import load_measure, measures_of
from ppl_text.measures.base import Subject

TARGETS = word_tokenizer(["t0 t1 t2 t3 t4 t5"])
SOURCES = word_tokenizer(["s0 s1 s2 s3 s4 s5 s6"])
SETTINGS = {"sentences": None, "particles": 3, "draws": 2, "shown": 1}


def subject(model, guide):
    texts, sources = ["t0 t1 t2", "t3 t4", "t0", "t5 t1"], ["s0 s1", "s2 s3 s4 s0", "s5", "s6 s6"]
    split = Split(Side(texts, TARGETS), source=Side(sources, SOURCES))
    return Subject(model, guide, Corpus("pairs", {"test": split}, (), "text", "word", weighted=False))


def row(model, guide):
    found = subject(model, guide)
    assert [measure.name for measure in measures_of(model, found.corpus)] == ["sentences", "pairs"]
    return load_measure("pairs").row(found, SETTINGS, lambda what: None).numbers


@pytest.mark.parametrize(("options", "guide"), LATENT.values(), ids=LATENT)
def test_every_latent_has_its_kl_and_its_way(options, guide):
    model, own = programs(options, guide)
    found = row(model, own)
    sites = [spec.name for spec in model.latents]
    wanted = {"ppl_posterior", "bleu4_map", "sacrebleu_sampling", "ent", "dist2_paper", "lost_whole", "lost_around"}
    wanted |= {f"{stem}{site}" for site in sites for stem in ("kl_", "lost_")}
    wanted |= {f"lost_{site}_prior" for site in sites}
    assert wanted <= found.keys()
    assert all(found[name] is not None and math.isfinite(found[name]) for name in wanted)
    assert sum(found[f"kl_{site}"] for site in sites) >= -1e-6
    stepwise = [spec.name for spec in model.latents if spec.step_axis]
    assert {name for name in found if name.endswith("_per_step") and name != "kl_per_step"} == {
        f"kl_{site}_per_step" for site in stepwise
    }


SILENT = {
    "z alone": LATENT["z alone"],
    "vectors under N(0, I)": ({"attention": "vectors", "attention_prior": "normal"}, LATENT["vectors"][1]),
}


@pytest.mark.parametrize(("options", "guide"), SILENT.values(), ids=SILENT)
def test_nothing_goes_around_latents_that_are_all_that_is_read(options, guide):
    found = row(*programs(options, guide))
    assert found["lost_around"] == pytest.approx(0.0, abs=1e-9)
    assert abs(found["lost_whole"]) > 1e-3


@pytest.mark.parametrize("name", ["z", "dirichlet"])
def test_the_states_of_the_source_go_around_z_and_weights(name):
    """Attention that is not latent, and the states that latent weights are over."""
    assert abs(row(*programs(*LATENT[name]))["lost_around"]) > 1e-3


@pytest.mark.parametrize("options", EXACT.values(), ids=EXACT)
def test_without_latents_all_goes_directly(options):
    found = row(*exact(options))
    assert found["lost_whole"] == found["lost_around"]
    assert found["ppl_posterior"] == pytest.approx(found["ppl"], rel=1e-9)
    assert "bleu1_sampling" not in found
