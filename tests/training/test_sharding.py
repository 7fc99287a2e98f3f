"""Processes that hold a part of the parameters each (FSDP) make the updates of one that holds all of them.

Users are refused a CPU for this (tests/cli/test_together.py). Here two processes of one meet, by torch's gloo.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from lightning_fabric.strategies import ModelParallelStrategy
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

import ppl_text
from ppl_text.core.errors import UserError
from ppl_text.core.processes import Place
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config
from ppl_text.training import trainer as training
from ppl_text.training.programs import Joint
from ppl_text.training.sharding import share_out

from . import shared_script
from .conftest import leftovers, metrics, stored_state
from .test_shared import COMMON, TINY

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs torch's gloo"
)

TINY = {**COMMON, **TINY, "training.validate_every": 2, "training.checkpoint_every": 2}
NOISY = {**TINY, "training.steps": 3, "training.clip_norm": 1.0}
STAGES = [
    {"name": "decoder", "steps": 2, "train": ["model.backbone", "guide"], "optimizer": "sgd", "lr": 0.05},
    {
        "name": "anew",
        "steps": 2,
        "train": ["model.chain", "guide"],
        "optimizer": "adamw",
        "lr": 1e-3,
        "reset": ["guide"],
    },
]
IN_STAGES = {
    **{key: value for key, value in TINY.items() if key not in ("training.optimizer", "training.lr")},
    "training.stages": STAGES,
    "training.accumulate": 2,
    "model.checkpointing": True,
    "model.read_norm": True,
    "model.last_layer": 1,
    "guide.encoder": "own",
    "training.epochs": None,
}
QUIET = {**TINY, "model.dropout": 0.0, "training.optimizer": "adam", "training.lr": 0.001}
"""Without any noise, so that a run with other processes goes on as if nothing had changed."""


def run(name, recipe, changes, steps=None, *, strategy="ddp", resumed=False):
    """What the script is told of a run."""
    length = {} if steps is None else {"training.steps": steps}
    return [name, recipe, {**changes, **length, "strategy": strategy}, resumed]


ALONE = [
    run("noisy", "verses-della", NOISY),
    run("stages", "verses-della", IN_STAGES),
    run("quiet", "verses-gpt2", QUIET, 4),
    run("begun alone", "verses-gpt2", QUIET, 2),
]
PARTICLES = {**NOISY, "objective": "iwae:4/2", "training.steps": 2}
TOGETHER = [
    run("particles, ddp", "verses-della", PARTICLES),
    run("particles, fsdp", "verses-della", PARTICLES, strategy="fsdp"),
    run("diverging", "verses-della", {**NOISY, "training.lr": 1e30}, strategy="fsdp"),
    run("ddp", "verses-della", NOISY),
    run("noisy", "verses-della", NOISY, strategy="fsdp"),
    run("stages", "verses-della", IN_STAGES, strategy="fsdp"),
    run("begun alone", "verses-gpt2", QUIET, 4, strategy="fsdp", resumed=True),
    run("begun together", "verses-gpt2", QUIET, 2, strategy="fsdp"),
]


def alone(folder, runs):
    """Train in this process."""
    with patch.object(training, "seed_all", training.seed_all):
        shared_script.main(folder, runs)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of the trainings in one process and in two, by their number."""
    place = tmp_path_factory.mktemp("sharded")
    one, two = place / "1", place / "2"
    alone(one, ALONE)
    shutil.copytree(one / "begun alone", two / "begun alone")
    (place / "runs.json").write_text(json.dumps(TOGETHER))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*start, str(Path(shared_script.__file__)), str(two), str(place / "runs.json")],
        env=os.environ | {"PYTHONPATH": str(Path(ppl_text.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    shutil.copytree(two / "begun together", one / "begun together")
    alone(one, [run("begun together", "verses-gpt2", QUIET, 4, resumed=True)])
    return {1: one, 2: two}


def last_state(folder):
    return stored_state(max((folder / "checkpoints").glob("step-*.pt")))


def assert_same_records(one, other):
    for own, theirs in zip(metrics(one), metrics(other), strict=True):
        assert (own["step"], own["split"]) == (theirs["step"], theirs["split"])
        for name in ("loss", "bound", "kl", "log_likelihood", "grad_norm"):
            if own.get(name) is not None and own["split"] == "train":
                assert theirs[name] == pytest.approx(own[name], rel=2e-5, abs=2e-4), name


@pytest.mark.parametrize(("number", "name"), [(1, "noisy"), (2, "ddp")])
def test_the_updates_are_those_of_processes_that_hold_all(folders, number, name):
    whole, parts = folders[number] / name, folders[2] / "noisy"
    assert_same_records(whole, parts)
    one, other = last_state(whole), last_state(parts)
    assert one["parameters"].keys() == other["parameters"].keys()
    for key, value in one["parameters"].items():
        torch.testing.assert_close(other["parameters"][key], value, rtol=2e-5, atol=2e-6)


def test_each_process_keeps_its_part_of_the_parameters(folders):
    bytes_alone = json.loads((folders[1] / "noisy" / "0.json").read_text())["bytes"]
    first, second = (json.loads((folders[2] / "noisy" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["sum"] == second["sum"]
    assert max(first["bytes"], second["bytes"]) < 0.52 * bytes_alone
    assert first["bytes"] + second["bytes"] == bytes_alone


def test_stages_that_train_parts_by_optimizers_of_their_own_are_the_same(folders):
    """So are gradients gathered of two batches, and blocks that are computed twice."""
    one, other = (folders[number] / "stages" for number in (1, 2))
    assert_same_records(one, other)
    one, other = last_state(one), last_state(other)
    assert one["rule"] == other["rule"] == "AdamW"
    for key, value in one["parameters"].items():
        trained_last = key.startswith(("model.chain", "guide"))
        # Adam's first steps are as long as the rate where a gradient is nothing but rounding.
        torch.testing.assert_close(other["parameters"][key], value, rtol=2e-5, atol=4e-3 if trained_last else 2e-6)


@pytest.mark.parametrize(("number", "name"), [(2, "begun alone"), (1, "begun together")])
def test_a_run_goes_on_however_its_parameters_were_held(folders, number, name):
    """The checkpoint of step 2 is taken up by one process from two that held parts, and the other way round."""
    whole, gone_on = last_state(folders[1] / "quiet"), last_state(folders[number] / name)
    assert_same_records(folders[1] / "quiet", folders[number] / name)
    assert gone_on["counters"]["step"] == whole["counters"]["step"] == 4
    for index, moments in whole["optimizer"]["state"].items():
        for key, value in moments.items():
            torch.testing.assert_close(gone_on["optimizer"]["state"][index][key], value, rtol=1e-3, atol=1e-5)


def test_what_is_saved_is_whole(folders):
    for name in ("noisy", "stages"):
        one, other = (folders[number] / name for number in (1, 2))
        first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
        assert {key: value.shape for key, value in first.items()} == {k: v.shape for k, v in second.items()}
        assert last_state(one)["optimizer"].keys() == last_state(other)["optimizer"].keys()
        assert not leftovers(other)


def test_what_is_measured_beside_the_bound_is_the_same(folders):
    one, other = (
        [record["monitor"] for record in metrics(folders[number] / "noisy") if record["split"] == "valid"]
        for number in (1, 2)
    )
    assert one
    for own, theirs in zip(one, other, strict=True):
        assert own.keys() == theirs.keys()
        for name, value in own.items():
            assert theirs[name] == (value if value is None else pytest.approx(value, rel=1e-3, abs=1e-4)), name


def test_particles_that_are_run_once_more_on_the_way_back_are_the_same(folders):
    """The noise of several particles is each process's own, so that only processes are compared."""
    assert_same_records(*(folders[2] / f"particles, {strategy}" for strategy in ("ddp", "fsdp")))


def test_a_loss_that_is_not_finite_ends_all_with_one_message(folders):
    first, second = (json.loads((folders[2] / "diverging" / f"{rank}.json").read_text())["error"] for rank in (0, 1))
    assert first == second
    assert first.startswith("step 2: the loss is nan; guide site 'z_1': value has ")
    assert "gradient of parameter 'model.backbone.network.wte.weight' has 6400 non-finite entries of 6400" in first


TWICE = {"model.layers": 3, "model.width": 16, "model.heads": 2, "guide.encoder": "own"}


def built(recipe="verses-della", sizes=TWICE, **changes):
    """A configuration of a small network, and its programs."""
    config = load_config(recipe, {**sizes, "strategy": "fsdp", **changes})
    return config, build.build_programs(config, Vocabulary(40))


@pytest.fixture
def eight_processes():
    """What torch takes for the first of eight processes, of which the others are not there."""
    torch.distributed.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield init_device_mesh("cpu", (8, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("architecture", "number"), [("gpt2", 6), ("llama", 6), ("bart", 12)], ids=["gpt2", "llama", "bart"]
)
def test_blocks_of_model_and_guide_are_gathered_one_by_one_and_the_rest_at_the_root(
    eight_processes, architecture, number
):
    config, programs = built(**{"model.architecture": architecture})
    joint = Joint(*programs, build.build_objective(config))
    sizes = {name: parameter.shape for name, parameter in joint.named_parameters()}
    trained = len(joint.trained(["model", "guide"]))
    assert share_out(joint, eight_processes) is joint
    grouped = [name for name, part in joint.named_modules() if isinstance(part, FSDPModule)]
    assert grouped[0] == ""
    assert len(grouped) == 1 + number
    assert all(name.rpartition(".")[2].isdigit() for name in grouped[1:])
    assert len(joint.trained(["model", "guide"])) == trained
    for name, parameter in joint.named_parameters():
        assert parameter.shape == sizes[name]
        assert parameter.to_local().shape[0] == -(-parameter.shape[0] // 8)  # the first has the larger part
    weight = programs.model.backbone.embedding.weight
    assert programs.guide.backbone.embedding.weight is not weight
    assert programs.model.output_weight.shape[1] == 16
    assert sum(parameter is weight for parameter in joint.parameters()) == 1


def test_the_strategy_is_built_of_all_processes_in_the_precision_asked_for(monkeypatch):
    for name, value in {"WORLD_SIZE": "8", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    config, _ = built(**{"precision": "bf16", "device": "cpu", "data.batch_size": 16})
    fabric = build.build_fabric(config, Place(size=8, rank=0, local_size=4, local_rank=0))
    assert isinstance(fabric.strategy, ModelParallelStrategy)
    assert (fabric.strategy._data_parallel_size, fabric.strategy._tensor_parallel_size) == (8, 1)
    assert fabric.strategy.precision.precision == "bf16-mixed"


def on(device, size=8):
    return SimpleNamespace(world_size=size, device=torch.device(device))


def test_a_transformer_on_several_gpus_is_accepted():
    config, programs = built()
    build.check_sharded(config, on("cuda"), programs)


@pytest.mark.parametrize(
    ("recipe", "changes", "fabric", "says"),
    [
        (
            "verses-della",
            {},
            on("cpu"),
            "cannot share out the parameters: it needs GPUs, and this is the cpu; use",
        ),
        ("verses-della", {}, on("cuda", 1), "it needs several processes, and this is the only one"),
        ("verses-della", {"training.optimizer": "soap"}, on("cuda"), "optimizer soap needs the whole of each gradient"),
        ("verses-vae", {"sizes": {}}, on("cuda"), "no part of this sentence_vae names blocks"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(recipe, changes, fabric, says):
    config, programs = built(recipe, **changes)
    with pytest.raises(UserError, match=says):
        build.check_sharded(config, fabric, programs)


def test_a_parameter_that_is_a_single_number_is_refused():
    config, programs = built()
    programs.guide.register_parameter("scale", torch.nn.Parameter(torch.ones(())))
    with pytest.raises(UserError, match="single number has no parts, as scale"):
        build.check_sharded(config, on("cuda"), programs)
