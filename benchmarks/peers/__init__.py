"""The deep state-space word model, written by other means: what our training step is raced against.

Every peer computes the same model, guide, bound, clipping and optimiser with the sizes below, from the
same parameters; ``tests/benchmarks/test_peers.py`` holds them to that. Each module here offers
``build(seed, device) -> Peer`` for the device ``cpu`` or ``cuda``, and every :class:`Peer` takes and gives
numpy arrays except for its own prepared batch.

Model p and guide q of one sentence w_1..w_n EOS, padded to T (steps after the end count nothing)::

    p(h_t | h_{t-1})  zeta = A (h_t - m) ~ N(0, I);  m, A = MLP(h_{t-1});  A lower triangular,
                      A_kk = softplus(raw_k + c) + 0.1 with c such that raw = 0 gives A_kk = 1
    p(w_t | h_t)      Categorical(softmax(E h_t + b)) over EOS and 26 letters: outcome = token id - 2
    q(h_t | h_{t-1}, w_{t:n})  h_t = loc + s * eps_t;  loc, raw = MLP(h_{t-1}, a_t);
                      s = softplus(raw + c') + 1e-3;  a = GRU run from the sentence's end to its start

Flat parameter names (``parameter_shapes``) are those of a torch module, without the GRU's ``_l0``;
weights lie as torch lays them, (out, in), the GRU's gates in the order reset, update, new.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

BATCH, STEPS, STATE = 128, 13, 8
VOCABULARY, OUTCOMES, FIRST_OUTCOME = 29, 27, 2
EMBEDDING, GRU, HIDDEN = 32, 64, 64
LOWER = STATE * (STATE - 1) // 2
LEARNING_RATE, CLIP_NORM = 1e-3, 5.0

MODEL_FLOOR, GUIDE_FLOOR = 0.1, 1e-3
"""delta of the transition's and of the guide's scale: softplus(raw + shift) + delta."""

BEGIN, END, IGNORED = 1, 2, -100
"""BOS, EOS, and what ``cross_entropy`` leaves out."""

Parameters = dict[str, np.ndarray]


def unit_shift(floor: float) -> float:
    """Return c = log(expm1(1 - delta)), so that softplus(0 + c) + delta = 1."""
    return math.log(math.expm1(1.0 - floor))


class Words(NamedTuple):
    """A batch as plain arrays: token ids (B, T) with EOS (2) and padding (0); lengths (B,), EOS counted."""

    tokens: np.ndarray
    lengths: np.ndarray


class Peer(Protocol):
    """One contestant of the race."""

    def load(self, parameters: Parameters) -> None:
        """Take over parameters under their flat names."""

    def prepare(self, words: Words) -> Any:
        """Turn a batch into what ``step`` reads; done before the clock starts."""

    def step(self, batch: Any) -> float:
        """Take one training step with fresh noise; return the loss, nats per sentence, once it is computed."""

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        """Single-sample bound of each sentence, (B,) in nats, from given noise (B, T, D)."""

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        """Gradient of the loss (minus the mean bound) with respect to every parameter, from given noise."""


def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """Every parameter's flat name and shape: the interface between the contestants."""
    return {
        "initial": (STATE,),
        **_linear("transition.0", STATE, HIDDEN),
        **_linear("transition.1", HIDDEN, HIDDEN),
        **_linear("transition.2", HIDDEN, 2 * STATE + LOWER),
        **_linear("emission", STATE, OUTCOMES),
        "embedding.weight": (VOCABULARY, EMBEDDING),
        "gru.weight_ih": (3 * GRU, EMBEDDING),
        "gru.weight_hh": (3 * GRU, GRU),
        "gru.bias_ih": (3 * GRU,),
        "gru.bias_hh": (3 * GRU,),
        "conditioner.state.weight": (HIDDEN, STATE),
        **_linear("conditioner.encoder", GRU, HIDDEN),
        **_linear("conditioner.hidden", HIDDEN, HIDDEN),
        **_linear("conditioner.output", HIDDEN, 2 * STATE),
    }


def initial_parameters(seed: int) -> Parameters:
    """Draw parameters as torch does: U(-1/sqrt(fan in), 1/sqrt(fan in)); N(0, 1) for the embedding; h_0 = 0."""
    rng = np.random.default_rng(seed)
    fan_in = {name.rpartition(".")[0]: shape[1] for name, shape in parameter_shapes().items() if len(shape) == 2}
    values = {}
    for name, shape in parameter_shapes().items():
        if name == "initial":
            value = np.zeros(shape)
        elif name == "embedding.weight":
            value = rng.standard_normal(shape)
        else:
            bound = 1.0 / math.sqrt(GRU if name.startswith("gru.") else fan_in[name.rpartition(".")[0]])
            value = rng.uniform(-bound, bound, shape)
        values[name] = value.astype(np.float32)
    return values


def synthetic_words(seed: int = 0, size: int = BATCH, steps: int = STEPS) -> Words:
    """Draw words of 2 to 12 letters with the lengths that English types have (mean near 7.5), letters uniform."""
    rng = np.random.default_rng(seed)
    letters = np.clip(rng.binomial(16, 0.46, size), 2, steps - 1)
    tokens = rng.integers(FIRST_OUTCOME + 1, VOCABULARY, (size, steps))
    position = np.arange(steps)
    tokens = np.where(position < letters[:, None], tokens, np.where(position == letters[:, None], FIRST_OUTCOME, 0))
    return Words(tokens.astype(np.int64), (letters + 1).astype(np.int64))


def draw_noise(seed: int, words: Words) -> np.ndarray:
    """Standard normal noise (B, T, D) for ``Peer.elbo`` and ``Peer.gradients``."""
    return np.random.default_rng(seed).standard_normal((*words.tokens.shape, STATE)).astype(np.float32)


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
