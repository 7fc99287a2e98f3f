"""Vocabularies of sentences: a tokenizer for each side, made from train, or from all splits where options say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from ppl_text.core.errors import DataError

from .corpus import SPLITS
from .options import BPE_VOCABULARY, PRETRAINED, SentenceOptions
from .origins import Origin
from .reading import Sides
from .tokenizers import NoSymbolError, Tokenizer, bpe_tokenizer, open_character_tokenizer, word_tokenizer


def tokenizers_of(
    found: Mapping[str, Sides], options: SentenceOptions, origin: Origin, told: list[str]
) -> list[Tokenizer]:
    """Return the tokenizer of each side of some texts by split; ``told`` hears how large each is."""
    if options.tokenizer == PRETRAINED:
        return pretrained_tokenizers(len(found["train"]), options, told)
    sides = [list(chain.from_iterable(texts)) for texts in zip(*(found[s] for s in fitted_on(options)), strict=True)]
    if len(sides) == 1 or options.sources == "text" or options.shared_vocabulary:
        both = "" if len(sides) == 1 else " of both sides"
        texts = chain(*(sides[:1] if options.sources == "text" else sides))
        one = tokenizer_of(texts, options, options.vocabulary, origin)
        told.append(vocabulary_note(one, options, f"vocabulary{both}"))
        return [one] * len(sides)
    sizes = (options.vocabulary, options.source_vocabulary or options.vocabulary)
    tokenizers = [tokenizer_of(texts, options, size, origin) for texts, size in zip(sides, sizes, strict=True)]
    for what, tokenizer in zip(("vocabulary", "vocabulary of the sources"), tokenizers, strict=True):
        told.append(vocabulary_note(tokenizer, options, what))
    return tokenizers


def fitted_on(options: SentenceOptions) -> Sequence[str]:
    """Return the splits that vocabularies are made from."""
    return SPLITS if options.fit_on == "all" else ("train",)


def vocabulary_note(tokenizer: Tokenizer, options: SentenceOptions, what: str = "vocabulary") -> str:
    """Say how large a vocabulary is, and what it was made from."""
    over = fitted_on(options)
    made = f"made from {', '.join(over)}"
    made += " (fit_on): words of valid and test alone are never trained, and yet no <unk>" * (len(over) > 1)
    return f"{what}: {tokenizer.size:,} symbols ({options.tokenizer}), {made}"


def pretrained_tokenizers(sides: int, options: SentenceOptions, told: list[str]) -> list[Tokenizer]:
    """Return the tokenizer of a pretrained model for each side, which no text has a part in."""
    from .pretrained import pretrained_tokenizer

    one = pretrained_tokenizer(str(options.pretrained))
    both = " of both sides" * (sides > 1)
    told.append(f"vocabulary{both}: {one.size:,} symbols, those of the pretrained {options.pretrained}")
    if unused := options.unused("vocabulary", "min_count", "source_vocabulary", "shared_vocabulary", "fit_on"):
        told.append(f"not used, with tokenizer={PRETRAINED}: {', '.join(unused)}")
    return [one] * sides


def tokenizer_of(texts: Iterable[str], options: SentenceOptions, vocabulary: int | None, origin: Origin) -> Tokenizer:
    """Make a tokenizer of the kind that the options name from texts, which are gone through once.

    Raises :class:`DataError` where no symbol is left.
    """
    try:
        if options.tokenizer == "bpe":
            return bpe_tokenizer(texts, vocabulary=vocabulary or BPE_VOCABULARY)
        make = {"word": word_tokenizer, "character": open_character_tokenizer}[options.tokenizer]
        return make(texts, vocabulary=vocabulary, min_count=options.min_count)
    except NoSymbolError as error:
        raise DataError(str(error), origin.where) from error
