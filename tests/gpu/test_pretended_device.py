"""On a device that refuses what a GPU refuses: no training step makes the host wait, and every command runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices that are written in Python",
)


@pytest.fixture
def ran(environment):
    """``ran("steps")``: what ``pretended_runs.py`` prints, run by itself: the device is one of the whole process."""

    def run(*arguments):
        command = [sys.executable, str(Path(__file__).with_name("pretended_runs.py")), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_no_training_step_waits_for_the_device_and_each_can_be_recorded(ran):
    """Each guide with one objective, each objective with one guide, each optimizer; through the trainer's update.

    Recorded steps leave the numbers of steps as they stand, bit by bit: with the same random numbers, drawn anew in
    each replay, and with the β, the learning rate and the batch of the day. Chunks of particles are computed twice with
    the same random numbers, for which torch reads the generator's state: no graph holds that.
    """
    found = ran("steps")
    refused = {"two devices", "a numpy array", "cuDNN's gradient in evaluation mode"}
    for name, result in found["controls"].items():
        assert (result["error"] is not None) == (name in refused), (name, result)
        assert bool(result["waits"]) == (name not in {"nothing", *refused}), (name, result)
    steps = found["steps"]
    wrong = {name: result for name, result in steps.items() if result["error"] or result["waits"] or result["unlike"]}
    assert not wrong, json.dumps(wrong, indent=1)
    assert len(steps) > 30
    reasons = {name: "the random state cannot be read" for name in steps if "/" in name}
    reasons["gathered gradients"] = "each update gathers the gradients of 3 batches"
    assert {name for name, result in steps.items() if result["shapes"] != 1} == set(reasons)
    for name, result in steps.items():
        assert len(result["said"]) == (name in reasons), (name, result["said"])
        assert all(f"step by step instead: {reasons[name]}" in line for line in result["said"])


def test_what_cannot_be_recorded_is_named_and_trained_as_it_stands(ran):
    found = ran("refused")
    assert len(found) == 2
    for name, result in found.items():
        assert result["error"] is None, result
        assert result["shapes"] == 0
        assert not result["unlike"]
        (line,) = result["said"]
        assert re.search(
            r"not captured as a graph, step by step instead: the host waits .* at .*pretended_runs.py:\d+", line
        )
        assert line.endswith(f"in {name.split()[-1]}")


def test_every_command_runs_where_tensors_lie_on_a_device(ran, word_list, sentences, tmp_path):
    found = ran("commands", tmp_path, word_list, sentences)
    wrong = {name: result["error"] for name, result in found.items() if result["error"]}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
