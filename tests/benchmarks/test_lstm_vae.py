"""The sentence VAE's race is fair only if all run the same step: values, gradients, padding rule, dropout."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import contestants, race, sentence_vae
from benchmarks.peers import Parameters, Words
from benchmarks.peers.lstm_vae import LSTMVAE, Sizes, sentences

SIZES = Sizes(vocabulary=20, embedding=5, hidden=6, latent=3)
WORDS = Words(
    np.array([[3, 4, 5, 2, 0], [7, 2, 0, 0, 0], [9, 19, 8, 4, 2]], dtype=np.int64), np.array([4, 2, 5], dtype=np.int64)
)
NOISE = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
TABLE = contestants.SENTENCE_CONTESTANTS
LOOP = "PyTorch loop"
each = pytest.mark.parametrize("name", TABLE)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters() -> Parameters:
    """Large enough that a mistake shows."""
    rng = np.random.default_rng(1)
    named = LSTMVAE(0, "cpu", SIZES).networks.named_parameters()
    return {name: 0.5 * rng.standard_normal(p.shape).astype(np.float32) for name, p in named}


def small(name: str) -> Any:
    """A contestant at the sizes of this test."""
    if name in contestants.REQUIRES:
        pytest.importorskip(contestants.REQUIRES[name])
    return contestants.build(name, 0, "cpu", TABLE, SIZES)


def loaded(name: str) -> Any:
    contestant = small(name)
    contestant.load(parameters())
    return contestant


def lstm(inputs: list[np.ndarray], p: Parameters, name: str, hidden: np.ndarray, cell: np.ndarray) -> list[np.ndarray]:
    states = []
    for x in inputs:
        gates = p[f"{name}.weight_ih_l0"] @ x + p[f"{name}.bias_ih_l0"]
        gates = gates + p[f"{name}.weight_hh_l0"] @ hidden + p[f"{name}.bias_hh_l0"]
        i, f, g, o = np.split(gates, 4)
        i, f, o = (1.0 / (1.0 + np.exp(-gate)) for gate in (i, f, o))
        cell = f * cell + i * np.tanh(g)
        hidden = o * np.tanh(cell)
        states.append(hidden)
    return states


def reference(p: Parameters, tokens: np.ndarray, noise: np.ndarray) -> float:
    """The equations of the peer's module, one sentence in float64, padding never touched."""
    p, zero = {name: value.astype(np.float64) for name, value in p.items()}, np.zeros(SIZES.hidden)
    read = lstm([p["encoder_embedding.weight"][w] for w in [1, *tokens]], p, "encoder", zero, zero)
    mean, log_variance = np.split(p["moments.weight"] @ read[-1], 2)
    z = mean + np.exp(0.5 * log_variance) * noise
    cell = p["bridge.weight"] @ z
    inputs = [np.concatenate([p["decoder_embedding.weight"][w], z]) for w in [1, *tokens[:-1]]]
    states = lstm(inputs, p, "decoder", np.tanh(cell), cell)
    logits = [p["head.weight"] @ state for state in states]
    log_likelihood = sum(s[w - 2] - np.log(np.exp(s).sum()) for s, w in zip(logits, tokens, strict=True))
    return log_likelihood - 0.5 * (mean**2 + np.exp(log_variance) - 1.0 - log_variance).sum()


@each
def test_bound_of_every_sentence_is_that_of_the_equations(name: str) -> None:
    expected = [reference(parameters(), w[:n], e) for w, n, e in zip(*WORDS, NOISE, strict=True)]
    np.testing.assert_allclose(loaded(name).elbo(WORDS, NOISE), expected, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in TABLE if name != LOOP])
def test_gradients_are_the_same_and_that_of_the_equations_along_a_direction(name: str) -> None:
    ours, theirs = (loaded(contestant).gradients(WORDS, NOISE) for contestant in (name, LOOP))
    assert ours.keys() == theirs.keys() == parameters().keys()
    rng, slope, step = np.random.default_rng(2), 0.0, 1e-5
    directions = {name: rng.standard_normal(value.shape) for name, value in theirs.items()}
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
        assert np.abs(value).max() > 1e-4, f"{name}: a gradient that vanishes compares nothing"
        slope += float((value * directions[name]).sum())

    def loss(sign: float) -> float:
        moved = {name: v.astype(np.float64) + sign * step * directions[name] for name, v in parameters().items()}
        return -float(np.mean([reference(moved, w[:n], e) for w, n, e in zip(*WORDS, NOISE, strict=True)]))

    assert slope == pytest.approx((loss(1.0) - loss(-1.0)) / (2 * step), rel=1e-3)


