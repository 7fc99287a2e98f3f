"""Batches of static shape: without end for training (:mod:`.streams`), one pass for evaluation.

A bucket is a number of steps T: it holds the sentences whose scored length (EOS counted) is at most T
and more than the bucket before. Every batch has exactly ``batch_size`` rows and the T of its bucket, so
that a step is compiled or captured once per bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_text.core.batch import Batch
from ppl_text.core.errors import ConfigError, DataError

from .buckets import assign_buckets, default_buckets
from .corpus import Split
from .randomness import EVALUATION, random_stream
from .streams import BatchStream, CountSampler, EpochBatches, TrainingBatches
from .tables import SentenceSplit, TokenTable, check_fits, token_table
from .tokenizers import Tokenizer

__all__ = [
    "BatchStream",
    "CountSampler",
    "EpochBatches",
    "EvaluationSet",
    "TokenTable",
    "TrainingBatches",
    "collate",
    "default_buckets",
    "evaluation_batches",
]


def collate(texts_ids: Sequence[Sequence[int]], weights: Sequence[float] | Tensor, steps: int, rows: int) -> Batch:
    """Pad R ≤ ``rows`` sentences, given as ids without BOS and EOS, to one batch of shape (rows, steps).

    ``weights`` are R floats. Missing rows are filled with the empty sentence (EOS alone, length 1) at
    weight 0. Raises :class:`ConfigError` where the sentences do not fit.

    Example::

        >>> collate([[5, 6]], [1.0], steps=4, rows=1).tokens.tolist()
        [[5, 6, 2, 0]]
    """
    if len(texts_ids) > rows or len(weights) != len(texts_ids):
        raise ConfigError(f"{len(texts_ids)} sentences with {len(weights)} weights do not make a batch of {rows} rows")
    table = TokenTable.build(texts_ids)
    check_fits(table, steps)
    numbers = weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.get_default_dtype())
    return table.batch(np.arange(len(texts_ids)), steps, numbers, rows)


@dataclass(frozen=True)
class EvaluationSet:
    """One deterministic pass; iterating over it gives its batches.

    ``texts[i][r]`` is the text of row r of ``batches[i]``; rows beyond ``len(texts[i])`` are filler.
    ``total_weight`` is the sum of all weights: dividing by it gives the expectation.
    """

    batches: list[Batch]
    texts: list[list[str]]
    total_weight: float

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def evaluation_batches(
    split: Split,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    buckets: Sequence[int],
    limit: int | None = None,
    seed: int = 0,
) -> EvaluationSet:
    """Every text of a split once, weighted by its count: E[f] = Σ weight·f / total_weight, without sampling.

    With ``limit=N``, N texts are drawn ∝ counts instead (``seed``), and equal ones share a row, whose
    weight is how often they were drawn; of a split of sentences, N different rows are drawn, or all where
    there are no more. Weights are float64, in which counts are exact. Rows keep the split's order within
    their bucket; the last batch of a bucket is filled up with rows of weight 0.

    Raises :class:`ConfigError` for buckets that are too small, :class:`DataError` for an empty split.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"batch_size and limit must be 1 or more; got {batch_size} and {limit}")
    split, counts = _evaluated(split, limit, seed)
    table = token_table(split, tokenizer)
    kept = np.flatnonzero(counts)
    bucket_of = assign_buckets(table.lengths[kept], tuple(buckets))
    batches, names = [], []
    for bucket, steps in enumerate(buckets):
        members = kept[bucket_of == bucket]
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            weights = torch.from_numpy(counts[rows].astype(np.float64))
            batches.append(table.batch(rows, steps, weights, batch_size))
            names.append([split.texts[i] for i in rows.tolist()])
    return EvaluationSet(batches, names, float(counts.sum()))


def _evaluated(split: Split, limit: int | None, seed: int) -> tuple[Split, NDArray[np.int64]]:
    """What is evaluated, and how often each of its rows counts (N,)."""
    rng = random_stream(seed, EVALUATION)
    if not isinstance(split, SentenceSplit):
        sampler, counts = CountSampler(split.counts), split.counts
        if limit is not None:
            counts = np.bincount(sampler.draw(rng, limit), minlength=len(split))
        # Only what is evaluated needs ids.
        kept = np.flatnonzero(counts)
        return Split(tuple(split.texts[i] for i in kept.tolist()), counts[kept]), counts[kept]
    if not len(split):
        raise DataError("there is nothing to evaluate: the split has no text")
    if limit is None:
        return split, split.counts
    counts = np.zeros(len(split), dtype=np.int64)
    counts[rng.permutation(len(split))[:limit]] = 1
    return split, counts
