"""Tables as data: the published figures, rows that can be built, files with faults."""

from pathlib import Path

import pytest

from ppl_text.core.errors import ConfigError, UnknownNameError, UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.recipes import build
from ppl_text.tables import table_names
from ppl_text.tables.rows import Task, trained_values
from ppl_text.tables.table import load_table, parse_table, table_parts
from ppl_text.training.programs import count_parameters

PUBLISHED = {
    "tril": (11.88, 11.93, 0.11, 0.62, 1.07),
    "tril-k2": (11.96, 12.20, 0.11, 0.62, 0.94),
    "tril-k5": (11.49, 11.56, 0.14, 0.63, 1.30),
    "tril-k10": (11.54, 11.58, 0.13, 0.59, 1.24),
    "tril2": (11.85, 11.89, 0.11, 0.55, 0.87),
    "tril2-k5": (11.39, 11.45, 0.14, 0.54, 1.23),
    "tril2-k10": (11.37, 11.43, 0.15, 0.56, 1.42),
    "tril2-k10-bidi": (11.45, 11.41, 0.15, 0.56, 1.36),
    "nvp": (11.77, 11.81, 0.12, 0.61, 0.94),
    "gru8": (12.92, 12.97, 0.13, 0.53, None),
    "gru16": (12.55, 12.60, 0.14, 0.62, None),
    "oracle": (7.0, 7.02, 0.27, 1.0, None),
}
"""Table 1 of the paper: H train, H test, unique, in V, H_gap."""

TEST_ENTROPY = 6.80
"""Entropy of the paper's test words (its footnote 5)."""

DISTANCES = {"tril": 4.91, "tril2": 4.87, "tril-k2": 5.18, "tril2-k10-bidi": 4.39, "gru8": 5.95, "gru16": 5.58}
"""Some of the published test cross-entropies above the published oracle's (specification 4E)."""

WORDS = load_table("words")


def test_published_figures_are_the_papers():
    rows = {row.name: row.published for row in WORDS.rows if row.group == "standard"}
    for name, figures in PUBLISHED.items():
        expected = dict(zip(("train", "test", "unique", "in_list", "gap"), figures, strict=True))
        expected = {key: value for key, value in expected.items() if value is not None}
        above = rows[name].pop("distance", 0.0)
        assert above == pytest.approx(figures[1] - PUBLISHED["oracle"][1], abs=1e-9), name
        assert above == DISTANCES.get(name, above)
        if name == "oracle":
            assert rows[name].pop("offset") == pytest.approx(figures[1] - TEST_ENTROPY)
        assert rows[name] == expected, name
    assert {name for name, published in rows.items() if published} == set(PUBLISHED)
    alternative = {row.name: row.published for row in WORDS.rows if row.group == "alternative"}
    assert alternative["alt-tril2-k5"] == {"train": 11.33, "test": 12.49, "kn3": 21.74, "kn5": 66.15}
    assert alternative["alt-gru8"] == {"train": 12.81, "test": 13.55, "kn3": 22.54, "kn5": 64.92}


def test_rows_hold_what_the_issue_asks_for():
    objectives = {row.name: row.set.get("objective") for row in WORDS.rows}
    for prefix in ("tril", "tril2"):
        assert [objectives[f"{prefix}-k{k}"] for k in (2, 5, 10)] == ["stepwise:2", "stepwise:5", "stepwise:10"]
    names = {row.name for row in WORDS.rows}
    assert {"diag", "nvp", "gru8", "gru16", "oracle", "tril-fivo", "tril-nvp", "tril-d16", "tril-d32"} <= names


@pytest.mark.parametrize("budget", WORDS.budgets)
@pytest.mark.parametrize("row", WORDS.rows, ids=lambda row: row.name)
def test_every_row_is_a_sound_configuration_under_every_budget(row, budget, tmp_path):
    config = Task(WORDS, row, budget, 3, tmp_path).config()
    build.check_programs(config)
    build.build_objective(config)
    wanted = {**WORDS.budgets[budget].set, **row.set}
    if row.recipe:
        assert config.seed == 3
        assert config.training.steps == wanted["training.steps"]
        assert config.objective == wanted.get("objective", "elbo" if row.name in PLAIN else "elbo-analytic")
    assert config.data.options.get("split", "standard") == ("alternative" if row.group == "alternative" else "standard")


ALGORITHM_1 = {"tril-k2": 2, "tril-k5": 5, "tril-k10": 10}
"""Rows of TRIL by K; each has a twin of two layers under ``tril2``."""


