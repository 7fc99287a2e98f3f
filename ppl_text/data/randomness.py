"""What is random about batches: a stream of numbers for each purpose, rows drawn ∝ counts, word dropout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppl_text.core.batch import Batch
from ppl_text.core.errors import ConfigError, DataError
from ppl_text.core.vocabulary import ReservedIds

from .corpus import Rows

TRAINING, EVALUATION, DROPOUT = 1, 2, 3
"""Purposes of random streams: the same seed must not make one follow the draws of another."""


def random_stream(seed: int, purpose: int) -> np.random.Generator:
    """Return the generator of a seed for one of the purposes."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose])))


def generator_in(state: Any) -> np.random.Generator:
    """Return a generator that goes on from a stored state, bit for bit."""
    bits = np.random.PCG64()
    bits.state = state
    return np.random.Generator(bits)


class CountSampler:
    """Rows ∝ their counts, drawn with replacement, exactly: a whole number falls into the cumulated counts."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._edges = np.cumsum(counts)
        if not len(self._edges) or not self._edges[-1]:
            raise DataError("there is nothing to sample: the split has no text with a count above 0")

    def draw(self, rng: np.random.Generator, number: int) -> Rows:
        """Draw row numbers (number,), independent of each other."""
        return np.searchsorted(self._edges, rng.integers(0, self._edges[-1], size=number), side="right")


class WordDropout:
    """x̃_t = ``<unk>`` with probability ``rate``, else x_t, independently for each word of ``decoder_inputs``.

    BOS and padding stay; ``tokens``, which are scored, are never touched. Drawn once for each batch from the
    generator of the stream that the batch comes from, so that model and guide see the same and a resumed run draws
    the same. At rate 0 nothing is drawn.

    Args:
        rate: at least 0 and less than 1.
        ids: the reserved ids of the vocabulary.
        rng: what the dropped words are drawn from.

    Raises:
        ConfigError: another rate, or words to be replaced in a vocabulary without ``<unk>``.
    """

    def __init__(self, rate: float, ids: ReservedIds, rng: np.random.Generator) -> None:
        if not 0 <= rate < 1:
            raise ConfigError(f"word_dropout must be at least 0 and less than 1; got {rate}")
        if rate and ids.unk is None:
            raise ConfigError(
                "word_dropout replaces words by <unk>, which this tokenizer does not have (the alphabet of a word list "
                "is closed, and the byte pairs of a pretrained model may lack it); set word_dropout to 0, or read the "
                "corpus as sentences (data.unit=sentences) with another data.tokenizer"
            )
        self.rate = float(rate)
        self._unknown = ids.unk
        self._rng = rng

    def __call__(self, batch: Batch, part: slice = slice(None), rows: int | None = None) -> Batch:
        """Return the batch with words of its ``decoder_inputs`` (B, T) replaced.

        ``part``: which of ``rows`` rows the batch holds; words of all of them are drawn.
        """
        if not self.rate or self._unknown is None:
            return batch
        inputs = batch.decoder_inputs
        drawn = self._rng.random((len(inputs) if rows is None else rows, batch.steps))[part]
        dropped = torch.from_numpy(drawn < self.rate)
        places = torch.arange(batch.steps)
        words = (places > 0) & (places < batch.lengths[:, None])
        return replace(batch, decoder_inputs=inputs.masked_fill(dropped & words, self._unknown))

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state, or nothing where nothing is drawn."""
        return {"dropout": self._rng.bit_generator.state} if self.rate else {}

    def generator_from(self, state: dict[str, Any]) -> np.random.Generator:
        """Return the generator of a :meth:`state_dict`; raise ``KeyError`` and its like for a damaged one."""
        return generator_in(state["dropout"]) if self.rate else self._rng

    def go_on_from(self, rng: np.random.Generator) -> None:
        """Draw from this generator from now on."""
        self._rng = rng
