"""The same model in NumPyro: whole-sequence sites, ``lax.scan`` for the chain, one jitted ``SVI.update``.

The guide's site keeps log q from the pass that sampled the path (NumPyro's ``intermediates``), so
nothing is computed twice. NumPyro's own ClippedAdam clips each gradient entry; ``GlobalNormAdam`` clips
one norm over all parameters, as the other peers do.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from jax.example_libraries.optimizers import clip_grads
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.util import compute_log_probs
from numpyro.optim import Adam

from benchmarks.peers import (
    CLIP_NORM,
    FIRST_OUTCOME,
    GRU,
    GUIDE_FLOOR,
    LEARNING_RATE,
    MODEL_FLOOR,
    STATE,
    Parameters,
    Words,
    initial_parameters,
    jax_device,
    parameter_shapes,
    unit_shift,
)

MODEL_SHIFT, GUIDE_SHIFT = unit_shift(MODEL_FLOOR), unit_shift(GUIDE_FLOOR)
LOG_NORMALISER = 0.5 * STATE * float(np.log(2 * np.pi))
SPREAD, GATHER = (np.eye(STATE, dtype=np.float32)[index] for index in np.tril_indices(STATE, k=-1)[::-1])


class JaxWords(NamedTuple):
    """What a step reads: tokens and outcomes (B, T), mask (B, T)."""

    tokens: jax.Array
    outcomes: jax.Array
    mask: jax.Array


class GlobalNormAdam(Adam):
    """Adam after the gradient of all parameters together was clipped to a norm."""

    def update(self, g: Any, state: Any, value: Any = None) -> Any:
        return super().update(clip_grads(g, CLIP_NORM), state, value)


class Chain(dist.Distribution):
    """p(h_1..h_T) of inverse triangular flows, scored for all t at once; the race never samples from it."""

    support = dist.constraints.real_matrix

    def __init__(self, weights: Parameters, mask: jax.Array) -> None:
        self.weights, self.mask = weights, mask
        super().__init__(batch_shape=mask.shape[:1], event_shape=(mask.shape[1], STATE))

    def log_prob(self, value: jax.Array) -> jax.Array:
        mean, raw, lower = jnp.split(self._network(_previous(self.weights, value)), [STATE, 2 * STATE], -1)
        diagonal = jax.nn.softplus(raw + MODEL_SHIFT) + MODEL_FLOOR
        difference = value - mean
        zeta = difference * diagonal + (lower * (difference @ SPREAD.T)) @ GATHER
        terms = (jnp.log(diagonal) - 0.5 * jnp.square(zeta)).sum(-1) - LOG_NORMALISER
        return jnp.where(self.mask, terms, 0.0).sum(-1)

    def _network(self, previous: jax.Array) -> jax.Array:
        hidden = jnp.tanh(_linear(self.weights, "transition.0", previous))
        hidden = jnp.tanh(_linear(self.weights, "transition.1", hidden))
        return _linear(self.weights, "transition.2", hidden)


class DiagonalFlow(dist.Distribution):
    """q(h_1..h_T | w): h_t = loc + s * eps_t, conditioned on h_{t-1} and on a GRU that read w_n back to w_t."""

    support = dist.constraints.real_matrix
    reparametrized_params: tuple[str, ...] = ()

    def __init__(self, weights: Parameters, batch: JaxWords) -> None:
        self.weights, self.mask = weights, batch.mask
        self.encoded = _linear(weights, "conditioner.encoder", _backward_gru(weights, batch))
        super().__init__(batch_shape=self.mask.shape[:1], event_shape=(self.mask.shape[1], STATE))

    def sample_with_intermediates(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> tuple[Any, list[Any]]:
        path, scale, noise = self.path(jax.random.normal(key, (self.mask.shape[1], self.mask.shape[0], STATE)))
        return path, [self._log_density(noise, scale)]

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        return self.sample_with_intermediates(key, sample_shape)[0]

    def path(self, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Path (B, T, D), scale (B, T, D) and noise (B, T, D) of noise that comes time first, (T, B, D)."""

        def body(state: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
            encoded, eps = inputs
            loc, scale = self._parameters(state, encoded)
            state = loc + scale * eps
            return state, (state, scale)

        start = jnp.broadcast_to(self.weights["initial"], noise.shape[1:])
        _, (path, scale) = lax.scan(body, start, (self.encoded.swapaxes(0, 1), noise))
        return path.swapaxes(0, 1), scale.swapaxes(0, 1), noise.swapaxes(0, 1)

    def log_prob(self, value: jax.Array, intermediates: list[Any] | None = None) -> jax.Array:
        if intermediates:
            return intermediates[0]
        loc, scale = self._parameters(_previous(self.weights, value), self.encoded)
        return self._log_density((value - loc) / scale, scale)

    def _log_density(self, noise: jax.Array, scale: jax.Array) -> jax.Array:
        terms = -(0.5 * jnp.square(noise) + jnp.log(scale)).sum(-1) - LOG_NORMALISER
        return jnp.where(self.mask, terms, 0.0).sum(-1)

    def _parameters(self, previous: jax.Array, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = jnp.tanh(previous @ self.weights["conditioner.state.weight"].T + encoded)
        hidden = jnp.tanh(_linear(self.weights, "conditioner.hidden", hidden))
        loc, raw = jnp.split(_linear(self.weights, "conditioner.output", hidden), 2, -1)
        return loc, jax.nn.softplus(raw + GUIDE_SHIFT) + GUIDE_FLOOR


def model(batch: JaxWords, start: Parameters) -> None:
    """p(h, w), scaled to the mean sentence."""
    weights = _parameters(start, ("initial", "transition.", "emission."))
    size = len(batch.tokens)
    with numpyro.plate("sentences", size), handlers.scale(scale=1.0 / size):
        path = numpyro.sample("h", Chain(weights, batch.mask))
        logits = _linear(weights, "emission", path)
        numpyro.sample("w", dist.Categorical(logits=logits).mask(batch.mask).to_event(1), obs=batch.outcomes)


def guide(batch: JaxWords, start: Parameters) -> None:
    """q(h | w), scaled to the mean sentence."""
    weights = _parameters(start, ("initial", "embedding.", "gru.", "conditioner."))
    size = len(batch.tokens)
    with numpyro.plate("sentences", size), handlers.scale(scale=1.0 / size):
        numpyro.sample("h", DiagonalFlow(weights, batch))


class NumPyroJax:
    """The contestant: ``SVI(model, guide, Adam, Trace_ELBO())`` with ``update`` under ``jax.jit``."""

    def __init__(self, seed: int, device: str) -> None:
        self.device = jax_device.place(device)
        self.start = self._put(initial_parameters(seed))
        self.svi = SVI(model, guide, GlobalNormAdam(LEARNING_RATE), Trace_ELBO())
        self.state = None
        self.key = self._put(jax.random.PRNGKey(seed))
        self.update = jax.jit(partial(self.svi.update, start=self.start), donate_argnums=0)

    @property
    def weights(self) -> Parameters:
        """Parameters as they stand."""
        return self.start if self.state is None else self.svi.get_params(self.state)

    def load(self, parameters: Parameters) -> None:
        self.start = self._put({name: parameters[name] for name in parameter_shapes()})
        self.state = None

    def prepare(self, words: Words) -> JaxWords:
        mask = np.arange(words.tokens.shape[1]) < words.lengths[:, None]
        outcomes = np.clip(words.tokens - FIRST_OUTCOME, 0, None).astype(np.int32)
        return self._put(JaxWords(words.tokens.astype(np.int32), outcomes, mask))

    def step(self, batch: JaxWords) -> float:
        if self.state is None:
            state = self.svi.init(self.key, batch, self.start)
            self.state = jax.tree.map(jnp.copy, state)  # the update overwrites its argument's memory
        self.state, loss = self.update(self.state, batch)
        return float(loss)

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        return np.asarray(_bound(self.weights, self.prepare(words), self._put(noise)))

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        batch = self.prepare(words)
        gradient = jax.grad(lambda weights: -_bound(weights, batch, self._put(noise)).mean())(self.weights)
        return {name: np.asarray(value) for name, value in gradient.items()}

    def peak_bytes(self) -> int | None:
        """Most bytes that JAX has held; None where it does not say."""
        return jax_device.peak_bytes(self.device)

    def _put(self, values: Any) -> Any:
        return jax_device.put(values, self.device)


def build(seed: int, device: str = "cpu") -> NumPyroJax:
    """NumPyro's SVI, one jitted update."""
    return NumPyroJax(seed, device)


@jax.jit
def _bound(weights: Parameters, batch: JaxWords, noise: jax.Array) -> jax.Array:
    """Per-sentence bound (B,) of NumPyro's own model and guide on the path that noise (B, T, D) gives."""
    path, _, _ = DiagonalFlow(weights, batch).path(noise.swapaxes(0, 1))
    terms = [
        compute_log_probs(program, (batch, weights), {}, {**weights, "h": path}, sum_log_prob=False)[0]
        for program in (model, guide)
    ]
    return (terms[0]["h"] + terms[0]["w"] - terms[1]["h"]) * len(batch.tokens)


def _parameters(start: Parameters, prefixes: tuple[str, ...]) -> Parameters:
    return {name: numpyro.param(name, value) for name, value in start.items() if name.startswith(prefixes)}


def _linear(weights: Parameters, name: str, inputs: jax.Array) -> jax.Array:
    return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _previous(weights: Parameters, path: jax.Array) -> jax.Array:
    """h_0 .. h_{T-1} for h_1 .. h_T, (B, T, D)."""
    first = jnp.broadcast_to(weights["initial"], (path.shape[0], 1, STATE))
    return jnp.concatenate([first, path[:, :-1]], 1)


def _backward_gru(weights: Parameters, batch: JaxWords) -> jax.Array:
    """a_1 .. a_T (B, T, 64): runs from T to 1 and keeps its zero state until it meets the last real token."""
    inputs = weights["embedding.weight"] @ weights["gru.weight_ih"].T + weights["gru.bias_ih"]
    inputs = inputs[batch.tokens]

    def body(state: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, mask = step
        h = state @ weights["gru.weight_hh"].T + weights["gru.bias_hh"]
        (x_r, x_u, x_n), (h_r, h_u, h_n) = jnp.split(x, 3, -1), jnp.split(h, 3, -1)
        reset, update = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_u + h_u)
        new = jnp.tanh(x_n + reset * h_n)
        state = jnp.where(mask[:, None], (1.0 - update) * new + update * state, state)
        return state, state

    start = jnp.zeros((len(batch.tokens), GRU))
    steps = (inputs.swapaxes(0, 1), batch.mask.swapaxes(0, 1))
    return lax.scan(body, start, steps, reverse=True)[1].swapaxes(0, 1)
