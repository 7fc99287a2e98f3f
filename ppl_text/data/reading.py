"""Texts as they are read: cleaned, put into splits, and made ids, long ones truncated, dropped or refused.

What is done to a text, once, before anything else sees it: lower case where asked for, Unicode's NFC, one space for
each run of white space, none at the ends. Where texts come in pairs, the same is done to their sources.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from operator import and_, ne
from typing import TypeAlias

from ppl_text.core.errors import DataError
from ppl_text.core.printing import shortened

from .corpus import Long, Side, Split, TokenTable, chunks
from .options import SentenceOptions
from .origins import Origin, Raw
from .shares import unknown_tokens
from .tokenizers import Tokenizer

Home = Callable[[str], str]
"""A cleaned text to the name of its split."""

Sides: TypeAlias = tuple[list[str], ...]
"""Cleaned texts, and where they come in pairs, their sources."""


def clean(text: str, lower: bool = False) -> str:
    """Return the text as tokenizers see it: NFC, single spaces, in lower case where asked for.

    Example:
        >>> clean("  Cafe\\u0301\\tau  lait\\r\\n", lower=True)
        'café au lait'
    """
    # Lower case first: of J and j with a caron, only the small one has a composed form.
    return " ".join(unicodedata.normalize("NFC", text.lower() if lower else text).split())


def collected(origin: Origin, split: str, options: SentenceOptions, home: Home, told: list[str]) -> dict[str, Sides]:
    """Return the cleaned texts of one origin by split, and their sources; ``told`` hears what was dropped."""
    parts: dict[str, Sides] = {}
    placed = Placed(origin, split, options, home)
    for name, raw in placed:
        part = parts.setdefault(name, tuple([] for _ in raw.sides))
        for side, text in zip(part, raw.sides, strict=True):
            side.append(text)
    told.extend(placed.notes)
    return parts


class Placed:
    """The cleaned texts of one origin, each with the name of its split: read anew, row by row, by each iteration.

    Rows without text are left out, and reading stops at the ``limit``.

    Args:
        origin: of the texts.
        split: which they are of; those of ``train`` go where ``home`` says.
        options: how they are read.
        home: a cleaned text to its split.

    Raises:
        DataError: a row that is refused, or none with text.
    """

    def __init__(self, origin: Origin, split: str, options: SentenceOptions, home: Home) -> None:
        self._origin, self._split, self._options, self._home = origin, split, options, home
        self._read = self._empty = self._trained = 0

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        options, divided = self._options, self._split == "train"
        self._read = self._empty = self._trained = 0
        for number, sides, place in self._origin.rows():
            self._read += 1
            texts = tuple(self._cleaned(text, number) for text in sides)
            if not all(texts):
                self._drop(number, texts)
                continue
            name = self._home(texts[-1]) if divided else self._split
            yield name, Raw(number, texts, place)
            self._trained += name == "train"
            if self._trained == options.limit:
                break
        if self._read == self._empty:
            raise DataError(
                "there is no sentence in it; expected one on each line (or in each row)", self._origin.where
            )

    @property
    def notes(self) -> list[str]:
        """Say what was read, dropped and assumed."""
        origin, limit = self._origin, self._options.limit
        dropped = f", {self._empty:,} without text{' or source' * origin.paired} dropped" if self._empty else ""
        limited = f"; stopped at {limit:,} training sentences (limit)" if self._trained == limit else ""
        return [f"{origin.name}: {self._read:,} {origin.unit}s read{dropped}{limited}", *origin.notes]

    def _cleaned(self, raw: str, number: int) -> str:
        text = clean(raw, self._options.lower)
        if "\0" in text:
            raise self._origin.fault(number, f"a NUL character in {shortened(text)}; remove it")
        return text

    def _drop(self, number: int, texts: Sequence[str]) -> None:
        self._empty += 1
        if self._options.empty == "refuse":
            what = f"no source in {self._origin.source}" if texts[0] else "no text"
            raise self._origin.fault(number, f"{what}; remove the line, or drop such lines with data.empty=drop")


def encoded(
    split: str,
    texts: Sides,
    tokenizers: Sequence[Tokenizer],
    options: SentenceOptions,
    origin: Origin,
    told: list[str],
) -> Split:
    """Encode both sides of a split, long sentences treated as the options say; a row goes with either side."""
    nouns = ["sentences"] if len(tokenizers) == 1 else ["targets", "sources"]
    fits = [Fit(side, noun, tokenizers[side], options, origin) for side, noun in enumerate(nouns)]
    sides = [_Kept() for _ in fits]
    truncated = dropped = 0
    for parts in zip(*map(chunks, texts), strict=True):
        fitted = [fit(part) for fit, part in zip(fits, parts, strict=True)]
        # A first character of more bytes than max_tokens leaves nothing of its sentence.
        kept = [all(row) for row in zip(*(ids for _, ids in fitted), strict=True)]
        dropped += kept.count(False)
        cut = map(ne, zip(*(shown for shown, _ in fitted), strict=True), zip(*parts, strict=True))
        truncated += sum(map(and_, cut, kept))
        for side, (shown, ids) in zip(sides, fitted, strict=True):
            side.add(compress(shown, kept), compress(ids, kept))
    if not sides[0].texts:
        raise none_left(split, fits, origin)
    both = [side.made(tokenizer) for side, tokenizer in zip(sides, tokenizers, strict=True)]
    for fit, made in zip(fits, both, strict=True):
        told.extend(fit.notes(split, made))
    return Split(both[0], source=both[1] if len(both) > 1 else None, long=Long(truncated, dropped))


def too_few(split: str, texts: int, options: SentenceOptions) -> str:
    """Say that so many texts leave none for a split."""
    return (
        f"too few sentences to divide: {texts:,} leave none for {split} with test_share={options.test_share:g}, "
        f"valid_share={options.valid_share:g}, seed={options.seed}; give more sentences or larger shares, or a folder "
        "with train, valid and test files"
    )


def none_left(split: str, fits: Sequence[Fit], origin: Origin) -> DataError:
    """Return the error for a split of which nothing is short enough."""
    limits = " or ".join(f"{fit.option}={fit.most}" for fit in fits if fit.most is not None)
    return DataError(
        f"every sentence of {split} has more than {limits} tokens; raise it or set long=truncate", origin.where
    )


class _Kept:
    """The texts of one side of a split that are kept, with their ids."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._tables: list[TokenTable] = []

    def add(self, texts: Iterable[str], ids: Iterable[list[int]]) -> None:
        """Store some texts with their ids."""
        self.texts.extend(texts)
        self._tables.append(TokenTable.build(list(ids)))

    def made(self, tokenizer: Tokenizer) -> Side:
        """Return the side that they are."""
        return Side(self.texts, tokenizer, TokenTable.joined(self._tables, tokenizer.vocabulary.ids))


