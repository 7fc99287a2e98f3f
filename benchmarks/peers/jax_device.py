"""Where the JAX peers run, and how they reckon there."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp

# Read when JAX first looks for devices; without it JAX takes three quarters of a GPU for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
jax.config.update("jax_default_matmul_precision", "highest")  # float32 products are float32 ones, as they are in torch


def place(device: str) -> jax.Device:
    """JAX's device for ``cpu`` or ``cuda``; raises ``RuntimeError`` where JAX was installed without it."""
    return jax.devices("gpu" if device == "cuda" else device)[0]


def put(values: Any, device: jax.Device) -> Any:
    """Arrays on a device, where what is compiled for them then runs."""
    return jax.tree.map(lambda value: jax.device_put(jnp.array(value), device), values)


def peak_bytes(device: jax.Device) -> int | None:
    """Most bytes that JAX has held on a GPU since the process began, beyond what it holds now; None on a CPU."""
    held = device.memory_stats()
    return None if held is None else int(held["peak_bytes_in_use"] - held["bytes_in_use"])
