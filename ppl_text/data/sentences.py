"""Sentences of one corpus, a user's or built in: read, divided, given vocabularies, encoded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ppl_text.core.errors import DataError

from .corpus import SPLITS, Corpus, Long, Repeat, Side, Split, TokenTable, repeats
from .options import PRETRAINED, SentenceOptions
from .origins import Columns, Origin, Raw, file_origin, hub_origins
from .reading import Home, Sides, clean, collected, encoded, too_few
from .shares import untrained_unknown
from .split_files import split_files, unread, with_train
from .streams import streamed
from .tokenizers import Tokenizer
from .vocabularies import tokenizers_of


def load_sentences(path: Path | str, options: SentenceOptions) -> Corpus:
    """Return the sentences of a FILE, divided as :func:`division` says, or of a DIR.

    A FILE is text with one sentence on each line (``label<TAB>text`` in a ``.tsv``, or where the first line has a
    tab), or csv, JSON or parquet with a column of texts. A DIR needs ``train.{txt,tsv,csv,jsonl,…}``; of ``valid``
    (``val``, ``dev``, ``validation``) and ``test``, one that it lacks is taken from train; without train, valid takes
    its place. Two parallel files, such as ``train.src`` and ``train.tgt``, hold pairs. ``limit`` is for train alone.

    Raises:
        DataError: all that is wrong with the data.
    """
    path, columns = Path(path).expanduser(), Columns(options.column, options.source)
    if os.path.isdir(path):
        found, told = _trained_on_some(path, split_files(path, columns.endings))
        origins = {split: file_origin(file, columns) for split, file in found.items()}
        told += unread(path, found.values(), columns.endings)
        return _with_missing_splits(str(path), origins, options, told)
    if not os.path.isfile(path):
        problem = "neither a file nor a folder" if os.path.exists(path) else "no such file or folder"
        raise DataError(f"{problem}; expected sentences, or a folder with train.txt", path)
    return _with_missing_splits(str(path), {"train": file_origin(path, columns)}, options)


def _trained_on_some(folder: Path, found: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """Return the files of splits, valid in the place of a train that is missing, and what to tell of that."""
    if "train" in found or "valid" not in found:
        return with_train(folder, found), []
    rest = {split: file for split, file in found.items() if split != "valid"}
    told = f"warning: no training file in {folder}: {found['valid'].name} is trained on, and valid is taken from it"
    return {"train": found["valid"], **rest}, [told]


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
    return assemble(name, origins, options, division(options, missing, origins["train"].paired), told)


def division(options: SentenceOptions, wanted: Collection[str] = ("test", "valid"), paired: bool = False) -> Home:
    """Return what says to which split a sentence of undivided data belongs: what is scored of it, and the seed.

    u(x) = keyed BLAKE2 of x in lower case, as a number in [0, 1): test where u < test_share, valid where
    test_share ≤ u < test_share + valid_share, else train. x is the sentence without what :func:`_beginning` says is
    cut off. So equal sentences share a split (none of test is in train), adding or sorting lines moves no other, and
    sizes are binomial. Of pairs (``paired``) x is the source: none stands in two splits. ``wanted`` leaves out a split
    that comes from elsewhere.
    """
    if not wanted:
        return lambda _: "train"
    key = options.seed.to_bytes(16, "little")
    test, valid = options.test_share, options.test_share + options.valid_share
    regions = [("test", 0.0, test), ("valid", test, valid)]
    taken = [(name, low, high) for name, low, high in regions if name in wanted]
    beginning = _beginning(options, options.source_limit if paired else options.max_tokens)

    def place(text: str) -> str:
        digest = blake2b(clean(beginning(text), lower=True).encode(), digest_size=8, key=key).digest()
        u = int.from_bytes(digest, "little") / 2.0**64
        return next((name for name, low, high in taken if low <= u < high), "train")

    return place


def _beginning(options: SentenceOptions, most: int | None) -> Callable[[str], str]:
    """Return what takes of a text the part that decides its split: equal for texts that are equal once truncated.

    That is the truncated text itself for words and characters, whose tokens are known without a vocabulary. That of
    byte pairs comes from train, and so after the division; but M tokens hold M bytes or more, less the three of a
    character that the cut would part and one space: so many bytes decide.
    """
    if most is None or options.long != "truncate" or options.divide == "whole":
        return lambda text: text
    sure = max(1, most - 4)
    # A pretrained tokenizer may begin with a token for a space that the text has not.
    surely = max(1, most - 5)
    return {
        "word": lambda text: " ".join(text.split()[:most]),
        "character": lambda text: text[:most],
        "bpe": lambda text: text.encode()[:sure].decode(errors="ignore"),
        PRETRAINED: lambda text: text.encode()[:surely].decode(errors="ignore"),
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
    if options.sources == "text":
        origins = {split: read_as_sources(origin) for split, origin in origins.items()}
    told += _check_sides(name, origins, options)
    if options.stream:
        return streamed(name, origins, options, home, told)
    found: dict[str, Sides] = {}
    for split, origin in origins.items():
        found |= collected(origin, split, options, home, told)
    if options.sources == "none":
        found = {split: sides[:1] for split, sides in found.items()}
    of_split = {split: origins.get(split, origins["train"]) for split in SPLITS}
    for split in SPLITS:
        if split not in found or not found[split][0]:
            texts = sum(len(sides[0]) for sides in found.values())
            raise DataError(too_few(split, texts, options), of_split[split].where)
    tokenizers = tokenizers_of(found, options, origins["train"], told)
    splits = {split: encoded(split, found.pop(split), tokenizers, options, of_split[split], told) for split in SPLITS}
    splits["train"] = _trained_on(splits["train"], options, tokenizers, told)
    told.extend(untrained_unknown(splits))
    found_twice = repeats(splits)
    told.extend(_told_twice(splits, found_twice, apart=options.sources == "given"))
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


def read_as_sources(origin: Origin) -> Origin:
    """Return the texts of an origin, each with itself as its source."""
    notes = [f"{origin.name}: each text is its own source (sources=text)"]
    notes += [f"{origin.name}: the sources in {origin.source} are not read"] * origin.paired

    def rows() -> Iterator[Raw]:
        return (raw._replace(sides=raw.sides[:1] * 2) for raw in origin.rows())

    return replace(origin, rows=rows, notes=(*origin.notes, *notes), source="the text itself")


def without_sources(origin: Origin) -> Origin:
    """Return the texts of an origin alone, and say so where they have sources."""
    if not origin.paired:
        return origin

    def rows() -> Iterator[Raw]:
        return (raw._replace(sides=raw.sides[:1]) for raw in origin.rows())

    notes = (*origin.notes, f"{origin.name}: the sources in {origin.source} are not read")
    return replace(origin, rows=rows, notes=notes, source="")


def _check_sides(name: str, origins: Mapping[str, Origin], options: SentenceOptions) -> list[str]:
    """Raise where some splits have sources and others none, or options want some; return what is not used of them."""
    paired = {split: origin.paired for split, origin in origins.items()}
    if len(set(paired.values())) > 1:
        has = ", ".join(f"{split} {'has' if there else 'lacks'} sources" for split, there in paired.items())
        raise DataError(f"all splits need sources, or none: {has}; give pairs throughout", name)
    about = ", ".join(options.unused("source_max_tokens", "source_vocabulary", "shared_vocabulary"))
    if about and not paired["train"] and options.sources == "given":
        raise DataError(
            f"it has no sources, which {about} is about; expected pairs: a table with columns source and target (or "
            "data.source and data.column with their names), parallel files train.src and train.tgt, or "
            "data.sources=text, by which each text is its own source",
            name,
        )
    if options.extra is not None and paired["train"] and options.sources != "none":
        raise DataError("extra sentences have no sources: expected none (data.extra) where texts come in pairs", name)
    told = []
    if options.sources == "none" and paired["train"]:
        told.append("the sources are not read (sources=none); of undivided data they decide the split all the same")
    if about and options.sources != "given":
        told.append(f"not used, with sources={options.sources}: {about}")
    return told


def _told_twice(splits: Mapping[str, Split], whole: Iterable[Repeat], apart: bool) -> Iterator[str]:
    """Say what stands in two splits, as it is scored: sentences, or pairs and, ``apart``, each side of them."""
    sources = {name: Split(split.source) for name, split in splits.items() if split.source is not None}
    found = [("sentences", whole)]
    if sources and apart:
        targets = {name: Split(split.target) for name, split in splits.items()}
        found = [("pairs", whole), ("targets", repeats(targets)), ("sources", repeats(sources))]
    for noun, twice in found:
        for split, other, number in twice:
            yield f"{split}: {number:,} of {len(splits[split]):,} {noun} stand in {other} too, as they are scored"


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
    origin = without_sources(file_origin(Path(options.extra).expanduser(), Columns()))
    # A generated text that does not end is as long as there are any.
    free = options.model_copy(update={"limit": None, "long": "truncate"})
    texts = collected(origin, "train", free, lambda _: "train", told)["train"]
    more = encoded("extra", texts, tokenizers, free, origin, told)
    if options.extra_limit is not None:
        if options.extra_limit > len(more):
            raise DataError(f"extra_limit={options.extra_limit:,} of {len(more):,} sentences; lower it", origin.where)
        more = more.take(np.arange(options.extra_limit))
    tables, tokenizer = [split.target.table for split in (train, more)], more.target.tokenizer
    side = Side([*train.texts, *more.texts], tokenizer, TokenTable.joined(tables, tokenizer.vocabulary.ids))
    long = Long(train.long.truncated + more.long.truncated, train.long.dropped + more.long.dropped)
    return Split(side, long=long, read=train.read + more.read)
