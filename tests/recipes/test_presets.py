"""Presets: what ``preset=paper`` sets, that single values can be put back, and that a run only keeps a record of it."""

import pytest
import yaml

from guides import GUIDES
from ppl_text.core.errors import UnknownNameError
from ppl_text.core.registry import Registry
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.distributions.transforms import ClipOutside
from ppl_text.models import MODELS
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config, recipe_tree
from ppl_text.recipes.tree import described

PAPER = {"model.diagonal": "clip", "model.masks": "paper", "objective": "elbo"}


def presets(family):
    return getattr(Registry("model family", MODELS).load(family), "presets", ())


def values(config):
    return {
        "model.diagonal": config.model.options.get("diagonal"),
        "model.masks": config.model.options.get("masks"),
        "objective": config.objective,
    }


def test_paper_sets_what_the_paper_has():
    config = load_config("words", {"preset": "paper"})
    assert config.preset == "paper"
    assert values(config) == PAPER
    model = build.build_programs(config, Vocabulary(29)).model
    assert isinstance(model.transition.family.positive, ClipOutside)


def test_recipes_are_corrected_as_they_stand():
    assert load_config("words", {"preset": "corrected"}) == load_config("words")
    assert load_config("words").preset == "corrected"


@pytest.mark.parametrize("order", [["preset", "objective"], ["objective", "preset"]])
def test_single_values_win_over_the_preset_in_any_order(order):
    given = {"preset": "paper", "objective": "stepwise:5"}
    config = load_config("words", {key: given[key] for key in order})
    assert config.objective == "stepwise:5"
    assert config.model.options["diagonal"] == "clip"


def test_a_stored_configuration_keeps_what_was_put_back(tmp_path):
    config = load_config("words", {"preset": "paper", "model.diagonal": "softplus+delta"})
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(str(path)) == config
    assert load_config(str(path), {"preset": "paper"}) == config
    back = load_config(str(path), {"preset": "corrected"})
    assert back.preset == "corrected"
    assert values(back) == {"model.diagonal": "softplus+delta", "model.masks": "halves", "objective": "elbo-analytic"}


def test_the_way_back_leaves_what_a_user_chose(tmp_path):
    config = load_config("words", {"preset": "paper", "objective": "stepwise:5"})
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    back = load_config(str(path), {"preset": "corrected"})
    assert back.objective == "stepwise:5"
    assert back.model.options["diagonal"] == "softplus+delta"


def test_a_family_without_presets_is_left_alone():
    given, plain = load_config("words-gru8", {"preset": "paper"}), load_config("words-gru8")
    assert given.model_copy(update={"preset": "corrected"}) == plain


def test_an_unknown_preset_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        recipe_tree("words", {"preset": "papre"})


def test_every_key_of_a_preset_is_one_that_the_family_takes():
    with_presets = {family: choices for family in MODELS if (choices := [c for c in presets(family) if c.trained])}
    assert with_presets
    for family, choices in with_presets.items():
        tree = {
            "model.family": family,
            "guide.name": next(iter(GUIDES[family])),
            **{c.key: c.corrected for c in choices},
        }
        build.check_programs(load_config("words", tree))
        build.build_objective(load_config("words", tree))


def test_explain_says_what_both_presets_are_and_why(ppl, tiny_arguments):
    done = ppl("explain", "words", *tiny_arguments, "--set", "preset=paper")
    assert done.status == 0, done.err
    assert "Preset paper (change with --set preset=NAME):" in done.out
    for key, paper, corrected, why in described(presets("deep_state_space")):
        line = next(line for line in done.out.splitlines() if line.strip().startswith(key))
        assert paper in line
        assert corrected in line
        assert why in line
    assert yaml.safe_load(done.out.split("(change with --set KEY=VALUE):")[1])["preset"] == "paper"
    assert {c.key for c in presets("deep_state_space") if not c.trained} == {"cross-entropy", "entropy gap"}
