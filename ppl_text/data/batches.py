"""Batches of static shape: sampled ∝ counts without end for training, one pass for evaluation.

A bucket is a number of steps T: it holds the sentences whose scored length (EOS counted) is at most T
and more than the bucket before. Every batch has exactly ``batch_size`` rows and the T of its bucket, so
that a step is compiled or captured once per bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_text.core.batch import BOS_ID, EOS_ID, PAD_ID, Batch
from ppl_text.core.errors import CheckpointError, ConfigError, DataError

from .buckets import assign_buckets, default_buckets
from .corpora import Split, split_fingerprint
from .tokenizers import Tokenizer

__all__ = ["EvaluationSet", "TokenTable", "TrainingBatches", "collate", "default_buckets", "evaluation_batches"]

Rows = NDArray[np.int64]

_TRAINING, _EVALUATION = 1, 2
"""Purposes of random streams: the same seed must not make evaluation follow the draws of training."""


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose])))


@dataclass(frozen=True)
class TokenTable:
    """N tokenised sentences as one matrix: ``tokens`` (N, T) with EOS and padding, ``lengths`` (N,)."""

    tokens: Tensor
    lengths: Tensor

    @classmethod
    def build(cls, ids: Sequence[Sequence[int]], steps: int | None = None) -> TokenTable:
        """Append EOS and pad to ``steps``, or to the longest sentence."""
        words = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        longest = int(words.max(initial=0)) + 1
        steps = longest if steps is None else steps
        if longest > steps:
            raise ConfigError(f"a sentence has {longest} tokens (EOS counted), which do not fit into {steps} steps")
        places = np.arange(steps)
        tokens = np.full((len(ids), steps), PAD_ID, dtype=np.int64)
        tokens[places < words[:, None]] = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(words.sum()))
        tokens[places == words[:, None]] = EOS_ID
        return cls(torch.from_numpy(tokens), torch.from_numpy(words + 1))

    def batch(self, rows: Rows, steps: int, weights: Tensor, size: int | None = None) -> Batch:
        """Return the sentences ``rows`` (R,) in T = ``steps`` with their weights (R,), filled up to ``size`` rows.

        A filler row is the empty sentence, EOS alone, with weight 0: valid, so that no number is NaN.
        """
        index = torch.from_numpy(rows)
        tokens, lengths = self.tokens[:, :steps].index_select(0, index), self.lengths.index_select(0, index)
        filler = 0 if size is None else size - len(rows)
        if filler:
            empty = torch.full((filler, tokens.shape[1]), PAD_ID)
            empty[:, 0] = EOS_ID
            tokens, lengths = torch.cat([tokens, empty]), torch.cat([lengths, torch.ones_like(empty[:, 0])])
            weights = torch.cat([weights, weights.new_zeros(filler)])
        return Batch(tokens, lengths, weights, _shifted(tokens))


def _shifted(tokens: Tensor) -> Tensor:
    """BOS w_1 … w_n from w_1 … w_n EOS: (B, T) to (B, T). EOS is never an input."""
    inputs = torch.full_like(tokens, BOS_ID)
    inputs[:, 1:] = tokens[:, :-1].masked_fill(tokens[:, :-1] == EOS_ID, PAD_ID)
    return inputs


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
    table = TokenTable.build(texts_ids, steps)
    numbers = weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.get_default_dtype())
    return table.batch(np.arange(len(texts_ids)), steps, numbers, rows)


class CountSampler:
    """Rows of a split ∝ their counts, with replacement, exactly: a whole number falls into the cumulated counts."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._edges = np.cumsum(counts)
        if not len(self._edges) or not self._edges[-1]:
            raise DataError("there is nothing to sample: the split has no text with a count above 0")

    def draw(self, rng: np.random.Generator, number: int) -> Rows:
        """Row numbers (number,), independent of each other."""
        return np.searchsorted(self._edges, rng.integers(0, self._edges[-1], size=number), side="right")


