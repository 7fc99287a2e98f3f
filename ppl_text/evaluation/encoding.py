"""Latents of texts, and texts of latents: the two halves of a reconstruction, each by itself.

Past its own end a text has no steps: there the latents that :func:`encode_texts` returns are :func:`nothing`, by which
:func:`decode_latents` knows how long each text was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from ..core.batch import Batch, device_of
from ..core.errors import UserError
from ..core.latents import Latents, LatentSpec
from ..data.tokenizers import Tokenizer
from .decoding import Strategy
from .generation import CHUNK, GREEDY, batches_of, encoded, seeded, write
from .storytelling import (
    check_encoding,
    check_latent,
    check_source,
    check_strategy,
    check_teller,
    check_texts,
    has_steps,
    storyteller,
)

DRAWS = 16
"""Draws of q behind a posterior mean that is not known exactly."""

Values = Mapping[str, Any]
"""Latents by site, as tensors or what becomes one."""


def encode_texts(
    model: Any,
    guide: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_steps: int,
    seed: int,
    latents: str = "sample",
    source: Batch | None = None,
) -> Latents:
    """Return latents (N, …) of N texts by site, padded to the longest text where they run along texts.

    ``latents``: ``sample``, draws of q(· | text), or ``mean``, :func:`mean_latents`. ``source``: what a conditional
    model reads beside each text, as many rows. Raises :class:`UserError` where the model has nothing latent, for no
    text, for texts that do not fit, for a source that is missing or not read, and for means of whole numbers.
    """
    check_latent(model, "encode in")
    check_encoding(model, latents)
    check_source(model, source)
    if not texts:
        raise UserError("no text to encode; give a list of one or more")
    check_texts(tokenizer, texts, max_steps)
    of = mean_latents if latents == "mean" else encoded
    found = []
    with seeded(seed), torch.no_grad(), pyro.validation_enabled(False):
        for batch in batches_of(tokenizer, texts, source):
            batch = batch.to(device_of(model))
            values = of(model, guide, batch)
            found.append({spec.name: _until_its_end(spec, values[spec.name], batch) for spec in model.latents})
    return {spec.name: _put_together([part[spec.name] for part in found], nothing(spec)) for spec in model.latents}


def mean_latents(model: Any, guide: Any, batch: Batch) -> Latents:
    """E_q[z | x] of each latent (B, …).

    Exact where there is one latent, the guide has ``posterior(batch)`` and that distribution knows its mean; otherwise,
    as for a flow or a chain, the mean of :data:`DRAWS` draws of the guide, with noise of σ/√16 in each entry.
    """
    mean = _known_mean(guide, batch) if len(model.latents) == 1 else None
    if mean is not None:
        return {model.latents[0].name: mean}
    draws = [encoded(model, guide, batch) for _ in range(DRAWS)]
    return {spec.name: torch.stack([draw[spec.name] for draw in draws]).mean(0) for spec in model.latents}


def _known_mean(guide: Any, batch: Batch) -> Tensor | None:
    posterior = getattr(guide, "posterior", None)
    if posterior is None:
        return None
    try:
        mean: Tensor = posterior(batch).mean
    except NotImplementedError:
        return None
    return mean


def decode_latents(
    model: Any,
    guide: Any,
    tokenizer: Tokenizer,
    latents: Values,
    *,
    max_steps: int,
    seed: int,
    strategy: Strategy = GREEDY,
    source: Batch | None = None,
) -> list[str]:
    """Write a text for each row of ``latents`` by ``strategy``: all sites of the model, of as many rows.

    Of what :func:`encode_texts` draws with the same seed this is what
    :func:`~ppl_text.evaluation.generation.reconstruct_texts` makes of the texts. ``source``: what a conditional model
    reads, one row for each text. Raises :class:`UserError` for latents of other sites or shapes, or that are no
    numbers, and for what :func:`encode_texts` refuses.
    """
    check_latent(model, "decode from")
    check_strategy(model, strategy, GREEDY)
    check_source(model, source)
    check_teller(model, guide)
    given = as_latents(model, latents)
    rows = len(next(iter(given.values())))
    if source is not None and source.size != rows:
        raise UserError(f"latents of {rows} texts need as many sources; got {source.size}")
    decoded: list[str] = []
    with seeded(seed), torch.no_grad():
        for start in range(0, rows, CHUNK):
            chosen = torch.arange(start, min(start + CHUNK, rows))
            own = None if source is None else source.take(chosen.to(source.tokens.device)).to(device_of(model))
            some = {name: value[chosen] for name, value in given.items()}
            decoded += _decoded(model, guide, tokenizer, some, strategy, 2 * max_steps, own)
    return decoded


def _decoded(
    model: Any,
    guide: Any,
    tokenizer: Tokenizer,
    latents: Latents,
    strategy: Strategy,
    most: int,
    source: Batch | None,
) -> list[str]:
    """Write the texts of some rows; each ends with its own steps, where a latent has one a token."""
    size = len(next(iter(latents.values())))
    lengths = [most] * size
    if has_steps(model):
        along = [spec for spec in model.latents if spec.step_axis == "T"]
        lengths = torch.stack([_own_length(spec, latents[spec.name]) for spec in along]).amax(0).tolist()
        latents = {**latents, **{spec.name: latents[spec.name].clamp_min(0) for spec in along if _is_whole(spec)}}
        if min(lengths) == 0:
            raise UserError(f"row {lengths.index(0)} of the latents has no step; a text has one or more")
    given = {name: value.to(device_of(model)) for name, value in latents.items()}
    ids = write(model, storyteller(model, guide), given, size, strategy, max(lengths), source).tolist()
    return [tokenizer.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]


def as_latents(model: Any, values: Values) -> Latents:
    """Return latents as tensors (N, …); raises :class:`UserError` where they are not those of the model."""
    if not isinstance(values, Mapping):
        raise UserError(f"expected latents by site, as encode returns them; got {type(values).__name__}")
    names = [spec.name for spec in model.latents]
    if set(values) != set(names):
        got = ", ".join(map(str, values)) or "none"
        raise UserError(f"this model ({model.family}) has the latents {', '.join(names)}; got {got}")
    found = {spec.name: _checked(spec, values[spec.name]) for spec in model.latents}
    rows = {name: len(value) for name, value in found.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"'{name}' {count}" for name, count in rows.items())
        raise UserError(f"latents must have as many rows each, one a text; got {told}")
    return found


def _checked(spec: LatentSpec, value: Any) -> Tensor:
    """Return the values (N, …) of one site; raises :class:`UserError` for another shape and for what is no number."""
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"latent '{spec.name}' cannot be read as numbers: {error}") from error
    shape = ("N", *(str(spec.sizes.get(axis, axis)) for axis in spec.axes))
    fits = tensor.dim() == len(shape) and all(
        spec.sizes.get(axis, size) == size for axis, size in zip(spec.axes, tensor.shape[1:], strict=True)
    )
    if not fits:
        raise UserError(f"latent '{spec.name}' must be of shape ({', '.join(shape)}); got {tuple(tensor.shape)}")
    if _is_whole(spec):
        return tensor.long()
    tensor = tensor.to(torch.get_default_dtype())
    if bool(tensor.isnan().any()):
        raise UserError(f"latent '{spec.name}' holds NaN; give numbers")
    return tensor


def _is_whole(spec: LatentSpec) -> bool:
    return "integer" in spec.support


def nothing(spec: LatentSpec) -> int:
    """Return what stands in all entries of a step that there is not: 0, or -1 for whole numbers, of which 0 is one."""
    return -1 if _is_whole(spec) else 0


def _until_its_end(spec: LatentSpec, value: Tensor, batch: Batch) -> Tensor:
    """Put :func:`nothing` past the end of each text, where the latent has a step for each of its tokens."""
    if spec.step_axis != "T":
        return value
    along = torch.arange(value.shape[1], device=value.device) < batch.lengths.unsqueeze(-1)
    return value.masked_fill(~along.reshape(*along.shape, *[1] * (value.dim() - 2)), nothing(spec))


def _own_length(spec: LatentSpec, value: Tensor) -> Tensor:
    """Return how many steps each row has (N,), up to the last that is not :func:`nothing`."""
    there = (value != nothing(spec)).flatten(2).any(-1) if value.dim() > 2 else value != nothing(spec)
    return (there * torch.arange(1, value.shape[1] + 1)).amax(-1)


def _put_together(parts: Sequence[Tensor], fill: int) -> Tensor:
    """Join rows (N, …) whose further axes may differ in length; ``fill`` stands where the shorter ones have nothing."""
    sizes = [max(lengths) for lengths in zip(*(part.shape[1:] for part in parts), strict=True)]
    whole = parts[0].new_full((sum(map(len, parts)), *sizes), fill)
    start = 0
    for part in parts:
        whole[(slice(start, start + len(part)), *(slice(size) for size in part.shape[1:]))] = part
        start += len(part)
    return whole
