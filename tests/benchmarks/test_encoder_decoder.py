"""The race of models with attention is fair only if both run the same step: values, gradients, padding, update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import contestants, race
from benchmarks.encoder_decoder import Ours, build_again, our_parameters
from benchmarks.peers import Parameters, Words
from benchmarks.peers.encoder_decoder import KINDS, EncoderDecoder, Pairs, Sizes, pairs

SIZES = Sizes(vocabulary=12, embedding=4, encoder=3, hidden=5, output=4, latent=3, batch=3, steps=5, source_steps=4)
PAIRS = Pairs(
    Words(np.array([[5, 6, 2, 0], [8, 2, 0, 0], [3, 10, 7, 2]], dtype=np.int64), np.array([3, 2, 4], dtype=np.int64)),
    Words(
        np.array([[3, 4, 5, 2, 0], [7, 2, 0, 0, 0], [9, 11, 8, 4, 2]], dtype=np.int64),
        np.array([4, 2, 5], dtype=np.int64),
    ),
)
FULL = Pairs(
    Words(np.array([[5, 6, 9, 2], [3, 10, 7, 2]], dtype=np.int64), np.array([4, 4], dtype=np.int64)),
    Words(np.array([[3, 4, 2], [7, 8, 2]], dtype=np.int64), np.array([3, 3], dtype=np.int64)),
)
"""Nothing is padded: the peer's encoder then goes another way."""

RNG = np.random.default_rng(0)
NOISE = (RNG.standard_normal((3, 3)).astype(np.float32), RNG.standard_normal((3, 5, 6)).astype(np.float32))
each = pytest.mark.parametrize("kind", KINDS)


def parameters(kind: str) -> Parameters:
    """Parameters large enough that a mistake shows."""
    rng, named = np.random.default_rng(1), EncoderDecoder(kind, 0, "cpu", SIZES).networks.state_dict()
    return {name: 0.5 * rng.standard_normal(value.shape).astype(np.float32) for name, value in named.items()}


def networks(contestant: Any) -> nn.Module:
    return contestant.modules if isinstance(contestant, Ours) else contestant.networks


def loaded(make: Any, kind: str, *, quiet: bool = True) -> Any:
    """A contestant in training; quiet: without dropout."""
    contestant = make(kind, 0, "cpu", SIZES)
    contestant.load(parameters(kind))
    for part in networks(contestant).modules():
        if quiet and isinstance(part, nn.Dropout):
            part.eval()
    return contestant


def loss_of(contestant: Any, pairs: Pairs) -> torch.Tensor:
    """The loss of a batch on the noise of seed 3."""
    torch.manual_seed(3)
    batch = contestant.prepare(pairs)
    return contestant.loss(batch) if isinstance(contestant, Ours) else contestant.losses(batch).mean()


def gradients(contestant: Any, pairs: Pairs) -> Parameters:
    named = dict(networks(contestant).named_parameters())
    found = torch.autograd.grad(loss_of(contestant, pairs), list(named.values()))
    return {name: g.numpy() for name, g in zip(named, found, strict=True)}


