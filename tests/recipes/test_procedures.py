"""``training`` of a configuration: epochs, intervals, decay, update rules and stages, checked, resolved and trained."""

import json
import math
import random
from collections import Counter

import pytest
import torch
import yaml

import ppl_text as pt
from ppl_text.core.errors import ConfigError, RunFolderError, UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.recipes import build, recipe_names
from ppl_text.recipes.config import load_config, recipe_tree
from ppl_text.recipes.errors import RecipeError
from ppl_text.recipes.lengths import Epoch, replace_length
from ppl_text.recipes.procedures import TrainingSection

from .soundness import Stopping

WORDS = [
    "the",
    "cat",
    "dog",
    "sees",
    "a",
    "big",
    "small",
    "house",
    "runs",
    "to",
    "from",
    "tree",
    "bird",
    "sings",
    "loud",
]
BATCHES = 5
"""Batches of an epoch: 70 sentences in batches of 16, one bucket."""

VAE = {
    "model": {"family": "sentence_vae", "latent_dim": 3, "embedding_dim": 6, "hidden_dim": 6},
    "guide": {"name": "gaussian"},
    "objective": "elbo-analytic",
    "data": {"corpus": "", "unit": "sentences", "batch_size": 16, "validation_sentences": 20},
    "report": {"sentences": 20, "particles": 2, "samples": 4},
    "training": {"epochs": 2, "log_every": 1, "validate_every": "epoch", "checkpoint_every": 2},
}
PRETRAINED = {
    "lr": 0.01,
    "log_every": 1,
    "validate_every": "epoch",
    "checkpoint_every": 2,
    "stages": [
        {"name": "autoencoder", "epochs": 1, "objective": "reconstruction"},
        {
            "name": "fbp",
            "epochs": 2,
            "objective": "free-bits:8:dimension",
            "reset": ["model"],
            "beta": {"name": "linear", "epochs": 1, "start": 0.0},
        },
    ],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of short sentences."""
    folder, rng = tmp_path_factory.mktemp("sentences"), random.Random(0)
    for name, number in (("train", 70), ("valid", 20), ("test", 20)):
        lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 6))) for _ in range(number)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


@pytest.fixture
def fit(corpus, tmp_path, one_thread):
    """``fit(training, name, **options)``: a run of the small VAE from a recipe file."""

    def run(training=None, name="run", **options):
        tree = {**VAE, "data": {**VAE["data"], "corpus": corpus}, "training": training or VAE["training"]}
        recipe = tmp_path / "small.yaml"
        recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return pt.fit(str(recipe), out=tmp_path / name, **options)

    return run


def records(run, split):
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def stored(run):
    return yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))


def test_epochs_are_as_many_steps_as_there_are_batches(fit):
    run = fit()
    assert [r["step"] for r in records(run, "train")] == list(range(1, 2 * BATCHES + 1))
    assert [r["step"] for r in records(run, "valid")] == [BATCHES, 2 * BATCHES]
    assert run.finished
    training = stored(run)["training"]
    assert (training["epochs"], training["steps"], training["validate_every"]) == (2, None, "epoch")
    assert "mutual_information" in records(run, "valid")[0]["monitor"]
    longer = pt.fit(resume=run.folder, set={"training.epochs": 3})
    assert longer.finished
    assert records(longer, "train")[-1]["step"] == 3 * BATCHES
    assert not pt.Run(run.folder, load_config(str(run.folder / "config.yaml"), {"training.epochs": 4})).finished


def test_a_number_of_steps_replaces_the_epochs_and_the_other_way_round(fit):
    run = fit(steps=3)
    assert records(run, "train")[-1]["step"] == 3
    assert run.finished
    assert (stored(run)["training"]["steps"], stored(run)["training"]["epochs"]) == (3, None)
    resumed = pt.fit(resume=run.folder, set={"training.epochs": 1})
    assert records(resumed, "train")[-1]["step"] == BATCHES
    assert recipe_tree("words", {"training.epochs": 7})["training"].get("steps") is None


def test_schedules_in_epochs_reach_the_trainer(fit):
    beta = {"name": "linear", "epochs": 1, "start": 0.5}
    rate = {"name": "restarts", "value": 0.01, "period_epochs": 2, "plateau_epochs": 1}
    train = records(fit({**VAE["training"], "beta": beta, "lr": rate}), "train")
    assert [r["beta"] for r in train] == pytest.approx([0.5 + 0.1 * n for n in range(5)] + [1.0] * 5)
    assert [r["lr"] for r in train] == pytest.approx([0.01] * 5 + [0.005] * 5)


def test_an_epoch_is_the_texts_once_whatever_an_update_gathers(fit):
    """Five batches an epoch, two an update: two epochs are five updates, and one epoch of a schedule is 2.5."""
    beta = {"name": "linear", "epochs": 1, "start": 0.5}
    run = fit({**VAE["training"], "accumulate": 2, "beta": beta})
    train = records(run, "train")
    assert [r["beta"] for r in train] == pytest.approx([0.5, 0.7, 0.9, 1.0, 1.0])
    assert [r["step"] for r in records(run, "valid")] == [3, 5], "after an epoch and half of an update, and at the end"
    assert run.finished
    assert ", 2 batches an update; adam |" in (run.folder / "report.md").read_text(encoding="utf-8")
    child = run.swap_guide("pooled", steps=1)
    assert child.config.training.accumulate == 2


@pytest.mark.parametrize("accumulate", [1, BATCHES])
def test_each_text_is_seen_once_an_epoch(fit, monkeypatch, accumulate):
    seen, drawn = [], build.EpochBatches.__next__

    def keeping(stream):
        batch = drawn(stream)
        seen.extend(tuple(row) for row, weight in zip(batch.tokens.tolist(), batch.weights, strict=True) if weight > 0)
        return batch

    monkeypatch.setattr(build.EpochBatches, "__next__", keeping)
    training = {**VAE["training"], "epochs": 3, "accumulate": accumulate, "checkpoint_every": "epoch"}
    run = fit(training)
    assert records(run, "train")[-1]["step"] == 3 * BATCHES // accumulate
    checked = len(seen) - 3 * 70
    assert 0 < checked <= 16, "one batch checked the programs, and was given back"
    once = Counter(seen[-70:])
    assert Counter(seen[checked:]) == Counter({text: 3 * count for text, count in once.items()})


def test_epochs_in_updates():
    assert [Epoch(10).updates(n) for n in (0, 1, 3)] == [0, 10, 30]
    assert [Epoch(10, 4).updates(n) for n in (0, 1, 2, 3, 4)] == [0, 3, 5, 8, 10], "each text seen so often, or more"
    assert (Epoch(10, 5).length, Epoch(10, 4).length, Epoch(3, 8).length) == (2, 2.5, 0.375)
    section = TrainingSection(epochs=4, accumulate=4, decay={"from_epoch": 3}, validate_every="epoch", log_every=7)
    options = section.in_stages()[0].in_steps(10)
    assert (options.steps, options.validate_every, options.log_every, options.accumulate) == (10, 3, 7, 4)
    assert options.decay.from_step == 8
    cycles = {"name": "cyclical", "period_epochs": 2, "hold": 0.5, "rise": 0.25, "start": 1e-5}
    beta = TrainingSection(epochs=4, accumulate=4, beta=cycles).in_stages()[0].in_steps(10).beta
    assert [beta(step) for step in range(6)] == pytest.approx([1e-5, 1e-5, 1e-5, 0.400006, 1.0, 1e-5])


def test_pretraining_and_free_bits_in_two_stages(fit):
    run = fit(PRETRAINED)
    train = records(run, "train")
    assert [r["stage"] for r in train] == ["autoencoder"] * BATCHES + ["fbp"] * 2 * BATCHES
    assert [r["beta"] for r in train[BATCHES:]] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8] + [1.0] * 5)
    assert all(math.isfinite(r["loss"]) for r in train)
    first, *rest = records(run, "valid")
    assert (first["stage"], [r["stage"] for r in rest]) == ("autoencoder", ["fbp", "fbp"])
    assert run.finished
    assert load_config(str(run.folder / "config.yaml")) == run.config
    assert stored(run)["training"]["stages"] == PRETRAINED["stages"], "what was not given is not written down as given"
    stages = "autoencoder: 1 epochs of reconstruction; fbp: 2 epochs of free-bits:8:dimension"
    shown = f"| training | {stages}, β linear, epochs 1, start 0, model anew; adam |"
    assert shown in (run.folder / "report.md").read_text(encoding="utf-8")


def test_a_training_is_described_by_its_stages():
    assert TrainingSection(steps=3, beta=0.5).described("elbo") == ["3 steps of elbo, β 0.5"]
    assert TrainingSection(epochs=3, update="aggressive").described("elbo") == ["3 epochs of elbo, aggressive updates"]
    alternating = TrainingSection(stages=[{"name": "a", "steps": 2000, "update": "aggressive"}])
    assert alternating.described("elbo") == ["a: 2,000 steps of elbo, aggressive updates"]


def test_advice_names_recipes_for_the_data_that_are_trained_on():
    assert load_config("verses-vae").cures == "verses-vae"
    assert load_config("verses-vae", {"data.corpus": "mine.txt"}).cures == ""
    assert load_config("ptb-vae", {"data.corpus": "/data/ptb"}).cures == "ptb-vae"


def test_stopped_runs_of_stages_equal_uninterrupted_ones(fit, monkeypatch):
    """The real streams, guide and optimizer: killed in the first stage, at its end, and in the second."""
    whole = fit(PRETRAINED, "whole")
    for stop in (2, BATCHES, 8):
        with pytest.raises(KeyError):
            fit(PRETRAINED, f"part-{stop}", progress=Stopping(stop))
        part = pt.fit(resume=whole.folder.with_name(f"part-{stop}"))
        assert weights(part).keys() == weights(whole).keys()
        assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(part).items())
        assert [r["bound"] for r in records(part, "train")] == [r["bound"] for r in records(whole, "train")]


def weights(run):
    state = torch.load(run.folder / f"checkpoints/step-{3 * BATCHES:08d}.pt", weights_only=True)["state"]
    return state["parameters"]


def test_a_reset_draws_other_parameters_the_same_ones_for_the_same_seed(fit):
    config = fit(steps=1).config
    start, one, again, other = (build.build_programs(config, Vocabulary(19), stage) for stage in (0, 1, 1, 2))
    for program in ("model", "guide"):
        states = [getattr(p, program).state_dict() for p in (start, one, again, other)]
        name = next(iter(states[0]))
        assert torch.equal(states[1][name], states[2][name])
        assert not torch.equal(states[0][name], states[1][name])
        assert not torch.equal(states[1][name], states[3][name])
    seeded = build.build_programs(config.model_copy(update={"seed": 1}), Vocabulary(19), 1).model.state_dict()
    assert not all(torch.equal(seeded[k], v) for k, v in one.model.state_dict().items())


def test_aggressive_training_and_decay_by_their_keys(fit):
    training = {**VAE["training"], "update": "aggressive", "optimizer": "sgd", "lr": 0.5}
    run = fit({**training, "decay": {"patience": 1, "from_epoch": 0, "limit": 1}})
    assert records(run, "train")[0]["encoder_updates"] >= 30
    with pytest.raises(RunFolderError, match=r"stages: .*aggressive.* in the checkpoint, 'not set' now"):
        pt.fit(resume=run.folder, set={"training.update": "joint", "training.epochs": 3})


def test_stages_share_a_length_that_is_set_for_all_of_them():
    def divided(lengths, **changes):
        stages = [{"name": str(n), **length} for n, length in enumerate(lengths)]
        tree = {"steps": None, "stages": stages}
        tree |= changes
        replace_length(tree, changes)
        return [{k: v for k, v in stage.items() if k != "name"} for stage in tree["stages"]]

    assert divided([{"epochs": 10}, {"epochs": 20}], steps=30) == [{"steps": 10}, {"steps": 20}]
    assert divided([{"epochs": 1}, {"epochs": 99}], steps=4) == [{"steps": 1}, {"steps": 3}]
    assert divided([{"steps": 99}, {"steps": 1}, {"steps": 1}], epochs=3) == [{"epochs": 1}] * 3
    mixed = [{"epochs": 1}, {"epochs": 3}, {"steps": 9}]
    assert divided(mixed, steps=21) == [{"steps": 3}, {"steps": 9}, {"steps": 9}]
    assert divided(mixed, steps=11) == [{"steps": 1}, {"steps": 1}, {"steps": 9}]
    assert divided(mixed, steps=10) == [{"steps": 3}, {"steps": 3}, {"steps": 4}], "nine leave too few"
    assert divided(mixed, epochs=4) == mixed, "steps are no epochs"
    assert divided([{"epochs": 5}] * 2, steps=1) == [{"epochs": 5}] * 2


def test_a_run_in_stages_is_not_lengthened_by_steps(fit):
    run = fit(PRETRAINED, steps=3)
    assert [r["stage"] for r in records(run, "train")] == ["autoencoder", "fbp", "fbp"]
    with pytest.raises(UserError, match=r"trained in stages.* training.stages of .*resume without --steps"):
        pt.fit(resume=run.folder, steps=9)


def test_a_guide_is_swapped_into_a_run_of_epochs_and_stages(fit, tmp_path):
    run = fit(PRETRAINED)
    child = run.swap_guide("pooled", steps=4, out=tmp_path / "child")
    training = child.config.training
    assert (training.steps, training.epochs, training.stages) == (4, None, ())
    assert training.beta == {"name": "linear", "epochs": 0.4, "start": 0.0}, "4 steps of 10"
    assert child.config.objective == "free-bits:8:dimension"
    assert child.finished


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_takes_a_number_of_steps(name):
    training = load_config(name, {"training.steps": 4}).training
    assert sum(stage.steps for stage in training.in_stages()) == 4


STAGE = {"name": "a", "epochs": 1}
BAD = {
    "both lengths": ({"steps": 3, "epochs": 2}, "'training': steps (3) and epochs (2) are one length in two units"),
    "no length": ({}, "'training': it has no length; give steps: N, or epochs: N for a corpus of sentences"),
    "epochs no number": ({"epochs": "many"}, "'training.epochs': expected a valid integer; got 'many'"),
    "interval": (
        {"epochs": 1, "log_every": "epochs"},
        "'training.log_every': expected a number of steps from 1 to 1000000000, or the word epoch; got 'epochs'",
    ),
    "interval of 0": ({"epochs": 1, "validate_every": 0}, "or the word epoch; got 0"),
    "unknown stage key": (
        {"stages": [STAGE, {"name": "b", "epoch": 2, "steps": 3}]},
        "unknown key 'training.stages.1.epoch' (did you mean 'training.epochs'?)"[:46],
    ),
    "stage without length": (
        {"stages": [STAGE, {"name": "b"}]},
        "'training.stages.1': stage 'b' has no length; give it steps: N or epochs: N",
    ),
    "stage without name": ({"stages": [{"epochs": 2}]}, "'training.stages.0.name' is missing"),
    "stages of one name": ({"stages": [STAGE, STAGE]}, "'training': stages need different names; got a, a"),
    "unknown program": (
        {"stages": [STAGE, {"name": "b", "steps": 3, "reset": ["decoder"]}]},
        "'training.stages.1.reset.0': expected 'model' or 'guide'; got 'decoder'",
    ),
    "reset at first": (
        {"stages": [{**STAGE, "reset": ["model"]}]},
        "stage 'a' is the first, so that there is nothing to reset",
    ),
    "sum of the stages": (
        {"epochs": 3, "stages": [STAGE, {"name": "b", "epochs": 1}]},
        "epochs: 3 is not the sum of its stages (1 epochs, 1 epochs); leave epochs out, or mend it",
    ),
    "decay key": (
        {"epochs": 1, "decay": {"patients": 3}},
        "unknown key 'training.decay.patients' (did you mean 'patience'?); known here: factor, patience, from_epoch",
    ),
    "decay value": ({"epochs": 1, "decay": {"factor": 2.0}}, "'training.decay.factor': expected less than 1; got 2.0"),
    "update": ({"epochs": 1, "update": "fierce"}, "'training.update': expected 'joint' or 'aggressive'; got 'fierce'"),
    "aggressive and frozen": (
        {"epochs": 1, "update": "aggressive", "train": "guide.reader"},
        "'training': update: aggressive trains guide and model in turn, and train: [guide.reader] leaves only one",
    ),
    "aggressive of several batches": (
        {"epochs": 1, "update": "aggressive", "accumulate": 2},
        "'training': update: aggressive makes each update of one batch; use accumulate: 1, or update: joint",
    ),
    "no batch an update": ({"epochs": 1, "accumulate": 0}, "'training.accumulate': expected greater than 0; got 0"),
    "reset and frozen": (
        {"train": ["guide"], "stages": [STAGE, {"name": "b", "epochs": 1, "reset": ["model"]}]},
        "'training': stage 'b' resets the model, which train: [guide] then leaves as it is",
    ),
    "train nothing": (
        {"epochs": 1, "train": []},
        "'training.train': expected names of submodules, e.g. [guide] or [mod",
    ),
    "optimizer of a stage": (
        {"stages": [STAGE, {"name": "b", "epochs": 1, "optimizer": "adamm"}]},
        "'training.stages.1.optimizer': expected 'adam', 'adamw', 'soap' or 'sgd'; got 'adamm'",
    ),
    "betas of a stage": (
        {"stages": [STAGE, {"name": "b", "epochs": 1, "optimizer": "sgd", "betas": [0.9, 0.9]}]},
        "'training': betas are the decay rates of adam, adamw and soap; leave them out for optimizer: sgd",
    ),
    "weight decay of adam": (
        {"epochs": 1, "weight_decay": 0.01},
        "'training': weight_decay (0.01) is a setting of adamw, and optimizer: adam has none; leave it out, or use",
    ),
    "weight decay below 0": (
        {"epochs": 1, "optimizer": "adamw", "weight_decay": -0.1},
        "'training.weight_decay': expected greater than or equal to 0; got -0.1",
    ),
    "freeze": ({"epochs": 1, "freeze": "guide"}, "'training': freeze: expected 'none' or 'model'; got 'guide'"),
    "freeze and train": (
        {"epochs": 1, "freeze": "model", "train": ["guide"]},
        "'training': freeze is an older word for train; give train alone",
    ),
    "schedule in two units": (
        {"epochs": 1, "beta": {"name": "linear", "start": 0, "epochs": 2, "steps": 3}},
        "'training.beta': schedule 'linear': 'epochs' and 'steps' are one argument in two units",
    ),
}


@pytest.mark.parametrize(("training", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told_in_one_message(training, message, tmp_path):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(yaml.safe_dump({**VAE, "training": training}), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_config(str(recipe))
    assert message in str(caught.value)
    assert len(caught.value.lines) == 1


WORD_LIST = {
    "epochs": ({"training.steps": None, "training.epochs": 2}, "training.epochs: a word list is drawn from without"),
    "interval": ({"training.log_every": "epoch"}, "training.log_every: a word list is drawn from without end"),
    "decay": ({"training.decay": {}}, "decay.from_epoch: a word list .*; write from_epoch: 0"),
    "schedule": (
        {"training.beta": {"name": "linear", "start": 0.0, "epochs": 1}},
        "schedule 'linear': 'epochs': a word list is drawn from without end and has no epochs; give 'steps'",
    ),
    "aggressive": ({"training.update": "aggressive"}, "this deep_state_space has no latent of a sentence"),
    "stage's objective": (
        {"training.stages": [{"name": "a", "steps": 20, "objective": "iwea:3"}]},
        "unknown objective 'iwea'",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WORD_LIST.values(), ids=WORD_LIST)
def test_what_a_word_list_has_not_is_told_before_anything_is_written(changes, message, tiny, tmp_path):
    with pytest.raises(UserError, match=message):
        pt.fit(set={**tiny, **changes}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_guide_without_parameters_is_not_trained_aggressively(fit, tmp_path):
    training = {**VAE["training"], "update": "aggressive"}
    with pytest.raises(UserError, match="the guide has no parameter to train; use update: joint"):
        fit(training, guide="prior")
    with pytest.raises(UserError, match="this sentence_vae has no latent of a sentence"):
        fit(training, guide="exact", set={"model.latent_dim": 0}, objective="elbo")
    assert not (tmp_path / "run").exists()


def test_a_stage_inherits_what_it_does_not_name():
    section = TrainingSection(
        lr=0.5,
        clip_norm=None,
        patience=4,
        stages=[{"name": "a", "steps": 3, "patience": None}, {"name": "b", "steps": 2}],
    )
    first, second = section.in_stages()
    assert (first.lr, first.clip_norm, first.patience, first.steps) == (0.5, None, None, 3)
    assert (second.patience, second.steps, second.epochs) == (4, 2, None)
    section = TrainingSection(
        betas=(0.8, 0.9), stages=[{"name": "a", "steps": 1}, {"name": "b", "steps": 1, "optimizer": "sgd"}]
    )
    assert [(own.optimizer, own.betas) for own in section.in_stages()] == [("adam", (0.8, 0.9)), ("sgd", None)]
    assert section.described("elbo") == ["a: 1 steps of elbo, by adam", "b: 1 steps of elbo, by sgd"]
    assert (section.one_optimizer, TrainingSection(steps=1).one_optimizer) == ([], ["adam"])
    stages = [{"name": "a", "steps": 1}, {"name": "b", "steps": 1, "optimizer": "adam"}]
    decaying = TrainingSection(optimizer="adamw", weight_decay=0.1, stages=stages)
    assert [own.weight_decay for own in decaying.in_stages()] == [0.1, 0.0]
    with pytest.raises(ConfigError, match=r"training\.epochs: a word list"):
        TrainingSection(epochs=2).in_stages()[0].in_steps(None)


def test_weight_decay_reaches_the_optimizer_and_may_change_between_stages(fit):
    training = {
        **VAE["training"],
        "epochs": None,
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "checkpoint_every": BATCHES,
    }
    stages = [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 1, "weight_decay": 0.2}]
    run = fit({**training, "stages": stages})
    for number, decay in ((1, 0.1), (2, 0.2)):
        path = run.folder / f"checkpoints/step-{number * BATCHES:08d}.pt"
        state = torch.load(path, weights_only=True)["state"]
        assert state["rule"] == "AdamW"
        assert [group["weight_decay"] for group in state["optimizer"]["param_groups"]] == [decay, 0.0]
    assert run.swap_guide("pooled", steps=2).config.training.weight_decay == 0.2


PARTS = {
    "default": ({}, ("model", "guide"), {}),
    "old and free": ({"freeze": "none"}, ("model", "guide"), {}),
    "old and frozen": ({"freeze": "model"}, ("guide",), {"freeze": "model"}),
    "the guide": ({"train": "guide"}, ("guide",), {"freeze": "model"}),
    "a part": ({"train": ["network"]}, ("network",), {"train": "[('network',)]"}),
    "everything and more": ({"train": ["guide", "model", "guide.reader"]}, ("model", "guide"), {}),
}


@pytest.mark.parametrize(("said", "train", "identity"), PARTS.values(), ids=PARTS)
def test_what_is_trained_is_read_from_old_and_new_words_and_is_part_of_a_checkpoints_identity(
    said, train, identity, corpus, tmp_path
):
    recipe = tmp_path / "parts.yaml"
    tree = {**VAE, "data": {**VAE["data"], "corpus": corpus}, "training": {**VAE["training"], **said}}
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    config = load_config(str(recipe))
    assert config.training.train == train
    found = build.identity(config, build.load_data(config))
    assert {key: found[key] for key in ("freeze", "train") if key in found} == identity
    assert "freeze" not in yaml.safe_load(config.to_yaml())["training"]
    changed = load_config(str(recipe), {"training.train": ["guide"]})
    assert changed.training.train == ("guide",)
    assert load_config(str(recipe), {"training.freeze": "none"}).training.train == ("model", "guide")


def test_a_stage_trains_the_part_that_it_names(fit):
    """A code book or a prior after the rest, say; here the decoder's map from z to its first state."""
    stages = [{"name": "all", "epochs": 1}, {"name": "part", "epochs": 1, "train": ["network.bridge"]}]
    run = fit({**VAE["training"], "epochs": None, "stages": stages, "checkpoint_every": BATCHES})
    first, last = (
        torch.load(run.folder / f"checkpoints/step-{n * BATCHES:08d}.pt", weights_only=True)["state"]["parameters"]
        for n in (1, 2)
    )
    moved = {name for name, value in last.items() if not torch.equal(value, first[name])}
    assert moved == {name for name in last if name.startswith("model.network.bridge")}
    assert "part: 1 epochs of elbo-analytic, network.bridge alone" in (run.folder / "report.md").read_text()
    with pytest.raises(UserError, match=r"train: there is no 'decoder'.*Submodules are model, model\.network"):
        fit({**VAE["training"], "train": ["decoder"]}, "other")
    assert not run.folder.with_name("other").exists()


def test_a_batch_normalised_guide_is_judged_by_statistics_of_its_own_weights(fit, tmp_path):
    """Swapped in and refitted: the child's file holds the figures of an epoch of training texts at its weights."""
    child = fit(steps=2).swap_guide("batch-norm", steps=6, set={"training.lr": 0.05}, out=tmp_path / "child")
    guide, batches = child.guide, build.statistics_batches(child.config, child.corpus)
    assert sum(int((batch.weights > 0).sum()) for batch in batches) == 70, "every training text once"
    means = [guide.projection(guide.summary(batch)).chunk(2, -1)[0][batch.weights > 0] for batch in batches]
    assert torch.allclose(guide.norm.running_mean, torch.cat(means).mean(0), rtol=1e-4, atol=1e-6)
    assert torch.allclose(guide.norm.running_variance, torch.cat(means).var(0), rtol=1e-4)