def test_rows_of_one_k_differ_in_their_layers_only(tmp_path):
    configs = {row.name: Task(WORDS, row, "small", 0, tmp_path).config() for row in WORDS.rows}
    for name, k in {**ALGORITHM_1, "tril": None}.items():
        one, two = configs[name], configs[name.replace("tril", "tril2")]
        assert (one.model.options["layers"], two.model.options["layers"]) == (1, 2)
        assert two.model_dump(exclude={"model"}) == one.model_dump(exclude={"model"})
        assert one.objective == ("elbo-analytic" if k is None else f"stepwise:{k}")
        assert one.guide.name == ("diagonal" if k is None else "look-ahead")
    bidi, plain = configs["tril2-k10-bidi"], configs["tril2-k10"]
    assert bidi.guide.options == {"reader": "bidirectional"}
    assert bidi.model_copy(update={"guide": plain.guide}) == plain
    assert configs["alt-tril2-k5"].model_copy(update={"data": configs["tril2-k5"].data}) == configs["tril2-k5"]
    assert [configs[f"tril-d{d}"].model.options["state_dim"] for d in (16, 32)] == [16, 32]
    assert configs["diag"].model.options["transition"] == "diag"


def test_every_claim_holds_in_the_published_figures():
    rows = {row.name: row.published for row in WORDS.rows}
    keys = {column.key: column.published for column in WORDS.columns}
    seen = 0
    for claim in WORDS.claims:
        better, worse = (rows[name].get(keys[claim.column]) for name in (claim.better, claim.worse))
        if None not in (better, worse):
            seen += 1
            assert (better > worse) == claim.higher, claim.text
            assert better != worse
    assert seen == len(WORDS.claims) - 1, "of DIAG the paper gives no figure"


TRIL_FLOW = 8 + (8 * 64 + 64) + (64 * 64 + 64) + (64 * 44 + 44)
"""Parameters of TRIL with 8 dimensions before its emission: h_0, and an MLP 8-64-64-(8 + 36) with biases."""


def test_rows_have_the_parameters_of_the_closed_form(tmp_path):
    """29 ids, 27 outcomes. A GRU: embedding, three gates with two biases each, the softmax."""
    sizes = {}
    for name in ("gru8", "gru16", "tril", "tril-emission"):
        (row,) = WORDS.select([name])
        programs = build.build_programs(Task(WORDS, row, "full", 0, tmp_path).config(), Vocabulary(29))
        sizes[name] = count_parameters(*programs)
    for d in (8, 16):
        assert sizes[f"gru{d}"] == (29 * d + 3 * (2 * d * d + 2 * d) + 27 * (d + 1), 0)
    assert (sizes["gru8"].model, sizes["gru16"].model) == (907, 2555)
    assert sizes["tril"].model == TRIL_FLOW + 27 * 9
    assert sizes["tril-emission"].model == TRIL_FLOW + 64 * 9 + 27 * 65 == 9935
    assert sizes["tril"].guide == sizes["tril-emission"].guide > 0


def test_rows_of_the_standard_split_are_trained_on_the_same_for_the_same_time(tmp_path):
    """What the table's note says is equal, and the optimiser, which is not."""
    for budget in WORDS.budgets:
        rows = [row for row in WORDS.rows if row.recipe and row.group != "alternative"]
        configs = [Task(WORDS, row, budget, 0, tmp_path).config() for row in rows]
        assert len({repr(config.data) for config in configs}) == 1
        assert len({config.training.steps for config in configs}) == 1
        for config in configs:
            assert config.training.optimizer == ("adam" if config.model.family == "language_model" else "soap")


PLAIN = {"nvp", "gru8", "gru16", "alt-gru8", "tril-paper"}
"""Rows that train on the plain ELBO: no closed-form KL, nothing latent, or the paper's way."""


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'words'"):
        load_table("word")
    with pytest.raises(UnknownNameError, match="did you mean 'tril-k10'"):
        WORDS.select(["tril-k1O"])
    with pytest.raises(UnknownNameError, match="did you mean 'small'"):
        WORDS.budget("smal")
    assert {"davam-generation", "davam-table2", "words"} <= set(table_names())


@pytest.mark.parametrize("name", table_names())
def test_every_table_and_every_part_of_it_is_sound(name):
    """Tables parse, and each row's recipe takes what the table and its budgets set, in each part."""
    for part in table_parts(name) or [None]:
        table = load_table(name, part)
        assert table.rows
        for budget in ("smoke", "small"):
            for row in table.rows:
                if row.recipe is not None and row.extra is None:
                    Task(table, row, budget, 0, Path("out"), data="verses").config()


def test_selection_keeps_the_order_of_the_table():
    assert [row.name for row in WORDS.select(["gru8", "tril"])] == ["tril", "gru8"]
    assert WORDS.select(None) == WORDS.rows


def test_rows_are_known_by_their_numbers_too():
    names = [row.name for row in WORDS.rows]
    assert [row.name for row in WORDS.select(["2-4", "7", "tril"])] == [*names[:4], names[6]]
    for wrong in ("0-2", "3-2", "1-99", "99", "-2", "1-2-3"):
        with pytest.raises(UnknownNameError, match=f"unknown row of table words '{wrong}'.*Numbers from 1 to 25"):
            WORDS.select([wrong])


SMALL = """
title: T
source: S
corpus: words
measure: words
groups: {g: G}
columns: [{key: test, title: H}]
budgets: {smoke: {about: a}}
rows: [{name: a, title: A, group: g}, {name: b, title: B, group: g}]
claims: [{text: c, better: a, worse: b, column: test}]
"""


