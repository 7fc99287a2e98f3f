"""A user's own word list: one file that is divided here, or a folder with its own splits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ppl_text.core.errors import DataError

from .corpus import Corpus, Split
from .folders import listed, split_files
from .reading import Reading, entries, read_words
from .tokenizers import describe_character
from .wordlist import Tally, WordOptions, character_corpus, divide, frequent, word_options

DEFAULTS = WordOptions()
ENDINGS = (".txt", ".tsv")


@dataclass(frozen=True)
class WordFile:
    """The words of one file that passed the filters, and what to tell about the rest."""

    path: Path
    words: Split
    notes: tuple[str, ...]


def load_path(path: Path | str, **options: Any) -> Corpus:
    """P(word) ∝ count in a file of the user's, or in a folder with ``train``, ``valid`` and ``test``.

    A FILE (``word<TAB>count`` lines, or plain text) is filtered and divided as ``options`` say; its
    alphabet is that of all its words. A DIR needs ``train.txt`` or ``train.tsv``; a split that it lacks
    is drawn from train. Of the filters only the lengths hold for ``valid`` and ``test`` files:
    ``min_count`` and ``limit`` say what is worth training on, not what a test set is.

    Raises :class:`DataError` for all that is wrong with the data, :class:`ConfigError` for the options.
    """
    path = Path(path).expanduser()
    chosen = word_options(options, DEFAULTS)
    if os.path.isdir(path):
        return _load_folder(path, chosen, options)
    if not os.path.exists(path):
        raise DataError("no such file or folder; expected a word list or a folder with train.txt", path)
    if not os.path.isfile(path):
        raise DataError("neither a file nor a folder; expected a word list or a folder with train.txt", path)
    read = load_file(path, chosen)
    return character_corpus(str(path), _divide(read, chosen), _alphabet(read.words), read.notes)


def load_file(path: Path, options: WordOptions) -> WordFile:
    """Read and filter one file; raises :class:`DataError` where no word is left."""
    reading = read_words(path)
    tally = Tally(reading.types, {"that are not made of letters only": len(reading.not_letters)})
    words = frequent(reading.counts, options, tally)
    if not len(words):
        raise DataError(
            f"no word is left after filtering: {tally.describe()}; "
            "widen min_length, max_length or min_count, or give another list",
            path,
        )
    summary = f"{path.name}: {tally.describe()}; {len(words):,} types ({words.total:,} tokens) kept"
    return WordFile(path, words, (summary, *_asides(path.name, reading)))


def _asides(name: str, reading: Reading) -> Iterable[str]:
    if reading.blank:
        yield f"{name}: {reading.blank:,} blank lines skipped"
    if reading.listed and reading.merged:
        yield f"{name}: {reading.merged:,} lines repeat an earlier word (in lower case); their counts were added"


def _divide(read: WordFile, options: WordOptions, wanted: Iterable[str] = ("test", "valid")) -> dict[str, Split]:
    try:
        return divide(read.words, options, wanted)
    except DataError as error:
        raise DataError(str(error), read.path) from error


def _alphabet(words: Split) -> str:
    return "".join(sorted(set().union(*words.texts)))


def _load_folder(folder: Path, options: WordOptions, given: Mapping[str, Any]) -> Corpus:
    found = split_files(folder, ENDINGS, "sentences in csv, jsonl or parquet are read with data.unit=sentences")
    train = load_file(found["train"], options)
    own = {name: load_file(path, replace(options, min_count=1, limit=None)) for name, path in found.items()}
    del own["train"]
    alphabet = _alphabet(train.words)
    for read in own.values():
        _check_alphabet(read, alphabet)
    missing = [name for name in ("test", "valid") if name not in own]
    parts = _divide(train, options, missing)
    notes = [*train.notes, *(note for read in own.values() for note in read.notes)]
    notes += [f"no {name}.txt or {name}.tsv in {folder}: drawn from {train.path.name}" for name in missing]
    unused = sorted({"split", "seed", "test_share", "valid_share"} & set(given))
    if not missing and unused:
        notes.append(f"the folder holds all three splits: {', '.join(unused)} not used")
    if others := sorted(p.name for p in folder.iterdir() if p not in found.values() and p.name[0] != "."):
        notes.append(f"not read in {folder}: {listed(others)}")
    splits = {**parts, **{name: read.words for name, read in own.items()}}
    return character_corpus(str(folder), splits, alphabet, notes)


def _check_alphabet(read: WordFile, alphabet: str) -> None:
    """A character that training never saw has no probability; say where the first one stands."""
    known = set(alphabet)
    foreign = {word for word in read.words.texts if not known.issuperset(word)}
    if not foreign:
        return
    line, word = next((number, text) for number, text, _ in entries(read.path) if text in foreign)
    character = next(c for c in word if c not in known)
    raise DataError(
        f"the word '{word}' has the character {describe_character(character)}, which no training word has "
        f"({len(foreign):,} of {len(read.words):,} types are affected); remove such words, or add to the "
        "training file words that have it",
        read.path,
        line,
    )
