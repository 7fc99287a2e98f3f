"""Corpora larger than memory: their ids are written to files once, found again by content, and read in parts.

The files lie in a folder of the cache (:func:`cache_folder`), whose name is a digest of the text files' content and of
all that decides how they become ids. It is whole or not there, and one process at a time makes it.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ppl_text.core.atomic import refused, write_atomically
from ppl_text.core.errors import DataError, UserError
from ppl_text.core.locks import is_alive, locked_in_turn
from ppl_text.core.reading import read_regular
from ppl_text.core.watching import tell

from .corpus import CHUNK, SPLITS, Corpus, Long, Repeat, Split, repeats
from .options import PRETRAINED, SentenceOptions
from .origins import Origin, Raw
from .reading import Fit, Home, Placed, clean, none_left, too_few
from .shares import untrained_unknown
from .stored import (
    IDS,
    KINDS,
    PLACES,
    FileTexts,
    SplitWriter,
    StoredSide,
    StoredSplit,
    StoredTable,
    TextFile,
    Written,
    arrays_of,
    file_of,
)
from .tokenizers import Tokenizer
from .vocabularies import fitted_on, pretrained_tokenizers, tokenizer_of, vocabulary_note

FORMAT = 1
"""Of the files: another one has another folder."""

CACHE = "PPL_TEXT_CACHE"
"""Environment variable that names the folder in which caches lie."""

FACTS, TOKENIZER = "facts.json", "tokenizer.json"

PARTIAL = ".partial"
"""Ending of a folder that is being written, which has the name of the process that writes it."""

_HOST = "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())

FILES = {FACTS, TOKENIZER, *(f"{split}.{name}" for split in SPLITS for name in KINDS)}
"""All that a folder of the cache holds."""

BPE_CHARACTERS = 2**26
"""Characters of the texts, at most, that byte pairs are learned from."""

SAMPLE = 1000
"""Sentences by which the size of the files is estimated."""

NOTICE = 10_000
"""Rows after which it is told how far a pass is."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitFacts(_Facts):
    """What is known of a split; ``by_length``: (scored length, sentences), ``digests``: SHA-256 (hex) by file."""

    rows: int
    tokens: int
    by_length: tuple[tuple[int, int], ...]
    digests: dict[str, str]
    truncated: int
    dropped: int
    fingerprint: str = ""


