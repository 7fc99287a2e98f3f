"""What a text must be like for a run: all that stays of a corpus where its texts are gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ppl_text.core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from .corpus import Corpus
    from .tokenizers import Tokenizer


@dataclass(frozen=True, eq=False)
class TextForm:
    """How typed texts are cleaned and encoded for a run, and how long they may be.

    Args:
        tokenizer: of the texts.
        clean: what was done to every text of the corpus before the tokenizer saw it.
        max_steps: scored tokens of the longest text of any split, EOS counted.
        source_tokenizer: of what stands beside each text; None where nothing does.
        max_source_steps: tokens of the longest source, EOS counted.
    """

    tokenizer: Tokenizer
    clean: Callable[[str], str]
    max_steps: int
    source_tokenizer: Tokenizer | None = None
    max_source_steps: int = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """What models are built from."""
        source = self.source_tokenizer
        return replace(self.tokenizer.vocabulary, source=None if source is None else source.vocabulary)


def form_of(corpus: Corpus) -> TextForm:
    """Return the form of a corpus's texts."""
    sources = [split.source for split in corpus.splits.values() if split.source is not None]
    return TextForm(
        corpus.tokenizer,
        corpus.clean,
        corpus.max_steps,
        corpus.source_tokenizer,
        max((max(1, source.longest) for source in sources), default=0),
    )
