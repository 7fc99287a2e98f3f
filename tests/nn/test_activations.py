"""tanh by way of the sigmoid: its values and gradients are tanh's."""

import math

import numpy as np
import pytest
import torch

from ppl_text.nn import activations
from ppl_text.nn.activations import MANY, tanh, tanh_

EPSILON = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


@pytest.fixture
def few(monkeypatch):
    """Any number of numbers is many."""
    monkeypatch.setattr(activations, "MANY", 1)


@pytest.mark.parametrize("dtype", EPSILON)
def test_values_are_those_of_numpy_within_rounding(dtype):
    x = torch.cat([torch.linspace(-30, 30, MANY + 1), torch.randn(MANY) * 1e-3]).to(dtype)
    exact = np.tanh(x.double().numpy())
    for y in (tanh(x), tanh_(x.clone())):
        assert y.dtype == dtype
        assert np.abs(y.double().numpy() - exact).max() <= 2 * EPSILON[dtype]


def test_the_ends_and_what_is_no_number(few):
    x = torch.tensor([math.inf, -math.inf, 1e38, -1e38, 0.0])
    assert tanh(x).tolist() == tanh_(x.clone()).tolist() == [1.0, -1.0, 1.0, -1.0, 0.0]
    assert math.isnan(tanh(torch.tensor([math.nan, 1.0]))[0])


def test_gradients_are_those_of_autograd(few):
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tanh, x)
    assert torch.autograd.gradgradcheck(tanh, x)
    (ours,) = torch.autograd.grad(tanh(x).cos().sum(), x)
    (theirs,) = torch.autograd.grad(torch.tanh(x).cos().sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_batch_of_functions_is_mapped(few):
    x = torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(tanh)(x), torch.tanh(x))
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(tanh))(x), torch.diag_embed(1 - torch.tanh(x) ** 2))


def test_what_is_in_place_is_in_place_wherever_it_lies():
    whole = torch.randn(6, 4)
    part, before = whole[:, ::2], whole.clone()
    assert tanh_(part) is part
    torch.testing.assert_close(part, torch.tanh(before[:, ::2]))
    assert torch.equal(whole[:, 1::2], before[:, 1::2])


@pytest.mark.parametrize(
    "x", [torch.randn(9), torch.randn(2 * MANY, dtype=torch.bfloat16), torch.randn(2 * MANY, device="meta")]
)
def test_few_numbers_coarse_ones_and_other_devices_have_torchs_own(x, monkeypatch):
    asked = []
    own = torch.tanh
    monkeypatch.setattr(torch, "tanh", lambda value: (asked.append(value), own(value))[1])
    tanh(x)
    assert len(asked) == 1
