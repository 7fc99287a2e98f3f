"""A run whose corpus has moved writes and encodes texts as before, on the command line and in Python."""

import shutil

import pytest

import ppl_text as pt
from ppl_text.core.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "data.batch_size": 16,
    "data.lower": True,
    "model.latent_dim": 3,
    "model.embedding_dim": 6,
    "model.hidden_dim": 8,
    "report.sentences": 12,
    "report.particles": 2,
    "report.samples": 4,
}


@pytest.fixture(scope="module")
def away(tmp_path_factory, sentences, word_list, tiny):
    """Folders of two finished runs whose corpora are gone, by the unit of these, and what they said before."""
    place = tmp_path_factory.mktemp("away")
    shutil.copytree(sentences, place / "sentences")
    shutil.copy(word_list, place / "list.tsv")
    few = {"training.steps": 4, "report.sentences": 20, "report.particles": 2, "report.samples": 10}
    runs = {
        "sentences": pt.fit("verses-vae", data=place / "sentences", set=SMALL, steps=4, out=place / "a"),
        "words": pt.fit(set={**tiny, **few}, data=place / "list.tsv", out=place / "b"),
    }
    said = {unit: answers(run, *TEXTS[unit]) for unit, run in runs.items()}
    shutil.move(place / "sentences", place / "elsewhere")
    (place / "list.tsv").unlink()
    return {unit: (run.folder, said[unit]) for unit, run in runs.items()}


TEXTS = {"sentences": ("the King  SEES bread", "she hears the sea"), "words": ("bade", "ma")}


def answers(run, first, second):
    """What a run says without reading its texts."""
    return [
        run.generate(3, seed=1),
        *(run.reconstruct([first]), run.reconstruct([first, second]), run.interpolate(first, second, points=3)),
        {name: value.tolist() for name, value in run.encode([first, second], seed=4).items()},
    ]


@pytest.mark.parametrize("unit", TEXTS)
def test_texts_are_written_and_encoded_as_before(away, unit):
    folder, said = away[unit]
    assert answers(pt.load(folder), *TEXTS[unit]) == said


def test_the_commands_work(ppl, away):
    for unit, (folder, said) in away.items():
        first, second = TEXTS[unit]
        for arguments, expected in (
            (("-n", "3", "--seed", "1"), said[0]),
            (("--reconstruct", first), [f"{first}\t{said[1][0]}"]),
            (("--interpolate", first, second, "-n", "3"), said[3]),
        ):
            ended = ppl("generate", folder, *arguments)
            assert (ended.status, ended.err) == (0, "")
            assert ended.out.splitlines() == expected


def test_what_reads_the_texts_says_that_they_are_gone(ppl, away):
    for folder, _ in away.values():
        for command in (
            ("evaluate", folder),
            ("generate", folder, "--neighbours", "ma"),
            ("swap", folder, "--guide", "prior"),
        ):
            ended = ppl(*command)
            assert ended.status == 2
            assert f"the corpus of run {folder} is not at " in ended.err
            assert "put it back there" in ended.err
            assert ended.out == ""


def test_a_text_that_does_not_fit_is_still_refused(away):
    folder, _ = away["sentences"]
    with pytest.raises(UserError, match=r"has 40 tokens; this run takes 1 to \d+$"):
        pt.load(folder).reconstruct(["the " * 40])


def test_an_older_run_asks_its_corpus(away, sentences, tmp_path):
    """One that did not keep how long its texts are."""
    folder, said = away["sentences"]
    shutil.copytree(folder, tmp_path / "run")
    text = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    where = str(folder.parent / "sentences")
    assert where in text
    (tmp_path / "run" / "config.yaml").write_text(text.replace(where, str(sentences)), encoding="utf-8")
    record = (tmp_path / "run" / "data.json").read_text(encoding="utf-8")
    assert '"max_steps": ' in record
    (tmp_path / "run" / "data.json").write_text(record.replace("max_steps", "other"), encoding="utf-8")
    assert answers(pt.load(tmp_path / "run"), *TEXTS["sentences"]) == said
