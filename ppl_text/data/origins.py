"""Where texts come from: lines of files, tables, folders with a file for each split, data sets of the hub."""

from __future__ import annotations

import codecs
import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_text.core.errors import DataError, UserError

from .corpus import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset

TABLES = {".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}
"""Endings that ``datasets`` reads, with the name of its reader."""

ENDINGS = (".txt", ".tsv", *TABLES)
"""All endings of a split's file."""

COLUMNS = ("text", "sentence")
"""Columns that are taken for the text where none is named."""

STRINGS = ("string", "large_string")
"""Types of columns that hold texts."""

MESSAGE = 300
"""Most characters of a library's own message that are passed on."""

ALIASES = {"validation": "valid", "dev": "valid", "val": "valid"}
"""What data sets call their splits, where it is not what we call them."""


class Raw(NamedTuple):
    """A line or row as it was read: its number from 1, the text, and, where texts come in pairs, its source."""

    number: int
    sides: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Texts in their order: ``rows()`` reads them, as often as it is called.

    ``name`` stands in notes, ``where`` in errors, ``unit`` says what is numbered, ``notes`` what was noticed.
    """

    name: str
    where: object
    rows: Callable[[], Iterator[Raw]]
    unit: str = "line"
    notes: tuple[str, ...] = ()

    def fault(self, number: int, message: str) -> DataError:
        """Return the error for a line or row."""
        if self.unit == "line":
            return DataError(message, self.where, number)
        return DataError(f"{self.unit} {number}: {message}", self.where)


class Columns(NamedTuple):
    """Names of columns in a recipe: of the text, where it is not found by itself, and of the source, if any."""

    text: str | None = None
    source: str | None = None


def file_origin(path: Path, columns: Columns) -> Origin:
    """Return the sentences of one file: lines of text, ``label<TAB>text`` lines, or columns of a table.

    A ``.tsv``, or a text file whose first line with text has a tab, holds ``label<TAB>text`` lines; labels are not
    used. With a source, a ``.tsv`` is a table with a heading, in which quotes are characters like others. Any ending
    but those of tables is text.

    Raises:
        DataError: a table that cannot be read, or a text file where a source is asked for.
    """
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return _dataset_origin(path.name, path, _load_table(path, TABLES[suffix], {}), columns)
    if columns.source is not None and suffix == ".tsv":
        table = _load_table(path, "csv", {"sep": "\t", "quoting": csv.QUOTE_NONE})
        assumed = f"{path.name}: a table with a heading, separated by tabs; quotes are characters like others"
        return _dataset_origin(path.name, path, table, columns, (assumed,))
    if columns.source is not None:
        raise DataError(
            f"a text file has no column '{columns.source}'; expected pairs (data.source is set) in csv, tsv, jsonl or "
            "parquet, with the names of the columns",
            path,
        )
    labelled = _has_labels(path)
    notes = [f"{path.name}: label<TAB>text lines; the labels are not used"] * labelled
    notes += [f"{path.name}: a text file has no columns; column not used"] * (columns.text is not None)
    lines = _labelled_texts if labelled else text_lines
    return Origin(path.name, path, lambda: (Raw(number, (text,)) for number, text in lines(path)), notes=tuple(notes))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines of a UTF-8 file, blank ones too; raise :class:`DataError` with file and line."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                yield number, decoded(raw, path, number)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", path) from error


def _has_labels(path: Path) -> bool:
    first = next((text for _, text in text_lines(path) if text.strip()), "")
    return path.suffix.lower() == ".tsv" or "\t" in first


def _labelled_texts(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in text_lines(path):
        columns = line.rstrip("\r\n").split("\t")
        if not line.strip():
            yield number, ""
        elif len(columns) == 2:
            yield number, columns[1]
        else:
            raise DataError(
                f"expected two columns, 'label<TAB>text'; got {len(columns)}: {shortened(line.strip())}; plain "
                "sentences belong into a .txt without tabs",
                path,
                number,
            )


def hub_origins(name: str, subset: str | None, columns: Columns) -> dict[str, Origin]:
    """Return the splits of the data set ``name`` (``OWNER/NAME``, or a folder laid out like one), by our names of them.

    Downloaded once and cached where ``datasets`` keeps its files (``$HF_HOME``), read memory-mapped.

    Raises:
        DataError: a data set that is unknown, cannot be reached or has no ``train``.
    """
    from datasets import DatasetDict, load_dataset

    with _reading(f"hub:{name}", "check the name, the connection and, for several configurations, data.subset"):
        found: Any = load_dataset(name, subset)
    if not isinstance(found, DatasetDict):
        raise DataError("expected splits of a data set", f"hub:{name}")
    by_name: dict[str, Dataset] = {ALIASES.get(str(split), str(split)): data for split, data in found.items()}
    if "train" not in by_name:
        raise DataError(f"the data set has no split 'train'; it has {listed(sorted(map(str, found)))}", f"hub:{name}")
    return {
        split: _dataset_origin(f"hub:{name} {split}", f"hub:{name}, split {split}", by_name[split], columns)
        for split in SPLITS
        if split in by_name
    }


def _load_table(path: Path, reader: str, options: Mapping[str, Any]) -> Dataset:
    from datasets import Dataset, load_dataset

    # pandas would take the sentence "null" for a missing one.
    options = {**options, "keep_default_na": False} if reader == "csv" else options
    try:
        with _reading(path, f"give a file that is {reader} as its ending says, with at least one row"):
            data = load_dataset(reader, data_files=str(path), split="train", **options)
    except DataError as error:
        _find_fault(path, reader)
        raise error from error.__cause__
    if not isinstance(data, Dataset):
        raise DataError("expected a table", path)
    return data


def _find_fault(path: Path, reader: str) -> None:
    """Raise :class:`DataError` for the line that a reader stumbled over, where the file is one of text."""
    if reader == "parquet":
        return
    number = 0
    for number, line in text_lines(path):
        try:
            if reader == "json" and line.strip():
                json.loads(line)
        except json.JSONDecodeError as error:
            message = f"not JSON: {error.msg} (character {error.pos + 1}); expected one object on each line"
            raise DataError(message, path, number) from error
    if not number:
        raise DataError("the file is empty; expected a column of texts", path)


def _dataset_origin(name: str, where: object, data: Dataset, columns: Columns, notes: tuple[str, ...] = ()) -> Origin:
    types = {n: str(getattr(f, "dtype", f)) for n, f in data.features.items()}
    if columns.source is not None:
        _check_column(where, types, columns.source, "source")
    text = _text_column(where, {n: t for n, t in types.items() if n != columns.source}, columns.text)
    chosen = [text] if columns.source is None else [text, columns.source]
    if columns.source is not None:
        notes = (*notes, f"{name}: column '{text}' given column '{columns.source}'")
    texts = data.select_columns(chosen)
    return Origin(name, where, lambda: _rows(texts, chosen, where), unit="row", notes=notes)


def _rows(texts: Dataset, columns: Sequence[str], where: object, chunk: int = 1000) -> Iterator[Raw]:
    """Yield numbered texts, ``chunk`` of them in memory at a time; a missing one is empty."""
    for start in range(0, len(texts), chunk):
        try:
            found = texts[start : start + chunk]
        except UnicodeDecodeError as error:
            # The readers of json and parquet take bytes as they are.
            number = _undecodable(texts, start)
            byte = error.object[error.start]
            raise DataError(
                f"row {number}: not UTF-8 text: byte 0x{byte:02X}; convert the file first", where
            ) from error
        sides = zip(*(found[column] for column in columns), strict=True)
        yield from (Raw(number, tuple(text or "" for text in row)) for number, row in enumerate(sides, start + 1))


def _undecodable(texts: Dataset, start: int) -> int:
    """Return the number of the first row from ``start`` on that is not UTF-8."""
    for row in range(start, len(texts)):
        try:
            texts[row]
        except UnicodeDecodeError:
            return row + 1
    return start + 1


def _text_column(where: object, types: Mapping[str, str], column: str | None) -> str:
    """Return the column asked for, or ``text``, or ``sentence``, or the only one of strings."""
    if column is not None:
        return _check_column(where, types, column, "column")
    strings = [name for name, kind in types.items() if kind in STRINGS]
    named = [name for name in COLUMNS if name in strings] or (strings if len(strings) == 1 else [])
    if not named:
        raise DataError(
            f"which column is the text? Its columns are {_described(types)}; set data.column to its name", where
        )
    return named[0]


def _check_column(where: object, types: Mapping[str, str], column: str, option: str) -> str:
    """Return a column that was asked for; raise :class:`DataError` where it is missing or holds no strings."""
    if column not in types:
        advice = f"its columns are {_described(types)}; set data.{option} to one of strings"
        raise DataError(f"no column '{column}'; {advice}", where)
    if types[column] not in STRINGS:
        raise DataError(
            f"column '{column}' holds {types[column]}, not strings; its columns are {_described(types)}", where
        )
    return column


def _described(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "none"


@contextmanager
def _reading(where: object, advice: str) -> Iterator[None]:
    """Let ``datasets`` work in silence; what goes wrong becomes one :class:`DataError`."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(hub_logging.CRITICAL)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries below raise of every kind, pyarrow's own among them
        raise DataError(f"cannot be read: {_reason(error)}; {advice}", where) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _reason(error: BaseException) -> str:
    """Return the first cause in one line: what the libraries wrap says less."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split()) or type(error).__name__
    return (words if len(words) <= MESSAGE else words[: MESSAGE - 1] + "…").rstrip(".")


def split_files(folder: Path, endings: Sequence[str], hint: str = "") -> dict[str, Path]:
    """Return the file of each split that the folder has; train must be there, and none may be there twice.

    ``endings`` are those that are read. Raises :class:`DataError`, with ``hint`` where there is no training file.
    """
    names = [f"train{ending}" for ending in endings]
    expected = f"expected {', '.join(names[:-1])} or {names[-1]} (and, if there are any, valid.* and test.*)"
    try:
        present = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror}", folder) from error
    found = {}
    for split in SPLITS:
        candidates = [f"{split}{ending}" for ending in endings if f"{split}{ending}" in present]
        if len(candidates) > 1:
            raise DataError(f"both {' and '.join(candidates)} are there; keep the one that is meant", folder)
        if candidates:
            found[split] = folder / candidates[0]
    if "train" not in found:
        message = f"no training file in the folder: {expected}; found {listed(present) or 'nothing'}"
        other = any(name.startswith("train.") for name in present)
        raise DataError(message + (f"; {hint}" if hint and other else ""), folder)
    return found


def unread(folder: Path, found: Mapping[str, Path]) -> list[str]:
    """Return a note of the folder's other files, hidden ones excepted; none where there are no others."""
    others = sorted(path.name for path in folder.iterdir() if path not in found.values() and path.name[0] != ".")
    return [f"not read in {folder}: {listed(others)}"] if others else []


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return names in a row, with "and n more" for those beyond ``most``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def decoded(raw: bytes, path: Path, line: int) -> str:
    """Return a line as text, without a byte-order mark; raise :class:`DataError` where it is not UTF-8 or has a NUL."""
    if line == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
    wide = line == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "UTF-16" if wide or b"\0" in raw else "ISO-8859-1"
    try:
        text = raw.decode("utf-8")
        found = "a NUL byte" if "\0" in text else ""
    except UnicodeDecodeError as error:
        text, found = "", f"byte 0x{raw[error.start]:02X} (byte {error.start + 1} of the line)"
    if found:
        raise DataError(
            f"not UTF-8 text: {found}; convert the file first, for example with "
            f"iconv -f {encoding} -t UTF-8 '{path.name}' > new.txt (-f names the encoding that it has)",
            path,
            line,
        )
    return text


def shortened(text: str, width: int = 60) -> str:
    """Return a text in quotes, cut where it is long."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")
