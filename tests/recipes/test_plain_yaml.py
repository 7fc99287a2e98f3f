"""YAML of recipes: plain values and no more of them than stand there."""

import pytest

from ppl_text.core.errors import ConfigError
from ppl_text.recipes import part_names, recipe_names, recipe_text
from ppl_text.recipes.plain_yaml import ALIASES, DEEPEST, LONGEST, VALUES, parse_yaml
from ppl_text.recipes.tree import parse_assignments


def refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "here")
    return str(caught.value)


def test_plain_values_are_read():
    text = "{a: 1, b: 1e-3, c: .5E2, d: x, e: null, f: true, g: [1, 2], h: 2020-01-01, i: !!int '3', j: !!str 4}"
    values = (1, 1e-3, 50.0, "x", None, True, [1, 2], "2020-01-01", 3, "4")
    assert parse_yaml(text, "here") == dict(zip("abcdefghij", values, strict=True))


def test_a_few_aliases_are_replaced_by_what_they_stand_for():
    assert parse_yaml("{a: &x [1, 2], b: *x, c: {<<: {d: 3}}}", "here") == {"a": [1, 2], "b": [1, 2], "c": {"d": 3}}
    assert len(parse_yaml(f"[&a x{', *a' * ALIASES}]", "here")) == ALIASES + 1
    assert f"more than {ALIASES} aliases" in refused(f"[&a x{', *a' * (ALIASES + 1)}]")


def test_values_are_counted_where_aliases_stand_for_them():
    inner = f"[&a [{', '.join(['1'] * 999)}]"
    assert len(parse_yaml(f"{inner}{', *a' * 18}]", "here")) == 19
    assert f"more than {VALUES:,} values" in refused(f"{inner}{', *a' * 20}]")


def test_depth_and_length_have_limits():
    deep = "[" * (DEEPEST - 1)
    assert parse_yaml(deep + "]" * (DEEPEST - 1), "here")
    assert f"nested deeper than {DEEPEST}" in refused(f"[[{deep}")
    assert parse_yaml("#" * LONGEST, "here") is None
    assert f"expected {LONGEST:,} at most" in refused("#" * (LONGEST + 1))


def test_a_value_that_its_tag_refuses_is_shown_shortened():
    assert refused(f"a: !!int {'x' * 500}") == f"here, line 1, column 4 is not valid YAML: '{'x' * 59}…' is no !!int"


def test_a_long_assignment_is_shown_shortened():
    with pytest.raises(ConfigError) as caught:
        parse_assignments(["model.hidden=" + "[" * 3000])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("digits", ["1٢e3", "٣", "１２", "²", "1e²"])
def test_digits_of_other_scripts_make_no_number(digits):
    assert parse_yaml(digits, "here") == digits


def test_the_recipes_of_the_package_are_far_below_the_limits():
    lengths = [len(recipe_text(name)) for name in part_names()]
    assert max(lengths) < LONGEST / 4
    assert len(recipe_names()) > 20
