"""The network behind a flow, against its weights written out."""

from __future__ import annotations

import pytest
import torch

from ppl_text.nn.conditioner import Conditioner


def test_equals_a_plain_tanh_network_over_the_concatenation() -> None:
    torch.manual_seed(0)
    net = Conditioner(3, 4, context_dim=2, hidden=(5, 6)).double()
    with torch.no_grad():
        net.bias.normal_()
    state, context = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    first = torch.cat([net.state.weight, net.context.weight], dim=1)
    x = torch.cat([state, context], dim=1) @ first.T + net.bias
    for layer in net.layers:
        x = torch.tanh(x) @ layer.weight.T + layer.bias
    torch.testing.assert_close(net(state, net.project(context)), x)


@pytest.mark.parametrize("lead", [(), (4,), (2, 4), (2, 3, 4)])
def test_leading_axes_equal_the_loop(lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = Conditioner(3, 4, context_dim=2, hidden=(5,)).double()
    state, context = torch.randn(*lead, 3).double(), torch.randn(*lead, 2).double()
    found = net(state, net.project(context))
    assert found.shape == (*lead, 4)
    rows = [net(s, net.project(c)) for s, c in zip(state.reshape(-1, 3), context.reshape(-1, 2), strict=True)]
    torch.testing.assert_close(found.reshape(-1, 4), torch.stack(rows))


def test_contexts_are_shared_by_particles() -> None:
    torch.manual_seed(0)
    net = Conditioner(3, 4, context_dim=2, hidden=(5,)).double()
    state, context = torch.randn(6, 4, 3).double(), torch.randn(4, 2).double()
    wide = net(state, net.project(context.expand(6, 4, 2)))
    torch.testing.assert_close(net(state, net.project(context)), wide)


def test_without_feedback_the_state_is_ignored_and_without_context_the_bias_stands_alone() -> None:
    torch.manual_seed(0)
    blind = Conditioner(0, 4, context_dim=2, hidden=(5,))
    context = torch.randn(6, 2)
    assert torch.equal(blind(torch.randn(6, 3), blind.project(context)), blind(None, blind.project(context)))
    alone = Conditioner(3, 4, hidden=(5,))
    assert alone.project(None) is alone.bias


def test_the_last_layer_starts_small_and_unbiased() -> None:
    torch.manual_seed(0)
    net = Conditioner(8, 40, context_dim=8, hidden=(64, 64))
    theta = net(10 * torch.randn(200, 8), net.project(10 * torch.randn(200, 8)))
    assert float(theta.detach().abs().max()) < 0.6
    assert float(theta.detach().std()) > 0.01


def test_faults() -> None:
    with pytest.raises(ValueError, match="needs a state, a context or both"):
        Conditioner(0, 4)
    with pytest.raises(ValueError, match="expects a context of width 2, got none"):
        Conditioner(3, 4, context_dim=2).project(None)
