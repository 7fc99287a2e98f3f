"""The verdict on the latents, and the monitor that gives it during training."""

import json
import math
import re
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_text import recipes
from ppl_text.comparing.verdict import is_collapsed as of_comparisons
from ppl_text.data.batches import EvaluationSet
from ppl_text.evaluation.collapse import (
    SENTENCES,
    CollapseMonitor,
    Cures,
    condition,
    is_collapsed,
    options,
    siblings,
    verdict,
)
from ppl_text.evaluation.likelihood import measuring
from ppl_text.evaluation.sentences import chosen_rows, common_sentences, subset
from ppl_text.measures.base import Subject
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config

from .test_information import NORMAL, N, Program, sentences, x_of
from .test_latents import Model, closed
from .test_scores import Path as PathModel

CONDITIONS = {
    "no KL": ((0.0999, 0.0999, 5.0, 3, 32), "collapsed"),
    "no unit": ((3.0, 2.9, 5.0, 0, 32), "collapsed"),
    "just above": ((0.1, 0.1, 5.0, 16, 32), "in use"),
    "idle": ((8.0, 2.4, 5.0, 32, 32), "idle"),
    "at the cap": ((30.0, 4.9, 5.0, 32, 32), "in use"),
    "half of the KL": ((4.0, 2.0, 5.0, 16, 32), "in use"),
    "few units": ((4.0, 3.9, 5.0, 15, 32), "partly collapsed"),
    "not real": ((4.0, 3.9, 5.0, None, 32), "in use"),
    "point": ((math.inf, 5.0, 5.0, 0, 32), "point mass"),
    "one sentence": ((0.45, 0.0, 0.0, None, 32), "unknown"),
    "no number": ((math.nan, 0.3, 5.0, 32, 32), "unknown"),
    "undefined information": ((4.0, math.nan, 5.0, 32, 32), "unknown"),
    "no KL, whatever the information": ((0.05, math.nan, 5.0, 32, 32), "collapsed"),
}


@pytest.mark.parametrize(("figures", "expected"), CONDITIONS.values(), ids=CONDITIONS)
def test_conditions(figures, expected):
    assert condition(*figures) == expected
    assert verdict(*figures).startswith(f"latents {expected} (")


def test_what_the_information_is_a_share_of_is_said():
    """Near the cap it is half of what can be seen, and not of the KL."""
    assert "50% or more of the KL is mutual information" in verdict(4.0, 2.0, 5.0, 32, 32)
    assert "50% or more of what these sentences can show is mutual information" in verdict(40.0, 2.8, 5.0, 32, 32)


def test_an_infinite_kl_is_no_collapse_on_the_prior():
    assert not is_collapsed(math.inf, 0)
    assert is_collapsed(3.0, 0)


def test_comparisons_share_the_threshold():
    assert of_comparisons is is_collapsed


ADVICE = {
    "of a family": ("collapsed", "verses-vae", "recipe verses-fbp, verses-bn or verses-cyclical."),
    "not itself": ("collapsed", "ptb-bn", "recipe ptb-fbp or ptb-cyclical."),
    "idle": ("idle", "snli-fbp", "recipe snli-aggressive or snli-pretrain-fbp."),
    "a dash in the corpus": ("collapsed", "ptb-small-vae", "recipe ptb-small-fbp, ptb-small-bn or ptb-small-cyclical."),
    "point": ("point mass", "yahoo-ae", "recipe yahoo-pretrain-fbp."),
}


@pytest.mark.parametrize(("state", "recipe", "expected"), ADVICE.values(), ids=ADVICE)
def test_advice_names_what_can_be_run(state, recipe, expected):
    figures = next(figures for figures, found in CONDITIONS.values() if found == state)
    assert f"Try next: {expected}" in verdict(*figures, siblings(recipe, recipes.recipe_names()))


