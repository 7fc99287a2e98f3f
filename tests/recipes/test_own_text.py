"""A recipe on other data than it was made for: which options stay, what is assumed, what is written down."""

import inspect

import pytest

import ppl_text as pt
from guides.sentence_vae import GaussianGuide
from ppl_text.data.options import SentenceOptions, WordListOptions
from ppl_text.models.sentence_vae import SentenceVAE
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config, recipe_tree
from ppl_text.recipes.errors import Errors, RecipeError, checked_options, default_options

OWN = "my sentences.txt"


def tree(recipe, **changes):
    told = []
    return recipe_tree(recipe, {key.replace("__", "."): value for key, value in changes.items()}, None, told), told


def test_the_recipes_options_of_data_stay():
    found, told = tree("verses-vae", data__corpus=OWN)
    kept = {"lower": True, "vocabulary": 3000, "max_tokens": 24, "long": "drop", "batch_size": 32, "unit": "sentences"}
    assert kept.items() <= found["data"].items()
    assert found["data"]["corpus"] == OWN
    assert told == ["data.min_count=2, as for all text of your own"]


def test_a_change_wins_over_what_stays():
    found, _ = tree("verses-vae", data__corpus=OWN, data__lower=False, data__min_count=5)
    assert (found["data"]["lower"], found["data"]["min_count"], found["data"]["vocabulary"]) == (False, 5, 3000)


def test_options_of_another_kind_of_data_are_dropped_and_named():
    found, told = tree("verses-vae", data__corpus="list.tsv", data__unit="word-list")
    assert set(found["data"]) <= {"corpus", "unit", "word_dropout", "batch_size", "buckets", "validation_sentences"}
    assert len(told) == 4
    for name, line in zip(("long=drop", "lower=True", "max_tokens=24", "vocabulary=3000"), sorted(told), strict=True):
        assert line == f"not kept of the recipe's data: {name} (for data of another kind than list.tsv)"


def test_a_built_in_corpuss_own_defaults_stay_behind_with_it(tmp_path):
    """The configuration of a run has them among its options; a value that was changed is the recipe's own."""
    config = load_config("words", {"data.min_count": 7})
    (tmp_path / "words.yaml").write_text(build.effective(config).to_yaml(), encoding="utf-8")
    found, told = tree(str(tmp_path / "words.yaml"), data__corpus="list.tsv")
    assert told == ["not kept of the recipe's data: limit=143000 (made for corpus 'words')"]
    assert found["data"]["min_count"] == 7
    assert "limit" not in found["data"]


@pytest.mark.parametrize(("tokenizer", "least"), [("word", 2), ("bpe", 1), ("character", 1)])
def test_words_of_own_text_have_a_cut_off(tokenizer, least):
    found, told = tree("verses-vae", data__corpus=OWN, data__tokenizer=tokenizer, data__vocabulary=None)
    assert build.data_options(load_config("verses-vae", {"data": found["data"]})).min_count == least
    assert bool(told) == (least == 2)


@pytest.mark.parametrize("recipe", ["verses-vae", "ptb-vae", "yahoo-lm", "snli-bn"])
def test_published_tables_have_none(recipe):
    changes = {} if recipe == "verses-vae" else {"data.corpus": "a folder"}
    config = load_config(recipe, changes)
    assert build.data_options(config).min_count == 1


def test_every_option_is_written_down_with_its_value():
    config = build.effective(load_config("verses-vae", {"data.corpus": OWN}))
    assert config.data.options.keys() == SentenceOptions.model_fields.keys()
    assert (config.data.options["min_count"], config.data.options["test_share"]) == (2, 0.1)
    for part, kind, first in (("model", SentenceVAE, "vocabulary"), ("guide", GaussianGuide, "model")):
        assert set(getattr(config, part).options) >= set(inspect.signature(kind).parameters) - {first}, part
    assert config.model.options["hidden_dim"] == 128
    words = build.effective(load_config("words"))
    assert words.data.options == {**WordListOptions().model_dump(), "limit": 143_000, "min_count": 10}
    assert build.effective(words) == words


def plain(options):
    """What takes a sequence makes no difference between lists and tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def test_what_is_written_down_is_read_back_the_same(tmp_path):
    for recipe in ("words", "words-nvp", "verses-iaf", "verses-lm"):
        config = build.effective(load_config(recipe))
        (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        assert load_config(str(tmp_path / "config.yaml")) == config
        before, after = (build.check_programs(found) for found in (load_config(recipe), config))
        for old, new in zip(before, after, strict=True):
            defaults = {name: p.default for name, p in inspect.signature(new.kind).parameters.items()}
            expected = {**{name: defaults[name] for name in new.options}, **old.options}
            assert plain(new.options) == plain(expected)


class Odd:
    def __init__(self, model, *, size: int = 3, pair: tuple[int, int] = (1, 2), loose=(1, 2), act=len, needed: int):
        """A default without annotation, one that is no plain value, and one that is missing."""


def test_a_default_that_yaml_would_change_is_left_out():
    found = default_options(Odd)
    assert found == {"size": 3, "pair": [1, 2]}
    assert checked_options(Odd, {**found, "needed": 1}, "model")["pair"] == (1, 2)


def test_a_run_keeps_how_it_was_divided_before_that_was_an_option(tmp_path):
    """A folder of a run from before: what it does not say was so; a recipe that looks the same is a new one."""
    data = {"corpus": OWN, "unit": "sentences", "max_tokens": 5}
    text = load_config("verses-vae", {"data": data}).to_yaml()
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_config(str(path)).data.options.get("min_count") == 2
    (tmp_path / "data.json").write_text("{}", encoding="utf-8")
    path.write_text(text.replace("  min_count: 2\n", ""), encoding="utf-8")
    stored = load_config(str(path)).data
    assert stored.options == {"max_tokens": 5, "divide": "whole"}
    assert recipe_tree(str(path), {"data.corpus": "other.txt"})["data"].get("divide") is None


def test_a_run_of_before_finds_its_corpus_again(tmp_path, one_thread):
    """Its configuration says neither how sentences were divided nor that no word was cut off."""
    lines = [f"{who} {what} today and {i}" for i, (who, what) in enumerate([("he", "sings"), ("she", "reads")] * 30)]
    (tmp_path / "mine.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    before = {"data.max_tokens": 3, "data.long": "truncate", "data.min_count": 1, "data.divide": "whole"}
    small = {"model.latent_dim": 2, "model.hidden_dim": 4, "report.sentences": 4, "report.particles": 2}
    run = pt.fit("verses-vae", data=tmp_path / "mine.txt", set={**before, **small}, steps=1, out=tmp_path / "run")
    path = run.folder / "config.yaml"
    text = path.read_text(encoding="utf-8")
    for line in ("  min_count: 1\n", "  divide: whole\n"):
        assert text.count(line) == 1
        text = text.replace(line, "")
    path.write_text(text, encoding="utf-8")
    assert pt.load(run.folder).corpus.fingerprint == run.corpus.fingerprint


def test_all_errors_are_still_told_at_once():
    with pytest.raises(RecipeError, match=r"unknown corpus 'nowhere'.*\n.*unknown key 'data.lowr'"):
        build.check_parts(
            recipe_tree("verses-vae", {"data.lowr": True, "data.corpus": "nowhere"}), "recipe 'verses-vae'", Errors()
        )
