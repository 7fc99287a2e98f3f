"""Where texts come from: lines of files, tables, folders with a file for each split, data sets of the hub."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_text.core.errors import DataError, UserError
from ppl_text.core.limits import pass_on_memory_errors
from ppl_text.core.printing import shortened
from ppl_text.core.reading import parse_json

from .corpus import SPLITS
from .lines import decoded, fault, listed, raw_lines, refuse_packed, text_lines
from .split_files import ALIASES, JSON, parallel_to
from .table_files import (
    SAMPLE,
    Table,
    Values,
    csv_table,
    has_name,
    is_heading,
    json_table,
    parquet_table,
    strings_of,
    tab_table,
)

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("text", "sentence")
"""Columns that are taken for the text where none is named."""

PAIRS = (("target", "source"), ("question", "answer"), ("reply", "line"))
"""Columns that are taken for a text and its source where none is named: a question is asked about its answer."""

HUB_STRINGS = ("string", "large_string", "string_view")
"""What ``datasets`` calls columns that hold texts."""

MESSAGE = 300
"""Most characters of a library's own message that are passed on."""


class Raw(NamedTuple):
    """A line or row as it was read: its number from 1, the text, and, where texts come in pairs, its source.

    ``place`` is the byte of the file where a line begins; -1 for what is no line.
    """

    number: int
    sides: tuple[str, ...]
    place: int = -1


@dataclass(frozen=True)
class Origin:
    """Texts in their order: ``rows()`` reads them, as often as it is called.

    ``name`` stands in notes, ``where`` in errors, ``unit`` says what is read, ``notes`` what was noticed; ``numbered``
    is what the numbers are of, where that is not the unit: a row of csv may go over several lines. ``source`` says
    where the source of each text stands; it is empty where there are none. ``line`` makes a text of the bytes and the
    number of a line; None where rows are no lines of one file, which then is ``where``.
    """

    name: str
    where: object
    rows: Callable[[], Iterator[Raw]]
    unit: str = "line"
    notes: tuple[str, ...] = ()
    numbered: str = ""
    source: str = ""
    line: Callable[[bytes, int], str] | None = None

    @property
    def paired(self) -> bool:
        """Whether a source stands beside each text."""
        return bool(self.source)

    def fault(self, number: int, message: str) -> DataError:
        """Return the error for a line or row."""
        return fault(self.where, self.numbered or self.unit, number, message)


class Columns(NamedTuple):
    """Names of columns in a recipe: of the text, where it is not found by itself, and of the source, if any.

    Of parallel files they are the endings.
    """

    text: str | None = None
    source: str | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The names that are given."""
        return tuple(name for name in self if name is not None)

    @property
    def endings(self) -> tuple[str, str]:
        """Endings, or beginnings, of the names of parallel files: of texts and of their sources."""
        return self.text or "tgt", self.source or "src"


def file_origin(path: Path, columns: Columns) -> Origin:
    """Return the sentences of one file: lines of text, ``label<TAB>text`` lines, or columns of a table.

    Endings of tables are those of csv, JSON and parquet. A ``.tsv``, or a text file whose first line with text has a
    tab, is a table where that line is a heading with the name of the column; else it holds ``label<TAB>text`` lines,
    whose labels are not used. Any other ending is text. One of two parallel files (``x.src`` and ``x.tgt``, or
    ``src-x.txt`` and ``tgt-x.txt``) stands for both.

    Raises:
        DataError: a table that cannot be read, or a text file where a source is asked for.
    """
    parallel = parallel_to(path, columns.endings)
    if parallel is not None:
        return parallel_origin(*parallel)
    names = columns.asked if columns.text else (*COLUMNS, *(columns.asked or chain.from_iterable(PAIRS)))
    table = table_of(path, names, columns.asked)
    if table is not None:
        return table_origin(path.name, table, columns)
    if columns.source is not None:
        raise DataError(
            f"a text file has no column '{columns.source}'; expected pairs (data.source is set) in csv, tsv, jsonl or "
            "parquet, with the names of the columns, or in parallel files, such as NAME.src beside NAME.tgt",
            path,
        )
    labelled = is_tabbed(path)
    notes = [f"{path.name}: label<TAB>text lines; the labels are not used"] * labelled
    notes += [f"{path.name}: a text file has no columns; column not used"] * (columns.text is not None)
    line = partial(_behind_label if labelled else _whole_line, path)

    def rows() -> Iterator[Raw]:
        return (Raw(number, (line(raw, number),), place) for number, place, raw in raw_lines(path))

    return Origin(path.name, path, rows, notes=tuple(notes), line=line)


def table_of(path: Path, names: Collection[str], asked: Collection[str] = ()) -> Table | None:
    """Return the table that a file holds, or None where it is one of text.

    Args:
        path: of the file.
        names: by which a heading is known: of the columns that will be looked for.
        asked: those of them that a recipe names; a file between tabs then has a heading.

    Raises:
        DataError: a table that cannot be read, or text that is JSON.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return csv_table(path, names)
    if suffix in JSON:
        return json_table(path, asked)
    if suffix == ".parquet":
        return parquet_table(path)
    first = _first_line(path)
    if is_tabbed(path) and (asked or is_heading(first.split("\t"), names)):
        return tab_table(path, names)
    if first.startswith("{") and _is_object(first):
        raise DataError("its first line is an object of JSON; give the file the ending .jsonl", path)
    return None


