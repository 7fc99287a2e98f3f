"""One row: trained, stopped, resumed, measured, read again; and what a folder with something else says."""

import json

import pytest

import ppl_text as pt
from ppl_text.core.errors import Interrupted, RunFolderError
from ppl_text.metrics.words import entropy
from ppl_text.tables import measures
from ppl_text.tables.rows import RECORD, Task, run_task
from ppl_text.training.progress import Quiet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tiny_table, tmp_path_factory, one_thread):
    """Task and record of the state-space row."""
    out = tmp_path_factory.mktemp("rows")
    task = Task(tiny_table, tiny_table.rows[0], "small", 0, out)
    return task, run_task(task, Quiet())


def test_a_row_is_a_normal_run_with_its_measures(finished):
    task, record = finished
    run = pt.load(task.folder)
    assert run.finished
    found = record["measures"]
    for split in ("train", "test"):
        bound = run.evaluate(split, 4, 40, 0)
        assert found[split] == pytest.approx(-bound.iw, rel=1e-6)
        assert found[f"{split}_elbo"] == pytest.approx(-bound.elbo, rel=1e-6)
        assert found[f"entropy_{split}"] == entropy(run.corpus.splits[split].counts)
    assert found["test_prior_low"] <= found["test_prior_high"]
    assert found["test_prior"] > found["entropy_test"]
    assert found["distance"] == pytest.approx(found["test"] - found["entropy_test"])
    assert (found["samples"], found["trajectories"], found["gap_draws"], found["gap_20_draws"]) == (30, 300, 20, 20)
    assert found["kn3"] > 1
    positions = record["profiles"]["gap_by_position"]
    assert positions["1"][2] == 6, "all six words have a first letter"
    assert sum(n for _, _, n in record["profiles"]["gap_by_length"].values()) == 6
    assert (task.folder / "figures" / "entropy-gap.png").stat().st_size > 1000
    assert record["training_seconds"] > 0
    assert json.loads((task.folder / RECORD).read_text(encoding="utf-8")) == record


def test_a_finished_row_is_only_read(finished, monkeypatch):
    task, record = finished
    monkeypatch.setattr("ppl_text.tables.rows.fit", None)
    monkeypatch.setattr("ppl_text.tables.rows.MEASURES", None)
    assert run_task(task, Quiet()) == record


def test_a_trained_row_without_measures_is_measured_again_alike(finished, monkeypatch):
    task, record = finished
    (task.folder / RECORD).unlink()
    monkeypatch.setattr("ppl_text.tables.rows.fit", None)
    again = run_task(task, Quiet())
    assert again["measures"] == record["measures"]


def test_a_folder_of_another_configuration_is_refused(finished):
    task, _ = finished
    other = task.row.model_copy(update={"set": {**task.row.set, "model.hidden": [9]}})
    with pytest.raises(RunFolderError, match=r"another configuration than row 'chain' .*--out"):
        run_task(Task(task.table, other, "small", 0, task.out), Quiet())
    (task.folder / RECORD).rename(task.folder / "kept")
    try:
        with pytest.raises(RunFolderError, match="another configuration"):
            run_task(Task(task.table, other, "small", 0, task.out), Quiet())
    finally:
        (task.folder / "kept").rename(task.folder / RECORD)


class StopsAt(Quiet):
    """Presses Ctrl-C once a step has been logged."""

    def __init__(self, step):
        self.step_to_stop = step

    def step(self, record):
        import os
        import signal

        if record.step == self.step_to_stop:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_row_resumes_to_the_same_figures(finished, tmp_path):
    task, record = finished
    again = Task(task.table, task.row, "small", 0, tmp_path)
    with pytest.raises(Interrupted):
        run_task(again, StopsAt(10))
    assert not (again.folder / RECORD).exists()
    assert run_task(again, Quiet())["measures"] == record["measures"]


def test_a_baseline_has_no_entropy_gap_and_no_trajectories(tiny_table, tmp_path):
    record = run_task(Task(tiny_table, tiny_table.rows[1], "small", 0, tmp_path), Quiet())
    found = record["measures"]
    assert found["test"] == pytest.approx(found["test_elbo"])
    assert found["test_se"] == 0.0
    assert record["profiles"] == {}
    assert not any(key.startswith("gap") or "prior" in key for key in found)


def test_the_oracle_knows_the_training_words_by_heart(tiny_table, tmp_path, word_list):
    task = Task(tiny_table, tiny_table.rows[2], "small", 0, tmp_path)
    record = run_task(task, Quiet())
    found = record["measures"]
    assert found["train"] == found["entropy_train"]
    assert found["in_list"] == 1.0
    assert found["entropy_test"] < found["test"] < found["entropy_test"] + 0.2
    assert record["training_seconds"] is None
    assert task.done() == record


def test_the_oracle_says_nothing_where_a_test_word_is_new(tiny_tree, tmp_path):
    import yaml

    from ppl_text.tables.table import parse_table

    tree = {**tiny_tree, "rows": [{**tiny_tree["rows"][2], "data": {"data.split": "alternative"}}]}
    table = parse_table("tiny", yaml.safe_dump(tree))
    found = run_task(Task(table, table.rows[0], "small", 0, tmp_path), Quiet())["measures"]
    assert found["test"] is None
    assert found["train"] == found["entropy_train"]


def test_the_sample_size_gives_the_oracle_the_papers_share_of_distinct_words(tiny_table, tmp_path):
    settings = {k: v for k, v in tiny_table.budgets["small"].measure.items() if k != "samples"}
    budget = tiny_table.budgets["small"].model_copy(update={"measure": settings})
    table = tiny_table.model_copy(update={"budgets": {"small": budget}})
    found = run_task(Task(table, table.rows[2], "small", 0, tmp_path), Quiet())["measures"]
    assert found["unique"] == pytest.approx(measures.PAPER_UNIQUE, abs=0.03)
    assert found["samples"] > 300


def test_seeds_have_folders_and_draws_of_their_own(tiny_table, finished, tmp_path):
    task, record = finished
    other = Task(tiny_table, task.row, "small", 1, tmp_path)
    assert other.folder.name == "chain-s1"
    assert run_task(other, Quiet())["measures"]["test"] != record["measures"]["test"]
