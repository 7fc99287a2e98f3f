"""The sentence VAE's race is fair only if both run the same step: values, gradients, padding rule, dropout."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks import sentence_vae
from benchmarks.peers import Parameters, Words
from benchmarks.peers.lstm_vae import LSTMVAE, Sizes, sentences
from benchmarks.sentence_vae import Ours

SIZES = Sizes(vocabulary=20, embedding=5, hidden=6, latent=3)
WORDS = Words(
    np.array([[3, 4, 5, 2, 0], [7, 2, 0, 0, 0], [9, 19, 8, 4, 2]], dtype=np.int64), np.array([4, 2, 5], dtype=np.int64)
)
NOISE = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
EACH = {"ours": Ours, "PyTorch loop": LSTMVAE}
each = pytest.mark.parametrize("kind", EACH.values(), ids=EACH)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters() -> Parameters:
    """Large enough that a mistake shows."""
    rng = np.random.default_rng(1)
    named = LSTMVAE(0, SIZES).networks.named_parameters()
    return {name: 0.5 * rng.standard_normal(p.shape).astype(np.float32) for name, p in named}


def loaded(kind: type) -> Ours | LSTMVAE:
    contestant = kind(0, SIZES)
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
def test_bound_of_every_sentence_is_that_of_the_equations(kind: type) -> None:
    expected = [reference(parameters(), w[:n], e) for w, n, e in zip(*WORDS, NOISE, strict=True)]
    np.testing.assert_allclose(loaded(kind).elbo(WORDS, NOISE), expected, rtol=1e-5)


def test_gradients_are_the_same_and_that_of_the_equations_along_a_direction() -> None:
    ours, theirs = (loaded(kind).gradients(WORDS, NOISE) for kind in EACH.values())
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
def test_padding_changes_no_number(kind: type) -> None:
    longer = Words(np.pad(WORDS.tokens, ((0, 0), (0, 3))), WORDS.lengths)
    contestant = loaded(kind)
    np.testing.assert_allclose(contestant.elbo(longer, NOISE), contestant.elbo(WORDS, NOISE), rtol=1e-5)
    wide, narrow = contestant.gradients(longer, NOISE), contestant.gradients(WORDS, NOISE)
    for name, value in narrow.items():
        np.testing.assert_allclose(wide[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_timed_steps_descend_the_same_loss_with_the_same_dropout() -> None:
    """Both draw noise and masks of their own: the losses agree in distribution, and differ from those without."""
    losses = {}
    for name, kind in EACH.items():
        contestant = loaded(kind)
        for group in contestant.optimizer.param_groups:
            group["lr"] = 0.0
        torch.manual_seed(3)
        batch = contestant.prepare(WORDS)
        losses[name] = np.array([contestant.step(batch) for _ in range(600)])
    means = {name: values.mean() for name, values in losses.items()}
    error = math.hypot(*(values.std() / math.sqrt(600) for values in losses.values()))
    assert abs(means["ours"] - means["PyTorch loop"]) < 5 * error
    assert losses["ours"].std() == pytest.approx(losses["PyTorch loop"].std(), rel=5 * math.sqrt(2 / (2 * 600)))
    noise = np.random.default_rng(4).standard_normal((99, 3, 3)).astype(np.float32)
    quiet = -np.mean([loaded(LSTMVAE).elbo(WORDS, draw) for draw in noise])
    assert abs(quiet - means["ours"]) > 5 * error


@each
def test_every_parameter_takes_part_in_a_step(kind: type) -> None:
    contestant, before = loaded(kind), parameters()
    torch.manual_seed(5)
    contestant.step(contestant.prepare(WORDS))
    modules = contestant.modules if kind is Ours else contestant.networks
    for name, parameter in modules.named_parameters():
        start = before[sentence_vae._peer_name(name) if kind is Ours else name]
        assert np.abs(parameter.detach().numpy() - start).max() > 1e-5, name


def test_synthetic_sentences_have_equal_lengths_and_end_once() -> None:
    words = sentences(0, SIZES, batch=4, steps=6)
    assert words.tokens.shape == (4, 6)
    assert words.lengths.tolist() == [6] * 4
    assert (words.tokens[:, -1] == 2).all()
    assert words.tokens[:, :-1].min() >= 3
    assert words.tokens.max() < 20


def test_race_runs_both_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: lambda kind=kind: kind(0, SIZES) for name, kind in EACH.items()}
    monkeypatch.setattr(sentence_vae, "CONTESTANTS", small)
    monkeypatch.setattr(sentence_vae.lstm_vae, "sentences", lambda: WORDS)
    rows = sentence_vae.standings(rounds=3, steps=1, warmup=1)
    assert {row.name for row in rows} == set(EACH)
    assert next(row for row in rows if row.name == "ours").ratio == 1.0
