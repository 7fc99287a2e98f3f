"""Texts as they are read: cleaned, put into splits, and made ids, long ones truncated, dropped or refused.

What is done to a text, once, before anything else sees it: lower case where asked for, Unicode's NFC, one space for
each run of white space, none at the ends. Where texts come in pairs, the same is done to their sources.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from operator import and_, ne
from typing import TypeAlias

import numpy as np

from ppl_text.core.errors import DataError
from ppl_text.core.printing import shortened

from .corpus import Long, Side, Split, TokenTable, chunks
from .options import SentenceOptions
from .origins import Origin
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
    read = empty = 0
    limited = False
    for raw in origin.rows():
        read += 1
        texts = [_cleaned(text, raw.number, options, origin) for text in raw.sides]
        if not all(texts):
            empty += 1
            if options.empty == "refuse":
                what = f"no source in {origin.source}" if texts[0] else "no text"
                raise origin.fault(raw.number, f"{what}; remove the line, or drop such lines with data.empty=drop")
            continue
        part = parts.setdefault(home(texts[-1]) if split == "train" else split, tuple([] for _ in texts))
        for side, text in zip(part, texts, strict=True):
            side.append(text)
        limited = split == "train" and "train" in parts and len(parts["train"][0]) == options.limit
        if limited:
            break
    if read == empty:
        raise DataError("there is no sentence in it; expected one on each line (or in each row)", origin.where)
    told.append(
        f"{origin.name}: {read:,} {origin.unit}s read"
        + (f", {empty:,} without text{' or source' * origin.paired} dropped" if empty else "")
        + (f"; stopped at {options.limit:,} training sentences (limit)" if limited else "")
    )
    told.extend(origin.notes)
    return parts


def _cleaned(raw: str, number: int, options: SentenceOptions, origin: Origin) -> str:
    text = clean(raw, options.lower)
    if "\0" in text:
        raise origin.fault(number, f"a NUL character in {shortened(text)}; remove it")
    return text


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
    fits = [_Fit(side, noun, tokenizers[side], options, origin) for side, noun in enumerate(nouns)]
    truncated = dropped = 0
    for parts in zip(*map(chunks, texts), strict=True):
        fitted = [fit(part) for fit, part in zip(fits, parts, strict=True)]
        # A first character of more bytes than max_tokens leaves nothing of its sentence.
        kept = [all(row) for row in zip(*(ids for _, ids in fitted), strict=True)]
        dropped += kept.count(False)
        cut = map(ne, zip(*(shown for shown, _ in fitted), strict=True), zip(*parts, strict=True))
        truncated += sum(map(and_, cut, kept))
        for fit, (shown, ids) in zip(fits, fitted, strict=True):
            fit.keep(compress(shown, kept), compress(ids, kept))
    if not fits[0].texts:
        limits = " or ".join(f"{fit.option}={fit.most}" for fit in fits if fit.most is not None)
        raise DataError(
            f"every sentence of {split} has more than {limits} tokens; raise it or set long=truncate", origin.where
        )
    for fit in fits:
        told.extend(fit.notes(split))
    source = fits[1].side() if len(fits) > 1 else None
    return Split(fits[0].side(), source=source, long=Long(truncated, dropped))


class _Fit:
    """The texts of one side of a split that are kept, and their ids; counts the long ones."""

    def __init__(self, side: int, noun: str, tokenizer: Tokenizer, options: SentenceOptions, origin: Origin) -> None:
        self.option, self.most = (
            ("max_tokens", options.max_tokens),
            ("source_max_tokens", options.source_limit),
        )[side]
        self.noun = noun
        self.texts: list[str] = []
        self._place, self._tokenizer, self._options, self._origin = side, tokenizer, options, origin
        self._tables: list[TokenTable] = []
        self._long = 0

    def __call__(self, texts: Sequence[str]) -> tuple[Sequence[str], list[list[int]]]:
        """Return texts and ids, without any ids where a text is to be dropped."""
        ids = self._tokenizer.encode(texts)
        if self.most is None or max(map(len, ids)) <= self.most:
            return texts, ids
        rows = [self._shortened(text, row, self.most) for text, row in zip(texts, ids, strict=True)]
        return [text for text, _ in rows], [row for _, row in rows]

    def keep(self, texts: Iterable[str], ids: Iterable[list[int]]) -> None:
        """Store some texts with their ids."""
        self.texts.extend(texts)
        self._tables.append(TokenTable.build(list(ids)))

    def side(self) -> Side:
        """Return what was kept."""
        table = TokenTable.joined(self._tables, self._tokenizer.vocabulary.ids)
        return Side(self.texts, self._tokenizer, table)

    def notes(self, split: str) -> list[str]:
        """Say how much was kept, how much was too long and how much is unknown."""
        ids = np.concatenate([table.ids for table in self._tables])
        number, scored = len(self.texts), len(ids) + len(self.texts)
        unknown = int((ids == self._tokenizer.vocabulary.ids.unk).sum()) / max(1, len(ids))
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
