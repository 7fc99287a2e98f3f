"""Training batches without end, of static shape: words sampled ∝ counts, or sentences epoch by epoch."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppl_text.core.batch import Batch
from ppl_text.core.errors import CheckpointError, ConfigError, DataError

from .buckets import assign_buckets
from .corpus import Split, split_fingerprint
from .dropout import WordDropout
from .randomness import DROPOUT, TRAINING, generator_in, random_stream
from .tables import Rows, token_table
from .tokenizers import Tokenizer

_DAMAGE = (AttributeError, KeyError, TypeError, ValueError)
"""What comes of reading a state that is not as it was written."""


class CountSampler:
    """Rows of a split ∝ their counts, with replacement, exactly: a whole number falls into the cumulated counts."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._edges = np.cumsum(counts)
        if not len(self._edges) or not self._edges[-1]:
            raise DataError("there is nothing to sample: the split has no text with a count above 0")

    def draw(self, rng: np.random.Generator, number: int) -> Rows:
        """Row numbers (number,), independent of each other."""
        return np.searchsorted(self._edges, rng.integers(0, self._edges[-1], size=number), side="right")


class BatchStream(Iterator[Batch]):
    """Batches in the shapes of the buckets, without end, whose position can be stored and taken up again.

    Batches are lined up in a queue, one pool after the other. A subclass says what a pool is: :meth:`_line_up`
    draws the next one from ``self._rng`` and returns its batches as (bucket, rows), and ``self._origin`` is the state
    from which it would draw the same again; :meth:`_go_back` takes such a state up. Fewer than ``batch_size`` rows
    are filled up with rows of weight 0.

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
        word_dropout: float = 0.0,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more; got {batch_size}")
        self._table = token_table(split, tokenizer)
        self._buckets = tuple(buckets)
        self._bucket_of = assign_buckets(self._table.lengths, self._buckets)
        self._batch_size = batch_size
        self._weights = torch.ones(batch_size)
        self._dropout = WordDropout(word_dropout, tokenizer, random_stream(seed, DROPOUT))
        self._identity: dict[str, Any] = {
            "data": hashlib.sha256(f"{split_fingerprint(split)} {tokenizer.fingerprint}".encode()).hexdigest(),
            "batch_size": batch_size,
            "buckets": list(self._buckets),
        }
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
        weights = self._weights[: len(rows)].clone()
        return self._dropout(self._table.batch(rows, self._buckets[bucket], weights, self._batch_size))

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
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
        pool_batches: int = 64,
        word_dropout: float = 0.0,
    ) -> None:
        if batch_size < 1 or pool_batches < 1:
            raise ConfigError(f"batch_size and pool_batches must be 1 or more; got {batch_size} and {pool_batches}")
        self._sampler = CountSampler(split.counts)
        super().__init__(split, tokenizer, batch_size=batch_size, buckets=buckets, seed=seed, word_dropout=word_dropout)
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
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
        word_dropout: float = 0.0,
    ) -> None:
        if not len(split):
            raise DataError("there is nothing to train on: the split has no text")
        super().__init__(split, tokenizer, batch_size=batch_size, buckets=buckets, seed=seed, word_dropout=word_dropout)
        self._identity["order"] = "epochs"
        self._epoch = -1
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
            for bucket, rows in self._dealt(self._rng.permutation(len(self._table)))
            for start in range(0, len(rows), self._batch_size)
        ]
        return [batches[i] for i in self._rng.permutation(len(batches))]

    def _go_back(self, state: dict[str, Any]) -> None:
        epoch = int(state["epoch"])
        if epoch < 0 or int(state["position"]) > self.batches_per_epoch:
            raise ValueError(f"epoch {epoch}, position {state['position']} of {self.batches_per_epoch}")
        self._rng, self._epoch = generator_in(state["rng"]), epoch - 1
