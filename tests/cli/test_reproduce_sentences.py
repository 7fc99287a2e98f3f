"""``reproduce davam-table2``: the smoke budget on the verses, a folder of the user's for another part, bad input."""

import json
import math
import re
import shlex

import pytest

from ppl_text.evaluation.likelihood import bounds_of, summarize
from ppl_text.evaluation.scores import load_scores

TABLE = ["reproduce", "davam-table2", "--budget", "smoke", "--jobs", "1"]
TITLES = ["LSTM-LM", "VAE", "+anneal", "+cyclic", "+aggressive", "+FBP", "+pretraining+FBP"]
"""Rows 1-7 of Table II, in the paper's order."""

ATTENDED = ["GAVAM", "DAVAM-q, 512 codes", "DAVAM, 128 codes", "DAVAM, 512 codes", "VAE+Attn"]
"""Rows 8-11 of it, and one of Tables III to V."""

STEPWISE = {"gavam", "davam-128", "davam", "vae-attn"}
"""Rows whose latents have steps."""

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, one_thread, reproduce):
    """The smoke budget of the whole table on the verses; what it printed, and its folder."""
    out = tmp_path_factory.mktemp("smoke") / "verses"
    return reproduce("davam-table2", out), out


def results(out):
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_every_row_is_filled(filled):
    text, out = filled
    found = results(out)
    assert (found["part"], found["given"], len(found["rows"])) == ("verses", None, 16)
    for row in found["rows"]:
        measures = row["measures"]
        assert row["seeds"] == [0], row["name"]
        assert measures["steps"] == 4
        assert measures["n_sent"] > 10
        assert (measures.get("kl") is None) == (row["name"] == "lm")
        assert ("mutual_information" in measures) == (row["name"] not in {"lm", *STEPWISE})
        assert ("paper_ppl" in measures) == (row["name"] in STEPWISE)
        assert ("codes_used" in measures) == row["name"].startswith("davam")
        assert measures["ppl"] == pytest.approx(math.exp(-measures["iw_sum"] / measures["n_eos"]))
        if row["name"] != "lm":
            assert measures["ppl"] <= measures["ppl_elbo"] * (1 + 1e-6)
            assert measures["elbo_negative"] == pytest.approx(measures["rec"] + measures["kl"])
    assert "not run" not in text
    sizes = {row["measures"]["n_eos"] for row in found["rows"]}
    assert f"test sentences, {sizes.pop():,.0f} scored tokens (EOS counted, BOS not)" in text
    assert not sizes
    assert "MI is against the aggregate posterior of 24 of the sentences, and can be 3.18 nats at most" in text
    page = (out / "table.md").read_text(encoding="utf-8")
    titles = re.findall(r"^\| (.+?) \|", page.split("**Beyond")[0], re.MULTILINE)
    assert titles == ["row", "---", *TITLES, "row", "---", *ATTENDED]
    assert "-0.00 " not in page
    assert "\n\n\n" not in page
    assert page.split("\n\n", 1)[1].strip() in text


def test_the_log_weights_behind_the_figures_are_kept(filled):
    """The printed perplexities and sums, recomputed from what lies in the row's folder."""
    _, out = filled
    for row in results(out)["rows"]:
        kept, about = load_scores(out / f"{row['name']}-s0" / "scores.safetensors")
        again = summarize(bounds_of(kept), about["particles"], exact=kept.exact)
        measures = row["measures"]
        assert [again.perplexity, again.rec_sum, again.n_eos] == pytest.approx(
            [measures[name] for name in ("ppl", "rec_sum", "n_eos")], rel=1e-6
        )


def test_the_same_command_reads_what_is_there(filled, ppl):
    _, out = filled
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/measures.json")}
    done = ppl(*TABLE, "--rows", "1-7", "--out", out, "--json")
    assert done.status == 0, done.err
    assert "7 rows and seeds, 7 of them done before" in done.err
    assert [row["title"] for row in json.loads(done.out)["rows"] if row["seeds"]][:7] == TITLES
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/measures.json")} == before