def is_tabbed(path: Path) -> bool:
    """Tell whether fields stand between tabs: in a ``.tsv``, and where the first line with text has a tab."""
    return path.suffix.lower() == ".tsv" or "\t" in _first_line(path)


def _first_line(path: Path) -> str:
    return next((text.strip() for _, text in text_lines(path) if text.strip()), "")


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _whole_line(path: Path, raw: bytes, number: int) -> str:
    return decoded(raw, path, number)


def _behind_label(path: Path, raw: bytes, number: int) -> str:
    line = decoded(raw, path, number)
    columns = line.rstrip("\r\n").split("\t")
    if not line.strip():
        return ""
    if len(columns) != 2:
        raise DataError(
            f"expected two columns, 'label<TAB>text'; got {len(columns)}: {shortened(line.strip())}; plain "
            "sentences belong into a .txt without tabs; a table needs a heading, such as 'text'",
            path,
            number,
        )
    return columns[1]


# -- parallel files ---------------------------------------------------------------------------------


def parallel_origin(target: Path, source: Path) -> Origin:
    """Return texts with their sources, line by line; what differs in its number of lines is refused as it is read."""

    def rows() -> Iterator[Raw]:
        lines = zip_longest(text_lines(target), text_lines(source))
        for read, (text, given) in enumerate(lines):
            if text is None or given is None:
                more = read + 1 + sum(1 for _ in lines)
                texts, sources = (read, more) if text is None else (more, read)
                raise DataError(
                    f"{texts:,} lines, and {source.name} has {sources:,}; expected as many: line i of the one is the "
                    "source of line i of the other",
                    target,
                )
            yield Raw(text[0], (text[1], given[1]))

    note = f"{target.name}: the source of each line stands in {source.name}"
    return Origin(target.name, target, rows, notes=(note,), source=source.name)


# -- columns ----------------------------------------------------------------------------------------


def table_origin(name: str, table: Table, columns: Columns) -> Origin:
    """Return the texts of a table, and their sources where they are asked for; its note says which columns are read."""
    known = None if columns.asked else known_pair(table)
    source = None if columns.source is None else asked_column(table, columns.source, "source")
    text, source = known or (text_column(table, columns.text, COLUMNS, apart_from=source), source)
    read = f"column '{text}' given column '{source}'" if source is not None else f"column '{text}' is the text"
    read += "" if columns.text or known or has_name([text], COLUMNS) else ", the only one of strings"
    chosen = [text] if source is None else [text, source]

    def rows() -> Iterator[Raw]:
        for number, values in table.read(chosen):
            yield Raw(number, tuple(as_text(v, table, number, name) for v, name in zip(values, chosen, strict=True)))

    note = "; ".join(part for part in (f"{name}: {read}", table.assumed) if part)
    beside = "" if source is None else f"column '{source}'"
    return Origin(name, table.where, rows, unit="row", notes=(note,), numbered=table.numbered, source=beside)


def known_pair(table: Table) -> tuple[str, str] | None:
    """Return the columns of the first of :data:`PAIRS` that is there, if no column is called like a lone text."""
    if any(table.column(name) in table.likely for name in COLUMNS):
        return None
    found = ((table.column(text), table.column(source)) for text, source in PAIRS)
    return next(((t, s) for t, s in found if t in table.likely and s in table.likely if t and s), None)


