"""The decoder that attends to a source: equal to its equations, step by step, however its steps are computed."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

from ppl_text.core.errors import UnknownNameError
from ppl_text.data.batches import collate
from ppl_text.nn.source_attention import AttendingDecoder, Memory, SourceReader, Telling, laid_in, laid_out, softly

CASES = list(itertools.product(("post", "pre"), (0, 6), (0, 3), (False, True), (False, True)))
NAMES = ("order", "memory_dim", "latent_dim", "layer_norm", "started")


def decoder(order="post", memory_dim=6, latent_dim=3, layer_norm=False):
    torch.manual_seed(0)
    sizes = {"latent_dim": latent_dim, "memory_dim": memory_dim, "hidden_dim": 5, "output_dim": 4}
    made = AttendingDecoder(nn.Embedding(9, 3), 7, order=order, layer_norm=layer_norm, **sizes).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def sources(network, rows=2, width=6):
    states = torch.randn(rows, 4, width, dtype=torch.float64)
    counted = torch.arange(4) < torch.tensor([4, 2]).unsqueeze(-1)
    return Memory(states, network.keys(states), counted, states[:, 0])


def by_the_equations(network, embedded, z, memory, start):
    """States and readings of every row, as the equations stand: o is made, and joined to what the cell is given."""
    states, readings = [], []
    hidden = cell = embedded.new_zeros(len(embedded), 5)
    if start is not None:
        hidden, cell = start.tanh(), start
    fed = embedded.new_zeros(len(embedded), network.output_dim if network.attends_after else 0)

    def attend(hidden):
        rows = []
        for state, held, counted in zip(hidden, memory.states, memory.counted, strict=True):
            scores = torch.stack([state @ network.key.weight @ h for h in held[counted]])
            rows.append(scores.softmax(0) @ held[counted])
        return torch.stack(rows)

    for step in embedded.unbind(1):
        reading = hidden.new_zeros(len(hidden), 0)
        if network.attends_before:
            reading = fed = attend(hidden)
        given = torch.cat([step, fed] if z is None else [step, z, fed], -1)
        if network.norm is None:
            hidden, cell = network.cell(given, (hidden, cell))
        else:
            weights = network.cell
            gates = given @ weights.weight_ih.t() + weights.bias_ih + hidden @ weights.weight_hh.t() + weights.bias_hh
            hidden, cell = network.norm(gates, cell)
        if network.attends_after:
            reading = attend(hidden)
            fed = network.from_state(hidden) + network.from_memory(reading)
        states.append(hidden)
        readings.append(reading)
    return torch.stack(states, 1), torch.stack(readings, 1)


@pytest.mark.parametrize(NAMES, CASES)
def test_all_ways_to_compute_the_steps_are_the_equations(order, memory_dim, latent_dim, layer_norm, started):
    network = decoder(order, memory_dim, latent_dim, layer_norm)
    memory = sources(network)
    inputs = torch.tensor([[1, 4, 5], [1, 8, 3]])
    z = torch.randn(2, latent_dim, dtype=torch.float64) if latent_dim else None
    start = torch.randn(2, 5, dtype=torch.float64) if started else None
    embedded = network.embedded(inputs)
    states, readings = by_the_equations(network, embedded, z, memory, start)
    latent = None if z is None else z.unsqueeze(1)
    found, read = network.unroll(embedded, latent, memory, start)
    assert_close(found.squeeze(1), states)
    assert_close(read.squeeze(1), readings)
    assert_close(network.along(embedded, latent, read, start).squeeze(1), states)
    logits = network.head(network.outputs(states, readings))
    told = Telling(
        network,
        memory,
        z,
        start,
        softly,
        lambda hidden, read, scores, memory: network.head(network.outputs(hidden, read)),
    )
    state = told.begin(2)
    for step in range(3):
        given, state = told.step(state, inputs[:, step])
        assert_close(given, logits[:, step])


def test_one_call_has_the_gradients_of_the_loop():
    network = decoder()
    memory, z = sources(network), torch.randn(2, 2, 3, dtype=torch.float64)
    embedded = network.embedded(torch.tensor([[1, 4, 5], [1, 8, 3]])).detach()
    states, read = network.unroll(embedded, z, memory, None, particles=2)
    read = read.detach()
    weight = torch.randn_like(states)
    parts = [network.cell.weight_ih, network.cell.weight_hh, network.from_state.weight, network.from_memory.weight]

    def fixed(scores, memory, steps=[]):  # noqa: B006 - counts the steps of one pass
        steps.append(0)
        return read[:, :, (len(steps) - 1) % 3]

    looped, _ = network.unroll(embedded, z, memory, None, fixed)
    wanted = torch.autograd.grad((looped * weight).sum(), parts)
    given = torch.autograd.grad((network.along(embedded, z, read, None) * weight).sum(), parts)
    for ours, theirs in zip(given, wanted, strict=True):
        assert_close(ours, theirs)


def test_a_path_that_is_known_is_read_again():
    network = decoder(latent_dim=0)
    memory = sources(network)
    inputs = torch.tensor([[1, 4, 5], [1, 8, 3]])
    path = torch.randn(2, 1, 3, 6, dtype=torch.float64)
    states = network.along(network.embedded(inputs), None, path, None)
    logits = network.head(network.outputs(states, path)).squeeze(1)
    told = Telling(
        network,
        memory,
        None,
        None,
        softly,
        lambda hidden, read, scores, memory: network.head(network.outputs(hidden, read)),
        path.squeeze(1),
    )
    state = told.begin(2)
    for step in range(3):
        given, state = told.step(state, inputs[:, step])
        assert_close(given, logits[:, step])
    with pytest.raises(ValueError, match="expects 2 rows"):
        told.begin(3)


def test_the_reader_is_a_bidirectional_lstm_that_no_padding_reaches():
    torch.manual_seed(0)
    embedding = nn.Embedding(9, 3)
    reader = SourceReader(embedding, 4).double()
    batch = collate([[4, 5, 6], [7], []], torch.ones(3, dtype=torch.float64), 5, 3)
    states, last = reader(batch)
    both = nn.LSTM(3, 4, batch_first=True, bidirectional=True).double()
    with torch.no_grad():
        for suffix, own in (("", reader.onward), ("_reverse", reader.backward)):
            for name, parameter in own.named_parameters():
                getattr(both, name + suffix).copy_(parameter)
    packed = pack_padded_sequence(embedding(batch.tokens), batch.lengths, batch_first=True, enforce_sorted=False)
    wanted, _ = pad_packed_sequence(both(packed)[0], batch_first=True)
    for row, length in enumerate(batch.lengths.tolist()):
        assert_close(states[row, :length], wanted[row, :length])
        assert_close(last[row], torch.cat([wanted[row, length - 1, :4], wanted[row, 0, 4:]]))


def test_means_and_shares_leave_padding_out():
    network = decoder()
    memory = sources(network)
    assert_close(memory.mean[1], memory.states[1, :2].mean(0))
    shares = memory.shares(torch.zeros(2, 1, 4, dtype=torch.float64))
    assert_close(shares[1, 0], torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64))


def test_particles_are_laid_in_and_out():
    value = torch.randn(3, 2, 4, 5)
    assert laid_in(value, 2).shape == (2, 3, 4, 5)
    assert torch.equal(laid_out(laid_in(value, 2), torch.Size([3])), value)
    assert torch.equal(laid_out(laid_in(value[0], 2), torch.Size([])), value[0])
    assert laid_in(value[0], 2).shape == (2, 1, 4, 5)


def test_an_unknown_order_is_refused():
    with pytest.raises(UnknownNameError, match="order of attention"):
        decoder("before")
