"""Runs on a streamed corpus: those on the same text in memory, bit for bit, and what they do not do in memory."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ppl_text as pt
from ppl_text.core.errors import UserError
from ppl_text.data.blocks import BlockBatches
from ppl_text.measures.generation import _ngrams
from ppl_text.measures.texts import split_entropy

SIZES = {
    "model.latent_dim": 4,
    "model.embedding_dim": 8,
    "model.hidden_dim": 8,
    "data.vocabulary": 200,
    "data.batch_size": 8,
    "data.buckets": 3,
    "data.word_dropout": 0.2,
    "data.validation_sentences": 10,
    "training.epochs": 3,
    "training.log_every": 5,
    "training.validate_every": 10,
    "training.checkpoint_every": 5,
    "report.sentences": 10,
    "report.particles": 4,
    "report.samples": 20,
}


@pytest.fixture(scope="module")
def text(sentences, tmp_path_factory):
    """One file of 144 sentences."""
    path = tmp_path_factory.mktemp("text") / "mine.txt"
    path.write_text("".join((sentences / f"{name}.txt").read_text() for name in ("train", "valid", "test")))
    return path


def fitted(text, out, **changed):
    return pt.fit("text-vae", data=text, set={**SIZES, **changed}, out=out)


@pytest.fixture(scope="module")
def runs(text, tmp_path_factory):
    """One in memory and one streamed."""
    folder = tmp_path_factory.mktemp("runs")
    return fitted(text, folder / "memory"), fitted(text, folder / "streamed", **{"data.stream": True})


def weights(run):
    return load_file(run.folder / "model.safetensors")


def assert_same_weights(one, two):
    found, expected = weights(one), weights(two)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def figures(run):
    """What the report holds, without the time that it took."""
    return json.loads((run.folder / "results.json").read_text())


def test_a_streamed_run_is_the_run_in_memory(runs):
    here, there = runs
    assert_same_weights(here, there)
    assert figures(here) == figures(there)
    assert "streamed: the ids of 144 sentences are kept in" in (there.folder / "report.md").read_text()
    assert here.corpus.fingerprint == there.corpus.fingerprint


def test_commands_work_on_it(runs, text, tmp_path):
    here, there = runs
    for run in runs:
        run.reloaded = pt.load(run.folder)
    assert there.reloaded.evaluate(particles=4, limit=8) == here.reloaded.evaluate(particles=4, limit=8)
    assert there.reloaded.evaluate(particles=4) == here.reloaded.evaluate(particles=4), "all of test"
    assert there.reloaded.samples(20) == here.reloaded.samples(20)
    others = text.with_name("others.txt")
    others.write_text("the king sees bread\nshe fears and loves the sea\n")
    assert there.reloaded.evaluate(data=others, particles=4) == here.reloaded.evaluate(data=others, particles=4)
    children = [run.swap_guide("pooled", steps=4, out=tmp_path / name) for run, name in zip(runs, "ab", strict=True)]
    assert_same_weights(*children)
    found = [run.compare(guides=["batch-norm"], objectives=["elbo"], draws=4, sentences=6) for run in runs]
    assert found[0].to_dataframe().columns.equals(found[1].to_dataframe().columns)


def small_blocks(monkeypatch):
    monkeypatch.setattr(BlockBatches, "block_tokens", 40)
    monkeypatch.setattr(BlockBatches, "pool_tokens", 200)


def test_a_resumed_run_ends_as_one_that_was_never_stopped(text, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    whole = fitted(text, tmp_path / "whole", **{"data.stream": True})
    half = fitted(text, tmp_path / "half", **{"data.stream": True, "training.epochs": 1})
    resumed = pt.fit(resume=half.folder, set={"training.epochs": 3})
    assert_same_weights(whole, resumed)
    steps = [json.loads(line) for line in (resumed.folder / "metrics.jsonl").read_text().splitlines()]
    assert max(step["step"] for step in steps) > 20


def test_sizes_are_those_of_the_text(text, tmp_path):
    changes = {key: value for key, value in SIZES.items() if key not in ("data.vocabulary", "model.latent_dim")}
    run = pt.fit("text-lm", data=text, set={**changes, "data.stream": True, "training.epochs": 1}, out=tmp_path / "a")
    assert run.config.data.options["vocabulary"] == 2000


def test_a_changed_text_is_another(text, runs, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(text.read_text())
    run = fitted(path, tmp_path / "run", **{"data.stream": True, "training.epochs": 1})
    path.write_text(text.read_text() + "a king sees bread\n")
    with pytest.raises(UserError, match=r"is not what run .* was trained on"):
        pt.load(run.folder).evaluate(particles=2)


def test_neighbours_are_those_in_memory(runs, monkeypatch):
    here, there = runs
    query = here.corpus.splits["test"].texts[0]
    expected = here.neighbours(query, 5)
    assert there.neighbours(query, 5) == expected
    monkeypatch.setattr("ppl_text.data.stored.ROWS", 13)
    again = there.neighbours(query, 5)
    np.testing.assert_allclose([n.distance for n in again], [n.distance for n in expected], atol=1e-5)


def test_the_entropy_of_a_split_is_that_in_memory(runs, monkeypatch):
    monkeypatch.setattr("ppl_text.data.stored.ROWS", 13)
    for name in ("train", "valid"):
        one, two = (split_entropy(run.corpus.splits[name], False) for run in runs)
        assert one == two


def test_what_needs_all_texts_in_memory_is_refused(runs):
    here, there = runs
    assert _ngrams(here.corpus.splits["test"], 2)
    with pytest.raises(UserError, match=r"the n-gram judge counts all training texts in memory.* leave out"):
        _ngrams(there.corpus.splits["train"], 2)
