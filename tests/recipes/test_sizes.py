"""Recipes for own text: the rule of their sizes, the page that states it, and that a run with them is re-runnable."""

import re

import pytest
from doc_pages import read

import ppl_text as pt
from ppl_text.core.errors import UserError
from ppl_text.recipes.config import load_config, recipe_tree
from ppl_text.recipes.errors import Errors
from ppl_text.recipes.start import checked_parts

OWN = ("text-vae", "text-lm")
KEYS = ("data.vocabulary", "data.batch_size", "model.embedding_dim", "model.hidden_dim", "training.epochs")

LEAST = {"training.steps": 2, "report.sentences": 6, "report.particles": 2, "report.samples": 2, "data.min_count": 1}


def value(tree, dotted):
    section, key = dotted.split(".")
    return tree[section].get(key)


@pytest.mark.parametrize("recipe", OWN)
def test_the_rule_is_what_the_page_says(recipe):
    """The table of docs/data.md, at the ends of each of its rows."""
    rows = re.findall(r"^\| ([\d,]+) \|((?: [\d,]+ \|){5})$", read("docs/data.md"), re.MULTILINE)
    assert len(rows) == 4
    starts = [int(start.replace(",", "")) for start, _ in rows]
    assert starts[0] == 0
    for start, following, (_, cells) in zip(starts, [*starts[1:], 10**9], rows, strict=True):
        expected = [int(cell.replace(",", "")) for cell in cells.split("|")[:-1]]
        for tokens in (start, following - 1):
            tree = recipe_tree(recipe, {}, tokens=tokens)
            assert [value(tree, key) for key in KEYS] == expected, tokens


def test_sizes_grow_with_the_text():
    rows = load_config("text-vae").sizes
    for key in KEYS[:-1]:
        assert sorted(row.set[key] for row in rows) == [row.set[key] for row in rows]
    assert [row.tokens for row in rows] == sorted({row.tokens for row in rows})


def test_a_language_model_stays_one():
    for tokens in (0, 10**5, 10**6, 10**7):
        assert recipe_tree("text-lm", {}, tokens=tokens)["model"]["latent_dim"] == 0


def test_what_the_user_says_wins():
    changes = {"model.hidden_dim": 7, "training.steps": 3, "data.vocabulary": None}
    tree = recipe_tree("text-vae", changes, tokens=10**6)
    assert [value(tree, key) for key in KEYS] == [None, 32, 128, 7, None]
    assert tree["training"]["steps"] == 3
    other = recipe_tree("text-vae", {"model.family": "language_model", "guide.name": "exact"}, tokens=10**6)
    assert other["model"] == {"family": "language_model"}


@pytest.fixture
def row_at_200(tmp_path, sentences):
    """A recipe of the own text's whose second row holds from 200 tokens on: the fixture has more."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: text-vae\nsizes: [{tokens: 200, set: {data.vocabulary: 12, model.hidden_dim: 9}}, "
        "{tokens: 100000, set: {model.hidden_dim: 99}}]\n",
        encoding="utf-8",
    )
    return path


def test_the_corpus_decides_and_the_vocabulary_follows(row_at_200, sentences):
    told = []
    parts = checked_parts(str(row_at_200), {"data.corpus": str(sentences)}, {}, Errors(), told)
    assert parts.config.model.options["hidden_dim"] == 9
    assert parts.config.sizes == ()
    assert parts.corpus.tokenizer.size == 12, "read again with the cut-off of its row"
    tokens = parts.corpus.splits["train"].target.table.scored_tokens
    assert tokens >= 200
    assert f"sizes for {tokens:,} training tokens: data.vocabulary=12, model.hidden_dim=9" in told


def test_a_run_says_its_sizes_and_is_run_again_with_them(row_at_200, sentences, tmp_path, one_thread):
    first = pt.fit(str(row_at_200), data=sentences, set=LEAST, out=tmp_path / "first")
    second = pt.fit(str(first.folder / "config.yaml"), out=tmp_path / "second")
    assert first.config == second.config
    assert first.config.model.options["hidden_dim"] == 9
    for name in ("model.safetensors", "config.yaml"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


@pytest.mark.parametrize("recipe", OWN)
def test_they_train_on_own_text_and_ask_for_it(recipe, ppl, sentences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = ppl("fit", recipe)
    assert refused.status == 2
    assert refused.err.startswith("error: this recipe is for text of your own; give it with --data PATH")
    assert ppl("explain", recipe).err == refused.err
    small = [part for key, number in LEAST.items() for part in ("--set", f"{key}={number}")]
    ended = ppl("fit", recipe, "--data", sentences, *small)
    assert ended.status == 0, ended.err
    assert "training tokens: data.vocabulary=2000, data.batch_size=16" in ended.err
    assert (tmp_path / "runs" / f"{recipe}-1" / "report.md").is_file()


def test_faulty_sizes_are_named():
    with pytest.raises(UserError, match=r"'sizes.0.tokens': expected greater than 0; got 0"):
        load_config("text-vae", {"sizes": [{"tokens": 0, "set": {}}]})
    with pytest.raises(UserError, match=r"unknown key 'sizes.0.token'"):
        load_config("text-vae", {"sizes": [{"token": 5, "tokens": 1, "set": {}}]})
