"""The built-in corpus ``words``: the test-bed of the state-space paper, without a download.

The paper counted the words of BooksCorpus, which cannot be had; ``wordfreq`` ships frequencies of
English words from many sources, which are scaled here to counts in 10⁹ tokens.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache
from typing import Any

from ppl_text.core.errors import DataError

from .corpus import Corpus
from .wordlist import Tally, WordOptions, character_corpus, divide, frequent, word_options

TOKENS = 10**9
"""What the frequencies are scaled to."""

DEFAULTS = WordOptions(limit=143_000, min_count=10)


def words(**options: Any) -> Corpus:
    """P(word) ∝ frequency: English words of 2-12 letters a-z, the 143,000 most frequent types.

    ``options`` are those of :class:`WordOptions`, here with ``min_count=10`` (per 10⁹ tokens) and
    ``limit=143_000``. The same options give the same splits. Raises :class:`ConfigError` for faulty
    options and :class:`DataError` where they leave too few words.
    """
    return _corpus(word_options(options, DEFAULTS))


@lru_cache(maxsize=4)
def _corpus(chosen: WordOptions) -> Corpus:
    """Made once for each choice of options: nothing in a corpus can be changed."""
    found = scaled_counts()
    tally = Tally(len(found))
    is_word = re.compile("[a-z]+").fullmatch
    latin = {word: count for word, count in found.items() if is_word(word)}
    tally.removed["with other characters than a-z"] = len(found) - len(latin)
    kept = frequent(latin, chosen, tally)
    if not len(kept):
        raise DataError(f"corpus words: no word is left: {tally.describe()}; widen min_length, max_length or min_count")
    notes = [f"words: {tally.describe()}; {len(kept):,} types ({kept.total:,} tokens) kept"]
    return character_corpus("words", divide(kept, chosen), string.ascii_lowercase, notes)


def scaled_counts() -> dict[str, int]:
    """Every entry of wordfreq's largest English list with its frequency x 10⁹, rounded."""
    from wordfreq import get_frequency_dict

    return {word: round(share * TOKENS) for word, share in get_frequency_dict("en", wordlist="large").items()}
