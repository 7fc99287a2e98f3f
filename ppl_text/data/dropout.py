"""Word dropout: some of the words that a decoder is given are replaced by ``<unk>``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ppl_text.core.batch import Batch
from ppl_text.core.errors import ConfigError
from ppl_text.core.vocabulary import BOS_ID, PAD_ID

from .randomness import generator_in
from .tokenizers import UNK_ID, Tokenizer


class WordDropout:
    """x̃_t = ``<unk>`` with probability ``rate``, else x_t, independently for each word of ``decoder_inputs``.

    BOS and padding stay; ``tokens``, which are scored, are never touched. Drawn once for each batch from the
    generator of the stream that the batch comes from, so that model and guide see the same and a resumed run draws
    the same. At rate 0 nothing is drawn.

    Raises :class:`ConfigError` for a rate outside [0, 1), or a tokenizer without ``<unk>``.
    """

    def __init__(self, rate: float, tokenizer: Tokenizer, rng: np.random.Generator) -> None:
        if not 0 <= rate < 1:
            raise ConfigError(f"word_dropout must be at least 0 and less than 1; got {rate}")
        if rate and not tokenizer.has_unknown:
            raise ConfigError(
                "word_dropout replaces words by <unk>, which this tokenizer does not have (the alphabet of a word list "
                "is closed); set word_dropout to 0, or read the corpus as sentences (data.unit=sentences)"
            )
        self.rate = float(rate)
        self._rng = rng

    def __call__(self, batch: Batch) -> Batch:
        """The same batch with words of its ``decoder_inputs`` (B, T) replaced."""
        if not self.rate:
            return batch
        inputs = batch.decoder_inputs
        dropped = torch.from_numpy(self._rng.random(inputs.shape) < self.rate)
        words = (inputs != BOS_ID) & (inputs != PAD_ID)
        return replace(batch, decoder_inputs=inputs.masked_fill(dropped & words, UNK_ID))

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, or nothing where nothing is drawn."""
        return {"dropout": self._rng.bit_generator.state} if self.rate else {}

    def generator_from(self, state: dict[str, Any]) -> np.random.Generator:
        """The generator that :meth:`state_dict` describes; raises ``KeyError`` and its like for a damaged state."""
        if not self.rate:
            return self._rng
        return generator_in(state["dropout"])

    def go_on_from(self, rng: np.random.Generator) -> None:
        """Draw from this generator from now on."""
        self._rng = rng
