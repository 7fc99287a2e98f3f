"""Where sentences come from: lines of text files, or a column that Hugging Face ``datasets`` reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_text.core.errors import DataError, UserError

from .corpus import SPLITS
from .folders import listed
from .reading import decoded, shortened

if TYPE_CHECKING:
    from datasets import Dataset

TABLES = {".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}
"""Endings that ``datasets`` reads, with the name of its reader."""

ENDINGS = (".txt", ".tsv", *TABLES)
"""All endings of a split's file."""

COLUMNS = ("text", "sentence")
"""Columns that are taken for the text where none is named."""

MESSAGE = 300
"""Most characters of a library's own message that are passed on."""

ALIASES = {"validation": "valid", "dev": "valid", "val": "valid"}
"""What data sets call their splits, where it is not what we call them."""


@dataclass(frozen=True)
class Source:
    """Texts in their order: ``rows()`` gives (number from 1, raw text), as often as it is called.

    ``name`` stands in notes, ``where`` in errors, ``unit`` says what is numbered, ``notes`` what was noticed.
    """

    name: str
    where: object
    rows: Callable[[], Iterator[tuple[int, str]]]
    unit: str = "line"
    notes: tuple[str, ...] = ()

    def fault(self, number: int, message: str) -> DataError:
        """What is wrong with a line or row, to be raised."""
        if self.unit == "line":
            return DataError(message, self.where, number)
        return DataError(f"{self.unit} {number}: {message}", self.where)


def file_source(path: Path, column: str | None) -> Source:
    """The sentences of one file: lines of text, ``label<TAB>text`` lines, or a column of csv, jsonl or parquet.

    A ``.tsv``, or a text file whose first line with text has a tab, holds ``label<TAB>text`` lines; labels are not
    used. Any ending but those of tables is text. Raises :class:`DataError` for a table that cannot be read.
    """
    reader = TABLES.get(path.suffix.lower())
    if reader is not None:
        return _dataset_source(path.name, path, _load_table(path, reader), column)
    labelled = _has_labels(path)
    notes = [f"{path.name}: label<TAB>text lines; the labels are not used"] * labelled
    notes += [f"{path.name}: a text file has no columns; column not used"] * (column is not None)
    rows = _labelled_texts if labelled else text_lines
    return Source(path.name, path, lambda: rows(path), notes=tuple(notes))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, blank ones too; raises :class:`DataError` with file and line."""
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


def hub_sources(name: str, subset: str | None, column: str | None) -> dict[str, Source]:
    """Splits of the data set ``name`` (``OWNER/NAME``, or a folder laid out like one), by our names of them.

    Downloaded once and cached where ``datasets`` keeps its files (``$HF_HOME``), read memory-mapped. Raises
    :class:`DataError` for a data set that is unknown, cannot be reached or has no ``train``.
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
        split: _dataset_source(f"hub:{name} {split}", f"hub:{name}, split {split}", by_name[split], column)
        for split in SPLITS
        if split in by_name
    }


def _load_table(path: Path, reader: str) -> Dataset:
    from datasets import Dataset, load_dataset

    # pandas would take the sentence "null" for a missing one.
    options: Mapping[str, Any] = {"keep_default_na": False} if reader == "csv" else {}
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
    """Raise :class:`DataError` for the line that a reader stumbled over, where it is one of text."""
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


def _dataset_source(name: str, where: object, data: Dataset, column: str | None) -> Source:
    chosen = _text_column(where, {n: str(getattr(f, "dtype", f)) for n, f in data.features.items()}, column)
    texts = data.select_columns([chosen])
    return Source(name, where, lambda: _rows(texts, chosen, where), unit="row")


def _rows(texts: Dataset, column: str, where: object, chunk: int = 1000) -> Iterator[tuple[int, str]]:
    """Numbered texts, ``chunk`` of them in memory at a time; a missing one is empty."""
    for start in range(0, len(texts), chunk):
        try:
            found = texts[start : start + chunk][column]
        except UnicodeDecodeError as error:
            # The readers of json and parquet take bytes as they are.
            number = _undecodable(texts, start)
            byte = error.object[error.start]
            raise DataError(
                f"row {number}: not UTF-8 text: byte 0x{byte:02X}; convert the file first", where
            ) from error
        yield from ((start + i, text or "") for i, text in enumerate(found, 1))


def _undecodable(texts: Dataset, start: int) -> int:
    """Number of the first row from ``start`` on that is not UTF-8."""
    for row in range(start, len(texts)):
        try:
            texts[row]
        except UnicodeDecodeError:
            return row + 1
    return start + 1


def _text_column(where: object, types: Mapping[str, str], column: str | None) -> str:
    """The column asked for, or ``text``, or ``sentence``, or the only one of strings."""
    strings = [name for name, kind in types.items() if kind in ("string", "large_string")]
    described = ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "none"
    if column is not None and column not in types:
        raise DataError(f"no column '{column}'; its columns are {described}; set data.column to one of strings", where)
    if column is not None and column not in strings:
        raise DataError(f"column '{column}' holds {types[column]}, not strings; its columns are {described}", where)
    if column is not None:
        return column
    named = [name for name in COLUMNS if name in strings] or (strings if len(strings) == 1 else [])
    if not named:
        raise DataError(f"which column is the text? Its columns are {described}; set data.column to its name", where)
    return named[0]


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
    """The first cause in one line: what the libraries wrap says less."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split()) or type(error).__name__
    return (words if len(words) <= MESSAGE else words[: MESSAGE - 1] + "…").rstrip(".")
