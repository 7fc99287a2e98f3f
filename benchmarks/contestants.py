"""Who races: names to builders, imported on demand, so that a missing extra costs only its own row."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

OURS = "ours"

CONTESTANTS = {
    OURS: "benchmarks.ours:build",
    "ours, in the trainer": "benchmarks.ours:build_in_trainer",
    "ours, captured": "benchmarks.ours:build_captured",
    "ours, captured, bf16": "benchmarks.ours:build_captured_bf16",
    "ours, Pyro taken out": "benchmarks.ours:build_without_pyro",
    "stock Pyro, a site per step": "benchmarks.peers.stock_pyro:build",
    "PyTorch loop": "benchmarks.peers.torch_loop:build",
    "PyTorch loop, parallel densities": "benchmarks.peers.torch_loop:build_parallel",
    "NumPyro/JAX, jitted": "benchmarks.peers.numpyro_jax:build",
}
"""Of the deep state-space word model."""

SENTENCE_CONTESTANTS = {
    OURS: "benchmarks.sentence_vae:Ours",
    "ours, in the trainer": "benchmarks.sentence_vae:build_in_trainer",
    "ours, captured": "benchmarks.sentence_vae:build_captured",
    "ours, captured, bf16": "benchmarks.sentence_vae:build_captured_bf16",
    "stock Pyro": "benchmarks.peers.sentence_pyro:StockPyro",
    "PyTorch loop": "benchmarks.peers.lstm_vae:LSTMVAE",
    "NumPyro/JAX, jitted": "benchmarks.peers.sentence_jax:NumPyroJax",
}
"""Of the sentence VAE."""

LATENT_CONTESTANTS = {
    kind: {
        OURS: f"benchmarks.latent_sequences:Ours:{kind}",
        "ours, in the trainer": f"benchmarks.latent_sequences:build_in_trainer:{kind}",
        "ours, captured": f"benchmarks.latent_sequences:build_captured:{kind}",
        "ours, captured, bf16": f"benchmarks.latent_sequences:build_captured_bf16:{kind}",
        **(
            {}
            if kind == "codes-contextual"
            else {"PyTorch loop": f"benchmarks.peers.latent_sequence:LatentSequences:{kind}"}
        ),
    }
    for kind in ("vae-attn", "gavam", "davam-codes", "davam-prior", "codes-contextual")
}
"""Of latent sequences and of switched codes, by what is trained."""

PAIR_CONTESTANTS = {
    kind: {
        OURS: f"benchmarks.encoder_decoder:Ours:{kind}",
        **({"ours, the path again": f"benchmarks.encoder_decoder:build_again:{kind}"} if kind == "vattn-h" else {}),
        "ours, in the trainer": f"benchmarks.encoder_decoder:build_in_trainer:{kind}",
        "ours, captured": f"benchmarks.encoder_decoder:build_captured:{kind}",
        "ours, captured, bf16": f"benchmarks.encoder_decoder:build_captured_bf16:{kind}",
        "PyTorch loop": f"benchmarks.peers.encoder_decoder:EncoderDecoder:{kind}",
    }
    for kind in ("ded-attn", "vattn-h")
}
"""Of texts given a source, by what is latent."""

REQUIRES = {"NumPyro/JAX, jitted": "numpyro"}
"""Contestants that need a package of the extra ``bench``."""


ON_GPU = {"ours, captured", "ours, captured, bf16"}
"""Contestants that a CPU does not know."""


def available(table: Mapping[str, str] = CONTESTANTS, device: str = "cpu") -> list[str]:
    """Names whose packages are installed, for this device."""
    return [name for name in table if (device == "cuda" or name not in ON_GPU) and _runs(REQUIRES.get(name), device)]


def build(name: str, seed: int = 0, device: str = "cpu", table: Mapping[str, str] = CONTESTANTS, *more: Any) -> Any:
    """Build one contestant with its initial parameters, on a device; what stands behind its name is an argument."""
    module, attribute, *arguments = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)(*arguments, seed, device, *more)


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
