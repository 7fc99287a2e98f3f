"""The causal network sees what came before and nothing else; step by step it says the same."""

import pytest
import torch
from torch import nn

from ppl_text.nn.causal import CausalConvolutions, EmbeddedIndices, Unconditional

STEPS, INPUTS, OUTPUTS = 7, 3, 4


def network(**options):
    torch.manual_seed(0)
    made = CausalConvolutions(INPUTS, OUTPUTS, **{"width": 5, "layers": 2, "kernel": 3, **options}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return made


@pytest.mark.parametrize(("layers", "kernel"), [(1, 2), (2, 3), (3, 1)])
def test_an_output_depends_on_the_inputs_before_it_within_reach(layers, kernel):
    made = network(layers=layers, kernel=kernel)
    x = torch.randn(STEPS, INPUTS, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(made, x).abs().sum((1, 3))  # (output step, input step)
    behind = torch.arange(STEPS).unsqueeze(1) - torch.arange(STEPS)
    assert torch.equal(jacobian > 0, (behind >= 1) & (behind <= made.reach))


def test_steps_are_the_outputs_of_all_steps_at_once():
    made = network()
    x = torch.randn(2, 6, STEPS, INPUTS, dtype=torch.float64)
    whole = made(x)
    assert whole.shape == (2, 6, STEPS, OUTPUTS)
    state, outputs = made.begin(12), []
    for t in range(STEPS):
        output, state = made.output(state)
        outputs.append(output)
        state = made.follow(state, x.flatten(0, 1)[:, t])
    torch.testing.assert_close(torch.stack(outputs, 1).view_as(whole), whole)


def test_one_layer_is_the_formula():
    made = network(layers=1, kernel=2)
    x = torch.randn(2, INPUTS, dtype=torch.float64)
    y = [made.embed(made.start), made.embed(x[0])]
    gate = made.gates[0]
    both = gate.weight[:, :, 0] @ y[0] + gate.weight[:, :, 1] @ y[1] + gate.bias
    a, g = both.chunk(2)
    expected = made.head(y[1] + made.mix[0](a.tanh() * g.sigmoid()))
    torch.testing.assert_close(made(x)[1], expected)


def test_a_step_costs_the_same_however_many_came_before():
    """Multiplications of a step, counted: drawing S steps is O(S)."""
    from torch.utils.flop_counter import FlopCounterMode

    made = network(layers=3)
    state, counts = made.begin(2), []
    for _ in range(4):
        with FlopCounterMode(display=False) as counter:
            _, state = made.output(state)
        counts.append(counter.get_total_flops())
        state = made.follow(state, torch.randn(2, INPUTS, dtype=torch.float64))
    assert counts[0] > 0
    assert len(set(counts)) == 1


@pytest.mark.parametrize("kind", [EmbeddedIndices, Unconditional])
def test_networks_of_indices_say_the_same_step_by_step(kind):
    if kind is EmbeddedIndices:
        made = EmbeddedIndices(nn.Embedding(6, INPUTS), network()).double()
    else:
        made = Unconditional(OUTPUTS).double()
        nn.init.normal_(made.bias)
    indices = torch.randint(6, (2, 5, STEPS))
    whole = made(indices)
    assert whole.shape == (2, 5, STEPS, OUTPUTS)
    assert torch.equal(whole[0, 0, 0], whole[1, 3, 0])  # nothing came before
    assert torch.equal(whole[..., 0, :], whole[..., -1, :]) == (kind is Unconditional)
    state, outputs = made.begin(10), []
    for t in range(STEPS):
        output, state = made.output(state)
        outputs.append(output)
        state = made.follow(state, indices.flatten(0, 1)[:, t])
    torch.testing.assert_close(torch.stack(outputs, 1).view_as(whole), whole)
