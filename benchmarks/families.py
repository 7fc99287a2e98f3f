"""What is raced of each family, for the table of all: who, at what sizes, on which batch, and which peers there are.

A family is one or more kinds of training. Peers are of three kinds (:data:`benchmarks.page.PEERS`); where one is
missing, its place says why. To add a family: its contestants in :mod:`benchmarks.contestants`, and a :class:`Kind`
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks import contestants, encoder_decoder, language_model, latent_sequences, layerwise_transformer
from benchmarks import sentence_vae as sentences
from benchmarks.contestants import STOCK
from benchmarks.peers import Words, lstm_vae, synthetic_words
from benchmarks.peers.encoder_decoder import Pairs, pairs
from benchmarks.peers.gpt2 import texts

LOOP, JAX, GPT2 = "PyTorch loop", "NumPyro/JAX, jitted", "plain GPT-2"
SIZES = ("small", "paper", "try")
"""Of the small recipes, of the papers, and of a try whether everything runs."""


class Missing(NamedTuple):
    """Why there is no peer: ``not applicable`` or ``not written``, and the reason."""

    status: str
    reason: str


NO_NUMPYRO = Missing("not applicable", "NumPyro has no such model, and none was written for it")


class Kind(NamedTuple):
    """One kind of training of a family.

    Attributes:
        contestants: names to builders.
        sizes: what contestants are built with, by the names of :data:`SIZES`; None where they have one size.
        batch: sizes to the batch.
        peers: the name of each kind of peer among the contestants, or why there is none.
        alike: peers compute the same; where not, the page says so.
    """

    contestants: Mapping[str, str]
    sizes: Mapping[str, Any]
    batch: Callable[[Any], Any]
    peers: Mapping[str, str | Missing]
    alike: bool = True

    def given(self, size: str) -> list[Any]:
        """Return what contestants are built with besides seed and device."""
        sizes = self.sizes[size]
        return [] if sizes is None else [sizes]


def tokens_of(batch: Words | Pairs) -> int:
    """Return how many tokens a step scores: those of the targets, EOS counted, padding not."""
    return int((batch.target if isinstance(batch, Pairs) else batch).lengths.sum())


def _sentences(sizes: Any) -> Words:
    return lstm_vae.sentences(0, lstm_vae.Sizes(vocabulary=sizes.vocabulary))


def _latent(kind: str, stock: str | Missing) -> Kind:
    table = contestants.LATENT_CONTESTANTS[kind]
    return Kind(table, latent_sequences.SIZES, _sentences, {"stock": stock, "loop": LOOP, "jax": NO_NUMPYRO})


def _pairs(kind: str) -> Kind:
    table = contestants.PAIR_CONTESTANTS[kind]
    peers = {"stock": STOCK, "loop": LOOP, "jax": NO_NUMPYRO}
    return Kind(table, encoder_decoder.SIZES, lambda sizes: pairs(0, sizes), peers)


def _layered(kind: str, stock: str | Missing) -> Kind:
    own = layerwise_transformer.SIZES
    sizes = {"small": own["small"], "paper": own["gpt2"], "try": own["try"]}
    peers = {"stock": stock, "loop": GPT2, "jax": NO_NUMPYRO}
    alike = kind == "none"
    return Kind(contestants.LAYERED_CONTESTANTS[kind], sizes, lambda given: texts(0, given), peers, alike)


UNWRITTEN = Missing("not written", "a latent of GPT-2 in stock Pyro, on networks of its own")

FAMILIES: dict[str, dict[str, Kind]] = {
    "deep_state_space": {
        "words": Kind(
            contestants.CONTESTANTS,
            dict.fromkeys(SIZES),
            lambda sizes: synthetic_words(0),
            {"stock": STOCK, "loop": "PyTorch loop, parallel densities", "jax": JAX},
        )
    },
    "sentence_vae": {
        "gaussian": Kind(
            contestants.SENTENCE_CONTESTANTS,
            sentences.SIZES,
            _sentences,
            {"stock": "stock Pyro", "loop": LOOP, "jax": JAX},
        )
    },
    "language_model": {
        "lstm": Kind(
            contestants.LANGUAGE_CONTESTANTS,
            language_model.SIZES,
            _sentences,
            {"stock": STOCK, "loop": LOOP, "jax": NO_NUMPYRO},
        )
    },
    "latent_sequence": {
        "vae-attn": _latent("vae-attn", STOCK),
        "gavam": _latent("gavam", STOCK),
        "davam-codes": _latent("davam-codes", Missing("not applicable", "its codes have no density")),
        "davam-prior": _latent("davam-prior", STOCK),
    },
    "switching_language_model": {"codes-contextual": _latent("codes-contextual", STOCK)},
    "encoder_decoder": {"ded-attn": _pairs("ded-attn"), "vattn-h": _pairs("vattn-h")},
    "layerwise_transformer": {
        "none": _layered("none", STOCK),
        "value": _layered("value", UNWRITTEN),
        "memory": _layered("memory", UNWRITTEN),
    },
}
"""Kinds of training by family."""
