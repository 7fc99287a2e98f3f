"""A model without latents through all commands: what is exact is called so, what needs a latent says so."""

import io
import math
import re

import pytest
import torch

import ppl_text as pt
from guides.language_model import ExactGuide
from ppl_text.evaluation.generation import encode_batch
from ppl_text.models.language_model import LanguageModel
from ppl_text.plots import figures
from ppl_text.recipes import build

from .test_commands import strict

SHORT = {
    "data.batch_size": 16,
    "data.validation_sentences": 60,
    "training.steps": 20,
    "training.log_every": 5,
    "training.validate_every": 10,
    "report.sentences": 60,
    "report.particles": 4,
    "report.samples": 40,
}
QUICK = ["--sentences", "20", "--draws", "4", "--repeats", "2"]
LATENT_WORDS = ("KL(q", "ELBO", "draws of h", "E_q", "prior")
"""What a report without latents has no use for."""


@pytest.fixture(scope="module")
def run(tmp_path_factory, word_list, one_thread):
    """A finished run of ``words-gru8``, 20 steps; its ``compare`` and ``swap`` tests write into its folder."""
    return pt.fit("words-gru8", data=word_list, set=SHORT, out=tmp_path_factory.mktemp("exact") / "run")


def values_in(tree):
    """All values of nested plain data."""
    if isinstance(tree, dict | list):
        return [v for item in (tree.values() if isinstance(tree, dict) else tree) for v in values_in(item)]
    return [tree]


def test_results_are_exact_and_finite(run):
    results = strict((run.folder / "results.json").read_text(encoding="utf-8"))
    assert all(value is None or not isinstance(value, float) or math.isfinite(value) for value in values_in(results))
    assert None not in results.values()
    assert results["exact"] is True
    assert results["particles"] == 1
    assert results["ess"] == pytest.approx(1.0)
    assert results["elbo"] == results["iw"] == -results["rec"] < 0
    assert [results[name] for name in ("elbo_se", "iw_se", "gap_se", "kl", "kl_sum")] == [0.0] * 5
    assert results["sampling_se"] > 0


def test_the_split_is_scored_once_whatever_k_is(run, monkeypatch):
    scored = []
    likelihood = LanguageModel.likelihood
    monkeypatch.setattr(LanguageModel, "likelihood", lambda self, batch: scored.append(0) or likelihood(self, batch))
    found = run.evaluate(particles=64)
    assert len(scored) == len(build.evaluation_set(run.corpus, "test", None, 0))
    assert found == run.evaluate(particles=1, seed=7)


def test_what_is_printed_is_the_mean_over_the_split(run):
    """Σ count · ln p / Σ count, every word scored by itself."""
    split = run.corpus.splits["test"]
    total = 0.0
    for text, count in zip(split.texts, split.counts, strict=True):
        batch = encode_batch(run.corpus.tokenizer, [text])
        with torch.no_grad():
            total += float(count) * float(run.model.likelihood(batch).log_prob(batch.tokens))
    assert run.evaluate().iw == pytest.approx(total / split.total, rel=1e-6)


def test_the_report_has_no_word_for_latents(run):
    report = (run.folder / "report.md").read_text(encoding="utf-8")
    value = run.evaluate(limit=60, seed=0).iw
    assert "## Log-likelihood of the test words" in report
    assert f"| log-likelihood ln p(w): nothing is latent | {value:.3f} | exact |" in report
    assert "## Samples from the model (40 drawn)" in report
    assert "![log-likelihood over training](figures/training.png)" in report
    assert [word for word in LATENT_WORDS if word in report] == []


def test_the_figure_has_a_panel_for_the_kl_only_where_there_is_one(run, trained, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, target: drawn.append(figure))
    for folder in (run.folder, trained.folder):
        figures.training_figure(folder / "metrics.jsonl", tmp_path / "training.png")
    labels = [[axes.get_ylabel() for axes in figure.axes] for figure in drawn]
    assert labels == [["bound (nats per sentence)"], ["bound (nats per sentence)", "KL (nats per sentence)"]]


