"""The races of latent sequences are fair only if both run the same step: values, gradients, padding, update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import contestants, latent_sequences, race
from benchmarks.latent_sequences import TRAINED, Ours, our_name
from benchmarks.peers import Parameters, Words
from benchmarks.peers.latent_sequence import COMMITMENT, DECAY, EPSILON, KINDS, LatentSequences, Sizes

SIZES = Sizes(vocabulary=12, embedding=4, hidden=5, latent=3, codes=4, width=4, layers=2, kernel=3)
WORDS = Words(
    np.array([[3, 4, 5, 2, 0], [7, 2, 0, 0, 0], [9, 11, 8, 4, 2]], dtype=np.int64), np.array([4, 2, 5], dtype=np.int64)
)
NOISE = np.random.default_rng(0).standard_normal((3, 5, 3)).astype(np.float32)
CODED = tuple(kind for kind in KINDS if kind.startswith("davam"))
each = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(kind: str) -> Parameters:
    """Parameters large enough that a mistake shows, and a code book with history."""
    rng = np.random.default_rng(1)
    named = LatentSequences(kind, 0, "cpu", SIZES).networks.state_dict()
    found = {name: 0.5 * rng.standard_normal(p.shape).astype(np.float32) for name, p in named.items()}
    if "codes.counts" in found:
        found["codes.counts"] = rng.uniform(2, 5, SIZES.codes).astype(np.float32)
        found["codes.sums"] = found["codes.vectors"] * found["codes.counts"][:, None]
    return found


def loaded(make: Any, kind: str, *, quiet: bool = True) -> Any:
    """A contestant in training; quiet: without dropout."""
    contestant = make(kind, 0, "cpu", SIZES)
    contestant.load(parameters(kind))
    for part in networks(contestant).modules():
        if quiet and isinstance(part, nn.Dropout):
            part.eval()
    return contestant


def networks(contestant: Any) -> nn.Module:
    return contestant.modules if isinstance(contestant, Ours) else contestant.networks


def loss_of(contestant: Any, words: Words, noise: np.ndarray) -> torch.Tensor:
    if isinstance(contestant, Ours):
        return contestant.loss(contestant.prepare(words), noise)
    return contestant.losses(contestant.prepare(words), torch.from_numpy(noise)).mean()


def gradients(contestant: Any, words: Words, noise: np.ndarray) -> Parameters:
    """The gradients of what is trained, under the names of its module."""
    loss = loss_of(contestant, words, noise)
    named = {name: value for name, value in networks(contestant).named_parameters() if value.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g.numpy() for name, g in zip(named, found, strict=True) if g is not None}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def lstm_step(gates: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, f, g, o = np.split(gates, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def encoded(p: Parameters, tokens: np.ndarray) -> np.ndarray:
    hidden = cell = np.zeros(SIZES.hidden)
    out = []
    for word in [1, *tokens]:
        gates = p["encoder.lstm.weight_ih_l0"] @ p["encoder.embedding.weight"][word] + p["encoder.lstm.bias_ih_l0"]
        hidden, cell = lstm_step(gates + p["encoder.lstm.weight_hh_l0"] @ hidden + p["encoder.lstm.bias_hh_l0"], cell)
        out.append(p["encoder.output.weight"] @ hidden + p["encoder.output.bias"])
    return np.array(out[1:])


def log_likelihood(p: Parameters, tokens: np.ndarray, z: np.ndarray) -> float:
    hidden, cell, total = np.zeros(SIZES.hidden), np.zeros(SIZES.hidden), 0.0
    for word, outcome in zip([1, *tokens[:-1]], tokens, strict=True):
        inner = z @ p["decoder.keys.weight"].T + p["decoder.keys.bias"] + p["decoder.query.weight"] @ hidden
        shares = np.exp(np.tanh(inner) @ p["decoder.score.weight"][0])
        joined = np.concatenate([p["decoder.embedding.weight"][word], shares @ z / shares.sum()])
        gates = p["decoder.cell.weight_ih"] @ joined + p["decoder.cell.bias_ih"]
        hidden, cell = lstm_step(gates + p["decoder.cell.weight_hh"] @ hidden + p["decoder.cell.bias_hh"], cell)
        logits = p["decoder.head.weight"] @ hidden
        total += logits[outcome - 2] - np.log(np.exp(logits).sum())
    return total


def prior(p: Parameters, x: np.ndarray) -> np.ndarray:
    y = np.array([p["prior.start"], *x[:-1]]) @ p["prior.embed.weight"].T + p["prior.embed.bias"]
    for layer in range(SIZES.layers):
        weight, moved = p[f"prior.gates.{layer}.weight"], []
        for t in range(len(y)):
            seen = [y[t - k] if t >= k else np.zeros(SIZES.width) for k in (2, 1, 0)]
            both = sum(weight[:, :, k] @ seen[k] for k in range(3)) + p[f"prior.gates.{layer}.bias"]
            a, g = np.split(both, 2)
            moved.append(p[f"prior.mix.{layer}.weight"][:, :, 0] @ (np.tanh(a) * sigmoid(g)))
        y = y + np.array(moved) + p[f"prior.mix.{layer}.bias"]
    return y @ p["prior.head.weight"].T + p["prior.head.bias"]


def reference(kind: str, p: Parameters, tokens: np.ndarray, noise: np.ndarray) -> float:
    """The equations of the peer's module, one sentence in float64, padding never touched."""
    p = {name: value.astype(np.float64) for name, value in p.items()}
    out = encoded(p, tokens)
    if kind in CODED:
        codes = p["codes.vectors"]
        index = ((out[:, None] - codes) ** 2).sum(-1).argmin(-1)
        if kind == "davam-prior":
            logits = prior(p, p["embedding.weight"][index])
            return -float((logits[np.arange(len(index)), index] - np.log(np.exp(logits).sum(-1))).sum())
        return -log_likelihood(p, tokens, codes[index]) + COMMITMENT * ((out - codes[index]) ** 2).sum()
    mean, log_variance = np.split(out, 2, axis=1)
    z = mean + np.exp(0.5 * log_variance) * noise[: len(mean)]
    other, log_other = np.split(prior(p, z), 2, axis=1) if kind == "gavam" else (0.0 * mean, 0.0 * mean)
    apart = (np.exp(log_variance) + (mean - other) ** 2) / np.exp(log_other)
    return -log_likelihood(p, tokens, z) + 0.5 * (log_other - log_variance - 1 + apart).sum()