class Facts(_Facts):
    """What is known of a corpus: all but its texts and ids."""

    key: str
    notes: tuple[str, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    splits: dict[str, SplitFacts]


class _DamagedError(ValueError):
    """Files of the cache are not what was written."""


def streamed(
    name: str, origins: Mapping[str, Origin], options: SentenceOptions, home: Home, told: Sequence[str]
) -> Corpus:
    """Return a corpus whose splits are on disk, and write them there where they are not.

    Args:
        name: of the corpus.
        origins: splits to where they come from, train at least: text files.
        options: how to read, divide and tokenise.
        home: takes the other splits out of train.
        told: what to tell first.

    Raises:
        DataError: data that are no lines of text, cannot be read or leave a split empty.
        UserError: a cache that cannot be written or has no room.
        CheckpointError: the machine refuses while it is written.
    """
    for origin in origins.values():
        if origin.line is None:
            raise DataError(
                "data.stream reads text files with a sentence on each line, or label<TAB>text, and this is no such "
                "file (but a table, pairs, or built in); write its texts into a .txt, or leave data.stream out",
                origin.where,
            )
    notes = list(told)
    files = {split: TextFile(Path(str(o.where)), o.line) for split, o in origins.items() if o.line is not None}
    ready = pretrained_tokenizers(1, options, notes)[0] if options.tokenizer == PRETRAINED else None
    maker = _Maker(origins, files, options, home, ready)
    folder = cache_folder() / maker.key
    try:
        facts, tokenizer = _checked(folder, maker.key)
    except FileNotFoundError:
        facts, tokenizer = _made_once(folder, maker, notes)
    except _DamagedError as damage:
        notes.append(f"warning: {damage}: {folder} is made anew")
        facts, tokenizer = _made_once(folder, maker, notes)
    splits = {split: maker.split(folder, split, facts.splits[split], tokenizer) for split in SPLITS}
    size = sum(path.stat().st_size for path in folder.iterdir())
    rows = sum(len(split) for split in splits.values())
    where = f"streamed: the ids of {rows:,} sentences are kept in {folder} ({mebibytes(size)})"
    return Corpus(
        name=name,
        splits=splits,
        notes=(*notes, *facts.notes, where),
        noun="sentence",
        symbol="token",
        weighted=False,
        clean=partial(clean, lower=options.lower),
        repeats=facts.repeats,
    )


def cache_folder() -> Path:
    """Return where streamed corpora are kept: ``$PPL_TEXT_CACHE``, else ``ppl_text`` in the user's cache."""
    own = os.environ.get(CACHE) or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ppl_text")
    return Path(os.path.abspath(os.path.expanduser(own))) / "streams"


def mebibytes(size: float) -> str:
    """Return a size in words."""
    return f"{size / 2**20:z,.1f} MiB" if size < 2**30 else f"{size / 2**30:z,.1f} GiB"


# -- what is there ----------------------------------------------------------------------------------


def _checked(folder: Path, key: str) -> tuple[Facts, Tokenizer]:
    """Return what a folder of the cache says; or raise ``FileNotFoundError`` or :class:`_DamagedError`."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        facts = Facts.model_validate_json(read_regular(folder / FACTS))
        tokenizer = Tokenizer.load(folder / TOKENIZER)
    except (OSError, ValidationError, UserError) as error:
        raise _DamagedError(f"{FACTS} or {TOKENIZER} of the cache cannot be read") from error
    if facts.key != key or set(facts.splits) != set(SPLITS):
        raise _DamagedError(f"{FACTS} of the cache is of another corpus")
    for split, known in facts.splits.items():
        for name, digest in known.digests.items():
            path = file_of(folder, split, name)
            tell(f"checking {path.name} of the cache")
            if _digest(path) != digest:
                raise _DamagedError(f"{path.name} of the cache is damaged")
    return facts, tokenizer


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


# -- making it --------------------------------------------------------------------------------------


def _made_once(folder: Path, maker: _Maker, notes: list[str]) -> tuple[Facts, Tokenizer]:
    """Make a folder of the cache, in the place of a damaged one, or wait for the process that makes it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked_in_turn(folder.with_suffix(".lock"), folder, lambda who: tell(f"waiting: {who}")):
            try:
                return _checked(folder, maker.key)
            except FileNotFoundError:
                maker.make(folder)
            except _DamagedError:
                _remove(folder)
                maker.make(folder)
    except OSError as error:
        raise UserError(
            f"the cache of data.stream cannot be written in {folder.parent}: {error.strerror}; name another folder "
            f"with the environment variable {CACHE}"
        ) from error
    return _checked(folder, maker.key)


def _remove(folder: Path) -> None:
    """Remove a folder of the cache; raise :class:`UserError` where it holds something else."""
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in FILES or path.is_dir())
    if foreign or folder.is_symlink():
        raise UserError(f"{folder} is no cache of data.stream: it holds {', '.join(foreign[:3])}; move it elsewhere")
    shutil.rmtree(folder)


def _remove_orphans(folder: Path) -> None:
    """Remove what processes of this machine that were killed have left beside a folder of the cache."""
    for path in folder.parent.glob(f"{glob.escape(folder.name)}.{glob.escape(_HOST)}-*{PARTIAL}"):
        if not is_alive(int(path.name.removesuffix(PARTIAL).rpartition("-")[2])):
            shutil.rmtree(path, ignore_errors=True)


