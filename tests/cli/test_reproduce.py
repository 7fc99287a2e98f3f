"""``reproduce`` as it is typed: the smoke budget of every row, going on, several rows at once, signals, bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROWS = "tril,gru8,oracle"


@pytest.fixture(scope="module")
def filled(tmp_path_factory, reproduce):
    """The smoke budget of the whole table; what it printed, and its folder."""
    out = tmp_path_factory.mktemp("smoke") / "words"
    return reproduce("words", out), out


@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(600)
def test_every_row_is_filled(filled):
    text, out = filled
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert all(row["seeds"] == [0] for row in results["rows"])
    assert all(claim["verdict"] != "not run" for claim in results["claims"] if "alternative" not in claim["text"])
    for row in results["rows"]:
        assert row["measures"]["train"] is not None, row["name"]
        assert (out / f"{row['name']}-s0" / "measures.json").is_file()
    assert "not run" not in text.split("Published orderings")[0]
    page = (out / "table.md").read_text(encoding="utf-8")
    assert page.split("\n\n", 1)[1].split("\n\n**Figures**")[0] in text
    shown = re.findall(r"!\[.*\]\((.*)\)", page)
    assert len(shown) == 1 + 2 * sum("gap" in row["measures"] for row in results["rows"])
    assert all((out / name).is_file() for name in shown)
    assert (out / "figures" / "distance.png").stat().st_size > 1000
    assert (out / "tril-s0" / "figures" / "entropies.png").stat().st_size > 1000


@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(600)
def test_the_same_command_reads_what_is_there(filled, ppl):
    _, out = filled
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/measures.json")}
    done = ppl("reproduce", "words", "--budget", "smoke", "--out", str(out), "--json")
    assert done.status == 0, done.err
    assert f"{len(before)} rows and seeds, {len(before)} of them done before" in done.err
    assert json.loads(done.out)["rows"][0]["name"] == "tril"
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/measures.json")} == before


@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(600)
def test_another_budget_in_the_same_folder_is_refused(filled, ppl):
    _, out = filled
    done = ppl("reproduce", "words", "--rows", "tril", "--budget", "small", "--out", str(out), "--jobs", "1")
    assert done.status == 2
    assert "figures of something else than table words with budget small, which would be lost" in done.err


@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(600)
def test_figures_draw_what_was_found(filled):
    from ppl_text.plots.figures import draw_distances

    results = json.loads((filled[1] / "results.json").read_text(encoding="utf-8"))
    axes = draw_distances(results["rows"]).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(labels)) == len(labels)
    drawn = {line.get_label(): line for line in axes.get_lines()}
    for row in results["rows"]:
        place = next((i for i, label in enumerate(labels) if label.endswith(f"({row['name']})")), None)
        for what, value in (("ours", row["measures"].get("distance")), ("published", row["published"].get("distance"))):
            points = dict(zip(drawn[what].get_ydata(), drawn[what].get_xdata(), strict=True))
            assert points.get(place) == value


SET = ("--set", "training.steps=3", "--set", "measure.samples=50")
BY_HAND = {"training.steps": 3, "measure.samples": 50}


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.timeout(300)
def test_what_is_set_by_hand_holds_in_every_row(tmp_path, word_list, ppl, jobs):
    common = [
        "reproduce",
        "words",
        "--budget",
        "smoke",
        "--data",
        str(word_list),
        "--out",
        str(tmp_path),
        "--jobs",
        jobs,
    ]
    done = ppl(*common, "--rows", "tril,gru8", *SET)
    assert done.status == 0, done.err
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (results["set"], results["settings"]["samples"]) == (BY_HAND, 50)
    trained = [row for row in results["rows"] if row["seeds"]]
    assert [(row["name"], row["measures"]["steps"]) for row in trained] == [("tril", 3), ("gru8", 3)]
    assert "- Set by hand, in every row: training.steps=3, measure.samples=50." in done.out
    missing = f"--data {word_list} --set training.steps=3 --set measure.samples=50`"
    assert done.out.count(missing) == len(results["rows"]) - 2, "the command of a row that is not run has it, too"
    without = ppl(*common, "--rows", "oracle")
    assert without.status == 2
    assert "of something else than table words with budget smoke, which would be lost" in without.err
    other = ppl(*common, "--rows", "oracle", "--set", "training.steps=4")
    assert "with budget smoke and what is set by hand, which would be lost" in other.err
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results


BAD = {
    "unknown table": (["reproduce", "word"], "unknown table 'word' (did you mean 'words'?)"),
    "unknown row": (
        ["reproduce", "words", "--rows", "trill"],
        "unknown row of table words 'trill' (did you mean 'tril'",
    ),
    "unknown budget": (["reproduce", "words", "--budget", "big"], "unknown budget 'big'"),
    "no seeds": (["reproduce", "words", "--seeds", "a"], "--seeds 'a': expected whole numbers"),
    "negative seed": (["reproduce", "words", "--seeds", "-1", "--rows", "oracle"], "seed or more, 0 or above"),
    "no rows": (["reproduce", "words", "--rows", ""], "--rows ''"),
    "a file for a folder": (
        ["reproduce", "words", "--rows", "oracle", "--out", "taken"],
        "taken is a file; choose another",
    ),
    "no job": (["reproduce", "words", "--jobs", "0"], "--jobs must be 1 or more; got 0"),
    "a seed by hand": (["reproduce", "words", "--set", "seed=3"], "seed is not set by hand; give --seeds"),
    "a corpus by hand": (
        ["reproduce", "words", "--set", "data.corpus=words"],
        "data.corpus is not set by hand; give --data",
    ),
    "no key": (["reproduce", "words", "--rows", "tril", "--set", "model.hiden=3"], "did you mean 'hidden'"),
    "no pair": (["reproduce", "words", "--set", "training.steps"], "expected KEY=VALUE"),
    "no measure": (
        ["reproduce", "words", "--set", "measure.sentence=3"],
        "table words has no setting 'sentence' of its measures; it has: sentences",
    ),
    "no data": (["reproduce", "words", "--rows", "tril", "--data", "nowhere"], "unknown corpus 'nowhere'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_met_in_words(case, ppl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    arguments, says = BAD[case]
    done = ppl(*arguments)
    assert done.status == 2, done.err
    assert done.err.count(says) == 1, "one message, before any row is started"
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def start(tmp_path, word_list, *arguments):
    command = [sys.executable, "-m", "ppl_text", "reproduce", "words", "--budget", "smoke", "--data", str(word_list)]
    return subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.timeout(300)
def test_rows_run_in_processes_of_their_own(tmp_path, word_list):
    out, err = start(tmp_path, word_list, "--rows", ROWS, "--jobs", "2").communicate(timeout=250)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in results["rows"] if row["seeds"]] == ROWS.split(","), err
    assert "[tril-s0] " in err
    assert "[gru8-s0] " in err
    assert "| TRIL | " in out


@pytest.mark.timeout(300)
def test_ctrl_c_stops_all_rows_and_the_same_command_goes_on(tmp_path, word_list):
    process = start(tmp_path, word_list, "--rows", "tril,tril2", "--jobs", "2")
    folder = tmp_path / "out" / "tril-s0"
    deadline = time.monotonic() + 200
    while not (folder / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert "stopped by SIGINT; finished rows are kept" in err
    assert "Traceback" not in err
    _, err = start(tmp_path, word_list, "--rows", "tril,tril2", "--jobs", "2").communicate(timeout=250)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in results["rows"] if row["seeds"]] == ["tril", "tril2"], err


def tasks(tmp_path, word_list, *rows):
    from ppl_text.tables.rows import Task
    from ppl_text.tables.table import load_table

    table = load_table("words")
    return [Task(table, row, "smoke", 0, tmp_path / "out", str(word_list)) for row in table.select(rows)]


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_is_named(tmp_path, word_list):
    from ppl_text.tables.jobs import RowsFailedError, run_at_once

    lines = []

    def say(line):
        lines.append(line)
        if len(lines) == 1:
            (worker,) = (int(pid) for pid in children(os.getpid()))
            os.kill(worker, signal.SIGKILL)

    with pytest.raises(RowsFailedError, match=r"tril-s0: killed by SIGKILL \(is the memory used up"):
        run_at_once(tasks(tmp_path, word_list, "tril"), 1, say)


def children(pid):
    """Process ids of the direct children."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()


