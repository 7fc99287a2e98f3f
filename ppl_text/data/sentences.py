"""Sentences of one corpus, a user's or built in: cleaned, divided, given a vocabulary, encoded once.

What is done to a text, once, before anything else sees it: lower case where asked for, Unicode's NFC, one space for
each run of white space, none at the ends. Where texts come in pairs, the same is done to their sources, which have a
vocabulary of their own.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import compress
from operator import and_, ne
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ppl_text.core.errors import DataError

from .corpus import SPLITS, Corpus, Long, Side, Split, TokenTable, chunks, repeats
from .lines import shortened
from .options import BPE_VOCABULARY, SentenceOptions
from .origins import Columns, Origin, file_origin, hub_origins, split_files, unread
from .shares import untrained_unknown
from .tokenizers import Tokenizer, bpe_tokenizer, open_character_tokenizer, word_tokenizer

Home = Callable[[str], str]
"""A cleaned text to the name of its split."""

Sides: TypeAlias = tuple[list[str], ...]
"""Cleaned texts, and where they come in pairs, their sources."""


def load_sentences(path: Path | str, options: SentenceOptions) -> Corpus:
    """Return the sentences of a FILE, divided as :func:`division` says, or of a DIR.

    A FILE is text with one sentence on each line (``label<TAB>text`` in a ``.tsv``, or where the first line has a
    tab), or csv, JSON or parquet with a column of texts. A DIR needs ``train.{txt,tsv,csv,jsonl,…}``; of ``valid``
    (``val``, ``dev``, ``validation``) and ``test``, one that it lacks is taken from train. ``limit`` is for train
    alone.

    Raises:
        DataError: all that is wrong with the data.
    """
    path, columns = Path(path).expanduser(), Columns(options.column, options.source)
    if os.path.isdir(path):
        found = split_files(path)
        origins = {split: file_origin(file, columns) for split, file in found.items()}
        return _with_missing_splits(str(path), origins, options, unread(path, found))
    if not os.path.isfile(path):
        problem = "neither a file nor a folder" if os.path.exists(path) else "no such file or folder"
        raise DataError(f"{problem}; expected sentences, or a folder with train.txt", path)
    return _with_missing_splits(str(path), {"train": file_origin(path, columns)}, options)


def load_hub(name: str, options: SentenceOptions) -> Corpus:
    """Return the sentences of the data set ``name`` on the Hugging Face hub (or in a folder laid out like one).

    Its splits are ``train`` and, where there are any, ``validation`` (``valid``, ``dev``) and ``test``; one that it
    lacks is taken from train. Raises like :func:`load_sentences`.
    """
    columns = Columns(options.column, options.source)
    return _with_missing_splits(f"hub:{name}", hub_origins(name, options.subset, columns), options)


def _with_missing_splits(
    name: str, origins: Mapping[str, Origin], options: SentenceOptions, notes: Sequence[str] = ()
) -> Corpus:
    missing = [split for split in ("test", "valid") if split not in origins]
    unused = [] if missing else options.unused("seed", "test_share", "valid_share")
    unused += ["subset"] * (options.subset is not None and not name.startswith("hub:"))
    told = [*notes, f"not used: {', '.join(unused)}"] if unused else [*notes]
    if not os.path.isfile(name):
        told += [f"no {split} in {name}: taken from train" for split in missing]
    return assemble(name, origins, options, division(options, missing), told)


def clean(text: str, lower: bool = False) -> str:
    """Return the text as tokenizers see it: NFC, single spaces, in lower case where asked for.

    Example:
        >>> clean("  Cafe\\u0301\\tau  lait\\r\\n", lower=True)
        'café au lait'
    """
    # Lower case first: of J and j with a caron, only the small one has a composed form.
    return " ".join(unicodedata.normalize("NFC", text.lower() if lower else text).split())


def division(options: SentenceOptions, wanted: Collection[str] = ("test", "valid")) -> Home:
    """Return what says to which split a sentence of undivided data belongs: what is scored of it, and the seed.

    u(x) = keyed BLAKE2 of x in lower case, as a number in [0, 1): test where u < test_share, valid where
    test_share ≤ u < test_share + valid_share, else train. x is the sentence without what :func:`_beginning` says is
    cut off. So equal sentences share a split (none of test is in train), adding or sorting lines moves no other, and
    sizes are binomial. Of pairs the source decides. ``wanted`` leaves out a split that comes from elsewhere.
    """
    if not wanted:
        return lambda _: "train"
    key = options.seed.to_bytes(16, "little")
    test, valid = options.test_share, options.test_share + options.valid_share
    regions = [("test", 0.0, test), ("valid", test, valid)]
    taken = [(name, low, high) for name, low, high in regions if name in wanted]
    beginning = _beginning(options)

    def place(text: str) -> str:
        digest = blake2b(clean(beginning(text), lower=True).encode(), digest_size=8, key=key).digest()
        u = int.from_bytes(digest, "little") / 2.0**64
        return next((name for name, low, high in taken if low <= u < high), "train")

    return place


def _beginning(options: SentenceOptions) -> Callable[[str], str]:
    """Return what takes of a text the part that decides its split: equal for texts that are equal once truncated.

    That is the truncated text itself for words and characters, whose tokens are known without a vocabulary. That of
    byte pairs comes from train, and so after the division; but M tokens hold M bytes or more, less the three of a
    character that the cut would part and one space: so many bytes decide.
    """
    most = options.max_tokens if options.source is None else options.source_max_tokens
    if most is None or options.long != "truncate" or options.divide == "whole":
        return lambda text: text
    sure = max(1, most - 4)
    return {
        "word": lambda text: " ".join(text.split()[:most]),
        "character": lambda text: text[:most],
        "bpe": lambda text: text.encode()[:sure].decode(errors="ignore"),
    }[options.tokenizer]


def assemble(
    name: str, origins: Mapping[str, Origin], options: SentenceOptions, home: Home, notes: Sequence[str] = ()
) -> Corpus:
    """Read the texts, build the vocabularies from train, and encode every split.

    Vocabularies are those of train before long sentences are truncated or dropped.

    Args:
        name: of the corpus.
        origins: splits to where they come from, train at least.
        options: how to read, divide and tokenise.
        home: takes the other splits out of train.
        notes: what to tell first.

    Raises:
        DataError: data that cannot be read or leave a split empty.
    """
    told = list(notes)
    found: dict[str, Sides] = {}
    for split, origin in origins.items():
        found |= collected(origin, split, options, home, told)
    of_split = {split: origins.get(split, origins["train"]) for split in SPLITS}
    for split in SPLITS:
        if split not in found or not found[split][0]:
            raise DataError(_too_few(split, found, options), of_split[split].where)
    tokenizers = [_tokenizer(texts, options, origins["train"]) for texts in found["train"]]
    for what, tokenizer in zip(("vocabulary", "vocabulary of the sources"), tokenizers, strict=False):
        told.append(f"{what}: {tokenizer.size:,} symbols ({options.tokenizer}), made from train")
    splits = {split: encoded(split, found.pop(split), tokenizers, options, of_split[split], told) for split in SPLITS}
    splits["train"] = _trained_on(splits["train"], options, tokenizers, told)
    told.extend(untrained_unknown(splits))
    found_twice, noun = repeats(splits), "sentences" if options.source is None else "pairs"
    told.extend(
        f"{split}: {number:,} of {len(splits[split]):,} {noun} stand in {other} too, as they are scored"
        for split, other, number in found_twice
    )
    return Corpus(
        name=name,
        splits=splits,
        notes=tuple(told),
        noun="sentence",
        symbol="token",
        weighted=False,
        clean=partial(clean, lower=options.lower),
        repeats=found_twice,
    )


def _trained_on(train: Split, options: SentenceOptions, tokenizers: Sequence[Tokenizer], told: list[str]) -> Split:
    """Return ``train_limit`` of the training sentences, and the first ``extra_limit`` of ``extra`` behind them."""
    if options.train_limit is not None:
        if options.train_limit > len(train):
            raise DataError(f"train_limit={options.train_limit:,} of {len(train):,} training sentences; lower it")
        order = np.random.default_rng(options.seed).permutation(len(train))
        train = train.take(np.sort(order[: options.train_limit]))
        told.append(f"train: {len(train):,} of them drawn (train_limit)")
    if options.extra is None:
        return train
    origin = file_origin(Path(options.extra).expanduser(), Columns(None, None))
    # A generated text that does not end is as long as there are any.
    free = options.model_copy(update={"limit": None, "long": "truncate"})
    texts = collected(origin, "train", free, lambda _: "train", told)["train"]
    more = encoded("extra", texts, tokenizers, free, origin, told).target
    if options.extra_limit is not None:
        if options.extra_limit > len(more):
            raise DataError(f"extra_limit={options.extra_limit:,} of {len(more):,} sentences; lower it", origin.where)
        more = more.take(np.arange(options.extra_limit))
    table = TokenTable.joined([train.target.table, more.table], more.tokenizer.vocabulary.ids)
    return Split(Side([*train.texts, *more.texts], more.tokenizer, table), long=train.long)


def _too_few(split: str, found: Mapping[str, Sides], options: SentenceOptions) -> str:
    return (
        f"too few sentences to divide: {sum(len(texts) for texts, *_ in found.values()):,} leave none for {split} with "
        f"test_share={options.test_share:g}, valid_share={options.valid_share:g}, seed={options.seed}; give more "
        "sentences or larger shares, or a folder with train, valid and test files"
    )


def collected(origin: Origin, split: str, options: SentenceOptions, home: Home, told: list[str]) -> dict[str, Sides]:
    """Return the cleaned texts of one origin by split; ``told`` hears what was dropped."""
    pairs = options.source is not None
    parts: dict[str, Sides] = {}
    read = empty = 0
    limited = False
    for raw in origin.rows():
        read += 1
        texts = [_cleaned(text, raw.number, options, origin) for text in raw.sides]
        if not all(texts):
            empty += 1
            if options.empty == "refuse":
                what = "no text" if not texts[0] else f"no source in column '{options.source}'"
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
        + (f", {empty:,} without text{' or source' * pairs} dropped" if empty else "")
        + (f"; stopped at {options.limit:,} training sentences (limit)" if limited else "")
    )
    told.extend(origin.notes)
    return parts


def _cleaned(raw: str, number: int, options: SentenceOptions, origin: Origin) -> str:
    text = clean(raw, options.lower)
    if "\0" in text:
        raise origin.fault(number, f"a NUL character in {shortened(text)}; remove it")
    return text


def _tokenizer(texts: Iterable[str], options: SentenceOptions, origin: Origin) -> Tokenizer:
    try:
        if options.tokenizer == "bpe":
            return bpe_tokenizer(texts, vocabulary=options.vocabulary or BPE_VOCABULARY)
        make = {"word": word_tokenizer, "character": open_character_tokenizer}[options.tokenizer]
        return make(texts, vocabulary=options.vocabulary, min_count=options.min_count)
    except DataError as error:
        raise DataError(str(error), origin.where) from error


def encoded(
    split: str,
    texts: Sides,
    tokenizers: Sequence[Tokenizer],
    options: SentenceOptions,
    origin: Origin,
    told: list[str],
) -> Split:
    """Encode both sides of a split, long sentences treated as the options say; a row goes with either side."""
    fits = [_Fit(side, tokenizer, options, origin) for side, tokenizer in enumerate(tokenizers)]
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

    def __init__(self, side: int, tokenizer: Tokenizer, options: SentenceOptions, origin: Origin) -> None:
        self.option, self.most, self.noun = (
            ("max_tokens", options.max_tokens, "sentences"),
            ("source_max_tokens", options.source_max_tokens, "sources"),
        )[side]
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
