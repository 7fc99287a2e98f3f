"""A sentence VAE through every command, as a user would type them; and runs that are stopped and go on."""

import json
import math
import os
import re
import shutil
import signal

import pytest

import ppl_text as pt
from ppl_text.evaluation.scores import load_scores
from ppl_text.recipes import recipe_names
from ppl_text.training.progress import PlainProgress

from .test_commands import strict

SMALL = {
    "model.latent_dim": 3,
    "model.embedding_dim": 8,
    "model.hidden_dim": 12,
    "data.batch_size": 16,
    "data.buckets": 1,
    "training.log_every": 1,
    "training.checkpoint_every": 2,
    "report.sentences": 12,
    "report.particles": 3,
    "report.samples": 4,
}
"""What makes a recipe of verses small; an epoch of the short sentences is 6 steps."""


def as_options(changes):
    return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]


OPTIONS = as_options(SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sentences, one_thread):
    """A finished run of two epochs of ``verses-vae``; read it, do not write to its folder."""
    changes = {**SMALL, "training.epochs": 2}
    return pt.fit("verses-vae", data=sentences, set=changes, out=tmp_path_factory.mktemp("sentences") / "run")


def advised(out):
    """The commands that are recommended at the end of an output."""
    return [line.split("python -m ppl_text ")[1].split() for line in out.splitlines() if "python -m ppl_text " in line]


