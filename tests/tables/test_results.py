"""From the records of rows to one result: means and spread over seeds, claims looked up, Markdown."""

import json
import math
from pathlib import Path

import pytest

from ppl_text.core.errors import RunFolderError
from ppl_text.measures.words import WordMeasure
from ppl_text.tables.page import table_markdown
from ppl_text.tables.results import _unequal, gather, read_results
from ppl_text.tables.rows import RECORD, Task
from ppl_text.tables.table import Column, load_table, parse_table

VERSION = WordMeasure.version

RESULT_FILES = sorted((Path(__file__).resolve().parents[2] / "docs" / "reproduction").glob("*.json"))
"""What the tables of the pages are made of."""

TABLE = parse_table(
    "t",
    """
title: T
source: S
corpus: words
measure: words
groups: {g: "Group one: x", h: "Group two: y"}
columns:
  - {key: test, title: H, published: test, error: test_se}
  - {key: gap, title: gap, digits: 1, interval: [low, high]}
  - {key: other, title: nothing}
budgets: {small: {about: a few steps, measure: {k: 4}}, full: {about: more, measure: {k: 4}}}
rows:
  - {name: a, title: A, group: g, published: {test: 3.5}, remark: "x|y"}
  - {name: b, title: B, group: g, published: {test: 4.0}}
  - {name: c, title: C, group: h}
claims:
  - {text: a beats b, better: a, worse: b, column: test, remark: why}
  - {text: b beats a, better: b, worse: a, column: test}
  - {text: b has the wider gap, better: b, worse: a, column: gap, higher: true}
  - {text: a beats c, better: a, worse: c, column: test}
notes: ["a note, K = {k}"]
""",
)


def put(folder, row, seed, **measures):
    """A record as :func:`run_task` leaves it."""
    place = folder / f"{row}-s{seed}"
    place.mkdir(parents=True)
    record = {
        "row": row,
        "seed": seed,
        "budget": "small",
        "corpus": "words",
        "settings": {"k": 4},
        "version": VERSION,
        "measures": measures,
        "training_seconds": 1.5,
        "machine": {},
        "profiles": {},
    }
    (place / RECORD).write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def one_seed(tmp_path):
    put(tmp_path, "a", 0, test=2.0, test_se=0.03, gap=1.0, steps=10, model_parameters=9935, guide_parameters=12)
    put(tmp_path, "b", 0, test=2.5, test_se=0.04, gap=1.5, steps=10, model_parameters=907, guide_parameters=0)
    return gather(TABLE, tmp_path, "small")


def claim(results, text):
    return next(c for c in results["claims"] if c["text"] == text)


def test_claims_are_judged_by_the_difference_and_its_error(one_seed):
    first = claim(one_seed, "a beats b")
    assert (first["verdict"], first["difference"]) == ("holds in one run", 0.5)
    assert (first["error"], first["seeds"]) == (pytest.approx(0.05), 1)
    assert first["published"] == pytest.approx(0.5)
    assert claim(one_seed, "b beats a")["verdict"] == "does not hold in one run"
    wider = claim(one_seed, "b has the wider gap")
    assert (wider["verdict"], wider["difference"], wider["error"]) == ("holds in one run", 0.5, None)
    assert claim(one_seed, "a beats c")["verdict"] == "not run"


def test_two_standard_errors_are_too_close_to_call(tmp_path):
    put(tmp_path, "a", 0, test=2.0, test_se=0.3)
    put(tmp_path, "b", 0, test=2.9, test_se=0.4)
    results = gather(TABLE, tmp_path, "small")
    assert claim(results, "a beats b")["verdict"] == claim(results, "b beats a")["verdict"] == "too close to call"


def test_a_difference_that_is_printed_as_nothing_is_too_close_to_call(tmp_path):
    for place, gap, verdict in (("near", 1.004, "too close to call"), ("far", 1.006, "holds in one run")):
        put(tmp_path / place, "a", 0, gap=1.0)
        put(tmp_path / place, "b", 0, gap=gap)
        found = claim(gather(TABLE, tmp_path / place, "small"), "b has the wider gap")
        assert (found["verdict"], found["digits"]) == (verdict, 2)


def test_claims_say_what_else_was_not_equal(tmp_path):
    table = load_table("words")
    tril, gru = table.select(["tril", "gru8"])
    briefer = gru.model_copy(update={"set": {**gru.set, "training.steps": 9}})
    pair = [(Task(table, row, "small", 0, tmp_path), {"measures": {}}) for row in (tril, briefer)]
    parts = _unequal(*pair).split(", ")
    expected = {"training.steps 3,000 : 9", "training.optimizer soap : adam", "objective elbo-analytic : elbo"}
    assert expected <= set(parts)
    assert "training.lr" in parts, "a schedule is too long to be shown"
    assert not any(part.startswith(("data.", "seed", "model", "guide", "recipe")) for part in parts)


@pytest.mark.parametrize("path", RESULT_FILES, ids=lambda path: path.name)
def test_result_files_beside_the_pages_say_what_the_tables_say(path):
    """Where it fails: reproduce the table again."""
    results = read_results(path)
    table = load_table(results["table"], results["part"])
    assert [Column.model_validate(column) for column in results["columns"]] == list(table.columns)
    assert results["notes"] == [note.format_map(results["settings"]) for note in table.notes]
    rows = [{key: row[key] for key in ("name", "title", "group", "remark", "published")} for row in results["rows"]]
    assert rows == [row.model_dump(include=rows[0].keys()) for row in table.rows]
    for row, expected in zip(results["rows"], table.rows, strict=True):
        trained = bool(row["seeds"]) and expected.recipe is not None
        assert (row["measures"].get("model_parameters", 0) > 0) == trained, row["name"]


