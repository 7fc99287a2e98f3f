"""Recurrent readers: blind to padding, and to what their direction does not see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppl_text.nn.recurrent import BackwardGRU, BidirectionalGRU, reverse_within_length

LENGTHS = torch.tensor([5, 1, 3])
READERS = {"backward": BackwardGRU, "bidirectional": BidirectionalGRU}
every_reader = pytest.mark.parametrize("kind", READERS.values(), ids=READERS)


def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(2, 9, (3, 5))


def test_reverse_within_length_by_hand_and_its_own_inverse() -> None:
    x = torch.arange(15).view(3, 5)
    expected = [[4, 3, 2, 1, 0], [5, 6, 7, 8, 9], [12, 11, 10, 13, 14]]
    assert reverse_within_length(x, LENGTHS).tolist() == expected
    wide = torch.randn(3, 5, 2, 4)
    reversed_wide = reverse_within_length(wide, LENGTHS)
    assert torch.equal(reverse_within_length(reversed_wide, LENGTHS), wide)
    assert torch.equal(reversed_wide[2, 0], wide[2, 2])


@every_reader
def test_padding_changes_no_state(kind: type) -> None:
    torch.manual_seed(0)
    reader = kind(9, 3, 4).double()
    words = tokens()
    soiled = words.masked_fill(torch.arange(5) >= LENGTHS[:, None], 0)
    states = reader(words, LENGTHS)
    assert states.shape == (3, 5, reader.output_dim)
    for b, n in enumerate(LENGTHS.tolist()):
        alone = reader(words[b : b + 1, :n], LENGTHS[b : b + 1])
        torch.testing.assert_close(states[b, :n], alone[0])
        torch.testing.assert_close(reader(soiled, LENGTHS)[b, :n], alone[0])


def test_backward_states_are_a_gru_cell_stepped_from_the_right() -> None:
    torch.manual_seed(0)
    reader = BackwardGRU(9, 3, 4).double()
    cell = torch.nn.GRUCell(3, 4).double()
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).copy_(getattr(reader.gru, f"{name}_l0"))
    words, states = tokens(), reader(tokens(), LENGTHS)
    for b, n in enumerate(LENGTHS.tolist()):
        state = torch.zeros(4).double()
        for t in reversed(range(n)):
            state = cell(reader.embedding(words[b, t]), state)
            torch.testing.assert_close(states[b, t], state)


SEES = {"backward": lambda t, changed: changed >= t, "bidirectional": lambda t, changed: True}


@pytest.mark.parametrize("name", READERS)
def test_a_state_depends_on_exactly_the_tokens_its_direction_sees(name: str) -> None:
    torch.manual_seed(0)
    reader = READERS[name](9, 3, 4).double()
    words, length = tokens()[:1], torch.tensor([4])
    states = reader(words, length)
    for changed in range(4):
        other = words.clone()
        other[0, changed] = 2 + (other[0, changed] - 1) % 7
        moved = (reader(other, length) - states).abs().amax(-1)[0]
        for t in range(4):
            assert bool(moved[t] > 1e-9) is SEES[name](t, changed), (t, changed)