class Fit:
    """Makes ids of the texts of one side of a split, long ones treated as the options say; counts these.

    Args:
        side: 0 for the targets, 1 for the sources.
        noun: what notes call the texts.
        tokenizer: of the texts.
        options: how long texts may be, and what becomes of longer ones.
        origin: of the texts, for errors.
    """

    def __init__(self, side: int, noun: str, tokenizer: Tokenizer, options: SentenceOptions, origin: Origin) -> None:
        self.option, self.most = (
            ("max_tokens", options.max_tokens),
            ("source_max_tokens", options.source_limit),
        )[side]
        self.noun = noun
        self._place, self._tokenizer, self._options, self._origin = side, tokenizer, options, origin
        self._long = 0

    def __call__(self, texts: Sequence[str]) -> tuple[Sequence[str], list[list[int]]]:
        """Return texts and ids, without any ids where a text is to be dropped."""
        ids = self._tokenizer.encode(texts)
        if self.most is None or max(map(len, ids)) <= self.most:
            return texts, ids
        rows = [self._shortened(text, row, self.most) for text, row in zip(texts, ids, strict=True)]
        return [text for text, _ in rows], [row for _, row in rows]

    def notes(self, split: str, kept: Side) -> list[str]:
        """Say how much was kept, how much was too long and how much is unknown."""
        number, scored = len(kept), kept.table.scored_tokens
        unknown = unknown_tokens(kept) / max(1, scored - number)
        became = {"truncate": "truncated"}.get(self._options.long, "dropped")
        too_long = [f"{split}: {self._long:,} {self.noun} of more than {self.most} tokens {became}"] * bool(self._long)
        return [
            *too_long,
            f"{split}: {number:,} {self.noun}, {scored:,} scored tokens ({scored / number:z.3f} a sentence, EOS "
            f"counted), {unknown:z.2%} <unk>",
        ]

    def _shortened(self, text: str, ids: list[int], most: int) -> tuple[str, list[int]]:
        if len(ids) <= most:
            return text, ids
        self._long += 1
        if self._options.long == "refuse":
            raise self._refusal(text, len(ids), most)
        if self._options.long == "drop":
            return "", []
        prefix = self._tokenizer.prefix(text, most)
        return prefix, self._tokenizer.encode([prefix])[0]

    def _refusal(self, text: str, tokens: int, most: int) -> DataError:
        """Name the line, which only now is looked for."""
        lower = self._options.lower
        numbers = (raw.number for raw in self._origin.rows() if clean(raw.sides[self._place], lower) == text)
        advice = f"raise {self.option}, or truncate or drop such sentences with data.long"
        message = f"{tokens:,} tokens, more than {self.option}={most}: {shortened(text)}; {advice}"
        return self._origin.fault(next(numbers), message)
