"""What is told of run folders that nobody has opened: finished, stopped, unstarted, and damaged in every way."""

import json
import os
import shutil
from pathlib import Path

import pytest

from ppl_text.core.errors import UserError
from ppl_text.recipes.overview import overview, runs_below

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped, as an older version left it."""
    return shutil.copytree(RUNS / "deep_state_space-stopped", tmp_path / "stopped")


def test_a_finished_run(trained):
    found = overview(trained.folder)
    results = json.loads((trained.folder / "results.json").read_text(encoding="utf-8"))
    assert (found.state, found.recipe, found.guide, found.model) == (
        "finished",
        "words",
        "diagonal",
        "deep_state_space",
    )
    assert (found.step, found.steps) == (20, 20)
    assert found.bounds["elbo"] == results["elbo"]
    assert f"ELBO {results['elbo']:.3f} ± {results['elbo_se']:.3f}" in found.told_bounds
    assert "(K = 4)" in found.told_bounds


def test_a_stopped_run(stopped):
    found = overview(stopped)
    assert found.state == "stopped"
    assert found.told_state == f"stopped at step {found.step:,} of {found.steps:,}"
    assert 0 < found.step < found.steps
    assert found.told_bounds.startswith("validation -")


def test_every_kept_run_of_an_older_version_is_told(tmp_path):
    found = {run.folder.relative_to(RUNS): run for run in runs_below(RUNS)}
    assert len(found) >= 20
    for folder, run in found.items():
        expected = "stopped" if str(folder).endswith("stopped") else "finished"
        assert run.state == expected, (folder, run.why)


def test_a_run_that_was_killed_before_its_first_update(copied):
    for name in ("checkpoints", "model.safetensors", "results.json", "report.md"):
        path = copied / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert overview(copied).told_state == "unstarted"
    (copied / "checkpoints").mkdir()
    assert overview(copied).told_state == "unstarted"


DAMAGE = {
    "no YAML": (lambda run: (run / "config.yaml").write_text("model: [", encoding="utf-8"), "is not valid YAML"),
    "no text": (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\0"), "not UTF-8"),
    "an empty configuration": (lambda run: (run / "config.yaml").write_text("", encoding="utf-8"), "must be a mapping"),
    "no configuration of a run": (lambda run: (run / "config.yaml").write_text("a: 1", encoding="utf-8"), "has errors"),
    "a deep configuration": (
        lambda run: (run / "config.yaml").write_text("[" * 20_000, encoding="utf-8"),
        "",
    ),
    "cut off results": (lambda run: (run / "results.json").write_text("{", encoding="utf-8"), "results.json cannot be"),
    "results that are a list": (
        lambda run: (run / "results.json").write_text("[]", encoding="utf-8"),
        "no JSON object",
    ),
    "results of another kind": (
        lambda run: (run / "results.json").write_text('{"trained": 3}', encoding="utf-8"),
        "",
    ),
    "steps in words": (
        lambda run: (run / "results.json").write_text('{"trained": {"step": "x"}}', encoding="utf-8"),
        "'trained.step': expected a valid integer; got 'x'",
    ),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "no model.safetensors"),
    "cut off weights": (lambda run: (run / "model.safetensors").write_bytes(b"no"), "model.safetensors cannot be read"),
    "empty weights": (lambda run: (run / "model.safetensors").write_bytes(b""), "model.safetensors cannot be read"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
def test_whatever_is_damaged_is_told(copied, damage, says):
    damage(copied)
    found = overview(copied)
    assert found.state == "damaged"
    assert says in found.why
    assert "\n" not in found.told_state
    json.dumps(found.as_json(), allow_nan=False)


def test_checkpoints_that_are_none(stopped):
    for path in (stopped / "checkpoints").glob("step-*.pt"):
        path.write_bytes(b"no zip")
    assert "no checkpoint that can be read" in overview(stopped).told_state


def test_a_damaged_newest_checkpoint_leaves_the_one_before(stopped):
    before = overview(stopped).step
    (stopped / "checkpoints" / "step-99999999.pt").write_bytes(b"")
    assert overview(stopped).step == before


def test_runs_below_a_folder_are_found_with_their_children(trained, tmp_path, copied):
    shutil.copytree(trained.folder, copied / "swaps" / "tril-1")
    shutil.copytree(trained.folder, copied / "checkpoints" / "no-run")
    shutil.copytree(trained.folder, copied.parent / ".hidden.partial")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [run.folder.relative_to(tmp_path) for run in runs_below(tmp_path)] == [
        Path("copy"),
        Path("copy/swaps/tril-1"),
    ]


def test_code_of_a_run_is_not_run(copied):
    (copied / "code").mkdir()
    (copied / "code" / "mine.py").write_text("raise SystemExit('run')", encoding="utf-8")
    text = (copied / "config.yaml").read_text(encoding="utf-8")
    changed = text.replace("name: diagonal", f"name: {copied}/code/mine.py:Mine")
    assert changed != text
    (copied / "config.yaml").write_text(changed, encoding="utf-8")
    found = overview(copied)
    assert (found.state, found.guide) == ("finished", f"{copied}/code/mine.py:Mine")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_refuses_is_told(tmp_path, copied):
    (tmp_path / "closed").mkdir(mode=0)
    told = []
    assert len(runs_below(tmp_path, told.append)) == 1
    assert "closed" in told[0]


def test_no_folder_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="nothing does not exist; give a folder with runs"):
        runs_below(tmp_path / "nothing")
