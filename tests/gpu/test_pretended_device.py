"""On a device that refuses what a GPU refuses: no training step makes the host wait, and every command runs."""

import json
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


def test_no_training_step_waits_for_the_device(ran):
    """Each guide with one objective, each objective with one guide, each optimizer; through the trainer's update."""
    found = ran("steps")
    refused = {"two devices", "a numpy array", "cuDNN's gradient in evaluation mode"}
    for name, result in found["controls"].items():
        assert (result["error"] is not None) == (name in refused), (name, result)
        assert bool(result["waits"]) == (name not in {"nothing", *refused}), (name, result)
    wrong = {name: result for name, result in found["steps"].items() if result["error"] or result["waits"]}
    assert not wrong, json.dumps(wrong, indent=1)
    assert len(found["steps"]) > 30


def test_every_command_runs_where_tensors_lie_on_a_device(ran, word_list, sentences, tmp_path):
    found = ran("commands", tmp_path, word_list, sentences)
    wrong = {name: result["error"] for name, result in found.items() if result["error"]}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
