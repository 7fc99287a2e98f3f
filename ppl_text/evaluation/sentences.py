"""The sentences that a run is measured on, and several are compared on: as batches, without filler where wanted."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.vocabulary import PAD_ID
from ..data.batches import EvaluationSet, default_buckets, evaluation_batches
from ..data.corpus import Corpus
from ..data.tokenizers import Tokenizer


@dataclass(frozen=True)
class CommonSentences:
    """N distinct sentences with weights, in batches of one width each.

    ``batches`` hold no filler rows; ``texts`` (N,) in the order of the batches. All per-sentence results of this
    room are in that order, so that two rows of a comparison can be paired.
    """

    batches: tuple[Batch, ...]
    texts: tuple[str, ...]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    @cached_property
    def weights(self) -> Tensor:
        """(N,) float64 on the CPU: what each sentence counts for, e.g. how often it was drawn."""
        return torch.cat([batch.weights for batch in self.batches]).double().cpu()

    @cached_property
    def tokens(self) -> Tensor:
        """(N,) float64 on the CPU: scored tokens of each sentence, EOS counted."""
        return torch.cat([batch.lengths for batch in self.batches]).double().cpu()

    @property
    def share(self) -> Tensor:
        """(N,) weights that sum to 1."""
        return self.weights / self.weights.sum()

    @property
    def tokens_per_sentence(self) -> float:
        """Mean number of scored tokens: nats per sentence divided by it are nats per token."""
        return float((self.share * self.tokens).sum())

    def to(self, device: torch.device | str) -> CommonSentences:
        """Return the same sentences on another device."""
        return CommonSentences(tuple(batch.to(device) for batch in self.batches), self.texts)

    def merged(self) -> Batch:
        """Return all N sentences as one batch, as wide as the longest of them."""
        return merge(self.batches)

    def minibatch(self, size: int, seed: int) -> Batch:
        """Return at most ``size`` sentences as training would see them: each as often as it was drawn, at weight 1."""
        batch = self.merged()
        rows = torch.repeat_interleave(torch.arange(batch.size), self.weights.round().long())
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:size]
        chosen = batch.take(rows[order].to(batch.tokens.device))
        return Batch(
            chosen.tokens, chosen.lengths, torch.ones_like(chosen.weights), chosen.decoder_inputs, chosen.source
        )


def evaluation_set(corpus: Corpus, split: str, limit: int | None, seed: int, batch_size: int = 256) -> EvaluationSet:
    """Go once over a split, or over ``limit`` texts drawn from it; raises :class:`UserError` for an unknown split."""
    if split not in corpus.splits:
        raise UserError(f"unknown split '{split}'; corpus '{corpus.name}' has {', '.join(corpus.splits)}")
    data = corpus.splits[split]
    buckets = default_buckets(data, 4)
    return evaluation_batches(
        data, weighted=corpus.weighted, batch_size=batch_size, buckets=buckets, limit=limit, seed=seed
    )


def common_sentences(data: EvaluationSet, device: torch.device | str = "cpu") -> CommonSentences:
    """Return the rows of an evaluation set that count, each batch no wider than its longest sentence."""
    batches = tuple(batch.counted().to(device) for batch in data if bool((batch.weights > 0).any()))
    return CommonSentences(batches, tuple(text for texts in data.texts for text in texts))


class TextUnits(NamedTuple):
    """Words between white space and UTF-8 bytes of some sentences by their weights, an end of each (N,) counted.

    The end counts as a word and as a byte (a line feed), as EOS counts as a token.
    """

    words: float
    bytes: float


def text_units(sentences: CommonSentences, tokenizer: Tokenizer) -> TextUnits | None:
    """Count words and bytes of what was scored; None where the tokens do not say what the text was.

    That is where a word has become ``<unk>``: then p(tokens) is no probability of the text, and nothing follows for its
    words and bytes. A text that was truncated counts as far as it was scored, white space as the tokenizer leaves it.
    """
    words = size = 0.0
    rows = (row for batch in sentences for row in batch.tokens.tolist())
    for text, row, weight in zip(sentences.texts, rows, sentences.weights.tolist(), strict=True):
        scored = tokenizer.decode(row)
        if not _plain(text).startswith(_plain(scored)):
            return None
        words += weight * (len(scored.split()) + 1)
        size += weight * (len(scored.encode()) + 1)
    return TextUnits(words, size)


def _plain(text: str) -> str:
    """Return a text with one space between words, in NFC, to which every tokenizer brings it that changes it."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def chosen_rows(number: int, most: int) -> Tensor:
    """Return which of that many sentences to take where ``most`` are wanted, always the same ones: bool (number,)."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
    chosen = torch.zeros(number, dtype=torch.bool)
    chosen[order[:most]] = True
    return chosen


def subset(sentences: CommonSentences, chosen: Tensor) -> CommonSentences:
    """Return the sentences whose entry of ``chosen`` (N,) is true, in their order; they themselves where all are."""
    if bool(chosen.all()):
        return sentences
    parts = zip(sentences.batches, chosen.split([batch.size for batch in sentences.batches]), strict=True)
    batches = [
        batch.take(torch.nonzero(here).squeeze(-1).to(batch.tokens.device)) for batch, here in parts if here.any()
    ]
    texts = tuple(text for text, wanted in zip(sentences.texts, chosen.tolist(), strict=True) if wanted)
    return CommonSentences(tuple(batches), texts)


def watched(data: CommonSentences | EvaluationSet, most: int | None) -> CommonSentences:
    """Return what a monitor looks at: at most so many sentences (None: all), the same ones every time."""
    common = data if isinstance(data, CommonSentences) else common_sentences(data)
    return common if most is None else subset(common, chosen_rows(len(common.texts), most))


def tile(batch: Batch, repeats: int) -> Batch:
    """Return every sentence ``repeats`` times: row r·B + b is sentence b."""
    return batch if repeats == 1 else batch.take(torch.arange(batch.size, device=batch.tokens.device).repeat(repeats))


def merge(batches: tuple[Batch, ...]) -> Batch:
    """Put batches under each other, padded to the width of the widest."""
    sources = [batch.source for batch in batches if batch.source is not None]
    return Batch(
        _stacked([batch.tokens for batch in batches]),
        torch.cat([batch.lengths for batch in batches]),
        torch.cat([batch.weights for batch in batches]),
        _stacked([batch.decoder_inputs for batch in batches]),
        merge(tuple(sources)) if sources else None,
    )


def _stacked(parts: list[Tensor]) -> Tensor:
    steps = max(part.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return torch.cat([pad(part, (0, steps - part.shape[1]), value=PAD_ID) for part in parts])


def stream_seed(seed: int, *labels: object) -> int:
    """Return a seed of its own for each row and purpose, the same on every machine whatever else is compared."""
    text = "\0".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
