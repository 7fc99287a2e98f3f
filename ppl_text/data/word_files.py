"""A user's own word list: counted words, plain text or tables of either; one file that is divided, or one per split."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ppl_text.core.errors import DataError
from ppl_text.core.numbers import is_whole
from ppl_text.core.printing import shortened

from .corpus import Corpus
from .lines import fault, text_lines
from .options import WordListOptions
from .origins import COLUMNS, as_text, asked_column, is_tabbed, table_of, text_column
from .split_files import split_files, unread, with_train
from .table_files import Table
from .tokenizers import describe_character
from .word_lists import Tally, WordCounts, character_corpus, divide, frequent

WORDS = ("word", *COLUMNS)
"""Columns that are taken for the words of a table, where none is named."""

COUNTS = ("count", "frequency")
"""Columns that are taken for their counts."""

Rows: TypeAlias = Iterator[tuple[int, str, int | None]]
"""Number of the line or row, a word with its count, or text whose words are to be counted."""

LARGEST_COUNT = 10**15
"""A count above this is taken for a mistake; the counts of a whole list must fit into 62 bits."""


@dataclass(frozen=True)
class WordFile:
    """The words of one file that passed the filters, and what to tell about the rest."""

    path: Path
    words: WordCounts
    notes: tuple[str, ...]


def load_word_list(path: Path | str, options: WordListOptions) -> Corpus:
    """Return P(word) ∝ count in a file of the user's, or in a folder with ``train``, ``valid`` and ``test``.

    A FILE (``word<TAB>count`` lines, plain text, or a table in csv, JSON or parquet with a column of words and one of
    counts, or with one of texts) is filtered and divided as ``options`` say; its alphabet is that of all its words. A
    DIR needs such a file for train; a split that it lacks is drawn from train. Of the filters only the lengths hold for
    ``valid`` and ``test`` files: ``min_count`` and ``limit`` say what is worth training on, not what a test set is.

    Raises:
        DataError: all that is wrong with the data.
    """
    path = Path(path).expanduser()
    if os.path.isdir(path):
        return _load_folder(path, options)
    if not os.path.isfile(path):
        problem = "neither a file nor a folder" if os.path.exists(path) else "no such file or folder"
        raise DataError(f"{problem}; expected a word list or a folder with train.txt", path)
    read = load_file(path, options)
    return character_corpus(str(path), _divide(read, options), _alphabet(read.words), read.notes)


def load_file(path: Path, options: WordListOptions) -> WordFile:
    """Read and filter one file; raises :class:`DataError` where no word is left."""
    found = read_words(path, options)
    tally = Tally(found.types, {"that are not made of letters only": len(found.not_letters)})
    words = frequent(found.counts, options, tally)
    if not len(words):
        raise DataError(
            f"no word is left after filtering: {tally.describe()}; "
            "widen min_length, max_length or min_count, or give another list",
            path,
        )
    summary = f"{path.name}: {tally.describe()}; {len(words):,} types ({words.total:,} tokens) kept"
    return WordFile(path, words, (summary, *_asides(path.name, found)))


def _asides(name: str, found: FoundWords) -> Iterable[str]:
    if found.form:
        yield f"{name}: {found.form}"
    if found.blank:
        yield f"{name}: {found.blank:,} blank {found.numbered}s skipped"
    if found.listed and found.merged:
        repeat = f"{found.merged:,} {found.numbered}s repeat an earlier word (in lower case)"
        yield f"{name}: {repeat}; their counts were added"


def _divide(
    read: WordFile, options: WordListOptions, wanted: Iterable[str] = ("test", "valid")
) -> dict[str, WordCounts]:
    try:
        return divide(read.words, options, wanted)
    except DataError as error:
        raise DataError(str(error), read.path) from error


def _alphabet(words: WordCounts) -> str:
    return "".join(sorted(set().union(*words.texts)))


def _load_folder(folder: Path, options: WordListOptions) -> Corpus:
    found = with_train(folder, split_files(folder))
    train = load_file(found["train"], options)
    lengths_only = options.model_copy(update={"min_count": 1, "limit": None})
    own = {name: load_file(path, lengths_only) for name, path in found.items() if name != "train"}
    alphabet = _alphabet(train.words)
    for read in own.values():
        check_alphabet(read, alphabet, options)
    missing = [name for name in ("test", "valid") if name not in own]
    parts = _divide(train, options, missing)
    notes = [*train.notes, *(note for read in own.values() for note in read.notes)]
    notes += [f"no {name} in {folder}: drawn from {train.path.name}" for name in missing]
    unused = options.unused("split", "seed", "test_share", "test_tokens", "valid_share")
    if not missing and unused:
        notes.append(f"the folder holds all three splits: {', '.join(unused)} not used")
    parts |= {name: read.words for name, read in own.items()}
    return character_corpus(str(folder), parts, alphabet, [*notes, *unread(folder, found.values())])


def check_alphabet(read: WordFile, alphabet: str, options: WordListOptions) -> None:
    """Raise for a character that training never saw, which has no probability; say where the first one stands."""
    known = set(alphabet)
    foreign = {word for word in read.words.texts if not known.issuperset(word)}
    if not foreign:
        return
    found = FoundWords()
    number, word = next((number, text) for number, text, _ in entries(read.path, options, found) if text in foreign)
    character = next(c for c in word if c not in known)
    raise fault(
        read.path,
        found.numbered,
        number,
        f"the word '{word}' has the character {describe_character(character)}, which no training word has "
        f"({len(foreign):,} of {len(read.words):,} types are affected); remove such words, or add to the "
        "training file words that have it",
    )


@dataclass
class FoundWords:
    """The words of one file with their ``counts`` (lower case, NFC, letters only), and what was passed over.

    ``listed`` says whether the file was a list with counts, ``form`` what was assumed of a table; ``blank`` counts
    lines (or rows: ``numbered``) without text, ``merged`` entries whose word came before, ``not_letters`` are the
    entries that are no words.
    """

    counts: Counter[str] = field(default_factory=Counter)
    listed: bool = False
    form: str = ""
    numbered: str = "line"
    blank: int = 0
    merged: int = 0
    not_letters: set[str] = field(default_factory=set)

    @property
    def types(self) -> int:
        """Types that were read, those that are not words counted."""
        return len(self.counts) + len(self.not_letters)


class _SpaceForNonLetters(dict[int, str]):
    """A table for ``str.translate``: letters and combining marks stay, all else parts words.

    Marks must stay, because in many scripts a word is not made of letters alone (vowel signs of
    Devanagari), and not every accent has a composed form.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if character.isalpha() or _is_mark(character) else " "
        return self[code]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def is_word(text: str) -> bool:
    """Return whether a text is a letter followed by letters and combining marks only."""
    return text.isalpha() or (text[:1].isalpha() and all(c.isalpha() or _is_mark(c) for c in text))


