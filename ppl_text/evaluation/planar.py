"""Texts in two dimensions: where their posterior means lie on the two axes along which these differ most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..core.batch import Batch
from ..core.latents import LatentSpec, of_sentence
from ..core.printing import percent
from .encoding import mean_latents
from .report import Points
from .sentences import CommonSentences


def comparable_latents(model: Any) -> tuple[LatentSpec, ...]:
    """Return the latents that texts of any length can be compared by: those of whole texts, or means over steps.

    Only real ones, and none beside codes, since other values have no means; those with steps only where no latent is of
    the whole text.
    """
    if any(getattr(constraints, spec.support).is_discrete for spec in model.latents):
        return ()
    real = [spec for spec in model.latents if spec.support == "real"]
    whole = of_sentence(real)
    if whole:
        return whole if len(whole) == len(of_sentence(model.latents)) else ()
    return tuple(spec for spec in real if all(axis in spec.sizes for axis in spec.axes if axis != spec.step_axis))


def text_vectors(model: Any, guide: Any, batch: Batch) -> Tensor:
    """E_q of :func:`comparable_latents`, side by side, (B, units), with steps averaged over a text's own."""
    source = None if batch.source is None else batch.source.lengths
    means = mean_latents(model, guide, batch)
    return torch.cat(
        [
            _over_steps(means[spec.name], spec, spec.own_steps(batch.lengths, source))
            for spec in comparable_latents(model)
        ],
        dim=-1,
    )


def _over_steps(value: Tensor, spec: LatentSpec, lengths: Tensor | None) -> Tensor:
    """Average a latent (B, …) over the own steps of each text, (B, units)."""
    if spec.step_axis is None:
        return value.flatten(1)
    steps = value.movedim(1 + (spec.step_place or 0), 1).flatten(2)
    if lengths is None:
        return steps.mean(1)
    own = torch.arange(steps.shape[1], device=steps.device) < lengths[:, None]
    return torch.where(own[..., None], steps, 0.0).sum(1) / lengths[:, None]


def planar_texts(model: Any, guide: Any, data: CommonSentences) -> Points | None:
    """Return texts on the first two principal axes of their vectors; None where there are none to compare.

    The scale is that of the latents; an axis points to where most of the unit that weighs most on it is positive.
    """
    if not comparable_latents(model):
        return None
    vectors = torch.cat([text_vectors(model, guide, batch).double().cpu() for batch in data])
    centred = vectors - vectors.mean(0)
    _, scales, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes * torch.gather(axes, 1, axes.abs().argmax(1, keepdim=True)).sign()
    places = torch.nn.functional.pad(centred @ axes.T, (0, 2))[:, :2]
    shares = torch.nn.functional.pad(scales.square() / scales.square().sum().clamp(min=1e-300), (0, 2))[:2].tolist()
    first, second = (f"axis {n} ({percent(share)} of the variance)" for n, share in enumerate(shares, 1))
    return Points(tuple(places[:, 0].tolist()), tuple(places[:, 1].tolist()), data.texts, (first, second))
