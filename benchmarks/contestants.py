"""Who races: names to builders, imported on demand, so that a missing extra costs only its own row."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

OURS = "ours"
STOCK = "stock Pyro, a site per step"


WAYS: dict[str, dict[str, Any]] = {
    "ours, in the trainer": {},
    "ours, compiled": {"compiled": True},
    "ours, in the trainer, bf16": {"precision": "bf16-mixed"},
    "ours, captured": {"captured": True},
    "ours, captured, bf16": {"captured": True, "precision": "bf16-mixed"},
}
"""Our step as ``ppl_text fit`` takes it, and the options of :class:`benchmarks.steps.InTrainer` that make it so."""

COMPILED = "ours, compiled"
"""A CPU's way to record, which takes a compiler a minute or more: raced where it is worth that."""


def _ours(module: str, *kind: str, compiled: bool = False) -> dict[str, str]:
    """Our contestants of a module, bare and in the trainer; ``kind``: what they are built with first."""
    ways = [way for way in WAYS if compiled or way != COMPILED]
    return dict.fromkeys((OURS, *ways), ":".join((module, "Ours", *kind)))


CONTESTANTS = {
    **_ours("benchmarks.ours", compiled=True),
    "ours, Pyro taken out": "benchmarks.ours:OursWithoutPyro",
    STOCK: "benchmarks.peers.stock_pyro:build",
    "PyTorch loop": "benchmarks.peers.torch_loop:build",
    "PyTorch loop, parallel densities": "benchmarks.peers.torch_loop:build_parallel",
    "NumPyro/JAX, jitted": "benchmarks.peers.numpyro_jax:build",
}
"""Of the deep state-space word model."""

SENTENCE_CONTESTANTS = {
    **_ours("benchmarks.sentence_vae"),
    "stock Pyro": "benchmarks.peers.sentence_pyro:StockPyro",
    "PyTorch loop": "benchmarks.peers.lstm_vae:LSTMVAE",
    "NumPyro/JAX, jitted": "benchmarks.peers.sentence_jax:NumPyroJax",
}
"""Of the sentence VAE."""

LANGUAGE_CONTESTANTS = {
    **_ours("benchmarks.language_model"),
    STOCK: "benchmarks.peers.language_model:StockPyro",
    "PyTorch loop": "benchmarks.peers.language_model:LanguageModel",
}
"""Of the LSTM language model."""

LATENT_CONTESTANTS = {
    **{
        kind: {
            **_ours("benchmarks.latent_sequences", kind, compiled=kind == "davam-prior"),
            **({} if kind == "davam-codes" else {STOCK: f"benchmarks.peers.stock_sequences:StockPyro:{kind}"}),
            "PyTorch loop": f"benchmarks.peers.latent_sequence:LatentSequences:{kind}",
        }
        for kind in ("vae-attn", "gavam", "davam-codes", "davam-prior")
    },
    "codes-contextual": {
        **_ours("benchmarks.latent_sequences", "codes-contextual"),
        STOCK: "benchmarks.peers.switching:StockPyro:codes-contextual",
        "PyTorch loop": "benchmarks.peers.switching:Switching:codes-contextual",
    },
}
"""Of latent sequences and of switched codes, by what is trained; codes that have no density are no sites of Pyro's."""

PAIR_CONTESTANTS = {
    kind: {
        **_ours("benchmarks.encoder_decoder", kind),
        **more,
        STOCK: f"benchmarks.peers.stock_pairs:StockPyro:{kind}",
        "PyTorch loop": f"benchmarks.peers.encoder_decoder:EncoderDecoder:{kind}",
    }
    for kind, more in {
        "ded-attn": {},
        "vattn-h": {"ours, the path again": "benchmarks.encoder_decoder:build_again:vattn-h"},
    }.items()
}
"""Of texts given a source, by what is latent."""

LAYERED_CONTESTANTS = {
    **{
        kind: {
            **_ours("benchmarks.layerwise_transformer", kind),
            **({STOCK: "benchmarks.peers.stock_gpt2:StockPyro"} if kind == "none" else {}),
            "ours, checkpointing": f"benchmarks.layerwise_transformer:build_checkpointed:{kind}",
            "plain GPT-2": "benchmarks.peers.gpt2:PlainGPT2",
            "plain GPT-2, bf16": "benchmarks.peers.gpt2:build_bf16",
        }
        for kind in ("none", "value", "memory")
    },
    "particles": {
        OURS: "benchmarks.layerwise_transformer:build_particles",
        "ours, five passes": "benchmarks.layerwise_transformer:build_passes",
    },
}
"""Of Transformers with latents, by the way in, beside one with nothing latent; and several particles of one."""

REQUIRES = {"NumPyro/JAX, jitted": "numpyro"}
"""Contestants that need a package of the extra ``bench``."""


ON_GPU = {*(name for name, options in WAYS.items() if options and name != COMPILED), "plain GPT-2, bf16"}
"""Contestants that a CPU does not know."""


def available(table: Mapping[str, str] = CONTESTANTS, device: str = "cpu") -> list[str]:
    """Names whose packages are installed, for this device."""
    elsewhere = {COMPILED} if device == "cuda" else ON_GPU
    return [name for name in table if name not in elsewhere and _runs(REQUIRES.get(name), device)]


def build(name: str, seed: int = 0, device: str = "cpu", table: Mapping[str, str] = CONTESTANTS, *more: Any) -> Any:
    """Build one contestant with its initial parameters, on a device; what stands behind its name is an argument."""
    module, attribute, *arguments = table[name].split(":")
    built = getattr(importlib.import_module(module), attribute)(*arguments, seed, device, *more)
    if name not in WAYS:
        return built
    return importlib.import_module("benchmarks.steps").InTrainer(built, **WAYS[name])


def _runs(package: str | None, device: str) -> bool:
    if package is None:
        return True
    if importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module("benchmarks.peers.jax_device").place(device)
    except RuntimeError:  # JAX without CUDA
        return False
    return True
