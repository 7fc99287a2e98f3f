"""What the smoke tests of words and of sentences share: every objective, and what a sound run is."""

import json

import pytest
import torch

import ppl_text as pt
from ppl_text.evaluation.storytelling import is_conditional
from ppl_text.recipes import build

SPECS = [
    *("elbo", "elbo:3", "elbo-analytic", "elbo-analytic:2", "iwae:3", "renyi:0.5:3", "renyi:-1:2"),
    *("trace_elbo", "renyi_elbo:0.5:2", "pyro:Trace_ELBO", "pyro:Trace_ELBO:2", "pyro:RenyiELBO:2"),
    *("pyro:RenyiELBO:0.5:2", "pyro:TraceGraph_ELBO", "pyro:TraceMeanField_ELBO"),
    *("stl", "stl:2", "dreg:3", "stepwise:1", "stepwise:3", "stepwise:2:score", "fivo:3", "fivo:3:multinomial:1:score"),
    *("free-bits:1", "free-bits:1:batch:2", "renyi:-inf:3", "vr-max:2", "iwae:4/2", "dreg:5/2", "elbo-analytic:3/2"),
    *("reconstruction", "reconstruction:2", "rate", "per-token:2", "vimco:3"),
]
"""Every objective, in the ways to write it that any model can be trained by."""


def trained_soundly(run):
    """The run is finished, its parameters have moved, its numbers are numbers and in the right order."""
    assert run.finished
    results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    assert results["elbo"] <= results["iw"] + 1e-6 * abs(results["iw"])  # equal where nothing varies, up to float32
    assert results["iw"] < 0
    assert results["elbo"] == pytest.approx(-(results["rec_sum"] + results["kl_sum"]) / results["n_sent"], rel=1e-5)
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    parts = run.config.objective.startswith(("reconstruction", "rate")) or run.config.training.stages
    for record in records:  # a step that trains by a part of the bound may not know the bound
        unknown = parts and record["split"] == "train" and record["bound"] is None
        assert unknown or (isinstance(record["bound"], float) and record["bound"] < 0)
    for before, after in zip(build.build_programs(run.config, run.corpus.vocabulary), run.programs, strict=True):
        start, end = dict(before.named_parameters()), dict(after.named_parameters())
        assert start.keys() == end.keys()
        if start:
            assert any(not torch.equal(start[name], end[name]) for name in start)
    reconstructs_in_two_halves(run)


def reconstructs_in_two_halves(run):
    """Texts to latents and latents to texts: together what ``reconstruct`` does, whatever the family."""
    if not run.model.latents:
        return
    split = run.corpus.splits["test"]
    sources = None if split.source is None or not is_conditional(run.model) else list(split.source.texts[:3])
    texts = list(split.texts[:3])
    latents = run.encode(texts, seed=1, sources=sources)
    assert {name: len(value) for name, value in latents.items()} == {spec.name: 3 for spec in run.model.latents}
    assert run.decode(latents, sources=sources) == run.reconstruct(texts, seed=1, sources=sources)


def fitted(folder, tiny, changes):
    """Runs by name: each recipe of ``changes`` (a name, and after a comma what tells it from others) on short texts.

    With one thread, whatever the machine has.
    """
    texts = folder / "sentences.txt"
    words = ["see", "the", "small", "dog", "run", "up", "and", "down", "a", "hill"]
    lines = [" ".join(words[i % 5 : i % 5 + 2 + i % 4]) + f" . {words[i % 9]}" for i in range(160)]
    texts.write_text("\n".join(lines), encoding="utf-8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = {
        name: pt.fit(name.split(",")[0], data=texts, set={**tiny, **own, "data.min_count": 1}, out=folder / name)
        for name, own in changes.items()
    }
    torch.set_num_threads(threads)
    return made


class Stopping:
    """A progress that fails after so many steps, as a machine might."""

    def __init__(self, stop):
        self.stop = stop

    def __getattr__(self, name):
        return lambda *given: None

    def step(self, record):
        if record.step == self.stop:
            raise KeyError("the machine")
