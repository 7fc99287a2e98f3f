"""What of a split is not what its texts were: tokens that are ``<unk>``, texts that were cut or left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .corpus import Side, Split


@dataclass(frozen=True)
class Shares:
    """Shares of one split, without which its perplexity says little.

    ``unknown``: of its tokens (EOS not counted) that are ``<unk>``; ``truncated`` and ``dropped``: of the texts that
    were read for it, those that were too long.
    """

    unknown: float
    truncated: float
    dropped: float


def shares_of(split: Split) -> Shares | None:
    """Return the shares of a split; None where its vocabulary is closed and every text stands in it whole."""
    if split.target.tokenizer.vocabulary.ids.unk is None and not any(split.long):
        return None
    words = max(1, split.target.table.scored_tokens - len(split))
    truncated, dropped = (number / split.read for number in split.long)
    return Shares(unknown_tokens(split.target) / words, truncated, dropped)


def unknown_tokens(side: Side) -> int:
    """Return how many tokens of the texts are ``<unk>``."""
    unknown = side.tokenizer.vocabulary.ids.unk
    return 0 if unknown is None else sum(int((part.ids == unknown).sum()) for part in side.table.parts())


def untrained_unknown(splits: Mapping[str, Split]) -> Iterable[str]:
    """Warn, in one line, of an ``<unk>`` that is scored in some split and that train never has."""
    if unknown_tokens(splits["train"].target):
        return
    found = {name: unknown_tokens(split.target) for name, split in splits.items()}
    if any(found.values()):
        has = " and ".join(f"{name} {number:,}" for name, number in found.items() if number)
        yield (
            f"warning: train has no <unk>, {has}: it is never trained and yet scored, often at 10 nats and more each; "
            "let rare words of train become <unk> with a higher data.min_count"
        )
