"""Tables that are printed for several corpora."""

import itertools

import pytest

from ppl_text.core.errors import ConfigError, UnknownNameError, UserError
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config
from ppl_text.tables.rows import Task
from ppl_text.tables.table import choose_part, load_table, of_part, parse_table, table_parts

PUBLISHED = {
    "ptb": {
        "lm": (None, 100.47, None),
        "vae": (101.27, 101.39, 0.00),
        "anneal": (101.28, 101.40, 0.00),
        "cyclical": (101.85, 108.97, 1.37),
        "aggressive": (100.26, 99.83, 0.93),
        "fbp": (98.52, 99.62, 2.95),
        "pretrain-fbp": (96.91, 96.17, 4.99),
    },
    "yahoo": {
        "lm": (None, 60.75, None),
        "vae": (329.10, 61.52, 0.00),
        "anneal": (328.80, 61.21, 0.00),
        "cyclical": (333.80, 66.93, 2.83),
        "aggressive": (322.70, 59.77, 5.70),
        "fbp": (322.91, 62.59, 9.08),
        "pretrain-fbp": (315.09, 59.60, 15.49),
    },
    "snli": {
        "lm": (None, 21.44, None),
        "vae": (33.08, 21.67, 0.04),
        "anneal": (31.66, 21.50, 1.42),
        "cyclical": (30.69, 23.67, 3.63),
        "aggressive": (31.53, 21.16, 1.42),
        "fbp": (25.26, 22.05, 8.99),
        "pretrain-fbp": (22.30, 22.33, 13.40),
    },
    "verses": {},
}
"""Table II of the paper: Rec, PPL, KL."""

PARTS = ("verses", "ptb", "yahoo", "snli")

SMALL = """
title: "T of {part}"
source: S
measure: sentences
parts: {a: {title: A, corpus: verses}, b: {title: B, about: "the B data"}}
groups: {g: G}
columns: [{key: rec, title: Rec}]
budgets: {smoke: {about: {in a: short, else: "long, {part}"}, set: {in b: {seed: 4}, else: {}}}}
rows: [{name: x, title: X, group: g, recipe: "{part}-x", published: {in b: {rec: 1.5}, else: {}}}]
"""


@pytest.mark.parametrize("part", PARTS)
def test_published_figures_are_the_papers(part):
    rows = {row.name: row.published for row in load_table("davam-table2", part).rows if row.published}
    expected = {
        name: {key: value for key, value in zip(("rec", "ppl", "kl"), figures, strict=True) if value is not None}
        for name, figures in PUBLISHED[part].items()
    }
    assert rows == expected


def test_rows_one_to_seven_are_those_of_the_paper():
    table = load_table("davam-table2", "ptb")
    assert [row.name for row in table.select(["1-7"])] == list(PUBLISHED["ptb"])
    assert list(table_parts("davam-table2")) == list(PARTS)
    assert table_parts("words") == {}


@pytest.mark.parametrize("part", PARTS)
def test_every_row_is_a_sound_configuration_under_every_budget(part, tmp_path):
    table = load_table("davam-table2", part)
    for row, budget in itertools.product(table.rows, table.budgets):
        config = Task(table, row, budget, 3, tmp_path, None if part == "verses" else "/some/where").config()
        build.check_programs(config)
        build.check_stages(config)
        assert (config.recipe, config.seed) == (f"{part}-{row.name}", 3)
        assert config.model.options["latent_dim"] == (0 if row.name == "lm" else 16 if part == "verses" else 32)


def test_a_budget_may_change_single_rows():
    """In PTB's small budget: several cycles within 12 epochs, 6 epochs of pretraining before the 12 of the others."""
    table = load_table("davam-table2", "ptb")
    changes = {row.name: row.changes(table.budget("small"), 0) for row in table.rows}
    assert changes["cyclical"]["training.beta"]["period_epochs"] == 4
    config = load_config("ptb-pretrain-fbp", changes["pretrain-fbp"])
    assert [stage.epochs for stage in config.training.stages] == [6, 12]
    assert changes["vae"]["training.epochs"] == 12
    with pytest.raises(ConfigError, match="budget 'short' changes no row 'y'"):
        parse_table("t", SMALL.replace("budgets: {smoke: {", "budgets: {smoke: {rows: {y: {seed: 1}}, "))


def test_a_part_is_a_table_of_its_own():
    first, second = parse_table("t", SMALL), parse_table("t", SMALL, "b")
    assert (first.part, first.corpus, first.title, first.budgets["smoke"].about) == ("a", "verses", "T of a", "short")
    assert (second.part, second.corpus, second.budgets["smoke"].about) == ("b", None, "long, b")
    assert (first.rows[0].recipe, second.rows[0].recipe) == ("a-x", "b-x")
    assert (first.rows[0].published, second.rows[0].published) == ({}, {"rec": 1.5})
    assert (first.budgets["smoke"].set, second.budgets["smoke"].set) == ({}, {"seed": 4})
    with pytest.raises(UnknownNameError, match="unknown part of table t 'c'"):
        parse_table("t", SMALL, "c")


def test_a_choice_for_an_unknown_part_is_a_fault_of_the_file():
    with pytest.raises(ConfigError, match="'in c' is no part of the table; its parts: a, b"):
        parse_table("t", SMALL.replace("in b: {seed", "in c: {seed"))
    assert of_part({"in a": 1}, "b", ["a", "b"]) is None


@pytest.mark.parametrize(
    ("data", "chosen"),
    [
        (None, ("verses", None)),
        ("ptb", ("ptb", None)),
        ("verses", ("verses", None)),
        ("/data/ptb", ("ptb", "/data/ptb")),
        ("../texts/ptb/", ("ptb", "../texts/ptb/")),
        ("snli=/data/x", ("snli", "/data/x")),
        ("ptb=hub:owner/name", ("ptb", "hub:owner/name")),
    ],
)
def test_data_say_which_part(data, chosen):
    assert choose_part("davam-table2", table_parts("davam-table2"), data) == chosen


@pytest.mark.parametrize("data", ["/data/mine", "mine=/data/ptb"])
def test_data_of_no_part_are_asked_for(data):
    with pytest.raises(UserError, match=r"is printed for verses, ptb, yahoo, snli; say which .* --data snli=/data/"):
        choose_part("davam-table2", table_parts("davam-table2"), data)


def test_a_table_of_one_corpus_takes_any_data():
    assert choose_part("words", {}, "/some/where") == (None, "/some/where")


def test_a_part_without_a_corpus_says_what_it_needs(tmp_path):
    table = parse_table("t", SMALL, "b")
    with pytest.raises(UserError, match="table t needs the B data; give its folder: --data b=DIR"):
        _ = Task(table, table.rows[0], "smoke", 0, tmp_path).changes
    assert Task(table, table.rows[0], "smoke", 0, tmp_path, "/x").changes["data.corpus"] == "/x"
