"""One row: trained, stopped, resumed, measured, read again; and what a folder with something else says."""

import json
import math
import os
from itertools import product
from string import ascii_lowercase

import numpy as np
import pytest

import ppl_text as pt
from ppl_text.core.atomic import finite_or_none
from ppl_text.core.errors import Interrupted, RunFolderError, UserError
from ppl_text.data.options import WordListOptions
from ppl_text.data.word_lists import WordCounts, character_corpus, divide
from ppl_text.evaluation.likelihood import sentence_bounds
from ppl_text.measures.base import SEED
from ppl_text.measures.words import PAPER_UNIQUE, WordMeasure, _tightest
from ppl_text.metrics.words import entropy
from ppl_text.recipes import build
from ppl_text.tables.results import gather
from ppl_text.tables.rows import RECORD, TRIES, Task, _locked, _texts, run_task
from ppl_text.tables.table import load_table
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
        bound = run.evaluate(split, 4, 40, SEED)
        assert found[split] == pytest.approx(-bound.iw, rel=1e-6)
        assert found[f"{split}_elbo"] == pytest.approx(-bound.elbo, rel=1e-6)
        assert found[f"entropy_{split}"] == entropy(run.corpus.splits[split].counts)
    assert found["test_prior_low"] <= found["test_prior_high"]
    assert found["test_prior"] > found["entropy_test"]
    assert found["tightest"] == min(found["test"], found["test_prior"])
    of_test = distance_of_drawn(run, 40)
    assert found["distance"] == pytest.approx(of_test + found["tightest"] - found["test"])
    assert found["tightest_se"] == found["test_se" if found["tightest"] == found["test"] else "test_prior_se"]
    for who, program in (("model", run.model), ("guide", run.guide)):
        assert found[f"{who}_parameters"] == sum(p.numel() for _, p in program.named_parameters())
    assert (found["samples"], found["trajectories"], found["gap_draws"], found["gap_20_draws"]) == (30, 300, 20, 20)
    assert found["kn3"] > 1
    positions = record["profiles"]["gap_by_position"]
    assert positions["1"][2] == 6, "all six words have a first letter"
    assert sum(n for _, _, n in record["profiles"]["gap_by_length"].values()) == 6
    assert (task.folder / "figures" / "entropy-gap.png").stat().st_size > 1000
    assert record["training_seconds"] > 0
    assert json.loads((task.folder / RECORD).read_text(encoding="utf-8")) == record


def distance_of_drawn(run, limit):
    """Mean of ln P_train(w) - ln P̂(w) over the drawn words, word by word."""
    data = build.evaluation_set(run.corpus, "test", limit, SEED)
    found = sentence_bounds(run.model, run.guide, data, particles=4, seed=SEED)
    texts = [text for batch in data.texts for text in batch]
    train = run.corpus.splits["train"]
    counts = dict(zip(train.texts, train.counts.tolist(), strict=True))
    log_p = [math.log(counts[text] / train.total) for text in texts]
    pairs = zip(found.weights.tolist(), log_p, found.iw.tolist(), strict=True)
    return sum(weight * (p - iw) for weight, p, iw in pairs) / limit


def test_a_finished_row_is_only_read(finished, monkeypatch):
    task, record = finished
    monkeypatch.setattr("ppl_text.tables.rows.fit", None)
    monkeypatch.setattr("ppl_text.tables.rows._measured", None)
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


def changed(task, **change):
    """The same task with another budget."""
    budget = task.table.budgets["small"].model_copy(update=change)
    table = task.table.model_copy(update={"budgets": {"small": budget}})
    return Task(table, task.row, "small", 0, task.out)


def test_a_run_is_kept_where_only_reporting_or_measuring_changes(finished, monkeypatch):
    task, record = finished
    monkeypatch.setattr("ppl_text.tables.rows.fit", None)
    other = changed(task, set={**task.table.budgets["small"].set, "report.samples": 33})
    assert other.done() == record
    finer = changed(task, measure={**task.settings, "sentences": 50})
    assert finer.done() is None
    assert run_task(finer, Quiet())["measures"]["test_words"] == 50
    assert task.done() is None
    run_task(task, Quiet())


