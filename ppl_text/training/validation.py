"""The bound on held-out data, at β = 1, without a trace in the training's random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.protocols import Estimate
from .ranks import Ranks
from .records import ValidationRecord
from .update import Inputs, Joint, to_device

Measured = dict[str, float | list[float]]
"""Numbers, and lists of them, by name."""

Monitor = Callable[[nn.Module, nn.Module], Mapping[str, Any]]
"""Measures model and guide at each validation: numbers, and lists of them, by name.

It may have an attribute ``remark(values) -> str``: what there is to say of those numbers in words, "" for nothing.
"""


def validate(joint: Joint, data: Iterable[Batch], fabric: Fabric, *, step: int, seed: int) -> ValidationRecord:
    """Weighted mean of the bound over all sentences of ``data``, per sentence and per token, in nats.

    Σ_b w_b·bound_b / Σ_b w_b and Σ_b w_b·bound_b / Σ_b w_b·length_b, with dropout off and the same random
    numbers at every validation. Raises :class:`UserError` when the data hold no sentence.
    """
    ranks = Ranks(fabric)
    sums = torch.zeros(5, dtype=torch.float32 if fabric.device.type == "mps" else torch.float64, device=fabric.device)
    with own_random_numbers(fabric.device), modes_kept(joint), torch.no_grad():
        joint.eval()
        torch.manual_seed(seed + ranks.index)
        for batch in data:
            batch = to_device(batch, fabric.device)
            with fabric.autocast():
                estimate = joint(Inputs(batch, 1.0))
            sums += _weighted_sums(estimate, batch, sums.dtype)
    bound, kl, log_likelihood, sentences, tokens = ranks.total(sums).tolist()
    if not sentences > 0:
        raise UserError("the validation data hold no sentence (the weights sum to 0); give a split that has some")
    return ValidationRecord(
        step=step,
        bound=bound / sentences,
        bound_per_token=bound / tokens,
        kl=kl / sentences,
        log_likelihood=log_likelihood / sentences,
        sentences=sentences,
        tokens=tokens,
    )


def observe(joint: Joint, monitor: Monitor, fabric: Fabric, *, seed: int) -> Measured:
    """What ``monitor`` says of model and guide: in evaluation mode, without gradients, from the same seed each time.

    Whatever it draws leaves no trace in the training's random numbers.
    """
    with own_random_numbers(fabric.device), modes_kept(joint), torch.no_grad():
        joint.eval()
        torch.manual_seed(seed)
        return {name: _plain(value) for name, value in monitor(joint.model, joint.guide).items()}


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Context after which torch's random states, on the CPU and on ``device``, are as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Context after which each submodule is in the mode, training or evaluation, that it was in before."""
    before = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _plain(value: Any) -> float | list[float]:
    """A number, or a list of numbers, of plain Python."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return [float(item) for item in value] if isinstance(value, list | tuple) else float(value)


def _weighted_sums(estimate: Estimate, batch: Batch, dtype: torch.dtype) -> Tensor:
    """(5,): Σ w·bound, Σ w·KL, Σ w·log-likelihood, Σ w, Σ w·length."""
    ones = torch.ones_like(batch.weights, dtype=dtype)
    terms = (estimate.bound, estimate.kl, estimate.log_likelihood, ones, batch.lengths)
    weights = batch.weights.to(dtype)
    # An infinite bound counts where its sentence does: 0 · ∞ is no number.
    return torch.stack([torch.where(weights > 0, term.to(dtype), 0.0) for term in terms]) @ weights