def lstm(p: Parameters, prefix: str, suffix: str, x: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> Any:
    w, u, b, c = (p[f"{prefix}{part}{suffix}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    i, f, g, o = np.split(w @ x + b + u @ hidden + c, 4)
    cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    return np.tanh(cell) / (1 + np.exp(-o)), cell


def encoded(p: Parameters, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sides = []
    for tokens, suffix in ((source, "_l0"), (source[::-1], "_l0_reverse")):
        hidden, cell, states = np.zeros(SIZES.encoder), np.zeros(SIZES.encoder), []
        for word in tokens:
            hidden, cell = lstm(p, "encoder.", suffix, p["source_embedding.weight"][word], hidden, cell)
            states.append(hidden)
        sides.append(np.array(states))
    return np.concatenate([sides[0], sides[1][::-1]], 1), np.concatenate([sides[0][-1], sides[1][-1]])


def divergence(mean: np.ndarray, variance: np.ndarray, centre: Any = 0.0) -> float:
    return 0.5 * (variance + (mean - centre) ** 2 - 1 - np.log(variance)).sum()


def reference(kind: str, p: Parameters, source: np.ndarray, tokens: np.ndarray, *noise: np.ndarray) -> float:
    """The equations of the peer's module, one pair in float64, padding never touched."""
    h, last = encoded(p, source)
    hidden, cell, z, loss = np.zeros(SIZES.hidden), np.zeros(SIZES.hidden), np.zeros(0), 0.0
    if kind == "vattn-h":
        mean, log_variance = np.split(p["latent.weight"] @ last + p["latent.bias"], 2)
        z = mean + np.exp(0.5 * log_variance) * noise[0]
        loss = divergence(mean, np.exp(log_variance))
    else:
        cell = p["bridge.weight"] @ last + p["bridge.bias"]
        hidden = np.tanh(cell)
    fed = np.zeros(SIZES.output)
    for t, (word, outcome) in enumerate(zip([1, *tokens[:-1]], tokens, strict=True)):
        hidden, cell = lstm(p, "cell.", "", np.concatenate([p["embedding.weight"][word], z, fed]), hidden, cell)
        shares = np.exp(h @ p["key.weight"].T @ hidden)
        read = shares @ h / shares.sum()
        if kind == "vattn-h":
            inner = np.tanh(p["scale.0.weight"] @ read + p["scale.0.bias"])
            scale = np.exp(p["scale.2.weight"] @ inner + p["scale.2.bias"])
            loss += divergence(read, scale**2, h.mean(0))
            read = read + scale * noise[1][t]
        fed = p["output.weight"] @ np.concatenate([hidden, read])
        logits = p["head.weight"] @ fed + p["head.bias"]
        loss -= logits[outcome - 2] - np.log(np.exp(logits).sum())
    return loss


def by_the_equations(kind: str, p: Parameters, pairs: Pairs) -> np.ndarray:
    rows = zip(*pairs.source, *pairs.target, *NOISE, strict=False)
    return np.array([reference(kind, p, x[:m], y[:n], *noise) for x, m, y, n, *noise in rows])


def padded(pairs: Pairs) -> Pairs:
    return Pairs(*(Words(np.pad(side.tokens, ((0, 0), (0, 3))), side.lengths) for side in pairs))


@each
@pytest.mark.parametrize("pairs", [PAIRS, FULL], ids=["padded", "full"])
def test_the_peers_loss_is_that_of_the_equations(kind: str, pairs: Pairs) -> None:
    rows = len(pairs.target.tokens)
    noise = tuple(torch.from_numpy(part[:rows, ...]) for part in NOISE)
    peer = loaded(EncoderDecoder, kind)
    found = peer.losses(peer.prepare(pairs), noise).detach().numpy()
    expected = by_the_equations(kind, {name: v.astype(np.float64) for name, v in parameters(kind).items()}, pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@each
@pytest.mark.parametrize("pairs", [PAIRS, FULL], ids=["padded", "full"])
def test_our_loss_and_gradients_are_the_peers(kind: str, pairs: Pairs) -> None:
    """Both draw the noise of z first, then that of a step by step: from one seed they draw the same."""
    theirs = loaded(EncoderDecoder, kind)
    expected, wanted = loss_of(theirs, pairs).item(), our_parameters(gradients(theirs, pairs), SIZES.hidden)
    for make in (Ours, build_again):
        ours = loaded(make, kind)
        assert loss_of(ours, pairs).item() == pytest.approx(expected, rel=1e-5)
        assert loss_of(ours, padded(pairs)).item() == pytest.approx(expected, rel=1e-5)
        found = gradients(ours, pairs)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
            assert np.abs(value).max() > 1e-4, f"{name}: a gradient that vanishes compares nothing"


@each
def test_a_timed_step_draws_drops_clips_and_updates_the_same(kind: str) -> None:
    ours, theirs = (loaded(make, kind, quiet=False) for make in (Ours, EncoderDecoder))
    losses = []
    for contestant in (ours, theirs):
        torch.manual_seed(3)
        losses.append(contestant.step(contestant.prepare(PAIRS)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[1] != pytest.approx(loss_of(loaded(EncoderDecoder, kind), PAIRS).item(), rel=1e-5)
    after = our_parameters({name: v.numpy() for name, v in theirs.networks.state_dict().items()}, SIZES.hidden)
    before = our_parameters(parameters(kind), SIZES.hidden)
    for name, value in ours.modules.state_dict().items():
        # Adam's first step goes by the sign: where a gradient is as good as 0 the signs may differ.
        apart = np.abs(value.numpy() - after[name]) > 1e-5
        assert apart.mean() < 0.02, name
        assert np.abs(after[name] - before[name]).max() > 1e-4, name


def test_a_race_runs_all_in_every_round() -> None:
    kind, names = "vattn-h", [contestants.OURS, "ours, the path again", "PyTorch loop"]
    table = contestants.PAIR_CONTESTANTS[kind]
    raced = race.run(names, rounds=2, steps=1, warmup=1, table=table, words=pairs(0, SIZES), sizes=[SIZES])
    rows = {row.name: row for row in race.standings(raced.seconds)}
    assert rows.keys() == raced.peaks.keys() == set(names)
    assert rows[contestants.OURS].ratio == 1.0
    assert contestants.PAIR_CONTESTANTS.keys() == set(KINDS)