def as_text(value: Any, table: Table, number: int, column: str) -> str:
    """Return a value as a text, a missing one as an empty one; raise :class:`DataError` where it is something else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        held = shortened(json.dumps(value, ensure_ascii=False))[1:-1]
        raise table.fault(number, f"column '{column}' holds {held}, which is no string; write it in quotes")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise table.fault(number, f"column '{column}' holds half of a surrogate pair; mend it") from error
    return value


def text_column(table: Table, asked: str | None, names: Sequence[str], apart_from: str | None = None) -> str:
    """Return the column asked for, or the first of the ``names`` that is there, or the only one of strings.

    ``apart_from`` is a column that is something else. Raises :class:`DataError` where none is the one.
    """
    if asked is not None:
        column = asked_column(table, asked, "column")
        if column == apart_from:
            raise DataError(f"column '{column}' is asked for twice; name another", table.where)
        return column
    named = (table.column(name) for name in names)
    found = [column for column in named if column is not None and column in table.texts and column != apart_from]
    likely = [name for name in table.likely if name != apart_from]
    if not found and len(likely) != 1:
        raise DataError(
            f"which column is the text? Its columns are {table.described()}; set data.column to its name", table.where
        )
    return (found or likely)[0]


def asked_column(table: Table, name: str, option: str, fitting: Collection[str] | None = None) -> str:
    """Return a column that was asked for; raise :class:`DataError` where it is missing or not among the ``fitting``.

    Those are the ones of strings where nothing else is said.
    """
    column = table.column(name)
    if column is None:
        advice = f"its columns are {table.described()}; set data.{option} to one of them"
        raise DataError(f"no column '{name}'; {advice}", table.where)
    if column not in (table.texts if fitting is None else fitting):
        kind = table.kinds[column]
        raise DataError(f"column '{name}' holds {kind}, not strings; its columns are {table.described()}", table.where)
    return column


# -- data sets of the hub ---------------------------------------------------------------------------


def hub_origins(name: str, subset: str | None, columns: Columns) -> dict[str, Origin]:
    """Return the splits of the data set ``name`` (``OWNER/NAME``, or a folder laid out like one), by our names of them.

    Downloaded once and cached where ``datasets`` keeps its files (``$HF_HOME``), by the commit on the hub. What is made
    of a folder is removed there as soon as it is mapped into memory, so that the cache does not grow.

    Raises:
        DataError: a data set that is unknown, cannot be reached or has no ``train``; a folder with an archive in it.
    """
    from datasets import DatasetDict

    with _reading(f"hub:{name}", "check the name, the connection and, for several configurations, data.subset"):
        found = _loaded(name, subset)
    if not isinstance(found, DatasetDict):
        raise DataError("expected splits of a data set", f"hub:{name}")
    by_name: dict[str, Dataset] = {ALIASES.get(str(split), str(split)): data for split, data in found.items()}
    if "train" not in by_name:
        raise DataError(f"the data set has no split 'train'; it has {listed(sorted(map(str, found)))}", f"hub:{name}")
    return {
        split: table_origin(f"hub:{name} {split}", _table(by_name[split], f"hub:{name}, split {split}"), columns)
        for split in SPLITS
        if split in by_name
    }


def _loaded(name: str, subset: str | None) -> Any:
    """Return what ``datasets`` makes of a name; of a folder, which it would unpack by content, archives are refused."""
    from datasets import config, load_dataset

    if not os.path.isdir(name):
        return load_dataset(name, subset)
    for place, _, files in os.walk(name):
        for file in files:
            refuse_packed(Path(place, file))
    os.makedirs(config.HF_DATASETS_CACHE, exist_ok=True)
    # A cache that stays knows files of this machine by their modification time, which another file may have, too.
    with TemporaryDirectory(dir=config.HF_DATASETS_CACHE, prefix="ppl_text-", ignore_cleanup_errors=True) as cache:
        return load_dataset(name, subset, cache_dir=cache)


def _table(data: Dataset, where: object) -> Table:
    kinds = {n: str(getattr(f, "dtype", f)) for n, f in data.features.items()}
    texts = [name for name, kind in kinds.items() if kind in HUB_STRINGS]

    def read(chosen: Sequence[str]) -> Values:
        arrow = data.select_columns(list(chosen)).with_format("arrow")
        for start in range(0, len(data), SAMPLE):
            part = arrow[start : start + SAMPLE]
            rows = strings_of([part.column(name) for name in chosen], where, start)
            yield from enumerate(rows, start + 1)

    return Table(where, kinds, texts, texts, read)


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
        pass_on_memory_errors(error)
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
