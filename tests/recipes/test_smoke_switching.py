"""Switching codes from their recipes: trained, written from, compared, swapped; the likelihood is exact throughout."""

import json

import pytest
import torch

from ppl_text.core.errors import UserError
from ppl_text.recipes.build import build_programs

from .soundness import fitted, trained_soundly

TINY = {
    "data.buckets": 4,
    "data.min_count": 1,
    "model.codes": 3,
    "model.embedding_dim": 6,
    "model.hidden_dim": 8,
    "model.output_dim": 5,
    "report.particles": 3,
    "report.sentences": 12,
    "report.samples": 4,
}
PARTS = ["model.embedding", "model.lstm", "model.map", "model.head", "model.dropout_in", "model.dropout_out"]
STAGES = [{"name": "language-model", "steps": 6, "train": PARTS}, {"name": "codes", "steps": 6}]
CHANGES = {
    "verses-codes-contextual": {"training.steps": 6},
    "verses-codes-sentence": {"training.stages": STAGES},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each recipe, trained for a few steps on short sentences."""
    return fitted(tmp_path_factory.mktemp("switching"), TINY, CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_trains_and_writes(name, runs):
    run = runs[name]
    trained_soundly(run)
    assert len(run.generate(3)) == 3
    assert len(run.generate(2, strategy="beam")) == 2
    assert len(run.reconstruct(["see the dog ."])) == 1
    with pytest.raises(UserError, match="between which nothing lies"):
        run.interpolate("see the dog .", "run up a hill", points=3)


@pytest.mark.parametrize("name", CHANGES)
def test_one_draw_is_as_good_as_many(name, runs):
    found = [runs[name].evaluate(particles=particles, limit=20) for particles in (1, 7)]
    for value in (found[0].iw, found[1].elbo, found[1].iw):
        assert value == pytest.approx(found[0].elbo, rel=1e-5)


def test_the_first_stage_trains_a_language_model_and_leaves_the_shifts(runs):
    run = runs["verses-codes-sentence"]
    records = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert list(dict.fromkeys(json.loads(line)["stage"] for line in records)) == ["language-model", "codes"]
    ended = {json.loads(line)["stage"]: json.loads(line) for line in records if json.loads(line)["split"] == "valid"}
    # Shifts as small as they begin say next to nothing; of 18 texts one path of codes each is drawn.
    assert abs(ended["language-model"]["kl"]) < 2e-3


def test_the_first_stage_leaves_the_shifts_as_they_began(tmp_path):
    name = "verses-codes-sentence"
    run = fitted(tmp_path, TINY, {name: {"training.stages": STAGES[:1]}})[name]
    begun = dict(build_programs(run.config, run.corpus.vocabulary).model.named_parameters())
    same = {name for name, value in run.model.named_parameters() if torch.equal(value, begun[name])}
    trained = tuple(part.removeprefix("model.") for part in PARTS)
    assert same == {name for name in begun if not name.startswith(trained)} != set()


@pytest.mark.parametrize("name", CHANGES)
def test_guides_are_swapped_and_compared(name, runs, tmp_path):
    run = runs[name]
    child = run.swap_guide("mean-field", steps=4, out=tmp_path / "child")
    assert child.config.objective == "vimco:8"
    exact, bound = run.evaluate(particles=1), child.evaluate(particles=8)
    assert bound.elbo < exact.elbo
    table = run.compare(guides=["exact", "prior"], objectives=["vimco:2"], steps=2)
    assert {row.guide for row in table.rows} == {"exact", "prior"}
