"""``evaluate --data``: other texts by the run's tokenizer, in every form that the readers read, with their shares."""

import json
import shutil

import pytest

import ppl_text as pt

from .test_commands import strict

SMALL = {
    "data.min_count": 1,
    "data.lower": True,
    "data.max_tokens": 6,
    "data.long": "truncate",
    "data.batch_size": 16,
    "model.latent_dim": 2,
    "model.embedding_dim": 4,
    "model.hidden_dim": 6,
    "report.sentences": 12,
    "report.particles": 2,
    "report.samples": 4,
}
LINES = ["The king sees bread", "zebras see the sea", "she hears a bird from the tree today", "no one"]
"""17 words of which two are unknown; one of four is too long."""


@pytest.fixture(scope="module")
def run(tmp_path_factory, sentences, one_thread):
    place = tmp_path_factory.mktemp("others")
    data = shutil.copytree(sentences, place / "data")
    return pt.fit("verses-vae", data=data, set=SMALL, steps=3, out=place / "run")


def write(path, form):
    """The lines in one of the forms of files."""
    if form == "txt":
        path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    elif form == "csv":
        path.write_text("".join(f"{a},{b}\n" for a, b in [("id", "text"), *enumerate(LINES)]), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES), encoding="utf-8")
    return path


def values(ppl, run, *arguments):
    ended = ppl("evaluate", run.folder, "--particles", "4", "--json", *arguments)
    assert ended.status == 0, ended.err
    return strict(ended.out)


@pytest.mark.parametrize("form", ["txt", "csv", "jsonl"])
def test_a_file_is_scored_whole_and_its_shares_are_named(ppl, run, tmp_path, form):
    file = write(tmp_path / f"mine.{form}", form)
    found = values(ppl, run, "--data", file)
    assert (found["data"], found["split"], found["n_sent"], found["n_words"]) == (str(file), None, 4, 4 + 4 + 6 + 2)
    shares = {name: found[f"{name}_share"] for name in ("unknown", "truncated", "dropped")}
    assert shares == {"unknown": pytest.approx(2 / 16), "truncated": 0.25, "dropped": 0.0}
    ended = ppl("evaluate", run.folder, "--particles", "4", "--data", file)
    assert f"{run.folder}, {file}\n" in ended.out
    assert "12.50% of the tokens are <unk>; too long were 25.00% of the sentences, which were truncated" in ended.out
    assert f"{form}: {5 if form == 'csv' else 4} lines" in ended.err or "rows read" in ended.err


def test_python_says_the_same(ppl, run, tmp_path):
    file = write(tmp_path / "mine.txt", "txt")
    likelihood = run.evaluate(particles=4, data=file)
    found = values(ppl, run, "--data", file)
    assert (found["elbo"], found["iw"]) == (likelihood.elbo, likelihood.iw)
    other = run.on(file)
    assert other.corpus.name == str(file)
    assert other.evaluate(other.corpus.name, 4).iw == likelihood.iw


def test_the_column_may_be_another(ppl, run, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("".join(f"{a},{b}\n" for a, b in [("title", "review"), *zip("abcd", LINES, strict=True)]))
    refused = ppl("evaluate", run.folder, "--data", file)
    assert refused.status == 2
    assert "review" in refused.err
    found = values(ppl, run, "--data", file, "--column", "review")
    assert found["iw"] == run.evaluate(particles=4, data=file, column="review").iw
    assert (found["n_sent"], found["n_words"]) == (4, 16)
    alone = ppl("evaluate", run.folder, "--column", "review")
    assert alone.status == 2
    assert "--column belongs to --data" in alone.err


def test_the_runs_own_texts_score_as_the_split_does(ppl, run):
    """From a file, and as the split of a folder: the same sentences, so the same figures."""
    own = values(ppl, run, "--split", "test")
    folder = run.config.data.corpus
    for arguments in (("--data", f"{folder}/test.txt"), ("--data", folder), ("--data", folder, "--split", "test")):
        found = values(ppl, run, *arguments)
        assert found["data"] == f"{folder}/test.txt"
        same = set(own) - {"split"}
        assert {name: found[name] for name in same} == {name: own[name] for name in same}
    assert values(ppl, run, "--data", folder, "--split", "valid")["iw"] == values(ppl, run, "--split", "valid")["iw"]


def test_the_corpus_may_be_gone(ppl, run, tmp_path):
    """Then there is no reference model, and the rest is as before."""
    file = write(tmp_path / "mine.txt", "txt")
    before = values(ppl, run, "--data", file)
    away = tmp_path / "away"
    shutil.copytree(run.folder, away)
    config = (away / "config.yaml").read_text(encoding="utf-8")
    (away / "config.yaml").write_text(config.replace(run.config.data.corpus, "/no/where"), encoding="utf-8")
    ended = ppl("evaluate", away, "--particles", "4", "--json", "--data", file)
    assert ended.status == 0, ended.err
    after = strict(ended.out)
    assert before["letter_model"] is None, "train has no <unk>"
    assert after == {**before, "run": str(away)}
    said = ppl("evaluate", away, "--particles", "4", "--data", file).out
    assert "i.i.d. token model is left out: the training texts, which it is made of, are not there." in said


def test_what_cannot_be_scored_is_refused(ppl, run, trained, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    foreign = tmp_path / "foreign.tsv"
    foreign.write_text("ba\t3\nbaxa\t2\n", encoding="utf-8")
    for folder, arguments, says in (
        (run.folder, ("nowhere.txt",), "'nowhere.txt' does not exist (seen from "),
        (run.folder, (tmp_path / "empty.txt",), "there is no sentence in it"),
        (trained.folder, (foreign,), "foreign.tsv, line 2: the word 'baxa' has the character 'x'"),
        (trained.folder, ("hub:x",), "hub:NAME is not supported for word lists"),
    ):
        ended = ppl("evaluate", folder, "--data", *arguments)
        assert (ended.status, ended.out) == (2, ""), arguments
        assert says in ended.err, ended.err


def test_words_are_scored_with_their_counts(ppl, trained, tmp_path):
    file = tmp_path / "few.tsv"
    file.write_text("bade\t3\nma\t1\n", encoding="utf-8")
    found = values(ppl, trained, "--data", file)
    assert (found["n_sent"], found["n_eos"]) == (4, 3 * 5 + 3)
    assert "unknown_share" not in found, "letters are a closed alphabet"
