"""The recurrent decoder against single cells, and its networks' initial values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.nn.decoders import RecurrentDecoder
from ppl_text.nn.initial import initialise

TOKENS = torch.tensor([[1, 3, 4], [1, 5, 3]])
CASES = {
    "cell": {"latent_dim": 2},
    "hidden": {"latent_dim": 2, "initial": "hidden"},
    "tied": {"latent_dim": 2, "tied": True, "embedding_dim": 4},
    "no latent": {"latent_dim": 0},
}
every_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def decoder_of(**options: object) -> RecurrentDecoder:
    torch.manual_seed(0)
    decoder = RecurrentDecoder(Vocabulary(6), **{"embedding_dim": 3, "hidden_dim": 4, **options})
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.7)
    return decoder.double()


def latent(decoder: RecurrentDecoder, *shape: int) -> Tensor | None:
    torch.manual_seed(1)
    return torch.randn(*shape, decoder.latent_dim).double() if decoder.latent_dim else None


def by_hand(decoder: RecurrentDecoder, row: Tensor, z: Tensor) -> Tensor:
    """States of one row by the LSTM's own equations."""
    gates_in, gates_hidden, b_in, b_hidden = decoder.lstm.all_weights[0]
    hidden = cell = torch.zeros(4, dtype=torch.float64)
    if len(z):
        start = decoder.bridge.weight @ z
        if decoder.initial == "cell":
            assert decoder.bridge.bias is None
            hidden, cell = start.tanh(), start
        else:
            hidden = start + decoder.bridge.bias
    states = []
    for token in row:
        x = torch.cat([decoder.embedding.weight[token], z])
        i, f, g, o = (gates_in @ x + b_in + gates_hidden @ hidden + b_hidden).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states)


@every_case
def test_states_are_those_of_the_equations_for_every_particle(options: dict) -> None:
    decoder = decoder_of(**options)
    z = latent(decoder, 3, 2)
    states = decoder(TOKENS, z)
    given = torch.zeros(1, 2, 0).double() if z is None else z
    expected = [[by_hand(decoder, row, given[k, b]) for b, row in enumerate(TOKENS)] for k in range(len(given))]
    stacked = torch.stack([torch.stack(rows) for rows in expected])
    torch.testing.assert_close(states, stacked[0] if z is None else stacked)


@every_case
def test_step_by_step_gives_the_logits_of_all_steps_at_once(options: dict) -> None:
    decoder = decoder_of(dropout_in=0.9, dropout_out=0.9, **options)  # generation drops nothing, whatever the mode
    z = latent(decoder, 2)
    logits = decoder.eval()(TOKENS, z) @ decoder.output_weight.t()
    state = decoder.train().begin(z, 2)
    for t in range(3):
        assert all(part.shape[0] == 2 for part in state)
        found, state = decoder.step(state, TOKENS[:, t])
        torch.testing.assert_close(found, logits[:, t])


def test_rows_of_the_state_can_be_reordered() -> None:
    decoder = decoder_of(latent_dim=2)
    _, state = decoder.step(decoder.begin(latent(decoder, 2), 2), TOKENS[:, 0])
    straight, _ = decoder.step(state, TOKENS[:, 1])
    order = torch.tensor([1, 0, 1])
    found, _ = decoder.step(tuple(part.index_select(0, order) for part in state), TOKENS[order, 1])
    torch.testing.assert_close(found, straight[order])


def test_tied_weights_are_the_embedding_of_the_outcomes() -> None:
    decoder = decoder_of(latent_dim=2, tied=True, embedding_dim=4)
    assert torch.equal(decoder.output_weight, decoder.embedding.weight[2:])
    assert not any("head" in name for name, _ in decoder.named_parameters())
    decoder.output_weight.sum().backward()
    assert decoder.embedding.weight.grad[:, 0].tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("place", ["dropout_in", "dropout_out"])
def test_half_is_dropped_in_training_only_and_the_rest_is_doubled(place: str) -> None:
    decoder, z = decoder_of(latent_dim=2, **{place: 0.5}), torch.zeros(400, 2, 2).double()
    whole = decoder.eval()(TOKENS, z)
    assert torch.equal(decoder(TOKENS, z), whole)
    dropped = decoder.train()(TOKENS, z)
    if place == "dropout_out":
        kept = dropped != 0
        torch.testing.assert_close(dropped[kept], (2 * whole)[kept])
        assert 0.45 < float(kept.double().mean()) < 0.55
        assert not torch.equal(kept[0], kept[1])
    else:
        torch.testing.assert_close(dropped[0], dropped[1])  # one mask for all particles
        assert not torch.allclose(dropped, whole)


REFUSED = {
    "tied": ({"tied": True, "latent_dim": 1}, UserError, "embedding_dim = hidden_dim; got 3 and 4"),
    "initial": ({"initial": "both", "latent_dim": 1}, UnknownNameError, "unknown initial state 'both'"),
}


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(options: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        decoder_of(**options)


def test_a_state_of_the_wrong_width_is_refused() -> None:
    decoder = decoder_of(latent_dim=2)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), got \(3, 1\)"):
        decoder.begin(torch.zeros(3, 1), 3)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), got \(3, 0\)"):
        decoder.begin(None, 3)


@pytest.mark.parametrize(("name", "others", "embeddings"), [("uniform", 0.01, 0.1), ("wide", 0.1, 0.1)])
def test_parameters_start_uniform_in_their_range(name: str, others: float, embeddings: float) -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"embedding": nn.Embedding(50, 40), "lstm": nn.LSTM(30, 20), "linear": nn.Linear(40, 50)})
    initialise(module, name)
    for path, parameter in module.named_parameters():
        reach = embeddings if path.startswith("embedding") else others
        assert float(parameter.detach().abs().max()) <= reach
        if parameter.numel() > 1000:
            # Standard deviation r/√3 of U(-r, r), within five of its relative errors √(0.2/n).
            error = math.sqrt(0.2 / parameter.numel())
            assert float(parameter.detach().std()) == pytest.approx(reach / math.sqrt(3), rel=5 * error)


def test_torch_keeps_its_own_start_and_unknown_names_are_refused() -> None:
    linear = nn.Linear(3, 3)
    before = linear.weight.detach().clone()
    initialise(linear, "torch")
    assert torch.equal(linear.weight, before)
    with pytest.raises(UnknownNameError, match=r"unknown init 'unifrom' \(did you mean 'uniform'\?\)"):
        initialise(linear, "unifrom")
