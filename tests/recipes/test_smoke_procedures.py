"""One recipe of each procedure of latent sequences, as published, with its sizes shrunk: trained, and resumed."""

import json

import pytest
import torch

import ppl_text as pt
from ppl_text.recipes import compositions
from ppl_text.recipes.config import load_config

from .soundness import Stopping, trained_soundly

TINY = {
    "data.buckets": 4,
    "model.latent_dim": 3,
    "model.embedding_dim": 6,
    "model.hidden_dim": 8,
    "model.prior_width": 4,
    "model.prior_layers": 2,
    "training.log_every": 1,
    "report.particles": 2,
    "report.sentences": 12,
    "report.samples": 4,
}
STEPS = {"training.steps": 6, "training.validate_every": 3, "training.checkpoint_every": 3}
CODES = {
    **TINY,
    **STEPS,
    "model.codes": 8,
    "training.beta": {"commitment": {"name": "linear", "start": 0.5, "end": 4.5, "delay": 1, "steps": 2}},
}
PROCEDURES = {
    "vae-attn": {**TINY, "training.steps": 2},
    "vae-attn-anneal": {**TINY, "training.steps": 2},
    "gavam": {**TINY, "training.steps": 2},
    "gavam-anneal": {**TINY, "training.steps": 2},
    "davam": CODES,
    "davam-128": CODES,
    "davam-q": CODES,
    "codes-soft": {**TINY, "training.steps": 2, "model.codes": 8},
}


def records(run):
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == "train"]


def test_no_procedure_of_the_family_is_left_out():
    families = {parts.procedure: load_config(name).model.family for name, parts in compositions().items()}
    assert {procedure for procedure, family in families.items() if family == "latent_sequence"} == set(PROCEDURES)


@pytest.mark.parametrize("procedure", [name for name in PROCEDURES if name != "davam"])
def test_every_procedure_trains(procedure, sentences, tmp_path, one_thread):
    trained_soundly(pt.fit(f"ptb-{procedure}", data=sentences, set=PROCEDURES[procedure], out=tmp_path / "run"))


@pytest.mark.parametrize("corpus", ["ptb", "yahoo", "snli"])
def test_the_published_procedures(corpus):
    """Specification 1C: 0.1 for 10 epochs, then up to 5 in 10; two epochs without progress; the prior alone by Adam."""
    for name in ("davam", "davam-128", "davam-q"):
        quantiser, prior = load_config(f"{corpus}-{name}").training.in_stages()
        beta = quantiser.in_steps(10).beta["commitment"]
        assert [beta(10 * epoch) for epoch in (0, 10, 15, 20, 99)] == pytest.approx([0.1, 0.1, 2.55, 5.0, 5.0])
        assert (quantiser.optimizer, quantiser.lr, quantiser.decay.patience) == ("sgd", 1.0, 2)
        assert (prior.optimizer, prior.lr, prior.decay, prior.train) == ("adam", 1e-3, None, ("model.prior",))
        assert prior.patience is not None
    for name, rule in (("vae-attn", ("sgd", 1.0)), ("gavam", ("adam", 1e-3))):
        training = load_config(f"{corpus}-{name}").training
        assert (training.optimizer, training.lr, training.beta) == (*rule, 1.0)
        assert (training.decay.patience, training.decay.limit) == (2, 5)


def test_codes_by_two_optimisers_under_a_commitment_that_rises_are_resumed_anywhere(sentences, tmp_path, one_thread):
    def fit(name, **options):
        return pt.fit("ptb-davam", data=sentences, set=CODES, out=tmp_path / name, **options)

    whole = fit("whole")
    trained_soundly(whole)
    assert [record["stage"] for record in records(whole)] == ["quantiser"] * 3 + ["prior"] * 3
    assert [record["beta"] for record in records(whole)] == [*({"commitment": b} for b in (0.5, 0.5, 2.5)), *[1.0] * 3]
    for stop in (2, 3, 5):
        with pytest.raises(KeyError):
            fit(f"part-{stop}", progress=Stopping(stop))
        part = pt.fit(resume=tmp_path / f"part-{stop}")
        first, second = (
            torch.load(run.folder / "checkpoints/step-00000006.pt", weights_only=True)["state"] for run in (whole, part)
        )
        assert first["rule"] == second["rule"] == "Adam"
        assert all(torch.equal(value, second["parameters"][name]) for name, value in first["parameters"].items())
        assert [r["loss"] for r in records(part)] == [r["loss"] for r in records(whole)]