def test_latents_in_use_need_no_advice():
    cures = Cures({"bn": "verses-bn"}, "recipe ")
    assert "Try next" not in verdict(4.0, 3.9, 5.0, 30, 32, cures)
    assert "Try next" not in verdict(math.inf, 3.9, 5.0, 30, 32, cures), "no cure among the recipes"


@pytest.mark.parametrize("recipe", ["mine", "versesque"])
def test_options_are_advised_where_no_recipe_is_of_the_same_corpus(recipe):
    """They are understood by what they are options of; a quarter of the training is a cycle, in the training's unit."""
    import yaml

    from guides import GUIDES
    from ppl_text import objectives
    from ppl_text.recipes.config import as_schedule

    def advised(changes):
        config = load_config("verses-vae", {"data.corpus": "mine.txt", **changes}).model_copy(update={"recipe": recipe})
        return verdict(0.0, 0.0, 5.0, 0, 32, build.cures_of(config, "sentence_vae"))

    said = advised({"training.steps": 2000})
    objectives.build(re.search(r"--objective (\S+?),", said)[1])
    assert re.search(r"--guide (\S+) or", said)[1] in GUIDES["sentence_vae"]
    assert said.endswith("--set training.beta='{name: cyclical, period: 500}'.")
    schedule = as_schedule(yaml.safe_load(re.search(r"training\.beta='(.*)'", said)[1]), 2000)
    assert (schedule(0), schedule(250), schedule(500)) == (0.0, 1.0, 0.0)
    in_epochs = advised({"training.epochs": 12})
    assert "{name: cyclical, period_epochs: 3}" in in_epochs
    spec = yaml.safe_load(re.search(r"training\.beta='(.*)'", in_epochs)[1])
    assert as_schedule(spec, 1200, epoch=100)(300) == 0.0
    assert "period_epochs: 1}" in advised({"training.epochs": 2}), "a cycle has one epoch at least"


@pytest.mark.parametrize("corpus", ["mine.txt", "verses"])
def test_no_guide_and_no_recipe_of_another_family_is_advised(corpus):
    """Neither by name nor through the recipes of the corpus, which train sentence VAEs."""
    said = verdict(0.0, 0.0, 5.0, 0, 8, build.cures_of(load_config("verses-vae", {"data.corpus": corpus}), "own"))
    assert "--objective free-bits:8:dimension or --set training.beta=" in said
    assert "batch-norm" not in said
    assert "verses-" not in said
    assert "batch-norm" in options(["batch-norm"], "period: 9").ways["bn"]


def test_texts_are_called_what_the_corpus_calls_them():
    assert "or there are not two words to tell apart" in verdict(0.4, 0.0, 0.0, None, 8, noun="word")
    assert "50% or more of what these words can show" in verdict(40.0, 2.8, 5.0, 32, 32, noun="word")


CURES = siblings("verses-vae", recipes.recipe_names())


class Channel(nn.Module):
    """q(z_d | x) = N(slope·x_d, 0.6²) in three entries, x_d as good as independent; blind for slope 0."""

    def __init__(self, slope):
        super().__init__()
        self.slope, self.scale = slope, 0.6 if slope else 1.0

    def forward(self, batch):
        places = (batch.tokens[:, :1] - 3) * torch.tensor([1, 37, 71]) % N
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(self.slope * NORMAL[places], self.scale).to_event(1))


def watched(guide, monitor=None, model=None, seed=0):
    monitor, model = monitor or CollapseMonitor(sentences(), cures=CURES), model or Model()
    with measuring(seed, model, guide):
        return monitor(model, guide), monitor