def read_words(path: Path, options: WordListOptions) -> FoundWords:
    """Count the words of a file; raises :class:`DataError` with file and line for what cannot be read."""
    found = FoundWords()
    for _, word, count in entries(path, options, found):
        if not is_word(word):
            found.not_letters.add(word)
            continue
        found.merged += word in found.counts
        found.counts[word] += count
    if found.counts.total() >= 2**62:
        raise DataError("the counts sum to more than 2^62; divide all of them by the same number", path)
    return found


def entries(path: Path, options: WordListOptions, found: FoundWords) -> Iterator[tuple[int, str, int]]:
    """Yield each ``(number of line or row, word, count)`` of a file, lower-cased and in NFC.

    A table has a column of words, and perhaps one of their counts. A ``.tsv``, or a file whose first line with text
    has a tab, holds ``word<TAB>count`` lines; anything else is plain text. Where nothing is counted, whatever is
    neither letter nor combining mark parts words ("don't" gives "don" and "t").
    """
    asked = [name for name in (options.column, options.count) if name is not None]
    names = [*([options.column] if options.column else WORDS), *([options.count] if options.count else COUNTS)]
    table = table_of(path, names, asked)
    if table is not None:
        rows: Rows = _table_rows(table, options, found)
    elif is_tabbed(path):
        found.listed = True
        rows = (_counted_line(line.strip(), path, number) for number, line in text_lines(path))
    else:
        found.form = "a text file has no columns; data.column and data.count not used" if asked else ""
        rows = ((number, line, None) for number, line in text_lines(path))
    parted, empty = _SpaceForNonLetters(), True
    for number, text, count in rows:
        if not text.strip():
            found.blank += 1
            continue
        empty = False
        if count is not None:
            yield number, _normal(text), count
        else:
            yield from ((number, word, 1) for word in _normal(text).translate(parted).split())
    if empty:
        raise DataError(
            "the file is empty; expected one 'word<TAB>count' on each line, or plain text whose words are counted",
            path,
        )


def _normal(text: str) -> str:
    # Lower case first: of J and j with a caron, only the small one has a composed form.
    return unicodedata.normalize("NFC", text.lower())


def _table_rows(table: Table, options: WordListOptions, found: FoundWords) -> Rows:
    """Yield number, words and count of the rows of a table, whose columns ``found`` hears of; None: not counted yet."""
    if options.count is None:
        count = next((column for name in COUNTS if (column := table.column(name)) is not None), None)
    else:
        count = asked_column(table, options.count, "count", table.kinds)
    word = text_column(table, options.column, WORDS, apart_from=count)
    if count is None and table.column("word") == word and len(table.kinds) > 1:
        raise DataError(
            f"which column holds the counts of '{word}'? Its columns are {table.described()}; set data.count to its "
            "name, or leave only the words",
            table.where,
        )
    read = f"column '{word}' with the counts of column '{count}'" if count else f"the words of column '{word}' counted"
    found.form = "; ".join(part for part in (read, table.assumed) if part)
    found.listed, found.numbered = count is not None, table.numbered
    for number, values in table.read([word] if count is None else [word, count]):
        text = as_text(values[0], table, number, word).strip()
        yield number, text, _count(text, values[1], partial(table.fault, number)) if count and text else None


def _counted_line(line: str, path: Path, number: int) -> tuple[int, str, int | None]:
    if not line:
        return number, "", None
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) != 2:
        raise DataError(
            f"expected two columns, 'word<TAB>count'; got {len(columns)}: {shortened(line)}; "
            "plain text belongs into a .txt whose first line has no tab",
            path,
            number,
        )
    word, count = columns
    return number, word, _count(word, count, lambda message: DataError(message, path, number))


def _count(word: str, given: object, error: Callable[[str], DataError]) -> int:
    count = "" if given is None or isinstance(given, bool | float) else str(given).strip()
    if not is_whole(count) or not 0 < int(count[:20]) <= LARGEST_COUNT:
        got = shortened(given.strip() if isinstance(given, str) else json.dumps(given))
        header = "" if any(map(str.isdigit, got)) or given is None else "; remove the line if it is a heading"
        message = f"the count must be a whole number from 1 to 10^15; got {got} for the word {shortened(word)}{header}"
        raise error(message)
    return int(count)
