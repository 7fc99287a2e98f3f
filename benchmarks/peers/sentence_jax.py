"""The sentence VAE in NumPyro: ``lax.scan`` for both LSTMs, one product for all logits, one jitted ``SVI.update``.

The same computation as :mod:`benchmarks.peers.lstm_vae`, under the same parameter names: dropout 0.5 on the decoder's
embeddings and outputs, the KL in closed form (``TraceMeanField_ELBO``), SGD with gradients clipped at one global norm.
The input gates of all steps are one product before each scan, as cuDNN's are.
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
from numpyro.infer import SVI, TraceMeanField_ELBO
from numpyro.optim import SGD

from benchmarks.peers import CLIP_NORM, Parameters, Words, jax_device
from benchmarks.peers.lstm_vae import BEGIN, DROPOUT, END, LEARNING_RATE, LSTMVAE, Sizes


class JaxSentences(NamedTuple):
    """What a step reads: encoder's and decoder's inputs, outcomes and mask (B, T), index of the last state (B,)."""

    sentence: jax.Array
    inputs: jax.Array
    outcomes: jax.Array
    mask: jax.Array
    last: jax.Array


class GlobalNormSGD(SGD):
    """SGD after the gradient of all parameters together was clipped to a norm."""

    def update(self, g: Any, state: Any, value: Any = None) -> Any:
        return super().update(clip_grads(g, CLIP_NORM), state, value)


def model(batch: JaxSentences, start: Parameters, dropout: bool) -> None:
    """p(z, w), scaled to the mean sentence."""
    weights = _parameters(start, ("decoder_embedding.", "decoder.", "bridge.", "head."))
    size, latent = len(batch.outcomes), start["bridge.weight"].shape[1]
    with numpyro.plate("sentences", size), handlers.scale(scale=1.0 / size):
        z = numpyro.sample("z", dist.Normal(jnp.zeros((size, latent)), 1.0).to_event(1))
        keys = jax.random.split(numpyro.prng_key(), 2) if dropout else None
        logits = _decode(weights, z, batch, keys)
        words = dist.Categorical(logits=logits).mask(batch.mask).to_event(1)
        numpyro.sample("w", words, obs=batch.outcomes)


def guide(batch: JaxSentences, start: Parameters, dropout: bool) -> None:
    """q(z | w), scaled to the mean sentence."""
    weights = _parameters(start, ("encoder_embedding.", "encoder.", "moments."))
    size = len(batch.outcomes)
    mean, log_variance = _encode(weights, batch)
    with numpyro.plate("sentences", size), handlers.scale(scale=1.0 / size):
        numpyro.sample("z", dist.Normal(mean, jnp.exp(0.5 * log_variance)).to_event(1))


class NumPyroJax:
    """The contestant: ``SVI(model, guide, SGD, TraceMeanField_ELBO())`` with ``update`` under ``jax.jit``."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008 - numbers
        self.device = jax_device.place(device)
        networks = LSTMVAE(seed, "cpu", sizes).networks
        self.start = self._put({name: value.detach().numpy() for name, value in networks.named_parameters()})
        self.svi = SVI(model, guide, GlobalNormSGD(LEARNING_RATE), TraceMeanField_ELBO())
        self.key, self.state = self._put(jax.random.PRNGKey(seed)), None
        self.update = jax.jit(partial(self.svi.update, start=self.start, dropout=True), donate_argnums=0)

    @property
    def weights(self) -> Parameters:
        """Parameters as they stand."""
        return self.start if self.state is None else self.svi.get_params(self.state)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters under the names of the hand-written loop."""
        self.start, self.state = self._put(parameters), None

    def prepare(self, words: Words) -> JaxSentences:
        """Shift, pad and mask; done before the clock starts."""
        tokens = words.tokens.astype(np.int32)
        sentence = np.concatenate([np.full_like(tokens[:, :1], BEGIN), tokens], 1)
        mask = np.arange(tokens.shape[1]) < words.lengths[:, None]
        parts = (sentence, sentence[:, :-1], np.clip(tokens - END, 0, None), mask, words.lengths.astype(np.int32))
        return self._put(JaxSentences(*parts))

    def step(self, batch: JaxSentences) -> float:
        """Take one training step with fresh noise and dropout; return the loss, nats per sentence."""
        if self.state is None:
            state = self.svi.init(self.key, batch, self.start, dropout=True)
            self.state = jax.tree.map(jnp.copy, state)  # the update overwrites its argument's memory
        self.state, loss = self.update(self.state, batch)
        return float(loss)

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        """Bound of each sentence, (B,) in nats, with the KL in closed form, from given noise (B, D)."""
        return np.asarray(_bound(self.weights, self.prepare(words), self._put(noise)))

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        """Gradient of the loss with respect to every parameter, from given noise and without dropout."""
        batch, given = self.prepare(words), self._put(noise)
        gradient = jax.grad(lambda weights: -_bound(weights, batch, given).mean())(self.weights)
        return {name: np.asarray(value) for name, value in gradient.items()}

    def peak_bytes(self) -> int | None:
        """Most bytes that JAX has held; None where it does not say."""
        return jax_device.peak_bytes(self.device)

    def _put(self, values: Any) -> Any:
        return jax_device.put(values, self.device)


@jax.jit
def _bound(weights: Parameters, batch: JaxSentences, noise: jax.Array) -> jax.Array:
    """Per-sentence bound (B,) of NumPyro's own model and guide at the z that noise (B, D) gives."""
    mean, log_variance = _encode(weights, batch)
    z = mean + jnp.exp(0.5 * log_variance) * noise
    sites = {}
    for program in (model, guide):
        given = handlers.substitute(handlers.seed(program, 0), data={**weights, "z": z})
        sites[program] = handlers.trace(given).get_trace(batch, weights, dropout=False)
    words = sites[model]["w"]
    return words["fn"].log_prob(words["value"]) - dist.kl_divergence(sites[guide]["z"]["fn"], sites[model]["z"]["fn"])


