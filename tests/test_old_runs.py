"""Run folders that were made before the rooms were rebuilt still load, answer as they did, and go on.

``fixtures/make_runs.py`` says how they were made and by which commit; they are never made again. A tolerance is a
number of roundings of float32, because another processor adds in another order.
"""

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ppl_text as pt
from ppl_text.training.progress import Quiet

pytestmark = pytest.mark.usefixtures("one_thread")

RUNS = Path(__file__).parent / "fixtures" / "runs"

GUIDES = {
    "deep_state_space": ("diagonal", "tril", "shared", "bidirectional", "mean-field", "look-ahead", "prior"),
    "language_model": ("exact",),
    "sentence_vae": ("gaussian", "pooled", "batch-norm", "iaf", "point", "prior", "exact"),
}
"""Model families and guides of that time."""

OWN_GUIDE = "deep_state_space-own"

CHILDREN = {
    "deep_state_space-swap": "deep_state_space-diagonal",
    "deep_state_space-swap-stopped": "deep_state_space-diagonal",
    "sentence_vae-swap": "sentence_vae-gaussian",
    "sentence_vae-gaussian/swaps/pooled-1": "sentence_vae-gaussian",
}
"""Child: its parent. All but :data:`TRAINED_ON` froze the parent's model."""

TRAINED_ON = "sentence_vae-swap"

STOPPED = ("deep_state_space-stopped", "deep_state_space-swap-stopped", "sentence_vae-stages-stopped")

NAMES = (
    *(f"{family}-{guide}" for family, guides in GUIDES.items() for guide in guides),
    *(OWN_GUIDE, "sentence_vae-aggressive", "sentence_vae-stages"),
    *CHILDREN,
    *(name for name in STOPPED if name not in CHILDREN),
)

ROUNDING = 100 * torch.finfo(torch.float32).eps
"""Relative to the largest term of a bound, which is a sum of about a hundred terms in float32."""


class Remembering(Quiet):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A copy of all folders, in which the paths that runs name are those of the copy."""
    copy = shutil.copytree(RUNS, tmp_path_factory.mktemp("old") / "runs")
    for path in copy.rglob("*"):
        if path.suffix in (".yaml", ".json", ".md"):
            path.write_text(path.read_text(encoding="utf-8").replace("/RUNS", str(copy)), encoding="utf-8")
    return copy


def opened(folder):
    """A run of a folder; the code of an own guide's file is run, which these tests mean."""
    return pt.load(folder, trust=True)


def expected(folder):
    return json.loads((folder / "expected.json").read_text(encoding="utf-8"))


def bounds(run, asked):
    found = run.evaluate(**asked)
    return {name: getattr(found, name) for name in ("elbo", "iw", "kl", "rec", "n_sent", "n_eos")}


def assert_same(found, wanted, within=0.0):
    """Bounds are as stored, None for what is not finite; ``within``: nats that they may differ by in any case."""
    scale = abs(wanted["rec"])
    for name, value in wanted.items():
        if value is None:
            assert not math.isfinite(found[name]), name
        elif name in ("n_sent", "n_eos"):
            assert found[name] == value, name
        else:
            assert found[name] == pytest.approx(value, rel=0, abs=max(ROUNDING * scale, within)), name