@each
@pytest.mark.parametrize("make", [Ours, LatentSequences])
def test_loss_is_that_of_the_equations_whatever_the_padding(kind: str, make: Any) -> None:
    expected = np.mean([reference(kind, parameters(kind), w[:n], e) for w, n, e in zip(*WORDS, NOISE, strict=True)])
    longer = Words(np.pad(WORDS.tokens, ((0, 0), (0, 3))), WORDS.lengths)
    for words, noise in ((WORDS, NOISE), (longer, np.pad(NOISE, ((0, 0), (0, 3), (0, 0))))):
        found = loss_of(loaded(make, kind), words, noise)
        np.testing.assert_allclose(found.item(), expected, rtol=1e-5)


@each
def test_gradients_are_the_same_and_those_of_the_equations_along_a_direction(kind: str) -> None:
    ours, theirs = (gradients(loaded(make, kind), WORDS, NOISE) for make in (Ours, LatentSequences))
    assert ours.keys() == {our_name(name, kind) for name in theirs}
    assert all(name.startswith(tuple(TRAINED.get(kind, ["model", "guide"]))) for name in ours)
    for name, value in theirs.items():
        np.testing.assert_allclose(
            ours[our_name(name, kind)], value.reshape(ours[our_name(name, kind)].shape), rtol=1e-3, atol=1e-5
        )
        assert np.abs(value).max() > 1e-4, f"{name}: a gradient that vanishes compares nothing"
    # Straight through, the gradient of the encoder is none of the loss's.
    sure = [name for name in theirs if not (kind == "davam-codes" and name.startswith("encoder"))]
    rng, step = np.random.default_rng(2), 1e-5
    directions = {name: rng.standard_normal(theirs[name].shape) for name in sure}

    def loss(sign: float) -> float:
        moved = {n: v.astype(np.float64) + sign * step * directions.get(n, 0.0) for n, v in parameters(kind).items()}
        return float(np.mean([reference(kind, moved, w[:n], e) for w, n, e in zip(*WORDS, NOISE, strict=True)]))

    slope = sum(float((theirs[name] * directions[name]).sum()) for name in sure)
    assert slope == pytest.approx((loss(1.0) - loss(-1.0)) / (2 * step), rel=1e-3)


