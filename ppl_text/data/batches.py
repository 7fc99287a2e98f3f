"""Batches of static shape: without end for training, one pass for evaluation.

A bucket is a number of steps T: it holds the sentences whose scored length (EOS counted) is at most T
and more than the bucket before. Every batch has the T of its bucket, and exactly ``batch_size`` rows in training, the
same number for a bucket in evaluation: so that a step is compiled or captured once per bucket (and, where there are
sources, once for each of their widths).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_text.core.batch import Batch
from ppl_text.core.errors import CheckpointError, ConfigError, DataError
from ppl_text.core.vocabulary import OWN_IDS, ReservedIds

from .buckets import assign_buckets, default_buckets, source_widths
from .corpus import Rows, Split, TokenTable
from .randomness import DROPOUT, EVALUATION, TRAINING, CountSampler, WordDropout, generator_in, random_stream

__all__ = [
    "BatchStream",
    "EpochBatches",
    "EvaluationSet",
    "TrainingBatches",
    "collate",
    "default_buckets",
    "evaluation_batches",
]

ALL = (0, 1)
"""The one part of a batch that nobody shares: number 0 of 1."""

_DAMAGE = (AttributeError, KeyError, TypeError, ValueError)
"""What comes of reading a state that is not as it was written."""


def collate(
    texts_ids: Sequence[Sequence[int]],
    weights: Sequence[float] | Tensor,
    steps: int,
    rows: int,
    reserved: ReservedIds = OWN_IDS,
) -> Batch:
    """Pad R ≤ ``rows`` sentences, given as ids without BOS and EOS, to one batch of shape (rows, steps).

    ``weights`` are R floats. Missing rows are filled with the empty sentence (EOS alone, length 1) at weight 0.

    Raises:
        ConfigError: the sentences do not fit.

    Example:
        >>> collate([[5, 6]], [1.0], steps=4, rows=1).tokens.tolist()
        [[5, 6, 2, 0]]
    """
    if len(texts_ids) > rows or len(weights) != len(texts_ids):
        raise ConfigError(f"{len(texts_ids)} sentences with {len(weights)} weights do not make a batch of {rows} rows")
    table = TokenTable.build(texts_ids, reserved)
    longest = int(table.lengths.max(initial=0))
    if longest > steps:
        raise ConfigError(f"a sentence has {longest} tokens (EOS counted), which do not fit into {steps} steps")
    numbers = weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.get_default_dtype())
    return table.batch(np.arange(len(texts_ids)), steps, numbers, rows)


class BatchStream(Iterator[Batch]):
    """Batches in the shapes of the buckets, without end, whose position can be stored and taken up again.

    Batches are lined up in a queue, one pool after the other. A subclass says what a pool is: :meth:`_line_up`
    draws the next one from ``self._rng`` and returns its batches as (bucket, rows), and ``self._origin`` is the state
    from which it would draw the same again; :meth:`_go_back` takes such a state up. Rows are those of the texts that
    it holds (:meth:`_hold`): mostly the split. Fewer than ``batch_size`` rows are filled up with rows of weight 0.

    With ``parts`` = (i, n) each batch is rows i, i + n, i + 2n, … of what it would be otherwise: n processes that train
    together share it out so, and all have the same position in the stream.

    Raises :class:`ConfigError` for buckets that the longest sentence does not fit into, and for a ``batch_size`` that
    cannot be shared out evenly.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
        word_dropout: float = 0.0,
        parts: tuple[int, int] = ALL,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more; got {batch_size}")
        own, of = parts
        if batch_size % of:
            raise ConfigError(
                f"a batch of {batch_size} texts (data.batch_size) cannot be shared out evenly among {of} processes; "
                f"give a multiple of {of}, or other processes"
            )
        self._part, self._part_size = slice(own, None, of), batch_size // of
        self._split = split
        self._buckets, self._source_widths = tuple(buckets), source_widths(split)
        assign_buckets(np.array([split.target.longest]), self._buckets)
        self._batch_size = batch_size
        self._weights = torch.ones(batch_size)
        reserved = split.target.tokenizer.vocabulary.ids
        self._dropout = WordDropout(word_dropout, reserved, random_stream(seed, DROPOUT))
        self._identity: dict[str, Any] = {
            "data": _identity_of(split),
            "batch_size": batch_size,
            "buckets": list(self._buckets),
        }
        if self._source_widths:
            self._identity["source_widths"] = list(self._source_widths)
        if self._dropout.rate:
            self._identity["word_dropout"] = self._dropout.rate
        self._rng = random_stream(seed, TRAINING)
        self._origin: dict[str, Any] = {}
        self._queue: list[tuple[int, Rows]] = []
        self._position = 0

    @abstractmethod
    def _line_up(self) -> list[tuple[int, Rows]]:
        """Draw the next pool, note its origin, and return its batches."""

    @abstractmethod
    def _go_back(self, state: dict[str, Any]) -> None:
        """Take up an origin; raises one of :data:`_DAMAGE`, and changes nothing, where it is none."""

    def __next__(self) -> Batch:
        while self._position >= len(self._queue):
            self._start_pool()
        bucket, rows = self._queue[self._position]
        self._position += 1
        own = rows[self._part]
        weights = self._weights[: len(own)].clone()
        batch = self._held.batch(own, self._buckets[bucket], weights, self._part_size, self._source_widths)
        return self._dropout(batch, self._part, self._batch_size)

    def _hold(self, texts: Split) -> None:
        """Let rows be those of these texts."""
        self._held, self._bucket_of = texts, assign_buckets(texts.target.lengths, self._buckets)

    def _start_pool(self) -> None:
        self._queue = self._line_up()
        self._position = 0

    def _dealt(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """The rows of each bucket, in their order."""
        bucket_of = self._bucket_of[rows]
        return ((bucket, rows[bucket_of == bucket]) for bucket in range(len(self._buckets)))

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream: ints, strings, lists and tensors only (``weights_only`` loads them)."""
        state = {"identity": dict(self._identity), **self._origin, "position": self._position}
        return {**state, **self._dropout.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state`` was taken; the seed of this object no longer matters.

        Raises :class:`CheckpointError` for a state that is damaged or belongs to other data, another batch size,
        other buckets, another order or another word dropout; the position is then unchanged.
        """
        try:
            identity, position = dict(state["identity"]), int(state["position"])
            if position < 0:
                raise ValueError(f"position {position}")
        except _DAMAGE as error:
            raise _damaged(error) from error
        names = [*self._identity, *(name for name in identity if name not in self._identity)]
        differing = [name for name in names if identity.get(name) != self._identity.get(name)]
        if differing:
            raise CheckpointError(
                f"the saved position belongs to another stream of training batches: {', '.join(differing)} differ; "
                "resume with the corpus and the batch options that the run was started with"
            )
        try:
            dropout = self._dropout.generator_from(state)
            self._go_back(state)
        except _DAMAGE as error:
            raise _damaged(error) from error
        self._dropout.go_on_from(dropout)
        self._start_pool()
        self._position = position


def _identity_of(split: Split) -> str:
    """Return a SHA-256 (hex) of the rows and how they are encoded."""
    sides = [split.target] if split.source is None else [split.target, split.source]
    parts = [split.fingerprint, *(side.tokenizer.fingerprint for side in sides)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _damaged(error: Exception) -> CheckpointError:
    return CheckpointError(f"the state of the training batches is damaged: {error!r}")


class TrainingBatches(BatchStream):
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
        *,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
        pool_batches: int = 64,
        word_dropout: float = 0.0,
        parts: tuple[int, int] = ALL,
    ) -> None:
        if batch_size < 1 or pool_batches < 1:
            raise ConfigError(f"batch_size and pool_batches must be 1 or more; got {batch_size} and {pool_batches}")
        self._sampler = CountSampler(split.counts)
        super().__init__(
            split, batch_size=batch_size, buckets=buckets, seed=seed, word_dropout=word_dropout, parts=parts
        )
        self._hold(split)
        self._pool = batch_size * pool_batches
        self._identity["pool_batches"] = pool_batches
        self._left = [np.empty(0, dtype=np.int64) for _ in self._buckets]
        self._start_pool()

    def _line_up(self) -> list[tuple[int, Rows]]:
        self._origin = {
            "rng": self._rng.bit_generator.state,
            "left": [torch.from_numpy(rows.copy()) for rows in self._left],
        }
        batches = []
        for bucket, drawn in self._dealt(self._sampler.draw(self._rng, self._pool)):
            rows = np.concatenate([self._left[bucket], drawn])
            full = len(rows) // self._batch_size * self._batch_size
            batches += [(bucket, part) for part in rows[:full].reshape(-1, self._batch_size)]
            self._left[bucket] = rows[full:]
        return [batches[i] for i in self._rng.permutation(len(batches))]

    def _go_back(self, state: dict[str, Any]) -> None:
        left = [rows.numpy().astype(np.int64) for rows in state["left"]]
        if len(left) != len(self._buckets):
            raise ValueError(f"{len(left)} remainders for buckets {list(self._buckets)}")
        self._rng, self._left = generator_in(state["rng"]), left


class EpochBatches(BatchStream):
    """Training batches without end, epoch by epoch: every row of the split exactly once in each, in random order.

    An epoch shuffles the rows, deals them to their buckets and lets the batches leave in random order. The last
    batch of a bucket is filled up with rows of weight 0, so that an epoch has Σ_buckets ⌈N_bucket / B⌉ batches,
    always the same number. With a bucket for every length, batches hold sentences of equal length and no padding
    (specification 0). Counts do not matter: this is the order for sentences, where each counts once; for word lists,
    where P(word) ∝ count, take :class:`TrainingBatches`.

    Raises :class:`ConfigError` for buckets that the longest sentence does not fit into, :class:`DataError` for a
    split without any text.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
        word_dropout: float = 0.0,
        parts: tuple[int, int] = ALL,
    ) -> None:
        if not len(split):
            raise DataError("there is nothing to train on: the split has no text")
        super().__init__(
            split, batch_size=batch_size, buckets=buckets, seed=seed, word_dropout=word_dropout, parts=parts
        )
        self._epoch = -1
        self._begin()

    def _begin(self) -> None:
        self._hold(self._split)
        self._identity["order"] = "epochs"
        self._start_pool()

    @property
    def batches_per_epoch(self) -> int:
        """How many batches show every row once."""
        return len(self._queue)

    @property
    def epoch(self) -> int:
        """Number of whole epochs that have been emitted."""
        return self._epoch + (self._position >= len(self._queue))

    def _line_up(self) -> list[tuple[int, Rows]]:
        self._epoch += 1
        self._origin = {"rng": self._rng.bit_generator.state, "epoch": self._epoch}
        batches = [
            (bucket, rows[start : start + self._batch_size])
            for bucket, rows in self._dealt(self._rng.permutation(len(self._split)))
            for start in range(0, len(rows), self._batch_size)
        ]
        return [batches[i] for i in self._rng.permutation(len(batches))]

    def _go_back(self, state: dict[str, Any]) -> None:
        epoch = int(state["epoch"])
        if epoch < 0 or int(state["position"]) > self.batches_per_epoch:
            raise ValueError(f"epoch {epoch}, position {state['position']} of {self.batches_per_epoch}")
        self._rng, self._epoch = generator_in(state["rng"]), epoch - 1


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

    def share(self, rank: int, size: int) -> list[Batch]:
        """Return the batches of process ``rank`` of ``size``: as many for each, of which a last one may weigh nothing.

        Processes that hold a part of the parameters each run the programs together.
        """
        own, last = self.batches[rank::size], self.batches[-1:]
        missing = -(-len(self.batches) // size) - len(own)
        return [*own, *(replace(batch, weights=torch.zeros_like(batch.weights)) for batch in last * missing)]


def evaluation_batches(
    split: Split,
    *,
    weighted: bool,
    batch_size: int,
    buckets: Sequence[int],
    limit: int | None = None,
    seed: int = 0,
) -> EvaluationSet:
    """Return every text of a split once, weighted by its count: E[f] = Σ weight·f / total_weight, without sampling.

    Weights are float64, in which counts are exact. Rows keep the split's order within their bucket; the last batch of
    a bucket is filled up with rows of weight 0, of texts that count once only where there is another one. (Words are
    scored filler and all, whose draws are among the random numbers of their figures.)

    Args:
        split: what is evaluated.
        weighted: whether its rows are types with counts (:attr:`Corpus.weighted`).
        batch_size: rows of a batch at most.
        buckets: rising numbers of steps.
        limit: so many texts are drawn instead. Of types ∝ counts, and equal ones share a row, whose weight is how
            often they were drawn; of texts that count once, different rows, or all where there are no more.
        seed: of the draw.

    Raises:
        ConfigError: buckets that are too small, or a size below 1.
        DataError: an empty split.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"batch_size and limit must be 1 or more; got {batch_size} and {limit}")
    counts = _evaluated(split, weighted, limit, random_stream(seed, EVALUATION))
    kept = np.flatnonzero(counts)
    # Only what is evaluated needs ids.
    drawn = split if len(kept) == len(split) else split.take(kept)
    widths, bucket_of = source_widths(drawn), assign_buckets(drawn.target.lengths, tuple(buckets))
    batches, texts = [], []
    for bucket, steps in enumerate(buckets):
        members = np.flatnonzero(bucket_of == bucket)
        size = batch_size if weighted else min(batch_size, len(members))
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            weights = torch.from_numpy(counts[kept[rows]].astype(np.float64))
            batches.append(drawn.batch(rows, steps, weights, size, widths))
            texts.append([drawn.texts[i] for i in rows.tolist()])
    return EvaluationSet(batches, texts, float(counts.sum()))


def _evaluated(split: Split, weighted: bool, limit: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how often each row of a split counts (N,)."""
    if weighted:
        sampler = CountSampler(split.counts)
        return split.counts if limit is None else np.bincount(sampler.draw(rng, limit), minlength=len(split))
    if not len(split):
        raise DataError("there is nothing to evaluate: the split has no text")
    if limit is None:
        return split.counts
    counts = np.zeros(len(split), dtype=np.int64)
    counts[rng.permutation(len(split))[:limit]] = 1
    return counts
