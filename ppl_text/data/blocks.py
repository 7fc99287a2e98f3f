"""Epochs over a split that is not held in memory: blocks in random order, rows shuffled in a pool of many blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .batches import EpochBatches
from .buckets import assign_buckets
from .corpus import Rows, Split
from .randomness import generator_in
from .stored import StoredSplit

BLOCK, POOL = 2**14, 2**23
"""Scored tokens of a block, on average, and of the blocks of a pool together."""


def epochs_over(split: Split, **options: Any) -> EpochBatches:
    """Return the epochs over a split, with the options of :class:`EpochBatches`; one on disk is taken up in blocks."""
    return (BlockBatches if isinstance(split, StoredSplit) else EpochBatches)(split, **options)


class BlockBatches(EpochBatches):
    """Training batches without end, epoch by epoch, of which a pool of rows is held in memory.

    A block is so many rows that follow each other in the split, :data:`BLOCK` tokens on average. An epoch shuffles the
    blocks and takes them up in pools of :data:`POOL` tokens; the rows of a pool are shuffled and dealt to their
    buckets, and its full batches leave in random order. What is left over in a bucket opens that bucket's next pool,
    and the epoch's last pool is filled up with rows of weight 0: every row comes exactly once, in as many batches as
    those of :class:`EpochBatches`.

    How far this is from a uniform shuffle: each block is as likely at any place of the epoch, and rows are uniformly
    shuffled within a pool, but rows of one block are always drawn in the same pool (and leave in it, but for the fewer
    than B of a bucket that wait until it has a full batch). A split of one pool is one block: its order is that of
    :class:`EpochBatches`, bit for bit.
    """

    block_tokens, pool_tokens = BLOCK, POOL

    def _begin(self) -> None:
        tokens, rows = self._split.target.table.scored_tokens, len(self._split)
        whole = tokens <= self.pool_tokens
        self._block = rows if whole else max(1, self.block_tokens * rows // tokens)
        self._at_once = 1 if whole else max(1, self.pool_tokens * rows // (tokens * self._block))
        blocks = -(-rows // self._block)
        self._pools = -(-blocks // self._at_once)
        self._identity |= {"order": "blocks", "block": self._block, "pool": self._at_once}
        self._order, self._pool = np.arange(blocks), self._pools - 1
        self._shuffled_from: Any = None
        self._left = self._nothing_left()
        self._start_pool()

    @property
    def batches_per_epoch(self) -> int:
        """How many batches show every row once: Σ_buckets ⌈N_bucket / B⌉."""
        lengths, rows = self._split.target.mass_by_length(self._split.counts)
        in_bucket = np.bincount(assign_buckets(lengths, self._buckets), weights=rows).astype(np.int64)
        return int((-(-in_bucket // self._batch_size)).sum())

    @property
    def epoch(self) -> int:
        """Number of whole epochs that have been emitted."""
        return self._epoch + (self._pool == self._pools - 1 and self._position >= len(self._queue))

    def _nothing_left(self) -> list[Rows]:
        return [np.empty(0, dtype=np.int64) for _ in self._buckets]

    def _line_up(self) -> list[tuple[int, Rows]]:
        self._pool = (self._pool + 1) % self._pools
        begun = self._rng.bit_generator.state
        if self._pool == 0:
            self._epoch += 1
            self._shuffled_from, self._order = begun, self._rng.permutation(len(self._order))
        self._origin = {
            "rng": begun,
            "epoch": self._epoch,
            "pool": self._pool,
            "shuffled_from": self._shuffled_from,
            "left": [rows.tolist() for rows in self._left],
        }
        carried, fresh = np.concatenate(self._left), self._rows_of_pool()
        self._hold(self._split.take(np.concatenate([carried, fresh])))
        order = np.concatenate([np.arange(len(carried)), len(carried) + self._rng.permutation(len(fresh))])
        return self._full_batches(order, np.concatenate([carried, fresh]))

    def _rows_of_pool(self) -> Rows:
        """Return the rows of the next blocks, in the order in which they lie on the disk."""
        start = self._pool * self._at_once
        first = np.sort(self._order[start : start + self._at_once]) * self._block
        rows = (first[:, None] + np.arange(self._block)).reshape(-1)
        return rows[rows < len(self._split)]

    def _full_batches(self, order: Rows, numbers: Rows) -> list[tuple[int, Rows]]:
        """Return the batches of the rows that are held, in this order, and keep the ``numbers`` of what is left."""
        last, batches = self._pool == self._pools - 1, []
        for bucket, rows in self._dealt(order):
            end = len(rows) if last else len(rows) // self._batch_size * self._batch_size
            batches += [(bucket, rows[at : min(at + self._batch_size, end)]) for at in range(0, end, self._batch_size)]
            self._left[bucket] = numbers[rows[end:]]
        return [batches[i] for i in self._rng.permutation(len(batches))]

    def _go_back(self, state: dict[str, Any]) -> None:
        epoch, pool = int(state["epoch"]), int(state["pool"])
        left = [np.array(rows, dtype=np.int64).reshape(-1) for rows in state["left"]]
        place, most = int(state["position"]), self.batches_per_epoch
        if epoch < 0 or not 0 <= pool < self._pools or len(left) != len(self._buckets) or place > most:
            raise ValueError(f"epoch {epoch}, pool {pool} of {self._pools}, {len(left)} remainders, batch {place}")
        together = np.concatenate(left)
        if len(together) and not (together.min() >= 0 and together.max() < len(self._split)):
            raise ValueError(f"rows up to {together.max()} of {len(self._split)}")
        rng = generator_in(state["rng"])
        order = generator_in(state["shuffled_from"]).permutation(len(self._order))
        self._rng, self._shuffled_from, self._order, self._left = rng, state["shuffled_from"], order, left
        self._epoch, self._pool = (epoch - 1, self._pools - 1) if pool == 0 else (epoch, pool - 1)