def test_fit_reports_in_sentences_and_its_advice_works(ppl, sentences, tmp_path):
    ended = ppl("fit", "verses-fbp", "--data", sentences, *OPTIONS, "--steps", "3", "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    assert ended.out.strip().startswith("# Run run: verses-fbp")
    assert re.search(r"\| corpus \| \S+, 96 training sentences \|", ended.out)
    assert re.search(
        r"PPL \d+\.\d+ ± \d+\.\d+ from the ELBO, \d+\.\d+ ± \d+\.\d+ from K = 3 importance samples", ended.out
    )
    assert "Latents collapsed" in ended.out
    assert "latents collapsed" in ended.err, "the monitor's remark"
    assert len(advised(ended.out)) >= 2
    for line in advised(ended.out):
        assert ppl(*line).status == 0, line


def test_guides_are_swapped_one_after_the_other(ppl, trained, sentences, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    for guide in ("iaf", "pooled"):
        ended = ppl("swap", folder, "--guide", guide, "--steps", "4", "--out", tmp_path / guide)
        assert ended.status == 0, ended.err
        assert f"after: {guide}" in ended.out
        folder = tmp_path / guide
        after = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        assert math.isfinite(after["elbo"])
        assert after["elbo"] <= after["iw"] + 1e-6 * abs(after["iw"])  # equal where nothing varies, up to float32
        assert after["iw"] < 0
    models = [pt.load(place).model.state_dict() for place in (trained.folder, folder)]
    assert all(value.equal(models[1][name]) for name, value in models[0].items()), "the model is frozen"
    assert pt.load(folder).config.guide.name == "pooled"


def test_guides_and_objectives_are_compared(ppl, trained, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    arguments = ["--guides", "gaussian,iaf", "--objectives", "elbo,iwae:4", "--steps", "3", "--draws", "4"]
    ended = ppl("compare", folder, *arguments, "--sentences", "8", "--repeats", "2", "--json")
    assert ended.status == 0, ended.err
    rows = {(row["guide"], row["objective"]): row for row in strict(ended.out)["rows"]}
    assert set(rows) == {(guide, objective) for guide in ("gaussian", "iaf") for objective in ("elbo", "iwae:4")}
    for row in rows.values():
        assert -100 < row["bound"] < 0
        assert row["snr_model"] >= 0
    lower, higher = rows["gaussian", "elbo"], rows["gaussian", "iwae:4"]
    assert lower["bound"] <= higher["bound"] + 5 * math.hypot(lower["bound_se"], higher["bound_se"]) + 1e-6
    again = ppl("compare", folder, *arguments, "--sentences", "8", "--repeats", "2")
    assert again.status == 0, again.err
    assert "refitting" not in again.err, "the refitted guide is taken again"
    assert "Verdict" in again.out


def test_generate_in_every_way(ppl, trained, tmp_path):
    ways = (
        ["--strategy", "greedy"],
        ["--strategy", "sample", "--temperature", "0.7", "--top-k", "5", "--top-p", "0.9"],
        ["--strategy", "beam", "--beam", "3"],
    )
    text, other = "the old cat sees bread", "she hears the sea today"
    words = set(trained.corpus.tokenizer.symbols)
    for way in ways:
        prior = ppl("generate", trained.folder, "-n", "3", *way)
        rebuilt = ppl("generate", trained.folder, "--reconstruct", text, *way)
        between = ppl("generate", trained.folder, "--interpolate", text, other, "-n", "4", *way)
        assert [ended.status for ended in (prior, rebuilt, between)] == [0, 0, 0]
        assert [len(ended.out.splitlines()) for ended in (prior, rebuilt, between)] == [3, 1, 4]
        assert set(f"{prior.out} {between.out}".split()) <= words
        assert rebuilt.out.startswith(f"{text}\t")
    near = ppl("generate", trained.folder, "--neighbours", text, "-n", "4").out.splitlines()
    distances = [float(line.split("\t")[0]) for line in near]
    assert distances == sorted(distances)
    assert {line.split("\t")[1] for line in near} <= set(trained.corpus.splits["train"].texts)


def test_evaluate_stores_what_its_figures_are_made_of(ppl, trained, tmp_path):
    ended = ppl("evaluate", trained.folder, "--particles", "8", "--store", tmp_path / "s.safetensors", "--json")
    values = strict(ended.out)
    scores, about = load_scores(tmp_path / "s.safetensors")
    tokens = trained.corpus.splits["test"].target.table.scored_tokens
    assert (about["particles"], scores.log_weights.shape) == (8, (24, 8))
    by_hand = (scores.log_weights.logsumexp(-1) - math.log(8)).sum().item()
    assert values["perplexity"] == pytest.approx(math.exp(-by_hand / tokens), rel=1e-6)


def test_explain_and_list_show_the_recipes(ppl, sentences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = ppl("explain", "verses-pretrain-fbp", "--data", sentences, *OPTIONS)
    assert ended.status == 0, ended.err
    story = "z ~ N(0, I)", "[μ; ln σ²] = W h_n", "Independent event (3,) real"
    for text in (*story, "epochs of free-bits:8:dimension, β linear, start 0, end 1, epochs 4, model anew"):
        assert text in ended.out, ended.out
    assert not list(tmp_path.iterdir())
    lines = {line.split()[0]: line for line in ppl("list", "recipes").out.splitlines() if line.startswith("  ")}
    for name in recipe_names():
        assert len(lines[name].split()) > 3, "a name and what it is"
    assert "Penn Treebank" in lines["ptb-vae"]


def stopping(monkeypatch, step):
    """Ctrl-C as soon as that step is shown."""
    shown = PlainProgress.step

    def show(self, record):
        shown(self, record)
        if record.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(PlainProgress, "step", show)


LONG = {
    "verses-pretrain-fbp": {"training.steps": 9},
    "verses-aggressive": {"training.steps": 6, "training.validate_every": 2, "training.lr": 0.1},
}
"""Three steps as an autoencoder and six of FBP; six of up to 99 updates of the encoder each."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sentences, one_thread):
    """``whole(recipe)``: the run of a recipe of ``LONG`` without an interruption."""
    runs = {}

    def run(recipe):
        if recipe not in runs:
            out = tmp_path_factory.mktemp("whole") / "run"
            runs[recipe] = pt.fit(recipe, data=sentences, set={**SMALL, **LONG[recipe]}, out=out)
        return runs[recipe]

    return run


def recorded(folder):
    """``metrics.jsonl`` without the times."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


@pytest.mark.parametrize(
    ("recipe", "step"),
    [("verses-pretrain-fbp", step) for step in (1, 3, 5)] + [("verses-aggressive", step) for step in (1, 5)],
)
def test_a_stopped_run_resumes_bit_for_bit(recipe, step, ppl, sentences, tmp_path, monkeypatch, whole):
    """Within a stage, at its end and in the next one; in the midst of aggressive training."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stopping(patch, step)
        ended = ppl("fit", recipe, "--data", sentences, *as_options({**SMALL, **LONG[recipe]}), "--out", folder)
    assert ended.status == 130, ended.err
    assert f"stopped by SIGINT after step {step}" in ended.err
    assert not (folder / "results.json").exists()
    resumed = ppl("fit", "--resume", folder)
    assert resumed.status == 0, resumed.err
    expected = whole(recipe)
    for name in ("model.safetensors", "results.json", "config.yaml"):
        assert (folder / name).read_bytes() == (expected.folder / name).read_bytes(), name
    assert recorded(folder) == recorded(expected.folder)
    if recipe == "verses-aggressive":
        updates = [record["encoder_updates"] for record in recorded(folder) if "encoder_updates" in record]
        assert updates[0] >= 30, "two windows at least"
