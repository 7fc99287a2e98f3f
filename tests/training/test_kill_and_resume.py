"""Real processes that are killed, interrupted and starved of disk space; what is left is resumed."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ppl_text

from .conftest import equal, leftovers, metrics, stored_state

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

SCRIPT = Path(__file__).parent / "kill_script.py"
LAST = "checkpoints/step-00000040.pt"
KILL, INT, TERM = int(signal.SIGKILL), int(signal.SIGINT), int(signal.SIGTERM)


def plan():
    """All attempts of all tests, so that torch is imported once."""
    rng = random.Random(os.urandom(8))
    moments = [(name, n) for n in (1, 2, 3, 4, 5) for name in ("fsync", "replace", "write")]
    return {
        "whole": [{}],
        "killed while writing": [{"die": moment} for moment in moments] + [{}],
        "killed at random": [{"signals": [(rng.uniform(0, 0.25), KILL)], "pause": 0.004} for _ in range(8)] + [{}],
        "interrupted": [{"signals": [(0.05, INT)], "pause": 0.01}, {}],
        "terminated": [{"signals": [(0.05, TERM)], "pause": 0.01}, {}],
        "interrupted again and again": [
            {"signals": [(0.05, INT), *[(0.01, number) for number in (INT, INT, TERM, INT)]], "pause": 0.2},
            {},
        ],
        "file size": [{"fsize": 9000}, {"die": ("fsync", 30)}, {"fsize": 9000}, {}],
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folder of the runs, and the results of the attempts by name."""
    folder = tmp_path_factory.mktemp("killed")
    plans = plan()
    attempts = [attempt | {"folder": str(folder / name)} for name, part in plans.items() for attempt in part]
    (folder / "plan.json").write_text(json.dumps(attempts), encoding="utf-8")
    root = str(Path(ppl_text.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(folder / "plan.json"), str(folder / "results.json")],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    results = iter(json.loads((folder / "results.json").read_text(encoding="utf-8")))
    return folder, {name: [next(results) for _ in part] for name, part in plans.items()}


@pytest.mark.parametrize("name", [name for name in plan() if name != "whole"])
def test_seconds_are_monotone_over_a_resume(done, name):
    folder, _ = done
    lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


@pytest.mark.parametrize("name", [name for name in plan() if name != "whole"])
def test_what_is_resumed_to_the_end_equals_an_uninterrupted_run(done, name):
    folder, results = done
    assert results["whole"][0]["status"] == 0
    assert results[name][-1]["status"] == 0, results[name][-1]["log"]
    for file in (LAST, "checkpoints/best.pt"):
        assert equal(stored_state(folder / name / file), stored_state(folder / "whole" / file))
    assert metrics(folder / name) == metrics(folder / "whole")
    weights = "model.safetensors"
    assert (folder / name / weights).read_bytes() == (folder / "whole" / weights).read_bytes()
    assert not leftovers(folder / name)


def test_killed_processes_were_killed_while_they_wrote(done):
    _, results = done
    *killed, _ = results["killed while writing"]
    assert {attempt["status"] for attempt in killed} == {-KILL}
    assert all(attempt["partial"] for attempt in killed[2::3])  # in the middle of a write
    assert all("Traceback" not in attempt["log"] for attempt in killed)


def test_random_kills_hit(done):
    _, results = done
    *killed, _ = results["killed at random"]
    assert -KILL in {attempt["status"] for attempt in killed}
    assert {attempt["status"] for attempt in killed} <= {-KILL, 0}


@pytest.mark.parametrize(
    ("name", "status"), [("interrupted", 130), ("terminated", 143), ("interrupted again and again", 130)]
)
def test_signals_save_and_leave_with_their_status(done, name, status):
    _, results = done
    first, _ = results[name]
    assert first["status"] == status, first["log"]
    at_once = "stopped at once by a second signal" in first["log"]
    assert at_once if name == "interrupted again and again" else "the state is saved in" in first["log"]
    assert "Traceback" not in first["log"]


def test_a_limit_on_the_size_of_files_is_met_in_words(done):
    """The first attempt cannot even save step 0; the third has an older checkpoint, which survives."""
    _, results = done
    first, second, third, _ = results["file size"]
    assert second["status"] == -KILL
    for attempt in (first, third):
        assert attempt["status"] == 1
        assert "the limit on the size of a file is reached" in attempt["log"]
        assert "Traceback" not in attempt["log"]
        assert not attempt["partial"]
    assert "resumed from" in third["log"]