class _Maker:
    """Reads text files and writes their splits: once for the vocabulary, once for the ids.

    Args:
        origins: splits to the texts that they come from.
        files: the same files, by which texts are read again.
        options: how they are read.
        home: takes the other splits out of train.
        tokenizer: of a pretrained model; None: one is made.
    """

    def __init__(
        self,
        origins: Mapping[str, Origin],
        files: Mapping[str, TextFile],
        options: SentenceOptions,
        home: Home,
        tokenizer: Tokenizer | None,
    ) -> None:
        self._origins, self._files, self._options, self._home = origins, files, options, home
        self._ready = tokenizer

    @property
    def key(self) -> str:
        """Digest of all that decides the ids."""
        decisive = {
            "format": FORMAT,
            "options": self._options.model_dump(mode="json", exclude={"pretrained"}),
            "tokenizer": "" if self._ready is None else self._ready.fingerprint,
            "files": {split: [file.path.name, file.digest] for split, file in self._files.items()},
            "notes": [origin.notes for origin in self._origins.values()],
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]

    def split(self, folder: Path, split: str, facts: SplitFacts, tokenizer: Tokenizer) -> StoredSplit:
        """Return a split whose files lie in a folder."""
        arrays = arrays_of(folder, split, facts.rows, facts.tokens)
        table = StoredTable(arrays["ids"], arrays["offsets"], tokenizer.vocabulary.ids)
        file, options = self._files.get(split, self._files["train"]), self._options
        texts = FileTexts(file, arrays[PLACES], tokenizer, options.max_tokens, lower=options.lower)
        side = StoredSide(texts, tokenizer, table, facts.by_length)
        return StoredSplit(side, Long(facts.truncated, facts.dropped), facts.fingerprint)

    def make(self, folder: Path) -> None:
        """Write the folder, whole or not at all; that of another process that was first, and no lock held, stays."""
        _remove_orphans(folder)
        partial_folder = folder.with_name(f"{folder.name}.{_HOST}-{os.getpid()}{PARTIAL}")
        try:
            partial_folder.mkdir()
            self._write(partial_folder)
            os.replace(partial_folder, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        told: list[str] = []
        tokenizer = self._ready or self._learned(told)
        self._check_room(folder, tokenizer)
        with _saving(folder):
            tokenizer.save(folder / TOKENIZER)
            read, encoders = self._encoded(folder, tokenizer)
        facts = {split: encoder.facts for split, encoder in encoders.items()}
        splits = {split: self.split(folder, split, known, tokenizer) for split, known in facts.items()}
        for split, encoder in encoders.items():
            told += encoder.fit.notes(split, splits[split].target)
        told += untrained_unknown(splits)
        tell("looking for sentences that stand in two splits")
        twice = repeats(splits)
        told += [
            f"{split}: {number:,} of {len(splits[split]):,} sentences stand in {other} too, as they are scored"
            for split, other, number in twice
        ]
        for split, known in facts.items():
            tell(f"reading {split} again for its fingerprint")
            texts = Split(splits[split].target).fingerprint
            facts[split] = known.model_copy(update={"fingerprint": texts})
        for file in self._files.values():
            file.check()
        found = Facts(key=self.key, notes=(*read, *told), repeats=twice, splits=facts)
        write_atomically(folder / FACTS, lambda file: file.write(found.model_dump_json().encode()))

    def _placed(self, split: str) -> Placed:
        return Placed(self._origins[split], split, self._options, self._home)

    def _rows(self, split: str, placed: Placed, what: str) -> Iterator[tuple[str, Raw]]:
        """Yield the rows of an origin, telling how far it is."""
        file = self._files[split]
        for number, found in enumerate(placed):
            if number % NOTICE == 0:
                tell(f"{what} of {file.path.name}, by bytes", found[1].place, file.size)
            yield found

    def _learned(self, told: list[str]) -> Tokenizer:
        """Make the tokenizer; words and characters are counted, byte pairs learned from a sample."""
        options, texts = self._options, self._texts(fitted_on(self._options))
        where = self._origins["train"]
        if options.tokenizer != "bpe":
            found = tokenizer_of(texts, options, options.vocabulary, where)
            told.append(vocabulary_note(found, options))
            return found
        sample = _sampled(texts, BPE_CHARACTERS, options.seed)
        found = tokenizer_of(sample.texts, options, options.vocabulary, where)
        of = f", of {len(sample.texts):,} of {sample.read:,} sentences" * (len(sample.texts) < sample.read)
        told.append(vocabulary_note(found, options) + of)
        return found

    def _texts(self, over: Sequence[str]) -> Iterator[str]:
        """Yield the texts of some splits; raises where there is none for a split."""
        read = dict.fromkeys(SPLITS, 0)
        for split in self._origins:
            for name, raw in self._rows(split, self._placed(split), "vocabulary"):
                read[name] += 1
                if name in over:
                    yield raw.sides[0]
        self._check_all(read)

    def _check_all(self, read: Mapping[str, int]) -> None:
        """Raise :class:`DataError` where no text was read for a split."""
        for split, number in read.items():
            if not number:
                raise DataError(too_few(split, sum(read.values()), self._options), self._origin_of(split).where)

    def _origin_of(self, split: str) -> Origin:
        return self._origins.get(split, self._origins["train"])

    def _check_room(self, folder: Path, tokenizer: Tokenizer) -> None:
        """Raise :class:`UserError` where the disk is too small, by what the first sentences take."""
        need = 0.0
        for split, file in self._files.items():
            texts = [raw.sides[0] for _, raw in islice(self._placed(split), SAMPLE)]
            tokens, size = sum(map(len, tokenizer.encode(texts))), sum(len(text.encode()) + 1 for text in texts)
            rows = file.size / size * len(texts)
            if split == "train" and (limit := self._options.limit) is not None:
                rows = min(rows, limit / (1 - self._options.test_share - self._options.valid_share))
            by_sentence = sum(kind.itemsize for name, kind in KINDS.items() if name != IDS)
            need += rows * (by_sentence + KINDS[IDS].itemsize * tokens / len(texts))
        free = shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"data.stream takes about {mebibytes(need)} in {folder.parent}, where {mebibytes(free)} are free; make "
                f"room, or name a folder on another disk with the environment variable {CACHE}"
            )

    def _encoded(self, folder: Path, tokenizer: Tokenizer) -> tuple[list[str], dict[str, _Encoder]]:
        """Write the ids of all texts; return what was read, and who wrote each split."""
        read: list[str] = []
        encoders: dict[str, _Encoder] = {}
        try:
            for split in SPLITS:
                fit = Fit(0, "sentences", tokenizer, self._options, self._origin_of(split))
                encoders[split] = _Encoder(fit, SplitWriter(folder, split))
            for split in self._origins:
                placed = self._placed(split)
                for name, raw in self._rows(split, placed, "ids"):
                    encoders[name].add(raw.sides[0], raw.place)
                read += placed.notes
            self._check_all({split: encoder.read for split, encoder in encoders.items()})
            for split, encoder in encoders.items():
                if not encoder.close().rows:
                    raise none_left(split, [encoder.fit], self._origin_of(split))
        finally:
            for encoder in encoders.values():
                encoder.writer.abandon()
        return read, encoders


