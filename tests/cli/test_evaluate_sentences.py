"""``evaluate`` and the report of a sentence model: perplexities, what the latents carry, stored log-weights."""

import math
import re

import pytest

import ppl_text as pt
from ppl_text.evaluation.likelihood import bounds_of, summarize
from ppl_text.evaluation.scores import load_scores

from .test_commands import strict

RECIPE = """
threads: 1
model: {family: sentence_vae, latent_dim: 4, embedding_dim: 6, hidden_dim: 8}
guide: {name: GUIDE}
objective: OBJECTIVE
data: {corpus: FOLDER, unit: sentences, batch_size: 16, buckets: 2, validation_sentences: 30}
training: {steps: 6, log_every: 3, validate_every: 3, checkpoint_every: 6}
report: {sentences: 30, particles: 3, samples: 10}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sentences of two to nine words: train 80, valid and test 40."""
    path = tmp_path_factory.mktemp("sentences")
    words = [a + b for a in "bdlm" for b in "aeiou"]
    for name, first, number in (("train", 0, 80), ("valid", 100, 40), ("test", 200, 40)):
        lines = [" ".join(words[(i * j) % 20] for j in range(1, 3 + i % 8)) for i in range(first, first + number)]
        (path / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def fitted(folder, out, guide, objective):
    """A run of six steps of a recipe in a file."""
    recipe = out.parent / "own.yaml"
    text = RECIPE.replace("GUIDE", guide).replace("OBJECTIVE", objective).replace("FOLDER", str(folder))
    recipe.write_text(text, encoding="utf-8")
    return pt.fit(str(recipe), out=out)


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder, one_thread):
    return fitted(folder, tmp_path_factory.mktemp("runs") / "run", "gaussian", "elbo")


def test_perplexities_are_printed_with_what_normalises_them(ppl, run):
    values = strict(ppl("evaluate", run.folder, "--particles", "30", "--json").out)
    out = ppl("evaluate", run.folder, "--particles", "30").out
    tokens = run.corpus.splits["test"].target.table.scored_tokens
    assert values["n_eos"] == tokens
    assert values["perplexity"] == pytest.approx(math.exp(-values["iw_sum"] / tokens))
    assert values["elbo_perplexity"] == pytest.approx(math.exp((values["rec_sum"] + values["kl_sum"]) / tokens))
    assert (
        f"PPL {values['elbo_perplexity']:.3f} ± {values['elbo_perplexity_se']:.3f} from the ELBO, "
        f"{values['perplexity']:.3f} ± {values['perplexity_se']:.3f} from K = 30 importance samples (k̂ > 0.7: "
        f"{values['khat_bad']:.0%}); over {tokens:,} scored tokens (EOS counted, BOS not) in {values['n_sent']:.0f} "
        "sentences." in out
    )
    assert values["perplexity_se"] == pytest.approx(values["perplexity"] * values["iw_se"] * values["n_sent"] / tokens)
    assert values["unreliable"] is False
    assert "Standard errors are of the draws of z, around the expectation of each figure." in out


def test_what_the_latents_carry_is_printed_and_reported(ppl, run):
    """An untrained guide has collapsed; the verdict says so in the terminal, in the report and in the results."""
    values = strict(ppl("evaluate", run.folder, "--json").out)
    ended = ppl("evaluate", run.folder)
    assert values["mutual_information_cap"] == pytest.approx(math.log(values["n_sent"]))
    assert values["latent_units"] == len(values["kl_by_dimension"]) == 4
    assert values["active_units"] == values["active_units_02"] == 0
    assert re.search(rf"mutual information I\(x; z\) +{values['mutual_information']:.3f} nats; cap", ended.out)
    assert "units active at 0.2 " in ended.out
    assert values["latents"] in ended.out
    assert values["latents"].startswith("latents collapsed (KL < 0.1 nats, none of 4 units active")
    report = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "## What the latents carry" in report
    assert "Latents collapsed (" in report
    assert "from K = 3 importance samples" in report
    results = strict((run.folder / "results.json").read_text(encoding="utf-8"))
    assert results["mutual_information_cap"] == pytest.approx(math.log(30))
    assert results["latents"] == values["latents"]


def test_log_weights_are_kept_and_say_the_same(ppl, run, tmp_path):
    kept = tmp_path / "scores.safetensors"
    arguments = ["evaluate", run.folder, "--particles", "20", "--seed", "3", "--limit", "25"]
    values = strict(ppl(*arguments, "--json", "--store", kept).out)
    scores, about = load_scores(kept)
    expected = {"run": str(run.folder), "split": "test", "seed": 3, "particles": 20, "limit": 25}
    assert about == expected
    assert scores.log_weights.shape == (25, 20)
    again = summarize(bounds_of(scores), 20, drawn_from=len(run.corpus.splits["test"]))
    assert again.perplexity == pytest.approx(values["perplexity"], rel=1e-12)
    assert again.elbo_perplexity == pytest.approx(values["elbo_perplexity"], rel=1e-12)
    assert again.sampling_se == pytest.approx(values["sampling_se"], rel=1e-12)
    assert str(kept) in ppl(*arguments, "--store", kept).err
    wrong = ppl(*arguments, "--store", tmp_path / "none" / "x.safetensors")
    assert wrong.status == 2
    assert "does not exist; give the name of a new file in an existing folder" in wrong.err


def test_a_point_mass_is_not_trained_on_a_bound(ppl, folder, tmp_path, one_thread):
    run = fitted(folder, tmp_path / "run", "point", "reconstruction")
    for command in (
        ("fit", run.folder / "config.yaml", "--objective", "elbo", "--out", tmp_path / "new"),
        ("fit", run.folder / "config.yaml", "--objective", "free-bits:2", "--out", tmp_path / "new"),
        ("fit", run.folder / "config.yaml", "--objective", "iwae:3", "--out", tmp_path / "new"),
    ):
        ended = ppl(*command)
        assert ended.status == 2, ended.err
        assert "KL of the guide from the prior is infinite" in ended.err
        assert "--objective reconstruction" in ended.err
        assert not (tmp_path / "new").exists()


def test_an_autoencoder_has_no_finite_bound_and_says_why(ppl, folder, tmp_path, one_thread):
    run = fitted(folder, tmp_path / "run", "point", "reconstruction")
    ended = ppl("evaluate", run.folder, "--particles", "3")
    assert ended.status == 0, ended.err
    assert re.search(r"ELBO +-inf\n", ended.out)
    assert "PPL inf from the ELBO, inf from K = 3 importance samples" in ended.out
    assert "KL = ∞: the guide puts all its mass on one point" in ended.out
    assert "latents point mass (KL = ∞, so no bound is finite: an autoencoder)" in ended.out
    values = strict(ppl("evaluate", run.folder, "--json").out)
    assert [values[name] for name in ("elbo", "iw", "kl", "perplexity", "elbo_perplexity", "marginal_kl")] == [None] * 6
    assert values["rec"] > 0
    assert values["mutual_information"] <= values["mutual_information_cap"] + 1e-9
