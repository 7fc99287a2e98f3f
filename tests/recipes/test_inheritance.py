"""``extends``: what a recipe is made of."""

import pytest

from ppl_text.core.errors import ConfigError, UnknownNameError
from ppl_text.recipes import compositions, part_names, recipe_names
from ppl_text.recipes.config import load_config
from ppl_text.recipes.tree import _named, extended, read_recipe

TREES = {
    "base": {"model": {"family": "f", "width": 1}, "training": {"lr": {"name": "linear", "start": 1}}, "seed": 3},
    "wide": {"model": {"width": 9}},
    "late": {"extends": ["base", "wide"], "training": {"lr": {"name": "constant"}}},
    "ring": {"extends": "round"},
    "round": {"extends": ["base", "ring"]},
}


def merged(name):
    return extended({"recipe": name, **TREES[name]}, f"recipe '{name}'", TREES.__getitem__)


def test_later_names_win_and_the_own_values_over_all():
    assert merged("late") == {
        "recipe": "late",
        "model": {"family": "f", "width": 9},
        "training": {"lr": {"name": "constant"}},  # a schedule is replaced as a whole
        "seed": 3,
    }
    assert TREES["base"]["model"] == {"family": "f", "width": 1}


def test_a_circle_is_named():
    with pytest.raises(ConfigError, match=r"goes in a circle: round -> ring -> round"):
        merged("ring")


@pytest.mark.parametrize("value", [3, [1], {"a": 1}])
def test_what_is_no_name_is_refused(value):
    with pytest.raises(ConfigError, match="must be the name of a recipe or a list of names"):
        extended({"extends": value}, "recipe 'x'", TREES.__getitem__)


def test_a_file_extends_a_recipe_by_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: words\nmodel:\n  state_dim: 12\n", encoding="utf-8")
    config, base = load_config(str(path)), load_config("words")
    assert config.recipe == "mine"
    assert config.model.options == {**base.model.options, "state_dim": 12}
    assert config.training == base.training
    path.write_text("extends: wrods\n", encoding="utf-8")
    with pytest.raises(UnknownNameError, match="unknown recipe 'wrods' \\(did you mean 'words'"):
        read_recipe(str(path))


def test_parts_are_no_recipes_by_themselves():
    assert part_names()
    assert not set(part_names()) & set(recipe_names())


def test_a_recipe_of_corpus_and_procedure_needs_no_file():
    """What the corpus has for the procedure wins over both parts."""
    config = load_config("verses-anneal")
    assert config.description == "King James verses, small: LSTM-VAE, β rises linearly from 0.1 to 1"
    assert config.data.corpus == "verses"
    assert config.training.beta == {"name": "linear", "start": 0.1, "end": 1.0, "epochs": 4}
    assert load_config("ptb-anneal").training.beta["epochs"] == 10
    assert load_config("ptb-small-davam-q").model.options["prior_width"] == 64
    both = load_config("ptb-codes-sentence")
    assert both.model.options["output_dim"] == 243, "of on-ptb"
    assert [stage.epochs for stage in both.training.stages] == [50, 50], "of public-baselines, which it extends"
    of_corpus = {
        corpus: {parts.procedure for parts in compositions().values() if parts[:2] == corpus}
        for corpus in {parts[:2] for parts in compositions().values()}
    }
    texts, pairs = of_corpus["texts", "on-verses"], of_corpus["pairs", "on-pairs"]
    assert texts == of_corpus["texts", "on-yahoo"] != pairs == of_corpus["pairs", "on-plays"]
    assert not texts & pairs, "no procedure is for texts and for pairs of texts"


def test_parts_of_one_name_stand_in_their_folders():
    assert {"texts/on-verses", "transformers/on-verses"} <= set(part_names())
    assert load_config("verses-anneal").data.options["vocabulary"] == 3000
    assert load_config("verses-della").data.options["vocabulary"] == 4000
    assert extended({"extends": "on-verses"}, "a recipe", _named)["data"]["vocabulary"] == 3000, "the first"
    assert extended({"extends": "transformers/on-verses"}, "a recipe", _named)["data"]["vocabulary"] == 4000
    with pytest.raises(UnknownNameError, match="unknown recipe 'pairs/on-verses'"):
        extended({"extends": "pairs/on-verses"}, "a recipe", _named)


def test_a_recipe_leaves_out_options_of_what_it_extends():
    trees = {
        "base": {"model": {"width": 2, "tied": True}},
        "part": {"without": "model.tied", "model": {"depth": 1}},
        "both": {"extends": ["base", "part"]},
    }
    found = extended({"extends": "both", "model": {"width": 3}}, "recipe 'x'", trees.__getitem__)
    assert found == {"model": {"width": 3, "depth": 1}}
    with pytest.raises(ConfigError, match="'without' must be the name of an option"):
        extended({"without": 3}, "recipe 'x'", trees.__getitem__)
