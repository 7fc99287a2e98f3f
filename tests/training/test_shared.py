"""Several processes that share each batch make the same updates as one, for every family."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from short_stages import short_stages

import ppl_text

from .conftest import metrics, stored_state

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs torch's gloo"
)

COMMON = {
    "training.optimizer": "sgd",  # its updates are linear in the gradients, as rounding is
    "training.lr": 0.05,
    "training.log_every": 1,
    "training.validate_every": 3,
    "training.checkpoint_every": 3,
    "data.limit": 60,  # epochs of a whole batch and a part of one, shared out unevenly
    "data.validation_sentences": 8,
    "data.buckets": 2,
    "data.max_tokens": 12,
    "data.long": "truncate",
    "device": "cpu",
}
TINY = {"data.vocabulary": 400, "model.layers": 2, "model.width": 16, "model.heads": 2}
STEPS = {"training.steps": 3}
STAGES = [{"name": "decoder", "steps": 1, "train": ["model"]}, {"name": "guide", "steps": 2, "train": ["guide"]}]
IN_STAGES = {"training.stages": STAGES, "training.epochs": None, "training.steps": None}
RECIPES = {
    "words": {**STEPS, "data.max_tokens": None, "data.long": None},
    "verses-vae": {**STEPS, "training.accumulate": 2},
    "verses-bn": STEPS,
    "verses-lm": STEPS,
    "verses-gavam": IN_STAGES,
    "verses-davam": {
        "training.stages": short_stages("verses-davam"),
        "training.epochs": None,
        "model.code_start": "uniform",
        "model.revive": 0.0,
    },
    "verses-davam-q": {"training.stages": short_stages("verses-davam-q"), "training.epochs": None},
    "verses-codes-contextual": STEPS,
    "pairs-vattn-h": STEPS,
    "verses-della": {**STEPS, **TINY},
}
OWN = {
    "verses-bn": "rows are normalised by those of a process",
    "verses-davam-q": "codes start from those of a process",
}
"""What is not the same in several processes, and why."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of the trainings in one process and in two, by their number."""
    place = tmp_path_factory.mktemp("shared")
    recipes = [
        [name, name, {k: v for k, v in {**COMMON, **own}.items() if v is not None or k in IN_STAGES}, False]
        for name, own in RECIPES.items()
    ]
    (place / "recipes.json").write_text(json.dumps(recipes))
    script = Path(__file__).parent / "shared_script.py"
    starts = {1: [], 2: ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
    environment = os.environ | {"PYTHONPATH": str(Path(ppl_text.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    for number, start in starts.items():
        command = [sys.executable, *start, str(script), str(place / str(number)), str(place / "recipes.json")]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr[-6000:]
    return {number: place / str(number) for number in starts}


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in OWN])
def test_two_processes_equal_one_at_the_same_global_batch(folders, recipe):
    alone, shared = (folders[number] / recipe for number in (1, 2))
    for one, other in zip(metrics(alone), metrics(shared), strict=True):
        if one["split"] == "train":
            for name in ("loss", "bound", "kl", "log_likelihood", "grad_norm"):
                if one[name] is not None:
                    assert other[name] == pytest.approx(one[name], rel=2e-5, abs=2e-4), name
    one, other = (stored_state(max((folder / "checkpoints").glob("step-*.pt"))) for folder in (alone, shared))
    for name, value in one["parameters"].items():
        torch.testing.assert_close(other["parameters"][name], value, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_processes_hold_the_same_at_the_end(folders, recipe):
    first, second = (json.loads((folders[2] / recipe / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["sum"] == second["sum"]