class _Encoder:
    """Makes ids of the texts of a split, in chunks, and writes them."""

    def __init__(self, fit: Fit, writer: SplitWriter) -> None:
        self.fit, self.writer = fit, writer
        self.read = self._truncated = self._dropped = 0
        self._texts: list[str] = []
        self._places: list[int] = []
        self._written: Written | None = None

    def add(self, text: str, place: int) -> None:
        """Take up a text, whose line begins at a place."""
        self._texts.append(text)
        self._places.append(place)
        self.read += 1
        if len(self._texts) == CHUNK:
            self._flush()

    def close(self) -> Written:
        """Write what is left and return what was written."""
        if self._texts:
            self._flush()
        self._written = self.writer.close()
        return self._written

    @property
    def facts(self) -> SplitFacts:
        """What is known of the split, once it is written."""
        if self._written is None:
            raise ValueError("nothing is known before close()")
        w = self._written
        return SplitFacts(
            rows=w.rows,
            tokens=w.tokens,
            by_length=w.by_length,
            digests=w.digests,
            truncated=self._truncated,
            dropped=self._dropped,
        )

    def _flush(self) -> None:
        shown, ids = self.fit(self._texts)
        kept = [bool(row) for row in ids]
        cut = [one != other for one, other in zip(shown, self._texts, strict=True)]
        places = [~place if short else place for place, short in zip(self._places, cut, strict=True)]
        self._dropped += kept.count(False)
        self._truncated += sum(one and other for one, other in zip(cut, kept, strict=True))
        keep = [i for i, row in enumerate(kept) if row]
        self.writer.add([places[i] for i in keep], [ids[i] for i in keep])
        self._texts, self._places = [], []


@contextmanager
def _saving(folder: Path) -> Iterator[None]:
    """Turn what the machine refuses into :class:`CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise refused(folder, error) from error


class _Sample(NamedTuple):
    """Texts drawn from more of them, and how many were read."""

    texts: list[str]
    read: int


def _sampled(texts: Iterable[str], most: int, seed: int) -> _Sample:
    """Draw texts of ``most`` characters in all, or take all where they have no more; each is as likely."""
    rng = np.random.default_rng(seed)
    share, read, size = 1.0, 0, 0
    kept: list[tuple[float, str]] = []
    for text in texts:
        read, place = read + 1, rng.random()
        if place >= share:
            continue
        kept.append((place, text))
        size += len(text)
        while size > most and len(kept) > 1:
            share /= 2
            kept = [one for one in kept if one[0] < share] or kept[:1]
            size = sum(len(one) for _, one in kept)
    return _Sample([text for _, text in kept], read)
