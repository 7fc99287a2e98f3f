"""A user's own word list: files of counted words or plain text, one that is divided here or one for each split."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ppl_text.core.errors import DataError

from .corpus import Corpus
from .options import WordListOptions
from .origins import shortened, split_files, text_lines, unread
from .tokenizers import describe_character
from .word_lists import Tally, WordCounts, character_corpus, divide, frequent

ENDINGS = (".txt", ".tsv")

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

    A FILE (``word<TAB>count`` lines, or plain text) is filtered and divided as ``options`` say; its
    alphabet is that of all its words. A DIR needs ``train.txt`` or ``train.tsv``; a split that it lacks
    is drawn from train. Of the filters only the lengths hold for ``valid`` and ``test`` files:
    ``min_count`` and ``limit`` say what is worth training on, not what a test set is.

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
    found = read_words(path)
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
    if found.blank:
        yield f"{name}: {found.blank:,} blank lines skipped"
    if found.listed and found.merged:
        yield f"{name}: {found.merged:,} lines repeat an earlier word (in lower case); their counts were added"


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
    found = split_files(folder, ENDINGS, "sentences in csv, jsonl or parquet are read with data.unit=sentences")
    train = load_file(found["train"], options)
    lengths_only = options.model_copy(update={"min_count": 1, "limit": None})
    own = {name: load_file(path, lengths_only) for name, path in found.items() if name != "train"}
    alphabet = _alphabet(train.words)
    for read in own.values():
        _check_alphabet(read, alphabet)
    missing = [name for name in ("test", "valid") if name not in own]
    parts = _divide(train, options, missing)
    notes = [*train.notes, *(note for read in own.values() for note in read.notes)]
    notes += [f"no {name}.txt or {name}.tsv in {folder}: drawn from {train.path.name}" for name in missing]
    unused = options.unused("split", "seed", "test_share", "test_tokens", "valid_share")
    if not missing and unused:
        notes.append(f"the folder holds all three splits: {', '.join(unused)} not used")
    parts |= {name: read.words for name, read in own.items()}
    return character_corpus(str(folder), parts, alphabet, [*notes, *unread(folder, found)])


def _check_alphabet(read: WordFile, alphabet: str) -> None:
    """Raise for a character that training never saw, which has no probability; say where the first one stands."""
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


@dataclass
class FoundWords:
    """The words of one file with their ``counts`` (lower case, NFC, letters only), and what was passed over.

    ``listed`` says whether the file was a list with counts, ``blank`` counts lines without text,
    ``merged`` entries whose word came before, ``not_letters`` are the entries that are no words.
    """

    counts: Counter[str] = field(default_factory=Counter)
    listed: bool = False
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


def read_words(path: Path) -> FoundWords:
    """Count the words of a file; raises :class:`DataError` with file and line for what cannot be read."""
    found = FoundWords()
    for _, word, count in entries(path, found):
        if not is_word(word):
            found.not_letters.add(word)
            continue
        found.merged += word in found.counts
        found.counts[word] += count
    if found.counts.total() >= 2**62:
        raise DataError("the counts sum to more than 2^62; divide all of them by the same number", path)
    return found


def entries(path: Path, found: FoundWords | None = None) -> Iterator[tuple[int, str, int]]:
    """Yield each ``(line number, word, count)`` of a file, lower-cased and in NFC.

    A ``.tsv``, or a file whose first line with text has a tab, holds ``word<TAB>count`` lines; anything
    else is plain text, in which whatever is neither letter nor combining mark parts words ("don't"
    gives "don" and "t").
    """
    found = FoundWords() if found is None else found
    lines = _lines_with_text(path, found)
    first = next(lines, None)
    if first is None:
        raise DataError(
            "the file is empty; expected one 'word<TAB>count' on each line, or plain text whose words are counted",
            path,
        )
    lines = chain([first], lines)
    found.listed = path.suffix.lower() == ".tsv" or "\t" in first[1]
    if found.listed:
        for number, line in lines:
            word, count = _counted_word(line, path, number)
            yield number, _normal(word), count
    else:
        table = _SpaceForNonLetters()
        for number, line in lines:
            for word in _normal(line).translate(table).split():
                yield number, word, 1


def _normal(text: str) -> str:
    # Lower case first: of J and j with a caron, only the small one has a composed form.
    return unicodedata.normalize("NFC", text.lower())


def _lines_with_text(path: Path, found: FoundWords) -> Iterator[tuple[int, str]]:
    """Yield numbered lines without surrounding space; blank ones are only counted."""
    for number, line in text_lines(path):
        if text := line.strip():
            yield number, text
        else:
            found.blank += 1


def _counted_word(line: str, path: Path, number: int) -> tuple[str, int]:
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) != 2:
        raise DataError(
            f"expected two columns, 'word<TAB>count'; got {len(columns)}: {shortened(line)}; "
            "plain text belongs into a .txt whose first line has no tab",
            path,
            number,
        )
    word, count = columns
    if not re.fullmatch("[0-9]+", count) or not 0 < int(count[:20]) <= LARGEST_COUNT:
        header = "; remove the line if it is a heading" if not any(c.isdigit() for c in count) else ""
        raise DataError(
            f"the count must be a whole number from 1 to 10^15; got {shortened(count)} for the word "
            f"{shortened(word)}{header}",
            path,
            number,
        )
    return word, int(count)
