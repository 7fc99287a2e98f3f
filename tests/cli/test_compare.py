"""``compare`` on the command line: what it prints, where, and how it meets bad input."""

import json
import os

import pytest

from .bad_world import LIST, Case, World
from .conftest import run_process
from .test_bad_input import check, tree

QUICK = ["--draws", "4", "--sentences", "8", "--repeats", "2"]
TWO = ["--objectives", "elbo,iwae:4"]


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_tables_verdict_and_what_to_run_next(ppl, copied):
    ended = ppl("compare", copied, *QUICK, *TWO)
    assert ended.status == 0, ended.err
    for title in ("Bounds, nats per word", "Gradients", "Guides", "Verdict"):
        assert f"{title}" in ended.out
    assert f"The comparison is in {copied / 'compare-1'} (comparison.html" in ended.out
    assert "bounds: iwae:4, guide 'diagonal' (1/2)" in ended.err
    assert "\r" not in ended.err
    advice = [line.split("python -m ppl_text ")[1] for line in ended.out.splitlines() if "python -m ppl_text" in line]
    assert len(advice) == 3
    for line in advice:
        assert ppl(*line.split()).status == 0


def test_json_is_strict_and_alone_on_stdout(ppl, copied, tmp_path):
    arguments = ["--guides", "diagonal,prior", "--steps", "2", *QUICK, *TWO, "--out", tmp_path / "c", "--json"]
    ended = ppl("compare", copied, *arguments)
    assert ended.status == 0, ended.err
    values = strict(ended.out)
    assert [(row["guide"], row["objective"]) for row in values["rows"]] == [
        ("diagonal", "elbo"),
        ("diagonal", "iwae:4"),
        ("prior", "elbo"),
        ("prior", "iwae:4"),
    ]
    assert values == strict((tmp_path / "c" / "comparison.json").read_text(encoding="utf-8"))
    assert {"bound", "bound_se", "khat_bad", "snr_guide", "peak_bytes", "active_units"} <= values["rows"][0].keys()
    assert values["settings"]["split"] == "valid"
    assert values["folder"] == str(tmp_path / "c")
    assert "refitting it on the frozen model" in ended.err


def test_results_are_numbered_in_the_folder_of_the_first_run(ppl, copied):
    for number in (1, 2):
        assert ppl("compare", copied, *QUICK, "--objectives", "elbo").status == 0
        assert (copied / f"compare-{number}" / "comparison.json").is_file()


def test_a_real_process(copied, command, environment):
    ended = run_process(command("compare", copied, *QUICK, "--json"), environment)
    assert ended.status == 0, ended.err
    assert len(strict(ended.out)["rows"]) == 7


def one(*arguments):
    """``compare`` of the finished run."""
    return lambda world: ["compare", world.run(), *arguments]


def other_data(world):
    """A second run, on other words than the first."""
    first, second = world.run(), world.folder / "second"
    os.rename(world.folder / first, second)
    record = second / "data.json"
    record.write_text(json.dumps({"fingerprint": "another"}), encoding="utf-8")
    return ["compare", world.run(), "second"]


CASES = {
    "no run": Case(lambda w: ["compare"], ("give at least one run to compare",)),
    "nothing": Case(lambda w: ["compare", "nothing"], ("nothing does not exist; give the folder of a run",)),
    "no run folder": Case(lambda w: ["compare", "."], (". holds no run (no config.yaml)",)),
    "no weights": Case(
        lambda w: ["compare", w.run_without("model.safetensors")], ("run run has no weights yet; train it:",)
    ),
    "unknown objective": Case(
        one("--objectives", "elbo,iwea:4"), ("unknown objective 'iwea' (did you mean 'iwae'?)", "known: ")
    ),
    "malformed objective": Case(one("--objectives", "iwae:0"), ("objective 'iwae:0' is malformed",)),
    "stray comma": Case(one("--objectives", "elbo,,iwae:4"), ("--objectives 'elbo,,iwae:4': expected names",)),
    "unknown guide": Case(one("--guides", "diagnal"), ("unknown guide for deep_state_space 'diagnal'",)),
    "unknown guide beside a good one": Case(one("--guides", "prior,nope"), ("unknown guide", "'nope'")),
    "no guide file": Case(one("--guides", "gone.py:Mine"), ("gone.py",)),
    "unknown split": Case(one("--split", "tset"), ("unknown split 'tset'", "train, valid, test")),
    "one draw": Case(one("--draws", "1"), ("draws must be 2 or more", "got 1")),
    "no sentences": Case(one("--sentences", "0"), ("sentences must be 2 or more", "got 0")),
    "one repeat": Case(one("--repeats", "1"), ("repeats must be 2 or more", "got 1")),
    "negative seed": Case(one("--seed", "-1"), ("--seed",)),
    "no steps": Case(one("--steps", "0"), ("--steps",)),
    "out is taken": Case(lambda w: ["compare", w.run(), "--out", w.file("d", "")], ("d is a file; choose another",)),
    "other data": Case(other_data, ("bounds of different sentences do not compare", "run was trained on corpus")),
    "changed words": Case(lambda w: ["compare", w.run_on(LIST)], ("is not what run run was trained on",)),
    "damaged weights": Case(
        lambda w: ["compare", (w.run(), w.file("run/model.safetensors", b"no"))[0]],
        ("model.safetensors cannot be read", "resume the run, which writes it again"),
        1,
    ),
}


@pytest.fixture
def world(tmp_path, monkeypatch, tiny_arguments, trained):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return World(tmp_path, tiny_arguments, trained.folder)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_met_in_words(world, ppl, case):
    arguments = case.arguments(world)
    before = tree(world.folder)
    ended = ppl(*arguments)
    check(case, ended.status, ended.out, ended.err, before, tree(world.folder))
    assert ended.err.count("\n") <= 4