def test_the_spread_of_numbers_whose_squares_are_no_floats(tmp_path):
    for seed, value in enumerate((1e200, 2e200, 3e200)):
        put(tmp_path, "a", seed, test=value, test_se=1.0)
    row = gather(TABLE, tmp_path, "small")["rows"][0]
    assert row["spread"]["test"] == pytest.approx(1e200)


def test_seeds_give_means_and_their_spread(tmp_path):
    for seed, value in enumerate((2.0, 3.0, 4.0)):
        put(tmp_path, "a", seed, test=value, test_se=0.01, gap=None if seed else 1.0)
    row = gather(TABLE, tmp_path, "small")["rows"][0]
    assert row["seeds"] == [0, 1, 2]
    assert row["measures"]["test"] == 3.0
    assert row["spread"]["test"] == 1.0
    assert row["measures"]["gap"] is None
    assert "gap" not in row["spread"]
    assert row["by_seed"]["2"]["test"] == 4.0


@pytest.mark.parametrize(
    ("others", "verdict", "difference", "error"),
    [
        ((2.1, 3.2, 4.3, 9.9), "holds", 0.2, 0.1 / math.sqrt(3)),  # seed 3 has no partner
        ((2.3, 2.7, 4.3), "too close to call", 0.1, math.sqrt(0.12 / 3)),
        ((1.9, 2.8, 3.7), "does not hold", -0.2, 0.1 / math.sqrt(3)),
    ],
)
def test_seeds_are_compared_pair_by_pair(tmp_path, others, verdict, difference, error):
    for seed, value in enumerate((2.0, 3.0, 4.0)):
        put(tmp_path, "a", seed, test=value, test_se=0.001)
    for seed, value in enumerate(others):
        put(tmp_path, "b", seed, test=value, test_se=0.001)
    found = claim(gather(TABLE, tmp_path, "small"), "a beats b")
    assert (found["verdict"], found["seeds"]) == (verdict, 3)
    assert found["difference"] == pytest.approx(difference)
    assert found["error"] == pytest.approx(error)


@pytest.mark.parametrize(
    "change",
    [{"budget": "full"}, {"corpus": "other.txt"}, {"settings": {"k": 5}}, {"version": VERSION - 1}],
)
def test_what_was_measured_otherwise_does_not_count(tmp_path, change):
    put(tmp_path, "a", 0, test=2.0)
    path = tmp_path / "a-s0" / RECORD
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    row = gather(TABLE, tmp_path, "small")["rows"][0]
    assert (row["seeds"], row["measures"]) == ([], {})


def test_another_rows_folder_is_not_taken_for_a_seed(tmp_path):
    put(tmp_path, "a", 0, test=2.0)
    put(tmp_path, "a-s1-x", 0, test=9.0)
    assert gather(TABLE, tmp_path, "small")["rows"][0]["measures"]["test"] == 2.0


def test_what_rounds_to_zero_has_no_sign(tmp_path):
    put(tmp_path, "a", 0, test=-0.004, test_se=0.03)
    put(tmp_path, "b", 0, test=-0.006, test_se=0.03)
    text = table_markdown(gather(TABLE, tmp_path, "small"))
    assert "| A | 0.00 (3.50) |" in text
    assert "| B | -0.01 (4.00) |" in text


def test_markdown_shows_ours_beside_the_published(one_seed):
    text = table_markdown(one_seed)
    lines = text.splitlines()
    assert "| A | 2.00 (3.50) | 1.0 | 9,935 + 12 | 10 | x\\|y |" in lines
    assert "| B | 2.50 (4.00) | 1.5 | 907 | 10 |  |" in lines
    columns = "| row | H | gap | parameters (model + guide) | steps | remark |"
    assert columns in lines, "a column without any figure is left out"
    assert "| C |  |  | not run: `python -m ppl_text reproduce t --rows c --budget small` |" in lines
    assert "**Group two: y**" in lines
    assert "- a note, K = 4" in lines
    unequal = "model parameters 9,935 : 907, guide parameters 12 : 0"
    assert f"| a beats b | +0.50 | +0.50 ± 0.05 | holds in one run | {unequal} | why |" in lines
    assert "| a beats c | – | – | not run |  |  |" in lines


def test_later_blocks_have_the_rows_that_have_something_there(one_seed):
    one_seed["columns"] = [{**column, "block": column["title"]} for column in one_seed["columns"]]
    one_seed["rows"][0]["measures"]["gap"] = None
    lines = table_markdown(one_seed).splitlines()
    first, second = lines.index("*H*"), lines.index("*gap*")
    rows = [line.split(" | ")[0] for line in lines[first:second] if line.startswith("| ")]
    assert rows[2:4] == ["| A", "| B"]
    later = [line for line in lines[second:] if line.startswith(("| A", "| B", "| C"))]
    assert later[0] == "| B | 1.5 |"


def test_markdown_shows_an_interval_where_there_is_one(tmp_path):
    put(tmp_path, "a", 0, gap=1.0, low=0.8, high=1.3)
    lines = table_markdown(gather(TABLE, tmp_path, "small")).splitlines()
    assert "| A | – (3.50) | 1.0 [0.8, 1.3] |  |  | x\\|y |" in lines


def test_markdown_shows_the_spread_over_seeds(tmp_path):
    for seed, value in enumerate((2.0, 3.0)):
        put(tmp_path, "a", seed, test=value)
    text = table_markdown(gather(TABLE, tmp_path, "small"))
    assert "| A | 2.50 ± 0.71 (3.50) |  |  | 2 seeds; x\\|y |" in text.splitlines()


def test_what_is_no_result_file_is_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"rows": []}', encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"holds no results of a table"):
        read_results(path)
