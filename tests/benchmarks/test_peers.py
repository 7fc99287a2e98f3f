"""The race is fair only if everybody runs the same step: values, gradients, padding rule, training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import contestants, race
from benchmarks.peers import (
    BATCH,
    STATE,
    STEPS,
    Parameters,
    Peer,
    Words,
    draw_noise,
    initial_parameters,
    parameter_shapes,
    synthetic_words,
)

WORDS = synthetic_words(1, size=16)
NOISE = draw_noise(2, WORDS)
TORCH_LOOP = "PyTorch loop"

# As far from their initial values as training might take them: a transition near the identity hides mistakes.
PARAMETERS: Parameters = {
    name: value + 0.2 * np.random.default_rng(3).standard_normal(value.shape).astype(np.float32)
    for name, value in initial_parameters(4).items()
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Sixteen short words are no work to share: threads that wait for each other only cost time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[name for name in contestants.CONTESTANTS if name != contestants.COMPILED], scope="module")
def peer(request: pytest.FixtureRequest) -> Peer:
    name = request.param
    if name in contestants.REQUIRES:
        pytest.importorskip(contestants.REQUIRES[name])
    built = contestants.build(name, seed=0)
    built.load(PARAMETERS)
    return built


def reference_elbo(words: Words, noise: np.ndarray, p: Parameters) -> np.ndarray:
    """The equations of ``benchmarks.peers``, sentence by sentence in float64, padding never touched."""
    p = {name: value.astype(np.float64) for name, value in p.items()}
    return np.array([_sentence_elbo(w[:n], eps, p) for w, n, eps in zip(*words, noise, strict=True)])


def _sentence_elbo(tokens: np.ndarray, noise: np.ndarray, p: Parameters) -> float:
    encoded, state, total = _encode(tokens, p), p["initial"], 0.0
    for token, a, eps in zip(tokens, encoded, noise, strict=False):
        hidden = np.tanh(p["conditioner.state.weight"] @ state + _affine(p, "conditioner.encoder", a))
        output = _affine(p, "conditioner.output", np.tanh(_affine(p, "conditioner.hidden", hidden)))
        scale = _positive(output[STATE:], 1e-3)
        new = output[:STATE] + scale * eps
        theta = _affine(p, "transition.0", state)
        for layer in ("transition.1", "transition.2"):
            theta = _affine(p, layer, np.tanh(theta))
        matrix = np.diag(_positive(theta[STATE : 2 * STATE], 0.1))
        matrix[np.tril_indices(STATE, -1)] = theta[2 * STATE :]
        zeta = matrix @ (new - theta[:STATE])
        logits = _affine(p, "emission", new)
        total += np.log(np.diag(matrix)).sum() - 0.5 * zeta @ zeta + np.log(scale).sum() + 0.5 * eps @ eps
        total += logits[token - 2] - np.log(np.exp(logits).sum())
        state = new
    return total


def _encode(tokens: np.ndarray, p: Parameters) -> list[np.ndarray]:
    state, states = np.zeros(64), []
    for token in tokens[::-1]:
        x = p["gru.weight_ih"] @ p["embedding.weight"][token] + p["gru.bias_ih"]
        h = p["gru.weight_hh"] @ state + p["gru.bias_hh"]
        reset, update = (1 / (1 + np.exp(-(x[part] + h[part]))) for part in (slice(0, 64), slice(64, 128)))
        new = np.tanh(x[128:] + reset * h[128:])
        state = (1 - update) * new + update * state
        states.append(state)
    return states[::-1]


def _assert_close(actual: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal up to float32's rounding of a sum whose terms are as large as the largest entry."""
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def _affine(p: Parameters, name: str, x: np.ndarray) -> np.ndarray:
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def _positive(raw: np.ndarray, delta: float) -> np.ndarray:
    return np.logaddexp(0.0, raw + np.log(np.expm1(1 - delta))) + delta


def test_bound_of_every_sentence_is_that_of_the_equations(peer: Peer) -> None:
    np.testing.assert_allclose(peer.elbo(WORDS, NOISE), reference_elbo(WORDS, NOISE, PARAMETERS), atol=1e-4, rtol=1e-5)


def test_gradient_of_every_parameter_is_the_same(peer: Peer) -> None:
    expected = _loaded(TORCH_LOOP).gradients(WORDS, NOISE)
    actual = peer.gradients(WORDS, NOISE)
    assert actual.keys() == parameter_shapes().keys()
    for name, value in expected.items():
        _assert_close(actual[name], value, name)
        assert np.abs(value).max() > 1e-3, f"{name}: a gradient that vanishes compares nothing"


@pytest.mark.parametrize("name", ["initial", "transition.2.weight", "gru.weight_hh", "conditioner.output.bias"])
def test_reference_gradient_is_that_of_the_equations(name: str) -> None:
    direction = np.random.default_rng(5).standard_normal(PARAMETERS[name].shape)
    step = 1e-5

    def loss(sign: float) -> float:
        moved = {**PARAMETERS, name: PARAMETERS[name].astype(np.float64) + sign * step * direction}
        return -reference_elbo(WORDS, NOISE, moved).mean()

    expected = (loss(1.0) - loss(-1.0)) / (2 * step)
    actual = (_loaded(TORCH_LOOP).gradients(WORDS, NOISE)[name] * direction).sum()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_padding_changes_no_number(peer: Peer) -> None:
    extra = 4
    padded = Words(np.pad(WORDS.tokens, ((0, 0), (0, extra))), WORDS.lengths)
    noise = np.concatenate([NOISE, draw_noise(6, padded)[:, :extra]], 1)
    np.testing.assert_allclose(peer.elbo(padded, noise), peer.elbo(WORDS, NOISE), atol=1e-4, rtol=1e-5)
    longer, shorter = peer.gradients(padded, noise), peer.gradients(WORDS, NOISE)
    for name, value in shorter.items():
        _assert_close(longer[name], value, name)


