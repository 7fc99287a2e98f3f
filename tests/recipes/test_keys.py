"""Every key of a configuration is listed with type, default and meaning, and a recipe's values are its own."""

import inspect

import pytest

from guides import GUIDES
from ppl_text.core.registry import Registry
from ppl_text.data.options import OPTIONS
from ppl_text.recipes import build, recipe_names
from ppl_text.recipes.code import model_registry
from ppl_text.recipes.config import RunConfig, all_keys, load_config
from ppl_text.recipes.keys import NO_DEFAULT, all_keys_of, described_arguments, in_words
from ppl_text.recipes.plain_yaml import parse_yaml


@pytest.fixture(scope="module")
def every():
    return all_keys_of()


def listed(groups):
    return {key.name: key for group in groups for key in group.keys}


def test_every_key_of_the_sections_is_there_and_says_what_it_means(every):
    keys = listed(every)
    sections = set(RunConfig.model_fields) - {"model", "guide", "data", "training", "report"}
    typed = {key for key in all_keys() if not key.startswith(("training.decay", "training.stages"))}
    assert keys.keys() >= sections | typed | {"training.decay.factor", "reset"}
    for model in OPTIONS.values():
        assert {f"data.{name}" for name in model.model_fields} <= keys.keys()
    silent = [name for name, key in keys.items() if not key.meaning or not key.kind]
    assert not silent, "give the field a description, or the class an Args: section"


def test_every_option_of_every_model_and_guide_is_there(every):
    titles = {group.title: {key.name for key in group.keys} for group in every}
    for family in model_registry().names():
        kinds = {f"model, family {family}": model_registry().load(family)}
        kinds |= {
            f"guide {name}, for {family}": Registry("guide", GUIDES[family]).load(name) for name in GUIDES[family]
        }
        for title, kind in kinds.items():
            options = list(inspect.signature(kind).parameters)[1:]
            assert titles.get(title, set()) == {f"{title.partition(',')[0].split()[0]}.{name}" for name in options}


def test_types_and_defaults_are_those_that_validate(every):
    keys = listed(every)
    kinds = {
        "seed": ("integer ≥ 0", "0"),
        "data.unit": ("word-list | sentences", "word-list"),
        "data.corpus": ("string", NO_DEFAULT),
        "data.max_tokens": ("integer ≥ 1, or null", "null"),
        "data.word_dropout": ("number ≥ 0 < 1", "0"),
        "training.validate_every": ("integer > 0, or epoch", "500"),
        "training.lr": ("number or schedule", "0.001"),
        "model.hidden": ("list of integer", "[64, 64]"),
    }
    assert {name: (keys[name].kind, keys[name].default) for name in kinds} == kinds


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_shows_its_effective_values(recipe):
    config = build.effective(load_config(recipe))
    keys = listed(all_keys_of(config))
    for section in ("data", "model", "guide"):
        values = getattr(config, section).model_dump(mode="json")
        assert {name for name in keys if name.startswith(f"{section}.")} == {f"{section}.{name}" for name in values}
        for name, value in values.items():
            assert parse_yaml(keys[f"{section}.{name}"].value, name) == value, name
    assert keys["report.particles"].value == str(config.report.particles)


def test_the_command_prints_them(ppl):
    ended = ppl("list", "options", "verses-vae", "--set", "model.hidden_dim=99")
    assert ended.status == 0, ended.err
    (line,) = (line.split() for line in ended.out.splitlines() if line.strip().startswith("model.hidden_dim"))
    assert line[:4] == ["model.hidden_dim", "integer", "256", "99"]
    assert "data, unit sentences:" in ended.out
    assert "data.min_length" not in ended.out, "that is for words"
    assert "data.min_length" in ppl("list", "options").out
    assert "did you mean 'verses-vae'" in ppl("list", "options", "verse-vae").err
    for wrong in (
        ("list", "recipes", "words"),
        ("list", "guides", "--set", "seed=1"),
        ("list", "options", "--set", "seed=1"),
    ):
        assert ppl(*wrong).status == 2, wrong


class Documented:
    """Do it.

    Args:
        model: comes first.
        one, two: both of them,
            in ``nats``; see :class:`~somewhere.else.Thing`.
    """

    def __init__(self, model, one, two, three):
        """Make it.

        Args:
            three: last.

        Raises:
            Nothing: ever.
        """


class Inherited(Documented):
    """Do it again."""


def test_meanings_are_read_from_docstrings():
    both = "both of them, in nats; see somewhere.else.Thing."
    expected = {"model": "comes first.", "one": both, "two": both, "three": "last."}
    assert described_arguments(Documented) == described_arguments(Inherited) == expected
    assert described_arguments(object) == described_arguments(lambda x: x) == {}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, "any"),
        ({"const": "a"}, "a"),
        ({"enum": ["a", None]}, "a | None"),
        ({"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]}, "list of number and string"),
        ({"type": "integer", "maximum": 2**63}, "integer"),
        ({"$ref": "#/$defs/X"}, "section"),
    ],
)
def test_schemas_in_words(schema, words):
    assert in_words(schema, {"X": {"type": "object"}}) == words
