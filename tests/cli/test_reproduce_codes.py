"""``reproduce davam-codes``: switching codes beside the language model of their size."""

import json

import pytest

from ppl_text.core.vocabulary import Vocabulary
from ppl_text.recipes import build
from ppl_text.recipes.config import check_config, recipe_tree
from ppl_text.tables.table import load_table
from ppl_text.training.programs import count_parameters

EXACT = ["lm", "one-code", "contextual", "contextual-4", "markov", "lm-two-stages", "sentence"]
OUTCOMES = {"verses": 3001, "ptb-small": 2001}


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_thread")
def test_rows_with_codes_are_exact(tmp_path, reproduce):
    text = reproduce("davam-codes", tmp_path, "--rows", "lm,contextual,lm-two-stages,sentence")
    found = {row["name"]: row["measures"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    for name in ("contextual", "lm-two-stages", "sentence"):
        assert found[name]["ppl"] == pytest.approx(found[name]["ppl_elbo"], rel=1e-5)
        assert (found[name]["kl"] > 0) == (name != "lm-two-stages")
    assert "kl" not in found["lm"]
    assert "contextual codes beat the language model" in text


@pytest.mark.parametrize("part", OUTCOMES)
def test_no_exact_row_has_more_parameters_than_the_language_model(part):
    table = load_table("davam-codes", part)
    sizes = {}
    for row in table.rows:
        if row.name in EXACT:
            config = check_config(recipe_tree(row.recipe, row.changes(table.budget("small"), 0)), row.recipe)
            programs = build.build_programs(config, Vocabulary(OUTCOMES[part] + 2))
            sizes[row.name] = sum(count_parameters(*programs))
    assert list(sizes) == EXACT
    for name, size in sizes.items():
        assert 0.994 * sizes["lm"] < size <= sizes["lm"], name