def test_noise_past_the_end_changes_no_number(peer: Peer) -> None:
    past = np.arange(STEPS) >= WORDS.lengths[:, None]
    noise = np.where(past[..., None], 10.0 * NOISE[::-1], NOISE).astype(np.float32)
    np.testing.assert_allclose(peer.elbo(WORDS, noise), peer.elbo(WORDS, NOISE), atol=1e-4, rtol=1e-5)


def _normal(size: int) -> torch.Tensor:
    return torch.randn(size, STEPS, STATE)


def _normal_by_step(size: int) -> torch.Tensor:
    return torch.stack([torch.normal(torch.zeros(size, STATE), torch.ones(size, STATE)) for _ in range(STEPS)], 1)


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("ours", _normal),
        ("ours, in the trainer", _normal),
        ("ours, Pyro taken out", _normal),
        ("PyTorch loop", _normal),
        ("PyTorch loop, parallel densities", _normal),
        ("stock Pyro, a site per step", _normal_by_step),
    ],
)
def test_timed_step_descends_the_bound_that_was_compared(name: str, draw: Callable[[int], torch.Tensor]) -> None:
    """What ``step`` runs is not what ``elbo`` runs: here the step draws the noise, from a seed known to us."""
    peer = _loaded(name)
    torch.manual_seed(7)
    noise = draw(len(WORDS.lengths)).numpy()
    torch.manual_seed(7)
    loss = peer.step(peer.prepare(WORDS))
    np.testing.assert_allclose(loss, -reference_elbo(WORDS, noise, PARAMETERS).mean(), rtol=1e-5)


def test_timed_jax_step_descends_the_bound_that_was_compared() -> None:
    jax = pytest.importorskip("jax")
    pytest.importorskip("numpyro")
    peer = _loaded("NumPyro/JAX, jitted")
    losses = [-peer.elbo(WORDS, draw_noise(seed, WORDS)).mean() for seed in range(200)]
    batch, steps = peer.prepare(WORDS), []
    peer.step(batch)
    start = peer.svi.init(jax.random.PRNGKey(0), batch, peer.start)
    for seed in range(200):  # always from the same parameters, so that nothing is learned in between
        peer.state = jax.tree.map(lambda leaf: leaf.copy(), start)._replace(rng_key=jax.random.PRNGKey(seed))
        steps.append(peer.step(batch))
    error = np.hypot(np.std(losses) / np.sqrt(len(losses)), np.std(steps) / np.sqrt(len(steps)))
    assert abs(np.mean(steps) - np.mean(losses)) < 5 * error
    assert np.std(steps) == pytest.approx(np.std(losses), rel=5 * np.sqrt(2 / (2 * 200)))


def test_all_learn_alike(peer: Peer) -> None:
    """Fifty steps from the same start: the same fall of the bound, up to the noise of the draws."""
    start = initial_parameters(0)
    peer.load(start)
    loop = _loaded(TORCH_LOOP, start)
    torch.manual_seed(8)
    losses, expected = (
        [contestant.step(batch) for _ in range(50)]
        for contestant, batch in ((peer, peer.prepare(WORDS)), (loop, loop.prepare(WORDS)))
    )
    error = np.hypot(np.std(losses[-20:]), np.std(expected[-20:])) / np.sqrt(20)
    assert np.mean(losses[-20:]) == pytest.approx(np.mean(expected[-20:]), abs=5 * error)
    assert np.mean(losses[:5]) - np.mean(losses[-20:]) > 4.0
    peer.load(PARAMETERS)


def test_synthetic_words_are_words() -> None:
    words = synthetic_words(0)
    assert words.tokens.shape == (BATCH, STEPS)
    assert words.lengths.min() >= 3
    assert words.lengths.max() <= STEPS
    for tokens, length in zip(*words, strict=True):
        assert tokens[length - 1] == 2
        assert (tokens[: length - 1] >= 3).all()
        assert (tokens[: length - 1] < 29).all()
        assert (tokens[length:] == 0).all()


def test_race_ratios_survive_a_machine_that_slows_down() -> None:
    drift = np.linspace(1.0, 3.0, 30)
    rows = race.standings({"ours": list(drift * 0.01), "other": list(drift * 0.02)})
    ratios = {row.name: row for row in rows}
    assert ratios["other"].ratio == pytest.approx(2.0)
    assert ratios["other"].low == pytest.approx(2.0)
    assert ratios["ours"].ratio == 1.0
    table = race.table(rows, {"ours": 1_500_000, "other": None})
    assert "| **ours** |" in table
    assert "| 1.5 |" in table


def test_race_times_every_contestant_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def prepare(self, words: Words) -> Words:
            return words

        def step(self, batch: Words) -> float:
            calls.append(self.name)
            return 0.0

    monkeypatch.setattr(race, "build", lambda name, seed, device, table: Recorder(name))
    times = race.run(["ours", "b"], rounds=3, steps=4, warmup=2).seconds
    assert {name: len(values) for name, values in times.items()} == {"ours": 3, "b": 3}
    assert all(value >= 0 for values in times.values() for value in values)
    peak = 1
    assert calls.count("ours") == calls.count("b") == 2 + 3 * (race.SETTLE + 4) + peak


def test_a_missing_extra_costs_only_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numpyro" else find(name))
    others = [name for name in contestants.CONTESTANTS if "JAX" not in name and name not in contestants.ON_GPU]
    assert contestants.available() == others


def _loaded(name: str, parameters: Parameters = PARAMETERS) -> Any:
    peer = contestants.build(name, seed=0)
    peer.load(parameters)
    return peer