def test_a_small_table_is_read():
    table = parse_table("t", SMALL)
    assert (table.name, len(table.rows), table.claims[0].column) == ("t", 2, "test")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title: T\n", "", "title: Field required"),
        ("{key: test, title: H}", "{key: test, titel: H}", "columns.0.titel: Extra inputs"),
        ("name: b", "name: a", "row 'a' stands twice"),
        ("title: B, group: g", "title: B, group: h", "row 'b' is of unknown group 'h'"),
        ("better: a", "better: c", "names no row 'c'"),
        ("column: test}]", "column: tset}]", "names no column 'tset'"),
        ("name: b", "name: ../b", "rows.1.name"),
        ("groups: {g: G}", "groups: {g: G", "is not valid YAML"),
        ("measure: words", "measure: wrods", "measures 'wrods' are not known (did you mean 'words'?)"),
        ("measure: words", "measure: words\nbaselines: [a, c]", "there is no baseline row 'c'"),
        ("title: B, group: g", "title: B, group: g, extra: c", "row 'b' adds texts of no row 'c'"),
        ("title: B, group: g", "title: B, group: g, extra: a", "does not say how many under budget 'smoke': set data."),
    ],
)
def test_faults_of_a_file_are_named(old, new, says):
    assert old in SMALL
    with pytest.raises(ConfigError) as error:
        parse_table("t", SMALL.replace(old, new))
    assert says in str(error.value)
    assert "table 't'" in str(error.value)


BLOCKS = """
blocks: {"3": 3 words, "5": 5 words}
columns: [{key: test, title: H, published: paper, error: se}, {key: gap, title: gap}]
"""


def test_columns_of_several_blocks_are_named_by_their_suffix():
    text = SMALL.replace("columns: [{key: test, title: H}]", BLOCKS.strip()).replace("column: test}", "column: test_5}")
    table = parse_table("t", text)
    assert [(c.block, c.key, c.published, c.error) for c in table.columns] == [
        ("3 words", "test_3", "paper_3", "se_3"),
        ("5 words", "test_5", "paper_5", "se_5"),
        ("3 words", "gap_3", None, None),
        ("5 words", "gap_5", None, None),
    ]


def test_a_user_may_change_settings_that_a_measure_has():
    given = load_table("words", given={"particles": 3})
    assert given.budget("small").measure == {**WORDS.budget("small").measure, "particles": 3}
    with pytest.raises(UserError, match=r"table words has no setting 'judge' of its measures; it has: sentences"):
        load_table("words", given={"judge": "gpt2"}).budget("small")


def test_a_user_may_change_every_recipe():
    table = load_table("words", set={"model.hidden": [5], "training.lr": 1.0})
    for row in table.rows:
        task = Task(table, row, "small", 3, Path("out"))
        assert {key: task.changes[key] for key in table.set} == table.set
        assert task.changes["seed"] == 3
    assert load_table("words").set == {}


OTHER = """
title: T
source: s
measure: generation
trained_as: davam-table2
groups: {g: G}
columns: [{key: ent, title: Ent}]
budgets: {small: {measure: {samples: 3}}}
rows: [{name: pretrain-fbp, group: g}, {name: lm, group: g, title: own}]
"""


@pytest.mark.parametrize("part", ["verses", "ptb"])
def test_a_table_of_other_measures_trains_the_rows_of_another(part, tmp_path):
    table, base = parse_table("t", OTHER, part), load_table("davam-table2", part)
    assert [row.title for row in table.rows] == ["+pretraining+FBP", "own"]
    for row in table.rows:
        (of_base,) = base.select([row.name])
        for budget in ("smoke", "small", "full"):
            configs = [
                trained_values(Task(t, r, budget, 1, tmp_path, "verses").config())
                for t, r in ((table, row), (base, of_base))
            ]
            assert configs[0] == configs[1]
    assert table.budget("small").measure == {"samples": 3}
    assert table.parts == base.parts


@pytest.mark.parametrize(("part", "generators"), [("verses", 3), ("verses-full", 1)])
def test_generators_of_figure_3_know_their_subset_unless_the_leaking_part_is_asked_for(part, generators, tmp_path):
    table = load_table("davam-figure3", part)
    rows = {row.name: Task(table, row, "small", 0, tmp_path) for row in table.rows}
    assert len(rows) == generators + 3 * 5
    for name, task in rows.items():
        options = task.config().data.options
        assert task.config().training.steps == 1500
        if task.before is None:
            continue
        size = 1000 * int(name[3])
        assert options["train_limit"] == size
        assert options["extra_limit"] == size * {"05": 0.5, "1": 1, "2": 2, "4": 4}[name.split("x")[1]]
        assert options["extra"] == str(tmp_path / f"{task.before.row.name}-s0" / "texts.txt")
        assert task.before.writes == 4 * size if part == "verses" else 16_000
        assert task.before.config().data.options.get("train_limit") == (size if part == "verses" else None)
