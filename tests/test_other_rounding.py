"""The arithmetic that the tests are tried under: other last bits, the same ones twice, and none in what is exact."""

import pytest
import torch
from other_rounding import OtherRounding

MACHINE = 1
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}
both = pytest.mark.parametrize("dtype", EPS)


@both
def test_sums_and_functions_differ_in_their_last_bits(dtype):
    x = torch.randn(40, 30, dtype=dtype)
    for run in (torch.exp, torch.tanh, lambda x: x @ x.T, lambda x: x.sum(0), lambda x: x.softmax(-1)):
        plain = run(x)
        with OtherRounding(MACHINE):
            found, again = run(x), run(x)
        assert torch.equal(found, again)
        assert not torch.equal(found, plain)
        # Two bits are at most 3 units, of each entry and of the result; the terms of a sum add up to 1000 at most.
        torch.testing.assert_close(found, plain, rtol=8 * EPS[dtype], atol=8 * EPS[dtype] * 1000)


def test_each_number_is_another_machine():
    x = torch.randn(40, 30)
    found = []
    for machine in (1, 2):
        with OtherRounding(machine):
            found.append(x.exp())
    assert not torch.equal(*found)


def test_rows_come_out_otherwise_in_a_batch_of_another_size():
    x = torch.randn(40, 30)
    with OtherRounding(MACHINE):
        assert not torch.equal((x @ x.T)[:7], x[:7] @ x.T)


@both
def test_what_is_exact_everywhere_stays(dtype):
    x, whole = torch.randn(30, 30, dtype=dtype), torch.arange(900.0, dtype=dtype).view(30, 30)
    for run in (lambda x: x + x / 3, lambda x: x.sqrt(), lambda x: x * 0.7 - 1, lambda x: x.amax(0)):
        plain = run(x.abs())
        with OtherRounding(MACHINE):
            assert torch.equal(run(x.abs()), plain)
    with OtherRounding(MACHINE):
        assert torch.equal(whole.sum(0), whole.sum(0, dtype=torch.int64).to(dtype))
        assert torch.zeros(3, dtype=dtype).exp().tolist() == [1.0] * 3


def test_what_went_in_is_left_alone_and_gradients_are_reached():
    x = torch.randn(20, 20, requires_grad=True)
    before = x.detach().clone()
    (x @ x).exp().sum().backward()
    plain, x.grad = x.grad, None
    with OtherRounding(MACHINE):
        (x @ x).exp().sum().backward()
    assert torch.equal(x.detach(), before)
    assert not torch.equal(x.grad, plain)
    torch.testing.assert_close(x.grad, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
