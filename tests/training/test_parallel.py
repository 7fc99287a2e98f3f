"""Two real processes train one model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ppl_text
from ppl_text.core.errors import RunFolderError

from .conftest import equal, leftovers, metrics, stored_state


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_stay_together_and_resume(make, tmp_path):
    script = Path(__file__).parent / "parallel_script.py"
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(ppl_text.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = dict(line.split(": ") for line in ended.stdout.splitlines() if ": " in line)
    whole = said["whole 8 rank 0"]
    assert said["whole 8 rank 1"] == said["part 8 rank 0"] == said["part 8 rank 1"] == whole
    assert said["part 4 rank 0"] == said["part 4 rank 1"] != whole
    gathered = said["gathered whole 8 rank 0"]
    assert (
        said["gathered whole 8 rank 1"] == said["gathered part 8 rank 0"] == said["gathered part 8 rank 1"] == gathered
    )
    assert gathered != whole
    for run, exchanges in (("whole 8", 8), ("part 4", 4), ("part 8", 4)):
        for rank in (0, 1):
            assert said[f"{run} exchanges {rank}"] == said[f"gathered {run} exchanges {rank}"] == str(exchanges)
    assert said["in turn 2 rank 0"] == said["in turn 2 rank 1"]  # two stages, which train other parts
    assert said["in turn 2 exchanges 0"] == said["in turn 2 exchanges 1"] == "2"  # of the first one
    assert ended.stderr.count("training: 8 steps") == 4  # shown by the first process only
    last = "checkpoints/step-00000008.pt"
    state = stored_state(tmp_path / "part" / last)
    assert equal(state, stored_state(tmp_path / "whole" / last))
    assert len(state["processes"]) == 2
    assert not equal(state["processes"][0]["batches"], state["processes"][1]["batches"])
    assert metrics(tmp_path / "part") == metrics(tmp_path / "whole")
    validated = [r for r in metrics(tmp_path / "whole") if r["split"] == "valid"]
    assert [r["sentences"] for r in validated] == [10.0, 10.0]  # five weigh 1 in each process's batch
    assert not leftovers(tmp_path)
    with pytest.raises(RunFolderError, match="was written by 2 processes, each at a place of its own"):
        make(tmp_path / "whole").trainer.fit(resume=True)
