"""What runs write, at the smoke budget on the verses: ``reproduce davam-generation``, and ``davam-figure3``."""

import json
import re

import pytest
from click.testing import CliRunner

import ppl_text as pt
from ppl_text.cli import cli

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, one_thread, reproduce):
    """The language model as Table II trained it, and a row that is trained here; what was said, and the folder."""
    root = tmp_path_factory.mktemp("generation")
    told = []
    for table, rows in (("davam-table2", "lm"), ("davam-generation", "lm,davam")):
        out = root / f"{table}-verses-smoke"
        told.append(reproduce(table, out, "--rows", rows))
    return told[1], root, out


def test_a_run_of_the_table_that_trains_it_is_copied(filled):
    text, root, out = filled
    other = root / "davam-table2-verses-smoke" / "lm-s0"
    weights = [(folder / "model.safetensors").read_bytes() for folder in (other, out / "lm-s0")]
    assert weights[0] == weights[1]
    assert text.count("trained already") == 1
    measured = [json.loads((folder / "measures.json").read_text())["table"] for folder in (other, out / "lm-s0")]
    assert measured == ["davam-table2", "davam-generation"]


def test_every_length_has_its_table_and_a_text_of_each_row(filled):
    text, _, out = filled
    page = (out / "table.md").read_text(encoding="utf-8")
    for length in (8, 12, 16, 20, 24):
        _, block, *_ = page.split(f"*{length} tokens*\n\n| row | Ent | Dist-1 | Dist-2 | n-grams, nats | ± |")
        assert re.match(r".*\n.*\n\| LSTM-LM \| \d\.\d\d \| 0\.\d{3} \|", block)
        shown = page.split(f"*{length} tokens*\n\n```text\n")[1].split("\n```")[0].splitlines()
        titles = [line.split("  ")[0] for line in shown]
        assert titles == ["LSTM-LM", "DAVAM, 512 codes"]
        assert {len(line.removeprefix(title).split()) for title, line in zip(titles, shown, strict=True)} == {length}
    assert "- 6 texts of each length a row" in text
    assert "judge, nats" not in page
    assert page.count("parameters (model + guide)") == 1


@pytest.mark.parametrize("name", ["judge", "features"])
def test_a_pretrained_model_belongs_to_tables_that_ask_one(ppl, tmp_path, name):
    done = ppl("reproduce", "davam-table2", f"--{name}", "gpt2", "--out", tmp_path)
    assert (done.status, done.out) == (2, "")
    assert f"table davam-table2 has no setting '{name}' of its measures; it has: sentences" in done.err


@pytest.fixture(scope="module")
def augmented(tmp_path_factory, one_thread, reproduce):
    """One language model on generated texts beside its own: what was said, and the folder."""
    out = tmp_path_factory.mktemp("figure3")
    return reproduce("davam-figure3", out, "--rows", "lm-1k-x05,lm-1k"), out


def test_a_row_is_trained_on_the_texts_of_the_row_before_it(augmented):
    text, out = augmented
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    trained = {row["name"]: row["measures"]["train_texts"] for row in found["rows"] if row["seeds"]}
    assert trained == {"generator-1k": 10, "lm-1k": 10, "lm-1k-x05": 15}
    assert "3 rows and seeds, 0 of them done before" in text
    written = (out / "generator-1k-s0" / "texts.txt").read_text(encoding="utf-8").splitlines()
    assert len(written) == 40, "as many as the row that takes most"
    assert all(written), "empty ones are left out"
    run = pt.load(out / "lm-1k-x05-s0")
    added = list(run.corpus.splits["train"].texts)[10:]
    own = set(pt.load(out / "lm-1k-s0").corpus.splits["train"].texts)
    assert set(list(run.corpus.splits["train"].texts)[:10]) == own
    assert own == set(pt.load(out / "generator-1k-s0").corpus.splits["train"].texts), "nothing leaks"
    taken = [" ".join(line.split()[:24]) for line in written[:5]]
    assert added == taken


def test_the_perplexities_are_drawn_over_the_number_of_texts(augmented):
    _, out = augmented
    assert (out / "figures" / "augmentation.png").stat().st_size > 1000
    page = (out / "table.md").read_text(encoding="utf-8")
    assert "](figures/augmentation.png)" in page
    assert re.search(r"^\| and half as many generated ones \| 15 \| \d+\.\d\d \|", page, re.MULTILINE)


@pytest.mark.parametrize("left", [None, 7], ids=["lost", "cut short"])
def test_texts_that_are_not_there_any_more_are_written_again(augmented, monkeypatch, left, reproduce):
    _, out = augmented
    texts = out / "generator-1k-s0" / "texts.txt"
    before = texts.read_text(encoding="utf-8")
    if left is None:
        texts.unlink()
    else:
        texts.write_text("\n".join(before.splitlines()[:left]) + "\n", encoding="utf-8")
    monkeypatch.setattr("ppl_text.tables.rows.fit", None)
    monkeypatch.setattr("ppl_text.tables.rows._measured", None)
    reproduce("davam-figure3", out, "--rows", "lm-1k-x05")
    assert texts.read_text(encoding="utf-8") == before


def test_a_row_says_which_one_has_not_written_its_texts(tmp_path):
    broken = tmp_path / "generator-1k-s0"
    broken.mkdir()
    (broken / "mine").write_text("something", encoding="utf-8")
    arguments = ["reproduce", "davam-figure3", "--budget", "smoke", "--jobs", "1", "--rows", "lm-1k-x05,lm-1k-x1"]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path)])
    assert done.exit_code == 1
    message = str(done.exception)
    assert re.search(r"^- generator-1k-s0: .* is not empty", message, re.MULTILINE)
    for name in ("lm-1k-x05-s0", "lm-1k-x1-s0"):
        assert re.search(
            rf"^- {name}: not run, for want of the texts of generator-1k-s0: .* is not empty", message, re.M
        )
        assert not (tmp_path / name).exists()
