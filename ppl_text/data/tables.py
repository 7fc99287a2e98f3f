"""Token ids of a split, flat and possibly memory-mapped, and the batches that are cut out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_text.core.batch import Batch
from ppl_text.core.errors import ConfigError
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID

from .columns import Spool, chunks
from .corpus import Split
from .tokenizers import Tokenizer

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenTable:
    """N tokenised sentences, one after the other, without BOS and EOS.

    ``ids`` (n,) int32 are their tokens, ``offsets`` (N + 1,) int64 say where each begins; both may be
    memory-mapped.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def build(cls, ids: Sequence[Sequence[int]]) -> TokenTable:
        """Store the ids of each sentence."""
        builder = TableBuilder()
        builder.extend(ids)
        return builder.table()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Scored tokens (N,) of each sentence, EOS counted."""
        return np.diff(self.offsets) + 1

    @property
    def scored_tokens(self) -> int:
        """Scored tokens of all sentences, Σ (|x| + 1): what a perplexity per token is divided by."""
        return len(self.ids) + len(self)

    def batch(self, rows: Rows, steps: int, weights: Tensor, size: int | None = None) -> Batch:
        """Return the sentences ``rows`` (R,) in T = ``steps`` with their weights (R,), filled up to ``size`` rows.

        ``decoder_inputs`` are BOS w_1 … w_n where ``tokens`` are w_1 … w_n EOS: EOS is never an input. A
        filler row is the empty sentence, EOS alone, with weight 0: valid, so that no number is NaN.
        """
        starts, words = self.offsets[rows], self.offsets[rows + 1]
        words -= starts
        if size is not None and size > len(rows):
            empty = np.zeros(size - len(rows), dtype=np.int64)
            starts, words = np.concatenate([starts, empty]), np.concatenate([words, empty])
            weights = torch.cat([weights, weights.new_zeros(len(empty))])
        places = np.arange(steps)
        # Beyond a sentence's end the next one's ids are read, and made padding.
        read = self._readable().take(starts[:, None] + places, mode="clip")
        tokens = np.where(places < words[:, None], read, np.int64(PAD_ID))
        inputs = np.empty_like(tokens)
        inputs[:, 0], inputs[:, 1:] = BOS_ID, tokens[:, :-1]
        tokens[np.arange(len(words)), words] = EOS_ID
        words += 1
        return Batch(torch.from_numpy(tokens), torch.from_numpy(words), weights, torch.from_numpy(inputs))

    def _readable(self) -> NDArray[np.int32]:
        """The ids, or one stand-in where no sentence has a token."""
        return np.asarray(self.ids) if len(self.ids) else np.zeros(1, dtype=np.int32)


class TableBuilder:
    """A :class:`TokenTable` that grows by lists of sentences."""

    def __init__(self) -> None:
        self._ids, self._offsets, self._total = Spool(np.int32), Spool(np.int64), 0
        self._offsets.extend([0])

    def extend(self, sentences: Sequence[Sequence[int]]) -> None:
        """Append the ids of some sentences."""
        words = np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences))
        ends = self._total + np.cumsum(words)
        self._total += int(words.sum())
        self._ids.extend(np.fromiter(chain.from_iterable(sentences), dtype=np.int32, count=int(words.sum())))
        self._offsets.extend(ends)

    def table(self) -> TokenTable:
        """What was appended."""
        return TokenTable(self._ids.column(), self._offsets.column())


@dataclass(frozen=True, eq=False)
class SentenceSplit(Split):
    """Sentences in the order of their source, each counting once; equal ones may repeat.

    ``texts`` are N sentences as their tokens see them (normalised, truncated), usually a
    :class:`~ppl_text.data.columns.TextColumn`; ``table`` are their ids under the tokenizer whose fingerprint is
    ``vocabulary``. ``counts`` are N ones that take no memory.
    """

    table: TokenTable
    vocabulary: str

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.table) == len(self.counts):
            raise ValueError(f"{len(self.texts)} texts, {len(self.table)} rows of ids, {len(self.counts)} counts")

    @property
    def scored_tokens(self) -> int:
        """n = Σ (|x| + 1) over the sentences, EOS counted, BOS not: what a perplexity per token is divided by."""
        return self.table.scored_tokens

    @classmethod
    def of(cls, texts: Sequence[str], table: TokenTable, tokenizer: Tokenizer) -> SentenceSplit:
        """Put the texts and their ids together."""
        return cls(texts, np.broadcast_to(np.int64(1), len(texts)), table, tokenizer.fingerprint)


def token_table(split: Split, tokenizer: Tokenizer) -> TokenTable:
    """Ids of all texts of a split; those of sentences were stored while the corpus was read."""
    if isinstance(split, SentenceSplit) and split.vocabulary == tokenizer.fingerprint:
        return split.table
    builder = TableBuilder()
    for texts in chunks(split.texts):
        builder.extend(tokenizer.encode(texts))
    return builder.table()


def check_fits(table: TokenTable, steps: int) -> None:
    """Raise :class:`ConfigError` where a sentence has more than ``steps`` scored tokens."""
    longest = int(table.lengths.max(initial=0))
    if longest > steps:
        raise ConfigError(f"a sentence has {longest} tokens (EOS counted), which do not fit into {steps} steps")