@each
def test_padding_changes_no_number(name: str) -> None:
    longer = Words(np.pad(WORDS.tokens, ((0, 0), (0, 3))), WORDS.lengths)
    contestant = loaded(name)
    np.testing.assert_allclose(contestant.elbo(longer, NOISE), contestant.elbo(WORDS, NOISE), rtol=1e-5)
    wide, narrow = contestant.gradients(longer, NOISE), contestant.gradients(WORDS, NOISE)
    for name, value in narrow.items():
        np.testing.assert_allclose(wide[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@functools.cache
def losses_of(name: str, count: int) -> np.ndarray:
    """Losses of so many timed steps, all from the same parameters."""
    contestant = loaded(name)
    torch.manual_seed(3)
    batch = contestant.prepare(WORDS)
    if "JAX" in name:
        return np.array(list(_jax_losses(contestant, batch, count)))
    if name == "stock Pyro":
        contestant.svi.optim.pt_optim_args["lr"] = 0.0
    else:
        for group in contestant.optimizer.param_groups:
            group["lr"] = 0.0
    return np.array([contestant.step(batch) for _ in range(count)])


def _jax_losses(contestant: Any, batch: Any, count: int) -> Iterator[float]:
    """Each step begins at the parameters that were loaded, with a key of its own."""
    import jax

    contestant.step(batch)
    start = contestant.svi.init(jax.random.PRNGKey(0), batch, contestant.start, dropout=True)
    for seed in range(count):
        contestant.state = jax.tree.map(lambda leaf: leaf.copy(), start)._replace(rng_key=jax.random.PRNGKey(seed))
        yield contestant.step(batch)


@pytest.mark.parametrize("name", [name for name in TABLE if name != LOOP])
def test_timed_steps_descend_the_same_loss_with_the_same_dropout(name: str) -> None:
    """Each draws noise and masks of its own: the losses agree in distribution, and differ from those without."""
    count = 600
    ours, theirs = losses_of(name, count), losses_of(LOOP, count)
    error = math.hypot(ours.std(), theirs.std()) / math.sqrt(count)
    assert abs(ours.mean() - theirs.mean()) < 5 * error
    assert ours.std() == pytest.approx(theirs.std(), rel=5 * math.sqrt(2 / (2 * count)))
    noise = np.random.default_rng(4).standard_normal((99, 3, 3)).astype(np.float32)
    quiet = -np.mean([loaded(LOOP).elbo(WORDS, draw) for draw in noise])
    assert abs(quiet - ours.mean()) > 5 * error


def weights(name: str, contestant: Any) -> Parameters:
    """Parameters as they stand, under the names of the hand-written loop."""
    if "JAX" in name:
        return {name: np.asarray(value) for name, value in contestant.weights.items()}
    ours = name.startswith(contestants.OURS)
    named = (contestant.modules if ours else contestant.networks).named_parameters()
    return {sentence_vae._peer_name(name) if ours else name: value.detach().numpy() for name, value in named}


@each
def test_every_parameter_takes_part_in_a_step(name: str) -> None:
    contestant, before = loaded(name), parameters()
    torch.manual_seed(5)
    contestant.step(contestant.prepare(WORDS))
    after = weights(name, contestant)
    assert after.keys() == before.keys()
    for parameter, value in after.items():
        assert np.abs(value - before[parameter]).max() > 1e-5, parameter


def test_synthetic_sentences_have_equal_lengths_and_end_once() -> None:
    words = sentences(0, SIZES, batch=4, steps=6)
    assert words.tokens.shape == (4, 6)
    assert words.lengths.tolist() == [6] * 4
    assert (words.tokens[:, -1] == 2).all()
    assert words.tokens[:, :-1].min() >= 3
    assert words.tokens.max() < 20


def test_race_runs_all_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [contestants.OURS, "stock Pyro", LOOP]
    monkeypatch.setattr(race, "build", lambda name, seed, device, table: small(name))
    monkeypatch.setattr(sentence_vae.lstm_vae, "sentences", lambda: WORDS)
    raced = sentence_vae.run(names, rounds=3, steps=1, warmup=1)
    rows = {row.name: row for row in race.standings(raced.seconds)}
    assert rows.keys() == raced.peaks.keys() == set(names)
    assert rows[contestants.OURS].ratio == 1.0
    assert all(peak is not None and peak > 0 for peak in raced.peaks.values())