class TrainingBatches(Iterator[Batch]):
    """Training batches without end, sentences i.i.d. ∝ counts, each batch in one of the buckets' shapes.

    ``batch_size`` x ``pool_batches`` sentences are drawn at once and dealt to their buckets; full
    batches leave in random order, what is left over in a bucket opens that bucket's next pool. So there
    is no filler, nothing is dropped, and what has been emitted differs from what has been drawn by fewer
    than ``batch_size`` sentences in each bucket. With a single bucket this is plain sampling.

    Raises :class:`ConfigError` for buckets that the longest sentence does not fit into.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
        pool_batches: int = 64,
    ) -> None:
        if batch_size < 1 or pool_batches < 1:
            raise ConfigError(f"batch_size and pool_batches must be 1 or more; got {batch_size} and {pool_batches}")
        self._sampler = CountSampler(split.counts)
        self._table = TokenTable.build(tokenizer.encode(split.texts))
        self._buckets = tuple(buckets)
        self._bucket_of = assign_buckets(self._table.lengths.numpy(), self._buckets)
        self._batch_size, self._pool = batch_size, batch_size * pool_batches
        self._weights = torch.ones(batch_size)
        self._identity = {
            "data": hashlib.sha256(f"{split_fingerprint(split)} {tokenizer.fingerprint}".encode()).hexdigest(),
            "batch_size": batch_size,
            "buckets": list(self._buckets),
            "pool_batches": pool_batches,
        }
        self._rng = _stream(seed, _TRAINING)
        self._left = [np.empty(0, dtype=np.int64) for _ in self._buckets]
        self._start_pool()

    def __next__(self) -> Batch:
        while self._position >= len(self._queue):
            self._start_pool()
        bucket, rows = self._queue[self._position]
        self._position += 1
        return self._table.batch(rows, self._buckets[bucket], self._weights.clone())

    def _start_pool(self) -> None:
        """Draw the next pool and line up its full batches; the state to draw it again is kept."""
        self._origin = {
            "rng": self._rng.bit_generator.state,
            "left": [torch.from_numpy(rows.copy()) for rows in self._left],
        }
        drawn = self._sampler.draw(self._rng, self._pool)
        bucket_of = self._bucket_of[drawn]
        batches = []
        for bucket, left in enumerate(self._left):
            rows = np.concatenate([left, drawn[bucket_of == bucket]])
            full = len(rows) // self._batch_size * self._batch_size
            batches += [(bucket, part) for part in rows[:full].reshape(-1, self._batch_size)]
            self._left[bucket] = rows[full:]
        self._queue = [batches[i] for i in self._rng.permutation(len(batches))]
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream: ints, strings, lists and tensors only (``weights_only`` loads them)."""
        return {"identity": dict(self._identity), **self._origin, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state`` was taken; the seed of this object no longer matters.

        Raises :class:`CheckpointError` for a state that is damaged or belongs to other data, another
        batch size or other buckets; the position is then unchanged.
        """
        try:
            identity, position = dict(state["identity"]), int(state["position"])
            left = [rows.numpy().astype(np.int64) for rows in state["left"]]
            rng = np.random.PCG64()
            rng.state = state["rng"]
            if len(left) != len(identity["buckets"]) or position < 0:
                raise ValueError(f"{len(left)} remainders for buckets {identity['buckets']}, position {position}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the state of the training batches is damaged: {error!r}") from error
        differing = [name for name, value in self._identity.items() if identity.get(name) != value]
        if differing:
            raise CheckpointError(
                f"the saved position belongs to another stream of training batches: {', '.join(differing)} differ; "
                "resume with the corpus and the batch options that the run was started with"
            )
        self._rng, self._left = np.random.Generator(rng), left
        self._start_pool()
        self._position = position


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
    weight is how often they were drawn. Weights are float64, in which counts are exact. Rows keep the
    split's order within their bucket; the last batch of a bucket is filled up with rows of weight 0.

    Raises :class:`ConfigError` for buckets that are too small, :class:`DataError` for an empty split.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"batch_size and limit must be 1 or more; got {batch_size} and {limit}")
    sampler, counts = CountSampler(split.counts), split.counts
    if limit is not None:
        drawn = sampler.draw(_stream(seed, _EVALUATION), limit)
        counts = np.bincount(drawn, minlength=len(split))
    kept = np.flatnonzero(counts)
    texts = [split.texts[i] for i in kept.tolist()]
    weights = torch.from_numpy(counts[kept].astype(np.float64))
    table = TokenTable.build(tokenizer.encode(texts))
    bucket_of = assign_buckets(table.lengths.numpy(), tuple(buckets))
    batches, names = [], []
    for bucket, steps in enumerate(buckets):
        members = np.flatnonzero(bucket_of == bucket)
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            batches.append(table.batch(rows, steps, weights[torch.from_numpy(rows)], batch_size))
            names.append([texts[i] for i in rows.tolist()])
    return EvaluationSet(batches, names, float(counts.sum()))
