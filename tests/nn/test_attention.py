"""An attending decoder: all steps at once are its steps one by one, and padding of the memory changes nothing."""

import torch

from ppl_text.core.vocabulary import Vocabulary
from ppl_text.nn.attention import AdditiveAttention, AttentiveDecoder

SIZES = {"latent_dim": 3, "embedding_dim": 4, "hidden_dim": 5, "attention_dim": 6}
LENGTHS = torch.tensor([4, 2])


def decoder():
    torch.manual_seed(0)
    return AttentiveDecoder(Vocabulary(9), **SIZES).double()


def given(steps=4):
    torch.manual_seed(1)
    z = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    z = torch.cat([z, torch.full((3, 2, steps - 4, 3), 9.0, dtype=torch.float64)], 2)
    return torch.randint(2, 9, (2, 6)), z, torch.arange(steps) < LENGTHS.unsqueeze(-1)


def test_attention_is_the_formula():
    torch.manual_seed(0)
    attention = AdditiveAttention(3, 5, 6).double()
    query, memory = torch.randn(5, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    scores = torch.stack(
        [attention.score.weight[0] @ (attention.memory(m) + attention.query.weight @ query).tanh() for m in memory[:3]]
    )
    shares = scores.exp() / scores.exp().sum()
    counted = torch.tensor([[True, True, True, False]])
    found = attention(query[None], attention.keys(memory)[None], memory[None], counted)
    torch.testing.assert_close(found[0], shares @ memory[:3])


def test_states_are_those_of_torchs_cell_step_by_step():
    made, (tokens, z, counted) = decoder(), given()
    states = made(tokens, z, counted)
    assert states.shape == (3, 2, 6, 5)
    rows = torch.where(counted.unsqueeze(-1), z, 0.0).flatten(0, 1)
    state = made.begin(rows, len(rows))
    for t in range(6):
        logits, state = made.step(state, tokens[:, t].repeat(3))
        torch.testing.assert_close(logits.view(3, 2, -1), made.head(states[:, :, t]))


def test_padding_of_the_memory_changes_nothing_and_every_step_that_counts_is_read():
    made, (tokens, z, counted) = decoder(), given()
    _, wide, more = given(7)
    torch.testing.assert_close(made(tokens, wide, more), made(tokens, z, counted))
    z = z.requires_grad_()
    (gradient,) = torch.autograd.grad(made(tokens, z, counted).sum(), z)
    assert torch.equal(gradient.abs().sum((0, 3)) > 0, counted)


def test_dropout_is_of_training_and_the_same_for_all_particles():
    torch.manual_seed(0)
    made = AttentiveDecoder(Vocabulary(9), **SIZES, dropout_in=0.5).double()
    tokens, z, counted = given()
    same = z[:1].expand_as(z)
    states = made(tokens, same, counted)
    torch.testing.assert_close(states[1], states[0])
    assert not torch.allclose(made(tokens, same, counted), states)
    made.eval()
    assert torch.equal(made(tokens, same, counted), made(tokens, same, counted))