def _encode(weights: Parameters, batch: JaxSentences) -> tuple[jax.Array, jax.Array]:
    """mu and log s2, each (B, D)."""
    zero = jnp.zeros((len(batch.sentence), weights["encoder.weight_hh_l0"].shape[1]))
    embedded = weights["encoder_embedding.weight"][batch.sentence]
    states = _lstm(weights, "encoder", embedded, zero, zero)
    last = states[jnp.arange(len(states)), batch.last]
    return tuple(jnp.split(last @ weights["moments.weight"].T, 2, -1))


def _decode(weights: Parameters, z: jax.Array, batch: JaxSentences, keys: jax.Array | None) -> jax.Array:
    """Logits (B, T, V - 2); nothing is dropped without keys."""
    embedded = weights["decoder_embedding.weight"][batch.inputs]
    embedded = embedded if keys is None else _dropped(keys[0], embedded)
    cell = z @ weights["bridge.weight"].T
    along = jnp.broadcast_to(z[:, None], (*embedded.shape[:2], z.shape[-1]))
    states = _lstm(weights, "decoder", jnp.concatenate([embedded, along], -1), jnp.tanh(cell), cell)
    states = states if keys is None else _dropped(keys[1], states)
    return states @ weights["head.weight"].T


def _lstm(weights: Parameters, name: str, inputs: jax.Array, hidden: jax.Array, cell: jax.Array) -> jax.Array:
    """States (B, T, H); gates in torch's order: input, forget, cell, output."""
    gates = inputs @ weights[f"{name}.weight_ih_l0"].T + weights[f"{name}.bias_ih_l0"] + weights[f"{name}.bias_hh_l0"]

    def body(state: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        hidden, cell = state
        i, f, g, o = jnp.split(x + hidden @ weights[f"{name}.weight_hh_l0"].T, 4, -1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    return lax.scan(body, (hidden, cell), gates.swapaxes(0, 1))[1].swapaxes(0, 1)


def _dropped(key: jax.Array, values: jax.Array) -> jax.Array:
    kept = jax.random.bernoulli(key, 1.0 - DROPOUT, values.shape)
    return jnp.where(kept, values / (1.0 - DROPOUT), 0.0)


def _parameters(start: Parameters, prefixes: tuple[str, ...]) -> Parameters:
    return {name: numpyro.param(name, value) for name, value in start.items() if name.startswith(prefixes)}