@pytest.fixture(scope="module")
def of_ptb(tmp_path_factory, sentences, one_thread, reproduce):
    """Rows 1, 2 and 7 on a folder that is called the Penn Treebank."""
    out = tmp_path_factory.mktemp("smoke") / "ptb"
    return reproduce("davam-table2", out, "--rows", "1-2,pretrain-fbp", "--data", f"ptb={sentences}"), out


def test_own_data_fill_a_part_beside_its_published_figures(of_ptb, sentences):
    text, out = of_ptb
    found = results(out)
    assert (found["part"], found["given"]) == ("ptb", str(sentences))
    assert [row["name"] for row in found["rows"] if row["seeds"]] == ["lm", "vae", "pretrain-fbp"]
    assert re.search(r"^\| VAE \| \d+\.\d\d \(101\.27\) \| \d+\.\d\d \(0\.00\) \|.* \(101\.39\) \|", text, re.MULTILINE)
    assert "Table II, PTB" in text


def test_rows_that_were_not_run_name_the_command_that_runs_them(of_ptb, sentences, ppl):
    text, out = of_ptb
    commands = re.findall(r"not run: `python -m ppl_text (.*?)`", text)
    data = ["--data", f"ptb={sentences}"]
    assert [shlex.split(line) for line in commands[:4]] == [
        [*TABLE[:2], "--rows", name, *TABLE[2:4], *data] for name in ("anneal", "cyclical", "aggressive", "fbp")
    ]
    done = ppl(*shlex.split(commands[0]), "--jobs", "1", "--out", out)
    assert done.status == 0, done.err
    assert [row["name"] for row in results(out)["rows"] if row["seeds"]] == ["lm", "vae", "anneal", "pretrain-fbp"]
    advice = done.out.strip().splitlines()[-1]
    assert shlex.split(advice)[-4:] == [*data, "--seeds", "0,1,2"]


def test_the_same_folder_spelled_otherwise_is_the_same_data(of_ptb, sentences, ppl, monkeypatch):
    monkeypatch.chdir(sentences.parent)
    done = ppl(*TABLE, "--rows", "lm", "--data", f"ptb={sentences.name}/", "--out", of_ptb[1], "--json")
    assert done.status == 0, done.err
    assert "1 rows and seeds, 1 of them done before" in done.err
    assert json.loads(done.out)["rows"][0]["seeds"] == [0]


def test_figure_four_is_drawn_of_the_rows_that_were_run(ppl, tmp_path):
    rows = "codes-128,codes-256,gavam,davam"
    done = ppl("reproduce", "davam-figure4", "--budget", "smoke", "--jobs", "1", "--rows", rows, "--out", tmp_path)
    assert done.status == 0, done.err
    assert sorted(path.stem for path in (tmp_path / "figures").iterdir()) == ["codes", "dynamics"]
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "![Rec, KL and perplexities over the number of codes](figures/codes.png)" in page
    assert "commitment of 5 at most" in page


BAD = {
    "unknown part": (["--data", "ptp=DIR"], "is printed for verses, ptb, yahoo, snli; say which of them that is"),
    "folder of no part": (["--data", "DIR"], "say which of them that is, e.g. --data snli=DIR"),
    "part without data": (["--data", "ptb"], "needs the Penn Treebank as train.txt, valid.txt and test.txt"),
    "no such folder": (["--data", "ptb=nowhere"], "unknown corpus 'nowhere'"),
    "folder without sentences": (["--data", "ptb=DIR"], "no training file in the folder: expected train.txt"),
    "row beyond the last": (["--rows", "7-17"], "unknown row of table davam-table2 '7-17'"),
    "rows the wrong way round": (["--rows", "7-1"], "Numbers from 1 to 16 are accepted too, as 1-3."),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_met_in_words(case, ppl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").mkdir()
    arguments, says = BAD[case]
    done = ppl(*TABLE, *arguments)
    assert done.status == 2, done.err
    assert done.err.count(says) == 1, done.err
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["DIR"]
