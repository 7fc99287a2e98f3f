"""The texts whose encodings lie nearest to that of a given one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, device_of
from ..core.errors import UserError
from ..core.latents import of_sentence
from ..core.limits import MOST_TEXTS, check_most
from ..data.corpus import Rows, Split, TokenTable
from ..data.tokenizers import Tokenizer
from .encoding import mean_latents
from .generation import encode_batch
from .likelihood import measuring
from .storytelling import check_latent, check_source, check_texts

CHUNK = 256
"""Texts that are encoded at once."""


class Neighbour(NamedTuple):
    """A text and the Euclidean distance of its posterior mean, in units of the latent."""

    text: str
    distance: float


def nearest_texts(
    model: Any,
    guide: Any,
    split: Split,
    tokenizer: Tokenizer,
    text: str,
    *,
    n: int,
    max_steps: int,
    seed: int = 0,
    report: Callable[[int, int], Any] = lambda done, total: None,
    source: Batch | None = None,
) -> list[Neighbour]:
    """Return the n texts of ``split`` with the least ‖E_q[z | x] - E_q[z | text]‖, nearest first, or all it has.

    Texts of the same tokens count once, and so does ``text`` itself where the split has it (at distance 0; where means
    are those of draws, at the distance that their noise makes). The split is encoded in chunks of which only the n
    nearest are kept, so that its size does not matter; ``report(done, total)`` is called after each. ``seed``: of the
    draws, where :func:`posterior_means` needs some. ``source``: the one row that a conditional model reads beside
    ``text``; the texts of the split have their own.

    Raises :class:`UserError` where the model has nothing latent or a latent for each token (paths of different lengths
    have no distance), for n < 1, for a text that does not fit, and for a source that is missing or not read.
    """
    check_comparable(model)
    if n < 1:
        raise UserError(f"the number of neighbours must be 1 or more; got {n}")
    check_most(n, MOST_TEXTS, "the number of neighbours")
    check_source(model, source)
    check_texts(tokenizer, [text], max_steps)
    table, device = split.target.table, device_of(model)
    best: dict[tuple[int, ...], tuple[float, int]] = {}
    with measuring(seed, model, guide):
        query = posterior_means(model, guide, encode_batch(tokenizer, [text], source).to(device))
        for done, alike in enumerate(_by_length(table), 1):
            rows, batch = _distinct(split, alike)
            distances = (posterior_means(model, guide, batch.to(device)) - query).norm(dim=-1)
            near = distances.topk(min(n, len(rows)), largest=False)
            for distance, place in zip(near.values.tolist(), near.indices.tolist(), strict=True):
                row = int(rows[place])
                best.setdefault(table.tokens(row), (distance, row))
            best = dict(sorted(best.items(), key=lambda item: item[1])[:n])
            report(done, -(-len(split) // CHUNK))
    return [Neighbour(split.texts[row], distance) for distance, row in best.values()]


def posterior_means(model: Any, guide: Any, batch: Batch) -> Tensor:
    """E_q[z | x] of the latents of whole sentences, side by side, (B, units).

    Exact where that is known, otherwise from draws (:func:`~ppl_text.evaluation.encoding.mean_latents`).
    """
    means = mean_latents(model, guide, batch)
    return torch.cat([means[spec.name].flatten(1) for spec in of_sentence(model.latents)], -1)


def check_comparable(model: Any) -> None:
    """Raise :class:`UserError` where texts have no vector each that could be compared."""
    check_latent(model, "compare texts by")
    if not of_sentence(model.latents):
        raise UserError(
            f"this model ({model.family}) has a latent for each token, so that texts of different lengths have no "
            "distance; take a run of a model with one latent for the whole text, such as sentence_vae"
        )


def _by_length(table: TokenTable) -> Iterator[Rows]:
    """Yield the rows in chunks of similar lengths: of all rows in memory, or of each part of those on disk."""
    first = 0
    for part in table.parts():
        order = first + np.argsort(part.lengths, kind="stable")
        yield from (order[start : start + CHUNK] for start in range(0, len(order), CHUNK))
        first += len(part)


def _distinct(split: Split, rows: Rows) -> tuple[Rows, Batch]:
    """Drop rows with duplicate tokens, keeping order; return the remaining rows and their batch."""
    tokens = split.batch(rows).tokens.numpy()
    rows = rows[np.sort(np.unique(tokens, axis=0, return_index=True)[1])]
    return rows, split.batch(rows)
