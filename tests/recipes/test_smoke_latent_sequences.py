"""Latent sequences from their recipes: trained, written from, compared, swapped and stopped in between."""

import copy
import dataclasses
import json
import math

import pytest
import torch

import ppl_text as pt
from ppl_text.core.errors import DivergedError, UnknownNameError
from ppl_text.evaluation.encoding import encode_texts
from ppl_text.evaluation.generation import reconstruct_texts, sample_texts
from ppl_text.measures import measures_of
from ppl_text.measures.base import Evaluation

from .soundness import fitted, trained_soundly

TINY = {
    "data.buckets": 4,
    "model.latent_dim": 3,
    "model.embedding_dim": 6,
    "model.hidden_dim": 8,
    "model.prior_width": 4,
    "model.prior_layers": 2,
    "report.particles": 3,
    "report.sentences": 12,
    "report.samples": 4,
}
STAGES = [
    {"name": "quantiser", "steps": 6, "objective": "reconstruction"},
    {"name": "prior", "steps": 6, "train": ["model.prior"], "objective": "rate"},
]
CODES = {"training.stages": STAGES, "model.codes": 8}
CHANGES = {
    "verses-vae-attn": {"training.steps": 4},
    "verses-gavam": {"training.steps": 4, "model.stride": 3},
    "verses-davam": {**CODES, "model.latent_length": "given"},
    "verses-davam, last": {**CODES, "model.positions": "last"},
}
SHAPES = {"verses-gavam": (1, 2, 3), "verses-davam, last": (1, 3)}
"""Of the latent of a text of five tokens, EOS counted, where it is not one for each."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each recipe, trained for a few steps on short sentences."""
    return fitted(tmp_path_factory.mktemp("latent-sequences"), TINY, CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_trains_and_writes(name, runs):
    run = runs[name]
    trained_soundly(run)
    assert len(run.generate(3)) == 3
    assert len(run.generate(2, strategy="beam")) == 2
    assert len(run.reconstruct(["see the dog ."])) == 1
    assert len(run.interpolate("see the dog .", "run up a hill", points=3)) == 3
    assert run.encode(["see the dog ."])["z"].shape == SHAPES.get(name, (1, 5, 3))


def test_the_second_stage_moves_the_prior_and_nothing_else(runs):
    folder = runs["verses-davam"].folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == ["quantiser", "prior"]
    ended = {line["stage"]: line for line in lines if line["split"] == "valid"}
    told = [ended[stage]["log_likelihood"] for stage in ("quantiser", "prior")]
    assert told[1] == pytest.approx(told[0], rel=1e-5)
    assert ended["prior"]["kl"] < ended["quantiser"]["kl"]


@pytest.mark.parametrize("name", ["verses-davam", "verses-davam, last"])
def test_a_code_book_makes_every_bound_the_elbo(name, runs):
    found = runs[name].evaluate(particles=5, limit=20)
    assert found.iw == pytest.approx(found.elbo, rel=1e-6)
    assert found.kl > 0


def test_usage_of_the_code_book_is_recorded_and_reported(runs):
    run = runs["verses-davam"]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    recorded = [line["monitor"] for line in lines if line["split"] == "valid"]
    assert all(1 <= line["codes_used"] <= 8 == line["codes_used"] + line["dead_codes"] for line in recorded)
    results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    told = results["codes"]["z"]
    assert 1 <= told["code_perplexity"] <= told["codes_used"] <= told["codes"] == 8
    assert told["kl_per_code"] == pytest.approx(results["kl_per_step"], rel=1e-4)
    assert told["codes_per_text"] == results["n_steps"] / results["n_sent"]
    assert results["paper_ppl"] < results["elbo_perplexity"]
    assert "## Codes of the test sentences" in (run.folder / "report.md").read_text(encoding="utf-8")
    assert "codes" not in json.loads((runs["verses-gavam"].folder / "results.json").read_text(encoding="utf-8"))


def test_a_latent_of_the_text_is_measured_as_one(runs):
    found = runs["verses-davam, last"].latents(limit=20)
    assert 0 <= found.together.mutual_information <= math.log(8) + 1e-6  # eight codes
    assert found.together.latent_units == 3
    assert len(runs["verses-davam, last"].neighbours("see the dog .", n=2)) == 2


def test_guides_of_one_model_are_compared_and_swapped(runs, tmp_path):
    run = runs["verses-vae-attn"]
    swapped = run.swap_guide("prior", steps=2, out=tmp_path / "swapped")
    assert swapped.config.guide.name == "prior"
    found = run.compare(guides=["gaussian", "prior"], objectives=["elbo", "iwae:4"], draws=8, repeats=2, sentences=10)
    assert len(found.rows) >= 4


@pytest.mark.parametrize(("name", "guides"), [("verses-davam", ["soft", "prior"]), ("verses-davam, last", ["soft"])])
def test_guides_over_codes_are_refitted_by_a_score_function_on_frozen_codes(name, guides, runs):
    run = runs[name]
    codes = run.model.book.codes.clone()
    settings = {"draws": 8, "repeats": 2, "sentences": 10, "steps": 2}
    found = run.compare(guides=["quantised", *guides], objectives=["vimco:2"], **settings)
    assert len(found.rows) == 1 + len(guides)
    child = pt.load(next((run.folder / "swaps").glob("soft*")))
    assert child.config.objective == "vimco:8"
    assert torch.equal(child.model.book.codes, codes)
    assert child.evaluate(particles=3, limit=10).iw >= child.evaluate(particles=3, limit=10).elbo


class Told:
    """A progress that keeps its messages."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

    def __getattr__(self, name):
        return lambda *given: None


@pytest.fixture(scope="module")
def weighted(runs, tmp_path_factory):
    """Codes trained in one stage under a β of their commitment, which no other guide has, and one of their site."""
    folder = tmp_path_factory.mktemp("weighted")
    beta = {"commitment": {"name": "linear", "start": 0.5, "steps": 2}, "z": 0.5}
    own = {"training.stages": [], "training.steps": 2, "training.beta": beta, "model.codes": 8}
    return fitted(folder, TINY, {"verses-davam": own})["verses-davam"]


def test_a_refit_leaves_out_betas_of_what_only_the_old_guide_had(weighted, tmp_path):
    told = Told()
    child = weighted.swap_guide("prior", steps=2, objective="vimco:2", out=tmp_path / "child", progress=told)
    assert child.config.training.beta == {"z": 0.5}
    assert told.messages.count("guide prior has no commitment: left out of training.beta") == 1
    kept = weighted.swap_guide("quantised", steps=2, out=tmp_path / "kept", progress=(again := Told()))
    assert kept.config.training.beta.keys() == {"commitment", "z"}
    assert not [text for text in again.messages if "left out" in text]
    found = weighted.compare(
        guides=["quantised", "soft"], objectives=["vimco:2"], draws=8, repeats=2, sentences=10, steps=2
    )
    assert len(found.rows) == 2


@pytest.mark.parametrize("given", [{"training.beta": {"comitment": 0.5}}, {"training.beta.comitment": 0.5}])
def test_a_beta_of_what_never_was_stays_an_error(weighted, given, tmp_path):
    with pytest.raises(UnknownNameError, match="side loss in β 'comitment' "):
        weighted.swap_guide("quantised", steps=2, set=given, out=tmp_path / "child")
    assert not (tmp_path / "child").exists()


def diverged(program, part):
    """The same with a part whose weights are far too large, or no numbers."""
    broken = copy.deepcopy(program)
    for name, parameter in broken.named_parameters():
        if name.startswith(part):
            parameter.data.fill_(math.nan) if part != "prior" else parameter.data.mul_(1e4)
    return broken


@pytest.mark.parametrize("length", [None, 4])
def test_a_prior_that_has_diverged_ends_generation_in_a_message_and_no_report(runs, length):
    run = runs["verses-gavam"]
    model, tokenizer = diverged(run.model, "prior"), run.form.tokenizer
    with pytest.raises(DivergedError, match=r"latent 'z' is NaN or infinite in \d of 3 texts .*lower training\.lr"):
        sample_texts(model, tokenizer, 3, steps=12, seed=0, length=length)
    assert reconstruct_texts(model, run.guide, tokenizer, ["see the dog ."], max_steps=12, seed=0)
    subject = dataclasses.replace(run.subject, model=model)
    evaluation = Evaluation("test", subject.evaluate(particles=2, limit=6), 6, samples=3)
    lines = [line for m in measures_of(model, run.corpus) for s in m.sections(subject, evaluation) for line in s.lines]
    assert [line for line in lines if line.startswith("None: latent 'z' is NaN or infinite in 3 of 3 texts")]
    assert [line for line in lines if line.startswith("No bound is a number, since the KL is none")]
    assert not [line for line in lines if "all its mass on one point" in line]


def test_a_decoder_or_a_guide_that_has_diverged_ends_in_a_message(runs):
    run = runs["verses-gavam"]
    given = {"max_steps": 12, "seed": 0}
    with pytest.raises(DivergedError, match="logits of tokens are NaN"):
        reconstruct_texts(diverged(run.model, "network"), run.guide, run.form.tokenizer, ["see the dog ."], **given)
    with pytest.raises(DivergedError, match=r"latent 'z' is NaN or infinite in 1 of 1 texts \(draws given the texts\)"):
        encode_texts(run.model, diverged(run.guide, "projection"), run.form.tokenizer, ["see the dog ."], **given)
