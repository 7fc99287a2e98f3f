"""The bound on held-out data at β = 1, and running statistics for it: without a trace in the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from pyro import poutine
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.protocols import Estimate
from ..nn.statistics import Figures, RunningStatistics, Total, alone
from .machine import Ranks
from .programs import Inputs, Joint, modes_kept, own_random_numbers, to_device
from .random_numbers import seed_all
from .records import ValidationRecord

Measured = dict[str, float | list[float]]
"""Numbers, and lists of them, by name."""

Monitor = Callable[[nn.Module, nn.Module], Mapping[str, Any]]
"""Measures model and guide at each validation: numbers, and lists of them, by name.

It may have an attribute ``remark(values) -> str``: what there is to say of those numbers in words, "" for nothing.
"""


def estimate_at_one(joint: Joint, fabric: Fabric, batch: Batch) -> Estimate:
    """Return what the objective says of a batch at β = 1, in the precision of the training."""
    with fabric.autocast():
        return joint.do(Inputs(batch, 1.0))


def validate(
    joint: Joint,
    data: Iterable[Batch],
    fabric: Fabric,
    *,
    step: int,
    seed: int,
    estimate: Callable[[Batch], Estimate] | None = None,
) -> ValidationRecord:
    """Return the weighted mean of the bound over all sentences of ``data``, per sentence and per token, in nats.

    Σ_b w_b·bound_b / Σ_b w_b and Σ_b w_b·bound_b / Σ_b w_b·length_b, with dropout off and the same random
    numbers at every validation. ``estimate``: :func:`estimate_at_one` of these programs, where it is recorded. Raises
    :class:`UserError` when the data hold no sentence.
    """
    ranks, estimate = Ranks(fabric), estimate or partial(estimate_at_one, joint, fabric)
    sums = torch.zeros(5, dtype=torch.float32 if fabric.device.type == "mps" else torch.float64, device=fabric.device)
    with own_random_numbers(fabric.device), modes_kept(joint), torch.no_grad():
        joint.eval()
        seed_all(seed + ranks.index)
        for batch in data:
            batch = to_device(batch, fabric.device)
            sums += _weighted_sums(estimate(batch), batch, sums.dtype)
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
    """Return what ``monitor`` says of both programs in evaluation mode, without gradients, from one seed each time.

    Whatever it draws leaves no trace in the training's random numbers.
    """
    with own_random_numbers(fabric.device), modes_kept(joint):
        joint.eval()
        seed_all(seed)
        found = joint.do(lambda model, guide, _: monitor(model, guide))
        return {name: _plain(value) for name, value in found.items()}


def refresh_statistics(
    model: nn.Module, guide: nn.Module, batches: Iterable[Batch], total: Total = alone
) -> dict[str, Tensor]:
    """Estimate running statistics anew at the present weights; return copies of what they were, by name.

    Those of parts in training mode are set to the figures of ``batches`` (on the programs' device), with which each
    program is run once: dropout is off, each batch is normalised by itself, and the global random numbers are used.
    The rest stays as it is. Names are those of ``state_dict`` with the programs as ``model`` and ``guide``.
    """
    joint = nn.ModuleDict({"model": model, "guide": guide})
    parts = {name: part for name, part in joint.named_modules() if isinstance(part, RunningStatistics)}
    parts = {name: part for name, part in parts.items() if part.training and part.estimated}
    noted: dict[str, list[Figures]] = {name: [] for name in parts}
    if not parts:
        return {}
    with modes_kept(joint), torch.no_grad():
        joint.eval()
        for part in parts.values():
            part.training = True
        for batch in batches:
            trace = poutine.trace(guide).get_trace(batch)
            if not set(parts.values()).isdisjoint(model.modules()):
                poutine.replay(model, trace=trace)(batch)
            for name, part in parts.items():
                noted[name] += [figures] if (figures := part.take()) is not None else []
    kept: dict[str, Tensor] = {}
    for name, part in parts.items():
        if noted[name]:
            kept |= {f"{name}.{key}": buffer.clone() for key, buffer in part.named_buffers()}
            part.estimate(noted[name], total)
    return kept


@contextmanager
def judged(joint: Joint, batches: Iterable[Batch], fabric: Fabric, *, seed: int) -> Iterator[dict[str, Tensor]]:
    """Context in which running statistics are those of the present weights, for what is measured and saved of these.

    They lag behind while the weights move. Afterwards they are as before, which is what the context gives, by name:
    a validation leaves no trace in the training. Without a part that has statistics this is free.
    """
    with own_random_numbers(fabric.device), fabric.autocast():
        seed_all(seed)
        moved = (to_device(batch, fabric.device) for batch in batches)
        total = Ranks(fabric).total
        statistics = joint.do(lambda model, guide, _: refresh_statistics(model, guide, moved, total))
    try:
        yield statistics
    finally:
        for name, value in statistics.items():
            joint.get_buffer(name).copy_(value)


def _plain(value: Any) -> float | list[float]:
    """Return a number, or a list of numbers, of plain Python."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return [float(item) for item in value] if isinstance(value, list | tuple) else float(value)


def _weighted_sums(estimate: Estimate, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Return (5,): Σ w·bound, Σ w·KL, Σ w·log-likelihood, Σ w, Σ w·length."""
    ones = torch.ones_like(batch.weights, dtype=dtype)
    terms = (estimate.bound, estimate.kl, estimate.log_likelihood, ones, batch.lengths)
    weights = batch.weights.to(dtype)
    # An infinite bound counts where its sentence does: 0 · ∞ is no number.
    return torch.stack([torch.where(weights > 0, term.to(dtype), 0.0) for term in terms]) @ weights