def test_data_that_have_changed_are_noticed(tiny_table, tmp_path, word_list):
    data = tmp_path / "list.tsv"
    data.write_bytes(word_list.read_bytes())
    task = Task(tiny_table, tiny_table.rows[2], "small", 0, tmp_path / "out", str(data))
    record = run_task(task, Quiet())
    assert task.done() == record
    data.write_text(data.read_text(encoding="utf-8") + "zzz\t500\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="other words or counts than row 'oracle'"):
        task.done()


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(finished, tmp_path):
    task, record = finished
    again = Task(task.table, task.row, "small", 0, tmp_path)
    again.folder.mkdir()
    for name in ("config.yaml", "data.json", "environment.json", "tokenizer.json"):
        (again.folder / name).write_bytes((task.folder / name).read_bytes())
    assert run_task(again, Quiet())["measures"] == record["measures"]


def test_a_folder_with_something_else_in_it_is_left_alone(tiny_table, tmp_path):
    task = Task(tiny_table, tiny_table.rows[1], "small", 0, tmp_path)
    task.folder.mkdir()
    (task.folder / "data.json").write_text("{}", encoding="utf-8")
    (task.folder / "mine").write_text("something", encoding="utf-8")
    with pytest.raises(RunFolderError, match="is not empty"):
        run_task(task, Quiet())
    assert (task.folder / "mine").read_text(encoding="utf-8") == "something"


def test_two_processes_do_not_share_a_row(finished):
    task, _ = finished
    with _locked(task), pytest.raises(RunFolderError, match=f"process {os.getpid()} is at work on"):
        run_task(task, Quiet())


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


def test_a_guide_trained_by_steps_is_measured_by_a_filter(tiny_table, tmp_path):
    row = tiny_table.rows[0]
    sequential = row.model_copy(update={"set": {**row.set, "guide.name": "look-ahead", "objective": "stepwise:2"}})
    task = Task(tiny_table, sequential, "small", 0, tmp_path)
    found = run_task(task, Quiet())["measures"]
    bound, error = pt.load(task.folder).bound("fivo:4", "test", 40, SEED)
    assert found["test_filter"] == pytest.approx(-bound)
    assert found["test_filter_se"] == pytest.approx(error)
    keys = ("test", "test_filter", "test_prior")
    assert found["tightest"] == min(found[key] for key in keys)
    (lowest,) = (key for key in keys if found[key] == found["tightest"])
    assert found["tightest_se"] == found[f"{lowest}_se"]


def test_a_baseline_has_no_entropy_gap_and_no_trajectories(tiny_table, tmp_path):
    task = Task(tiny_table, tiny_table.rows[1], "small", 0, tmp_path)
    record = run_task(task, Quiet())
    found = record["measures"]
    assert found["test"] == pytest.approx(found["test_elbo"])
    assert found["test_se"] == 0.0
    assert record["profiles"] == {}
    assert not any(key.startswith("gap") or "prior" in key for key in found)
    ids = pt.load(task.folder).corpus.vocabulary.size
    assert found["model_parameters"] == 8 * ids + 3 * (8 * 8 + 8 * 8 + 2 * 8) + (8 + 1) * (ids - 2)
    assert found["guide_parameters"] == 0


def test_the_oracle_knows_the_training_words_by_heart(tiny_table, tmp_path, word_list):
    task = Task(tiny_table, tiny_table.rows[2], "small", 0, tmp_path)
    record = run_task(task, Quiet())
    found = record["measures"]
    assert found["train"] == found["entropy_train"]
    assert found["in_list"] == 1.0
    assert found["entropy_test"] < found["test"] < found["entropy_test"] + 0.2
    assert record["training_seconds"] is None
    assert task.done() == record


def test_few_test_tokens_have_less_entropy_than_what_they_are_drawn_from(tmp_path):
    """n tokens of V equally frequent types: 2n·offset is χ² with V - 1 degrees of freedom, up to terms in 1/n."""
    types, tokens = 26 * 26, 20_000
    words = WordCounts(tuple(a + b for a, b in product(ascii_lowercase, repeat=2)), np.full(types, 10**6))
    corpus = character_corpus("w", divide(words, WordListOptions(test_tokens=tokens)), ascii_lowercase, ())
    found = WordMeasure().data_row(corpus, {"samples": 50}, 0, print).numbers
    assert found["test"] == pytest.approx(math.log(types), abs=1e-4)
    expected, spread = (types - 1) / (2 * tokens), math.sqrt(2 * (types - 1)) / (2 * tokens)
    assert abs(found["offset"] - expected) < 5 * spread
    assert found["entropy_test"] == pytest.approx(found["test"] - found["offset"])
    assert found["test_tokens"] == corpus.splits["test"].total
    row = {"title": "O", "group": "g", "seeds": [0], "published": {"offset": 0.22}, "measures": found}
    (note,) = WordMeasure().notes({"groups": {"g": "G"}, "rows": [row]})
    begin = f"O: H test lies {found['offset']:.3f} nats above the entropy of its {found['test_tokens']:,} test tokens, "
    assert note.startswith(begin)
    assert note.endswith("(paper: 0.22).")


def test_a_test_word_that_training_lacks_leaves_no_distance():
    parts = {"train": ["aa", "ab"], "valid": ["aa"], "test": ["ab", "ba"]}
    counted = {name: WordCounts(tuple(texts), np.full(len(texts), 5)) for name, texts in parts.items()}
    corpus = character_corpus("w", counted, "ab", ())
    found = _tightest(corpus, {"test": 2.0, "test_se": 0.1}, {"sentences": 20})
    assert (found["tightest"], found["tightest_se"], found["oracle"]) == (2.0, 0.1, math.inf)
    assert finite_or_none(found)["distance"] is None


def test_records_of_older_versions_are_counted_from_their_configuration(finished):
    task, record = finished
    bare = {key: value for key, value in record["measures"].items() if not key.endswith("_parameters")}
    assert len(bare) == len(record["measures"]) - 2
    (task.folder / RECORD).write_text(json.dumps({**record, "measures": bare}), encoding="utf-8")
    row = gather(task.table, task.out, "small")["rows"][0]
    (task.folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    assert row["measures"] == record["measures"]


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
    # The number of distinct words of n draws among 200 has a variance below 200/4.
    assert found["unique"] == pytest.approx(PAPER_UNIQUE, abs=5 * math.sqrt(200 / 4) / found["samples"])
    assert found["samples"] > 300


def test_seeds_have_folders_and_draws_of_their_own(tiny_table, finished, tmp_path):
    task, record = finished
    other = Task(tiny_table, task.row, "small", 1, tmp_path)
    assert other.folder.name == "chain-s1"
    assert run_task(other, Quiet())["measures"]["test"] != record["measures"]["test"]


class Terse:
    """Writes a text that says something every so often, and empty ones or spaces between."""

    def __init__(self, every):
        self.every, self.written, self.seeds = every, 0, []

    def generate(self, n, seed):
        self.seeds.append(seed)
        places = range(self.written, self.written + n)
        self.written += n
        return [f"text {i}" if i % self.every == 0 else " " * (i % 2) for i in places]


def generator(out):
    """A row whose run writes 40 texts for others."""
    table = load_table("davam-figure3", "verses")
    return Task(table, table.select(["generator-1k"])[0], "smoke", 0, out)


@pytest.mark.parametrize("every", [1, 2, 6])
def test_empty_texts_are_left_out_and_more_are_drawn(tmp_path, every):
    run = Terse(every)
    found = _texts(generator(tmp_path), run)
    assert found == [f"text {i * every}" for i in range(40)], "the first ones, in their order"
    assert len(set(run.seeds)) == len(run.seeds), "every draw is another one"
    assert run.written < 60 * every


def test_a_run_that_writes_next_to_nothing_is_given_up(tmp_path):
    run = Terse(100)
    message = r"row 'generator-1k' has written 6 texts that are not empty among 540, and .* need 40: train it longer"
    with pytest.raises(UserError, match=message):
        _texts(generator(tmp_path), run)
    assert len(run.seeds) == TRIES
