"""Runs on a device: which one is chosen, bf16, resumed bit by bit, read elsewhere, and no wait in the training step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from device_cases import FEW, SMALL, SOME, STEPS, TINY, Steps
from lightning_fabric import Fabric

import ppl_text as pt
from ppl_text.core.errors import UserError
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config
from ppl_text.training.capture import CudaGraphs

HAS_GPU = torch.cuda.is_available()
FAMILIES = {"words": TINY, "ptb-bn": SMALL, "ptb-lm": {k: v for k, v in SMALL.items() if k != "model.latent_dim"}}
"""A recipe of words, one with running statistics, one whose likelihood is exact; and what makes them small."""


@pytest.fixture
def fit(word_list, sentences, device, one_thread):
    """``fit(recipe, out, **options)``: a short run on the device."""

    def run(recipe: str, out: Path, **options):
        corpus = word_list if recipe == "words" else sentences
        changes = {**FAMILIES[recipe], "data.corpus": str(corpus), **options.pop("set", {})}
        return pt.fit(recipe, set=changes, device=device, out=out, **options)

    return run


@contextmanager
def no_waiting() -> Iterator[None]:
    """Context in which an operation that waits for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEPS)
def test_no_training_step_waits_for_the_gpu(name: str) -> None:
    steps = Steps(STEPS[name], Fabric(accelerator="cuda", devices=1))
    steps.take(FEW[:1])
    with no_waiting():
        steps.take(FEW[1:], start=1)
    assert steps.update.meters.updates == 3
    assert math.isfinite(steps.update.norm.item())


IN_BF16 = ("deep_state_space x diagonal", "sentence_vae x gaussian", "latent_sequence x quantised")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "32-true") for name in STEPS), *((name, "bf16-mixed") for name in IN_BF16)]
)
def test_recorded_steps_are_those_of_the_same_random_numbers(name: str, precision: Any) -> None:
    """Every replay draws anew, and draws what a step as it stands draws from the same generator."""
    ends = []
    for recorded in (False, True):
        fabric = Fabric(accelerator="cuda", devices=1, precision=precision)
        steps = Steps(STEPS[name], fabric, CudaGraphs(fabric.device) if recorded else None)
        torch.manual_seed(1)
        steps.take(SOME)
        ends.append(steps.numbers())
    assert (steps.shapes, len(steps.said)) == ((0, 1) if "/" in name else (2, 0)), steps.said
    rounding = torch.finfo(torch.float32 if precision == "32-true" else torch.bfloat16).eps
    for key, expected in ends[0].items():
        # What sums of another order make of a few steps of rate 0.01, whatever the entry.
        scale = expected.double().abs().max() + 1.0
        torch.testing.assert_close(ends[1][key], expected, rtol=0.0, atol=float(32 * len(SOME) * rounding * scale))


@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_auto_takes_a_gpu_where_there_is_one(asked: str) -> None:
    chosen = build.build_fabric(load_config("words", {"device": asked})).device
    assert chosen.type == ("cuda" if asked == "auto" and HAS_GPU else "cpu")


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="no CUDA GPU is visible to torch; use --device cpu or auto"):
        build.build_fabric(load_config("words", {"device": "cuda"}))


@pytest.mark.parametrize("recipe", FAMILIES)
def test_a_run_is_on_the_device_and_says_so(recipe: str, fit, device: str, tmp_path: Path) -> None:
    run = fit(recipe, tmp_path / "run")
    assert {p.device.type for p in [*run.model.parameters(), *run.guide.parameters()]} == {device}
    environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    assert torch.device(environment["device"]).type == device
    assert math.isfinite(run.evaluate(particles=4, limit=12).elbo)
    assert len(run.generate(2)) == 2


@pytest.mark.parametrize("recipe", FAMILIES)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(recipe: str, fit, tmp_path: Path) -> None:
    whole, again, halved = (fit(recipe, tmp_path / name, steps=n) for name, n in (("a", 8), ("b", 8), ("c", 4)))
    weights = (whole.folder / "model.safetensors").read_bytes()
    same = (again.folder / "model.safetensors").read_bytes() == weights
    assert same, "two runs from one seed differ: this device does not reckon the same way twice, so none can resume so"
    resumed = pt.fit(resume=halved.folder, steps=8)
    assert (resumed.folder / "model.safetensors").read_bytes() == weights
    first, second = (load_checkpoint(run.folder) for run in (whole, resumed))
    assert first.keys() == second.keys()
    for name, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][name]), name


@pytest.mark.parametrize("recipe", FAMILIES)
def test_what_was_trained_on_the_device_is_read_on_the_cpu(recipe: str, fit, tmp_path: Path) -> None:
    run = fit(recipe, tmp_path / "run")
    moved = pt.load(run.folder, device="cpu")
    for name, value in moved.model.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, run.model.state_dict()[name].cpu()), name
    stored = load_checkpoint(run.folder)["parameters"]
    assert stored.keys() == {*_named("model.", moved.model), *_named("guide.", moved.guide)}
    if recipe == "ptb-lm":  # exact, so without noise: a sum over a dozen sentences of a few words
        here, there = (r.evaluate(limit=12).elbo for r in (moved, run))
        assert here == pytest.approx(there, rel=64 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("recipe", FAMILIES)
def test_bf16_trains_parameters_that_stay_in_float32(recipe: str, fit, tmp_path: Path) -> None:
    run = fit(recipe, tmp_path / "run", precision="bf16")
    assert {p.dtype for p in [*run.model.parameters(), *run.guide.parameters()]} == {torch.float32}
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    bounds = [record["bound"] for record in map(json.loads, lines)]
    assert len(bounds) > 4
    assert all(map(math.isfinite, bounds))


def load_checkpoint(folder: Path) -> dict:
    """The newest state, read as a machine without a GPU reads it."""
    newest = max((folder / "checkpoints").glob("step-*.pt"))
    return torch.load(newest, map_location="cpu", weights_only=True)["state"]


def _named(prefix: str, module: torch.nn.Module) -> list[str]:
    return [prefix + name for name in module.state_dict()]