def test_a_collapse_is_seen_and_a_cure_too():
    values, monitor = watched(Channel(0.0))
    assert monitor.remark(values) == (
        "latents collapsed (KL < 0.1 nats, none of 3 units active: the decoder ignores the latents). "
        "Try next: recipe verses-fbp, verses-bn or verses-cyclical."
    )
    values, monitor = watched(Channel(0.8))
    assert monitor.remark(values).startswith("latents in use (")
    assert values["active_units"] == values["active_units_02"] == values["latent_units"] == 3
    assert len(values["kl_by_dimension"]) == 3
    assert values["marginal_kl"] + values["mutual_information"] == pytest.approx(sum(values["kl_by_dimension"]))
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_a_remark_does_not_change_with_every_figure():
    """The trainer shows it when its text changes: only a new condition may do that."""
    remarks = [monitor.remark(values) for values, monitor in (watched(Channel(s)) for s in (0.7, 0.8, 0.9))]
    assert len(set(remarks)) == 1


def test_a_kl_that_says_nothing_is_idle():
    def moved(batch):
        pyro.sample("z", dist.Normal(3.0 + 0.15 * x_of(batch).unsqueeze(-1).expand(-1, 3), 1.0).to_event(1))

    values, monitor = watched(Program(moved))
    assert values["active_units"] == 3
    assert "latents idle" in monitor.remark(values)
    assert "verses-aggressive" in monitor.remark(values)


def test_models_without_latents_of_sentences_are_left_alone():
    values, monitor = watched(Program(closed), model=PathModel())
    assert values == {}
    assert monitor.remark(values) == ""


def test_some_of_the_validation_sentences_are_looked_at():
    """The same ones at every call, whole and with their texts; an evaluation set's filler rows are none."""
    data = sentences(rows=32)
    some = subset(data, chosen_rows(N, 50))
    assert len(some.texts) == int(some.weights.sum()) == 50
    assert [int(i) for i in some.texts] == (some.merged().tokens[:, 0] - 3).tolist()
    assert some.texts == subset(data, chosen_rows(N, 50)).texts
    assert subset(data, chosen_rows(N, N + 1)).texts == data.texts
    values, _ = watched(Channel(0.8), CollapseMonitor(data, sentences=50))
    assert values["mutual_information_cap"] == pytest.approx(math.log(50))
    batches = list(data.batches)
    weights = batches[0].weights.clone()
    weights[20:] = 0
    first = type(batches[0])(batches[0].tokens, batches[0].lengths, weights, batches[0].decoder_inputs)
    filled = EvaluationSet([first], [list(data.texts[:20])], 20.0)
    assert watched(Channel(0.8), CollapseMonitor(filled))[0]["mutual_information_cap"] == pytest.approx(math.log(20))
    assert len(common_sentences(filled).texts) == 20 < SENTENCES


def test_a_seed_gives_the_same_numbers():
    assert watched(Channel(0.8))[0] == watched(Channel(0.8))[0]
    assert watched(Channel(0.8))[0] != watched(Channel(0.8), seed=1)[0]
    assert torch.tensor(watched(Channel(0.0))[0]["kl_by_dimension"]).abs().max() < 1e-6


def test_recipes_that_are_advised_exist():
    for family in ("verses", "ptb", "yahoo", "snli"):
        for figures, _ in CONDITIONS.values():
            said = verdict(*figures, siblings(f"{family}-vae", recipes.recipe_names()))
            for name in re.findall(rf"{family}-[a-z-]+", said):
                assert name in recipes.recipe_names(), said


@pytest.mark.parametrize(("recipe", "most"), [("verses-aggressive", 300), ("verses-vae", SENTENCES)])
def test_aggressive_training_ends_by_the_information_of_all_validation_sentences(recipe, most):
    """Its mode is over when that falls: not left to the cap of a few of them. Elsewhere it only informs."""
    data = sentences(number=300)
    validation = EvaluationSet(list(data.batches), [list(data.texts)], 300.0)
    monitor = build.build_monitor(
        load_config(recipe), Subject(Model(), None, SimpleNamespace(max_steps=2, noun="verse")), validation
    )
    assert watched(Channel(0.8), monitor)[0]["mutual_information_cap"] == pytest.approx(math.log(most))
