"""``extends``: what a recipe is made of."""

import pytest

from ppl_text.core.errors import ConfigError, UnknownNameError
from ppl_text.recipes import part_names, recipe_names
from ppl_text.recipes.config import load_config
from ppl_text.recipes.tree import extended, read_recipe

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