@each
def test_a_timed_step_draws_drops_clips_and_updates_the_same(kind: str) -> None:
    """Both draw the noise of z first, then drop embeddings, then states: from one seed they take one step."""
    ours, theirs = (loaded(make, kind, quiet=False) for make in (Ours, LatentSequences))
    if kind in CODED:
        ours.model.book.revive = theirs.networks.codes.revive = 0.0
        ours.model.book.eval()  # what it would draw for dead codes stands between the others
    losses = []
    for contestant in (ours, theirs):
        torch.manual_seed(3)
        losses.append(contestant.step(contestant.prepare(WORDS)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    after, before = ours.modules.state_dict(), parameters(kind)
    for name, value in theirs.networks.named_parameters():
        found = after[our_name(name, kind)].view(value.shape)
        np.testing.assert_allclose(found.numpy(), value.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
        moved = np.abs(value.detach().numpy() - before[name]).max() > 1e-6
        assert moved == value.requires_grad, name


@pytest.mark.parametrize("make", [Ours, LatentSequences])
def test_codes_follow_the_vectors_of_a_step_and_dead_ones_come_back(make: Any) -> None:
    p = {name: value.astype(np.float64) for name, value in parameters("davam-codes").items()}
    h = np.concatenate([encoded(p, w[:n]) for w, n in zip(*WORDS, strict=True)])
    index = ((h[:, None] - p["codes.vectors"]) ** 2).sum(-1).argmin(-1)
    counts = DECAY * p["codes.counts"] + (1 - DECAY) * np.bincount(index, minlength=SIZES.codes)
    sums = DECAY * p["codes.sums"] + (1 - DECAY) * np.eye(SIZES.codes)[index].T @ h
    smoothed = (counts + EPSILON) / (counts.sum() + SIZES.codes * EPSILON) * counts.sum()

    def codes_after(revive: float) -> np.ndarray:
        contestant = loaded(make, "davam-codes")
        book = contestant.model.book if make is Ours else contestant.networks.codes
        book.revive = revive
        contestant.step(contestant.prepare(WORDS))
        return (book.codes if make is Ours else book.vectors).numpy()

    np.testing.assert_allclose(codes_after(0.0), sums / smoothed[:, None], rtol=1e-5)
    dead = counts < 3.0
    assert dead.any()
    revived = codes_after(3.0)[dead]
    direction = (revived @ h.T) / (np.linalg.norm(revived, axis=1)[:, None] * np.linalg.norm(h, axis=1))
    np.testing.assert_allclose(direction.max(1), 1.0, rtol=1e-5)


def test_a_race_runs_both_in_every_round() -> None:
    kind, names = "gavam", [contestants.OURS, "PyTorch loop"]
    table = contestants.LATENT_CONTESTANTS[kind]
    raced = race.run(names, rounds=2, steps=1, warmup=1, table=table, words=WORDS, sizes=[SIZES])
    rows = {row.name: row for row in race.standings(raced.seconds)}
    assert rows.keys() == raced.peaks.keys() == set(names)
    assert rows[contestants.OURS].ratio == 1.0
    assert all(contestants.LATENT_CONTESTANTS[kind][name].endswith(f":{kind}") for name in names)
    assert contestants.LATENT_CONTESTANTS.keys() == {*KINDS, latent_sequences.SWITCHING}
