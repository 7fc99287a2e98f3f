"""What a model is built from: how many symbols a text is made of, and which ids are reserved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
"""Ids that the project's own tokenizers reserve: padding, begin and end of a sentence, and, where there is one,
``<unk>``."""


class ReservedIds(NamedTuple):
    """Ids with a meaning of their own; the defaults are those of the project's own tokenizers.

    ``pad`` fills rows up and ``bos`` stands before the first token; ``eos`` ends a sentence and is scored; ``unk``
    stands for words that the vocabulary lacks (None: it is closed). ``first_outcome`` is the smallest id that a model
    scores or emits: outcome o has id ``first_outcome + o``. A wrapped tokenizer may keep its own ids, with
    ``first_outcome=0`` where they stand at the end.
    """

    pad: int = PAD_ID
    bos: int = BOS_ID
    eos: int = EOS_ID
    unk: int | None = None
    first_outcome: int = EOS_ID


OWN_IDS = ReservedIds()
"""Those of a tokenizer of the project with a closed vocabulary."""


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of the target side, and of the source side where a model is conditional.

    Args:
        size: V, the reserved ids counted.
        ids: the reserved ids.
        source: the source side's vocabulary; None for unconditional text.
        digest: what tells its symbols from others, for models that belong to some; None where nobody has said.

    Raises:
        ValueError: no outcome is left, or EOS is none.

    Example::

        >>> Vocabulary(30).outcomes
        28
    """

    size: int
    ids: ReservedIds = OWN_IDS
    source: Vocabulary | None = None
    digest: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.ids.first_outcome <= self.ids.eos < self.size:
            raise ValueError(
                f"a vocabulary needs ids up to EOS ({self.ids.eos}), which must be an outcome (from "
                f"{self.ids.first_outcome} on); got {self.size} symbols"
            )

    @property
    def outcomes(self) -> int:
        """How many ids a model may emit, EOS among them."""
        return self.size - self.ids.first_outcome