@pytest.mark.timeout(300)
def test_an_output_that_nobody_reads_does_not_stop_the_rows(tmp_path, word_list):
    from ppl_text.tables.jobs import run_at_once

    def say(line):
        raise BrokenPipeError

    run_at_once(tasks(tmp_path, word_list, "oracle"), 1, say)
    assert (tmp_path / "out" / "oracle-s0" / "measures.json").is_file()


@pytest.mark.timeout(300)
def test_a_row_that_fails_in_this_process_does_not_stop_the_others(tmp_path, word_list, ppl):
    broken = tmp_path / "out" / "gru8-s0"
    broken.mkdir(parents=True)
    (broken / "left-over").write_text("something", encoding="utf-8")
    smoke = ["reproduce", "words", "--budget", "smoke", "--data", str(word_list), "--out", str(tmp_path / "out")]
    done = ppl(*smoke, "--rows", "gru8,oracle", "--jobs", "1")
    assert done.status == 1
    assert "gru8-s0: " in done.err
    assert "is not empty" in done.err
    assert (tmp_path / "out" / "oracle-s0" / "measures.json").is_file()
    assert "| Oracle | " in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


@pytest.mark.timeout(300)
def test_a_row_that_fails_does_not_stop_the_others(tmp_path, word_list):
    broken = tmp_path / "out" / "gru8-s0"
    broken.mkdir(parents=True)
    (broken / "left-over").write_text("something", encoding="utf-8")
    process = start(tmp_path, word_list, "--rows", "tril,gru8", "--jobs", "2")
    _, err = process.communicate(timeout=250)
    assert process.returncode == 1
    assert "rows that failed" in err
    assert "gru8-s0: error: " in err
    assert "is not empty" in err
    assert (tmp_path / "out" / "tril-s0" / "measures.json").is_file()
    assert (tmp_path / "out" / "results.json").is_file()
