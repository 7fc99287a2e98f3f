"""A GPU gives the numbers of the CPU within float32; bf16 gives them within bf16."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pytest
import torch
from device_cases import GUIDE_CASES, OBJECTIVE_CASES, OTHER_CASES, Case, batch
from host_noise import HostNoise
from torch import Tensor, nn

CASES = {**GUIDE_CASES, **OBJECTIVE_CASES, **{n: c for n, c in OTHER_CASES.items() if not n.startswith("optimizer")}}

FACTOR = 32.0
"""How many roundings of every parameter the roundings of all operations together may amount to."""


class Found(NamedTuple):
    """Loss and gradient by parameter, as float64 on the CPU; ``dtype``: of the bound by sentence."""

    loss: Tensor
    gradients: dict[str, Tensor]
    dtype: torch.dtype


def found(
    case: Case, device: str = "cpu", dtype: torch.dtype = torch.float32, shaken: float = 0.0, autocast: bool = False
) -> Found:
    """One loss and its gradient with the same noise everywhere; ``shaken``: relative change of every parameter."""
    joint = nn.ModuleDict(dict(zip(("model", "guide"), case.programs(), strict=True))).to(device, dtype).train()
    for part in joint.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in joint.parameters():
            signs = torch.randint(0, 2, parameter.shape, generator=rng) * 2.0 - 1.0
            parameter.mul_(1.0 + shaken * signs.to(device, dtype))
    given = batch().to(device).map(lambda values: values.to(dtype) if values.is_floating_point() else values)
    kind = torch.device(device).type
    with torch.random.fork_rng(), pyro.validation_enabled(False), HostNoise(2):
        with torch.autocast(kind, torch.bfloat16, enabled=autocast):
            estimate = case.objective()(joint["model"], joint["guide"], given)
        estimate.loss.backward()
    gradients = {name: p.grad.double().cpu() for name, p in joint.named_parameters() if p.grad is not None}
    return Found(estimate.loss.detach().double().cpu(), gradients, estimate.bound.dtype)


def compare(case: Case, actual: Found, rounding: float) -> None:
    """Hold loss and gradients to those of float64, as near as roundings of this size let them be.

    The condition of the problem is measured: what the numbers do where every parameter is off by one rounding.
    """
    exact, moved = found(case, dtype=torch.float64), found(case, dtype=torch.float64, shaken=rounding)
    sum_of_terms = rounding * exact.loss.abs()
    assert (actual.loss - exact.loss).abs() <= FACTOR * ((moved.loss - exact.loss).abs() + sum_of_terms)
    assert actual.gradients.keys() == exact.gradients.keys()
    largest = max(value.norm() for value in exact.gradients.values())
    for name, value in exact.gradients.items():
        condition = (moved.gradients[name] - value).norm() + rounding * (value.norm() + 0.1 * largest)
        error = (actual.gradients[name] - value).norm()
        assert error <= FACTOR * condition, f"{name}: off by {error:.3g}, its condition allows {FACTOR * condition:.3g}"


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_float64_within_float32(name: str, device: str) -> None:
    actual = found(CASES[name], device)
    assert actual.loss.isfinite() or name == "sentence_vae x point"
    compare(CASES[name], actual, torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("name", ["deep_state_space x diagonal", "sentence_vae x iaf", "LSTM language model"])
def test_bf16_is_of_the_networks_and_densities_stay_in_float32(name: str, device: str) -> None:
    actual = found(CASES[name], device, autocast=True)
    assert actual.dtype == torch.float32
    assert all(value.isfinite().all() for value in actual.gradients.values())
    compare(CASES[name], actual, torch.finfo(torch.bfloat16).eps)