def test_fit_says_that_nothing_is_latent(ppl, tmp_path, word_list):
    sizes = [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
    ended = ppl("fit", "words-gru16", "--data", word_list, *sizes, "--steps", "2", "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    assert "no latent site: every bound is ln p(tokens) itself" in ended.err
    assert "ln p(w): nothing is latent" in ended.out


def test_evaluate_prints_one_exact_figure_with_any_objective_beside_it(ppl, run):
    ended = ppl("evaluate", run.folder, "--objective", "dreg:4")
    assert ended.status == 0, ended.err
    value = f"{run.evaluate().iw:.3f}"
    assert re.search(rf"ln p\(w\): nothing is latent +{value} +exact\n +bound of dreg:4 +{value} +0.000\n", ended.out)
    assert [word for word in LATENT_WORDS if word in ended.out] == []
    plain = strict(ppl("evaluate", run.folder, "--json", "--particles", "1").out)
    assert plain["elbo"] == plain["iw"] == run.evaluate().iw
    assert plain["iw_se"] == 0.0


def test_generate_draws_and_refuses_what_needs_a_latent(ppl, run):
    assert ppl("generate", run.folder, "-n", "4").out.splitlines() == run.generate(4)
    for arguments, purpose in (
        (["--reconstruct", "ma"], "reconstruct from"),
        (["--interpolate", "ma", "ro"], "interpolate between"),
    ):
        ended = ppl("generate", run.folder, *arguments)
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.count("\n") == 1
        assert f"this model (language_model) has no latent to {purpose}" in ended.err


def test_compare_finds_every_bound_equal(ppl, run, tmp_path):
    names = ["elbo", "elbo-analytic", "stl", "iwae:4", "dreg:2", "renyi:0.5:3", "pyro:RenyiELBO:2", "pyro:Trace_ELBO:3"]
    ended = ppl("compare", run.folder, "--objectives", ",".join(names), *QUICK, "--out", tmp_path / "c", "--json")
    assert ended.status == 0, ended.err
    found = strict(ended.out)
    assert [row["objective"] for row in found["rows"]] == names
    for row in found["rows"]:
        assert row["exact"] is True
        assert row["bound"] == pytest.approx(found["rows"][0]["bound"], rel=1e-6)
        assert row["bound_se"] == pytest.approx(0.0, abs=1e-6)
        assert [row[f"khat_{k}"] for k in ("good", "ok", "bad", "median")] == [None] * 4
        assert row["gradient_variance_model"] == pytest.approx(0.0, abs=1e-6)
        assert (row["snr_guide"], row["active_units"], row["kl"]) == (None, None, 0.0)
    said = " ".join(found["verdict"])
    assert "'exact': nothing is latent, so every bound is ln p(x) itself, without error." in said
    assert not any(word in said for word in ("WARNING", "collapsed", "k̂"))
    assert {p.name for p in (tmp_path / "c").iterdir()} == {
        *("comparison.html", "comparison.json", "comparison.md", "inference.nc", "figures")
    }


def test_compare_says_which_methods_step_by_step_objectives_lack(ppl, run, tmp_path):
    ended = ppl("compare", run.folder, "--objectives", "elbo,fivo:4", *QUICK)
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert "objective 'fivo:4' draws the latents step by step: the model LanguageModel lacks smc_init()" in ended.err
    by_default = ppl("compare", run.folder, *QUICK, "--out", tmp_path / "c")
    assert by_default.status == 0
    assert by_default.err.count("left out for guide 'exact': objective 'stepwise:5'") == 1


def test_compare_pairs_a_model_with_latents_and_one_without(ppl, run, trained, tmp_path):
    arguments = ["compare", run.folder, trained.folder, "--objectives", "elbo,iwae:4", *QUICK, "--out", tmp_path / "c"]
    rows = strict(ppl(*arguments, "--json").out)["rows"]
    assert [(row["guide"], row["exact"]) for row in rows] == [("exact", True)] * 2 + [("diagonal", False)] * 2
    assert rows[0]["khat_good"] is None
    assert rows[2]["khat_good"] is not None


def test_swap_knows_one_guide_and_keeps_the_figures(ppl, run):
    ended = ppl("swap", run.folder, "--guide", "exact", "--steps", "2")
    assert ended.status == 0, ended.err
    assert "no parameter to train" in ended.err
    value = f"{run.evaluate(limit=60, seed=0).iw:.3f}"
    assert re.search(rf"ELBO +{value} ± 0.000 +{value} ± 0.000", ended.out)
    wrong = ppl("swap", run.folder, "--guide", "diagonal")
    assert wrong.status == 2
    assert "unknown guide for language_model 'diagonal'; known: exact" in wrong.err


def test_a_session_lists_the_one_guide_and_generates_without_reconstructions(ppl, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("list\nexact 2\ngenerate 3\ntable\nundo\n"))
    ended = ppl("swap", run.folder)
    assert ended.status == 0, ended.err
    assert ended.out.count("  *  1    exact  q over no latent at all") == 2
    assert "samples from the model: " + " ".join(text or "∅" for text in run.generate(3)) in ended.out
    assert "reconstruction" not in ended.out
    assert "error" not in ended.out
    assert "current: exact" in ended.out.splitlines()[-2] + ended.out.splitlines()[-1]


def test_explain_and_list_show_it(ppl, word_list):
    ended = ppl("explain", "words-gru8", "--data", word_list)
    assert ended.status == 0, ended.err
    assert "s_t = cell(w_{t-1}, s_{t-1}), w_0 = BOS" in ended.out
    assert "no latent site: every bound is ln p(tokens) itself" in ended.out
    assert re.search(r"guide, all +0\n", ended.out)
    listed = f"for language_model:\n  guide  density\n  exact  {ExactGuide.__doc__.splitlines()[0]}"
    assert listed in ppl("list", "guides").out


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_resumed_run_is_the_uninterrupted_one(cell, word_list, tmp_path, one_thread):
    options = {**SHORT, "training.lr": 0.01, "model.cell": cell}
    whole = pt.fit("words-gru8", data=word_list, set=options, out=tmp_path / "whole")
    short = pt.fit("words-gru8", data=word_list, set=options, steps=10, out=tmp_path / "short")
    assert (short.folder / "model.safetensors").read_bytes() != (whole.folder / "model.safetensors").read_bytes()
    resumed = pt.fit(resume=short.folder, steps=20)
    before, after = (dict(r.model.named_parameters()) for r in (whole, resumed))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert resumed.evaluate() == whole.evaluate()


def test_sentences_train_epoch_by_epoch_with_word_dropout(ppl, tmp_path):
    lines = ["the dog sees the cat", "the cat sees the dog", "a dog barks", "a cat sleeps"] * 8
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{line} {i % 5}" for i, line in enumerate(lines)) + "\n")
    sizes = {"data.unit": "sentences", "data.word_dropout": 0.3, "data.batch_size": 8, "report.samples": 4}
    given = [part for key, value in sizes.items() for part in ("--set", f"{key}={value}")]
    run = tmp_path / "run"
    done = ppl("fit", "words-gru8", "--data", str(tmp_path), *given, "--steps", "6", "--out", str(run))
    assert done.status == 0, done.err
    report = (run / "report.md").read_text(encoding="utf-8")
    assert "## Log-likelihood of the test sentences" in report
    assert "i.i.d. token model (tokens and EOS)" in report
    shown = ppl("evaluate", str(run)).out
    assert "Nats per sentence, EOS scored, over all 32 sentences" in shown
    refused = ppl("fit", "words-gru8", "--data", "verses", "--steps", "1", "--out", str(tmp_path / "other"))
    assert refused.status == 2
    assert "data.unit=sentences" in refused.err