def test_every_folder_is_among_those_that_are_tested():
    assert {str(path.parent.relative_to(RUNS)) for path in RUNS.rglob("expected.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_loads(runs, name):
    """With every parameter as it lies in the file, whatever it is called now."""
    run = opened(runs / name)
    assert run.finished == (name not in STOPPED)
    assert run.config.model.family == name.partition("-")[0]
    stored = list(load_file(runs / name / "model.safetensors").values())
    held = [parameter for program in (run.model, run.guide) for parameter in program.parameters()]
    assert held
    assert all(any(torch.equal(parameter, value) for value in stored) for parameter in held)


@pytest.mark.parametrize("name", NAMES)
def test_evaluate_says_what_it_said(runs, name):
    wanted = expected(runs / name)
    assert_same(bounds(opened(runs / name), wanted["asked"]), wanted["bounds"])


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_what_they_were(runs, name):
    """Where the likeliest token is taken; a draw at the edge may fall on either side on another processor."""
    run, wanted = opened(runs / name), expected(runs / name)
    sampled = run.generate(3)
    assert len(sampled) == len(wanted["sampled"]) == 3
    assert sampled == run.generate(3)
    assert sampled != run.generate(3, seed=1)
    if "greedy" in wanted:
        assert run.generate(3, strategy="greedy") == wanted["greedy"]
    if "reconstructed" in wanted:
        texts = list(wanted["reconstructed"])
        assert run.reconstruct(texts) == list(wanted["reconstructed"].values())


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_goes_on_to_its_end(runs, name, tmp_path):
    """The rest of the training leads where it led, up to a hundredth of the way."""
    folder, wanted = shutil.copytree(runs / name, tmp_path / "run"), expected(runs / name)
    run = pt.fit(resume=folder)
    trained = json.loads((folder / "results.json").read_text(encoding="utf-8"))["trained"]
    assert run.finished
    assert trained["step"] == wanted["resumed"]["step"]
    end = wanted["resumed"]["bounds"]
    way = abs(end["elbo"] - wanted["bounds"]["elbo"])
    assert_same(bounds(run, wanted["asked"]), end, within=0.01 * way)


@pytest.mark.parametrize(("name", "parent"), CHILDREN.items())
def test_a_child_knows_its_parent(runs, name, parent):
    child = opened(runs / name)
    assert child.parent.folder == runs / parent
    assert child.parent.config.guide.name == parent.partition("-")[2]
    record = json.loads((child.folder / "parent.json").read_text(encoding="utf-8"))
    assert record["sha256"] == hashlib.sha256((runs / parent / "model.safetensors").read_bytes()).hexdigest()
    own, others = child.model.state_dict(), child.parent.model.state_dict()
    assert all(value.equal(others[key]) for key, value in own.items()) == (name != TRAINED_ON)


def test_a_run_finds_its_own_guide(runs):
    guide = opened(runs / OWN_GUIDE).guide
    assert type(guide).__name__ == "OwnGuide"
    assert guide.reader.output_dim == 4


SWAPS = {
    "deep_state_space": ("diagonal", "mean-field"),
    "language_model": ("exact", "exact"),
    "sentence_vae": ("batch-norm", "pooled"),
}
"""Family: the guide of the run that is swapped on, the guide that is put in."""


@pytest.mark.parametrize("family", SWAPS)
def test_a_guide_is_swapped_in(runs, family, tmp_path):
    before, after = SWAPS[family]
    parent = opened(runs / f"{family}-{before}")
    child = parent.swap_guide(after, steps=2, out=tmp_path / "child")
    assert child.finished
    assert child.parent.folder == parent.folder
    stored = json.loads((child.folder / "results.json").read_text(encoding="utf-8"))["swap"]
    assert (stored["before"]["guide"], stored["after"]["guide"]) == (before, after)
    found = parent.evaluate("test", parent.config.report.particles, parent.config.report.sentences)
    assert stored["before"]["elbo"] == pytest.approx(found.elbo, rel=ROUNDING)


@pytest.mark.parametrize("family", SWAPS)
def test_runs_are_compared(runs, family, tmp_path):
    run = opened(runs / f"{family}-{SWAPS[family][0]}")
    found = run.compare(objectives=["elbo", "iwae:4"], draws=8, sentences=6, repeats=2, out=tmp_path / "compared")
    assert [row.objective for row in found.rows] == ["elbo", "iwae:4"]
    assert all(math.isfinite(row.bound) for row in found.rows)
    assert (tmp_path / "compared" / "comparison.json").is_file()


def test_compare_takes_an_old_child_again(runs, tmp_path):
    """The child that was refitted then is just the one that is asked for now."""
    run, progress = opened(runs / "sentence_vae-gaussian"), Remembering()
    options = {"draws": 8, "sentences": 6, "repeats": 2, "steps": 12, "out": tmp_path / "compared"}
    found = run.compare(["gaussian", "pooled"], ["elbo"], progress=progress, **options)
    assert [row.guide for row in found.rows] == ["gaussian", "pooled"]
    assert [path.name for path in (run.folder / "swaps").iterdir()] == ["pooled-1"]
    assert any("pooled-1" in message for message in progress.messages)
