"""Other texts than a run's corpus, encoded as its own are: what the run is measured on besides."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ppl_text.core.errors import DataError, UserError

from .catalogue import HUB
from .corpus import Corpus, Side, Split
from .forms import TextForm
from .options import SENTENCES, WORD_LIST, SentenceOptions, WordListOptions
from .origins import Columns, Origin, file_origin, hub_origins
from .reading import clean, collected, encoded
from .sentences import read_as_sources, without_sources
from .split_files import PARALLEL, split_files
from .tokenizers import SPECIALS
from .word_files import check_alphabet, load_file


def other_texts(name: str, unit: str, options: Any, form: TextForm, split: str) -> Corpus:
    """Return texts as a corpus of one split, which is called by where they come from, like the corpus.

    Args:
        name: a file, all of which is read; a folder, or ``hub:NAME``, of which ``split`` is.
        unit: what the run's data are.
        options: those of the run's data; nothing is divided, and no limit holds.
        form: of the run's texts.
        split: of a folder or of a data set of the hub.

    Raises:
        UserError: there is nothing of that name.
        DataError: what cannot be read, and in a list of words a character that training never saw.
    """
    if not name.startswith(HUB) and not os.path.exists(os.path.expanduser(name)):
        raise UserError(f"'{name}' does not exist (seen from {Path.cwd()}); give a file, a folder or {HUB}NAME")
    readers: dict[str, Callable[[str, Any, TextForm, str], Corpus]] = {SENTENCES: _sentences, WORD_LIST: _words}
    return readers[unit](name, options, form, split)


def _sentences(name: str, options: SentenceOptions, form: TextForm, split: str) -> Corpus:
    told: list[str] = []
    label, origin = _origin(name, options, split)
    origin = _with_sources(origin, options) if form.source_tokenizer is not None else without_sources(origin)
    free = options.model_copy(update={"limit": None})
    texts = collected(origin, label, free, lambda _: label, told)[label]
    tokenizers = [t for t in (form.tokenizer, form.source_tokenizer) if t is not None]
    found = encoded(label, texts, tokenizers, free, origin, told)
    cleaned = partial(clean, lower=options.lower)
    return Corpus(label, {label: found}, tuple(told), "sentence", "token", weighted=False, clean=cleaned)


def _with_sources(origin: Origin, options: SentenceOptions) -> Origin:
    """Return the pairs of an origin; raise :class:`DataError` where it has texts alone."""
    if options.sources == "text":
        return read_as_sources(origin)
    if not origin.paired:
        raise DataError(
            "the run reads a source beside each text, and here are texts alone; expected pairs: a table with columns "
            "source and target (or those of the run's data), or parallel files such as test.src and test.tgt",
            origin.where,
        )
    return origin


def _origin(name: str, options: SentenceOptions, split: str) -> tuple[str, Origin]:
    """Return where the texts come from, and what they are called."""
    columns = Columns(options.column, options.source)
    if name.startswith(HUB):
        splits: Mapping[str, Origin] = hub_origins(name.removeprefix(HUB), options.subset, columns)
        return f"{name}, {split}", _chosen(splits, split, name)
    path = _path(name, split, columns.endings)
    return str(path), file_origin(path, columns)


def _path(name: str, split: str, endings: tuple[str, str] = PARALLEL) -> Path:
    """Return the absolute path of a file, or of the file of a split in a folder."""
    path = Path(os.path.abspath(os.path.expanduser(name)))
    return path if not path.is_dir() else _chosen(split_files(path, endings), split, name)


def _chosen(splits: Mapping[str, Any], split: str, name: str) -> Any:
    if split not in splits:
        raise UserError(f"{name} has no split '{split}'; it has {', '.join(splits) or 'none'}: choose one with --split")
    return splits[split]


def _words(name: str, options: WordListOptions, form: TextForm, split: str) -> Corpus:
    if name.startswith(HUB):
        raise UserError(f"'{name}': {HUB}NAME is not supported for word lists; give a file or a folder")
    path, label = _path(name, split), str(_path(name, split))
    # As for the valid and test files of a folder: what is worth training on is not asked.
    lengths_only = options.model_copy(update={"min_count": 1, "limit": None})
    read = load_file(path, lengths_only)
    check_alphabet(read, "".join(form.tokenizer.symbols[len(SPECIALS) :]), lengths_only)
    found = Split(Side(read.words.texts, form.tokenizer), read.words.counts)
    return Corpus(label, {label: found}, read.notes, "word", "letter", weighted=True)
