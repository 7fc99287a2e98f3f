"""Hand-written gradients against autograd through plain loops and against torch's own GRU."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from ppl_text.distributions.chains import FlowChain
from ppl_text.distributions.transforms import conditional_flow
from ppl_text.nn import recurrent
from ppl_text.nn.fused import DiagonalRecurrence, GatedRecurrence, worthwhile
from ppl_text.nn.recurrent import BackwardGRU, BidirectionalGRU

LENGTHS = torch.tensor([5, 1, 3])


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def test_gated_recurrence_equals_torch_gru():
    gru = nn.GRU(3, 4)
    x = torch.randn(6, 2, 3)
    weight_ih, weight_hh, bias_ih, bias_hh = gru.all_weights[0]
    gates = nn.functional.linear(x, weight_ih, bias_ih)
    torch.testing.assert_close(GatedRecurrence.apply(gates, weight_hh, bias_hh), gru(x)[0])


def test_gated_recurrence_gradients():
    inputs = [torch.randn(4, 2, 9), torch.randn(9, 3), torch.randn(9)]
    assert torch.autograd.gradcheck(GatedRecurrence.apply, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_diagonal_recurrence_gradients(depth):
    noise = torch.randn(2, 4, 3)
    widths = [5] * depth + [6]
    layers = [t for a, b in pairwise(widths) for t in (torch.randn(b, a), torch.randn(b))]
    inputs = [torch.randn(2, 4, 5), torch.randn(2, 3), torch.randn(5, 3), *layers]

    def run(projected, initial, state_weight, *rest):
        return DiagonalRecurrence.apply(noise, projected, initial, 0.3, 0.01, state_weight, *rest)

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs])


def outcome(reader, tokens, monkeypatch, fused):
    with monkeypatch.context() as patch:
        if not fused:
            patch.setattr(recurrent, "worthwhile", lambda x: False)
        states = reader(tokens, LENGTHS)
    mask = torch.arange(tokens.shape[1]) < LENGTHS.unsqueeze(-1)
    states = torch.where(mask.unsqueeze(-1), states, 0.0)
    return [states, *torch.autograd.grad((states.sin()).sum(), list(reader.parameters()))]


@pytest.mark.parametrize("kind", [BackwardGRU, BidirectionalGRU])
def test_readers_agree_with_the_reversed_gru(kind, monkeypatch):
    reader = kind(7, 3, 4)
    # The padding of the last row is junk.
    tokens = torch.tensor([[3, 4, 5, 6, 2, 0], [2, 0, 0, 0, 0, 0], [4, 4, 2, 6, 6, 6]])
    fused, plain = (outcome(reader, tokens, monkeypatch, fused) for fused in (True, False))
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("leading", [(3,), (2, 3)])
@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_chain_agrees_with_the_plain_loop(leading, hidden, monkeypatch):
    kernel = conditional_flow("diag", 2, context_dim=3, hidden=hidden, delta=0.01)
    initial = torch.randn(2, requires_grad=True)
    context = torch.randn(3, 6, 3, requires_grad=True)
    noise = torch.randn(*leading, 6, 2)
    results = []
    for fused in (True, False):
        with monkeypatch.context() as patch:
            if not fused:
                patch.setattr("ppl_text.distributions.chains.worthwhile", lambda x: False)
            path, theta = FlowChain(kernel, initial, LENGTHS, 6, context).push_forward(noise)
        loss = path.sin().sum() + theta.cos().sum()
        results.append([path, theta, *torch.autograd.grad(loss, [initial, context, *kernel.parameters()])])
    torch.testing.assert_close(*results)


def test_where_they_are_used():
    x = torch.zeros(1)
    assert worthwhile(x)
    with torch.no_grad():
        assert not worthwhile(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not worthwhile(x)
    assert not worthwhile(torch.zeros(1, device="meta"))
