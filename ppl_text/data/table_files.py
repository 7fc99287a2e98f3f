"""Tables in files: csv and its kin, JSON, parquet. Of their columns only those asked for are read, row by row."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ppl_text.core.errors import DataError
from ppl_text.core.numbers import is_real
from ppl_text.core.printing import shortened
from ppl_text.core.reading import NESTED, open_regular, parse_json

from .lines import fault, text_lines

SAMPLE = 1000
"""First rows that are looked at to find separator and columns; values are read as they are, whatever these held."""

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What may stand between the fields of a csv file, with its name; the first is taken where nothing speaks for one."""

STRINGS, NUMBERS, NOTHING = "strings", "numbers", "nothing"
"""What the columns of csv and JSON hold, as far as it matters here."""

Records: TypeAlias = Iterator[tuple[int, list[str]]]
Values: TypeAlias = Iterator[tuple[int, tuple[Any, ...]]]


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Args:
        where: file or data set, for errors.
        kinds: the columns in their order, with what each holds.
        texts: columns that may be read as texts.
        likely: columns of which the only one is taken for the text, where no name tells.
        read: names of columns to their values in each row, with its number; what is missing is None.
        numbered: what the numbers are of, ``"line"`` or ``"row"``.
        assumed: about the form of the file, for a note.
    """

    where: object
    kinds: Mapping[str, str]
    texts: Collection[str]
    likely: Collection[str]
    read: Callable[[Sequence[str]], Values]
    numbered: str = "row"
    assumed: str = ""

    def described(self) -> str:
        """Return the columns with what they hold."""
        return ", ".join(f"{name} ({kind})" for name, kind in self.kinds.items()) or "none"

    def column(self, name: str) -> str | None:
        """Return the column of that name, case and space around it aside where it is not there as it is; or None."""
        found = [name] if name in self.kinds else [n for n in self.kinds if _normal(n) == _normal(name)]
        return found[0] if len(found) == 1 else None

    def fault(self, number: int, message: str) -> DataError:
        """Return the error for a row."""
        return fault(self.where, self.numbered, number, message)


def has_name(fields: Sequence[str], names: Collection[str]) -> bool:
    """Tell whether one of some fields is one of the names, case and space around it aside."""
    return not {_normal(field) for field in fields}.isdisjoint(map(_normal, names))


def is_heading(fields: Sequence[str], names: Collection[str]) -> bool:
    """Tell whether fields are names of columns, one of them among the ``names``."""
    return has_name(fields, names) and all(_is_name(field.strip()) for field in fields)


def _normal(name: str) -> str:
    return name.strip().lower()


def _check_once(heading: Sequence[str], chosen: Sequence[str], where: object) -> None:
    """Raise :class:`DataError` where several columns have a name that was chosen."""
    for name in chosen:
        if heading.count(name) > 1:
            raise DataError(f"{heading.count(name)} columns are called '{name}'; rename all but one of them", where)


# -- csv --------------------------------------------------------------------------------------------


def csv_table(path: Path, names: Collection[str]) -> Table:
    """Return the table of a csv file, whose separator is found.

    It is the one by which the heading has one of the ``names`` beside others; else the one that gives the heading and
    each of the first rows equally many fields; else the comma.

    Raises:
        DataError: no heading, or one that cannot be told from data.
    """
    evenly, spoken_for = [], []
    for separator in SEPARATORS:
        heading, rows = _sample(path, separator)
        if len(heading) > 1:
            spoken_for += [separator] * has_name(heading, names)
            evenly += [separator] * (bool(rows) and all(len(row) == len(heading) for row in rows))
    separator = next(chain(spoken_for, evenly, SEPARATORS))
    assumed = "" if separator == "," else f"fields separated by {SEPARATORS[separator]}"
    return _separated(path, separator, True, names, assumed)


def tab_table(path: Path, names: Collection[str]) -> Table:
    """Return the table of a file of fields between tabs.

    Quotes are characters like others, unless the first rows have a field that can only be a quoted one: within its
    quotes it has others, all doubled.
    """
    fields = (field for _, row in islice(_records(path, "\t", False), SAMPLE) for field in row)
    quoted = any(re.fullmatch(r'"(?:[^"]|"")*""(?:[^"]|"")*"', field) for field in fields)
    quotes = "some of them in quotes" if quoted else "quotes are characters like others"
    return _separated(path, "\t", quoted, names, f"fields separated by tabs, {quotes}")


def _sample(path: Path, separator: str) -> tuple[list[str], list[list[str]]]:
    """Return heading and first rows as they are with that separator; nothing from where it makes no sense of quotes."""
    found: list[list[str]] = []
    try:
        for _, fields in islice(_records(path, separator, True), SAMPLE):
            found += [fields] * bool(fields)
    except _QuoteError:
        return (found[0] if found else []), []
    return (found[0], found[1:]) if found else ([], [])


class _QuoteError(DataError):
    """Fields that the quotes in a line do not allow to tell apart."""


def _records(path: Path, separator: str, quoted: bool) -> Records:
    """Yield the fields of each record with the line on which it begins; a blank line has none."""
    lines = (text for _, text in text_lines(path))
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = "a quote is not closed" if "unexpected end" in str(error) else str(error).split(" - ")[0]
            raise _QuoteError(
                f"the fields cannot be told apart: {reason}; a field that holds a separator, a quote or a line end "
                "stands in quotes, and a quote within it is doubled",
                path,
                number,
            ) from error
        yield number, fields if any(map(str.strip, fields)) or len(fields) > 1 else []


def _separated(path: Path, separator: str, quoted: bool, names: Collection[str], assumed: str) -> Table:
    first = ((number, fields) for number, fields in _records(path, separator, quoted) if fields)
    line, heading = next(first, (0, []))
    if not line:
        raise DataError("the file is empty; expected a heading with the names of columns, and a text in each row", path)
    heading = [name.strip() for name in heading]
    if not has_name(heading, names) and not all(map(_is_name, heading)):
        raise DataError(
            f"expected a heading with the names of columns, got {shortened(separator.join(heading))}; write one above "
            f"it, such as {next(iter(names))}",
            path,
            line,
        )

    def rows() -> Records:
        records = _records(path, separator, quoted)
        for number, fields in records:
            if number > line:
                if fields and len(fields) != len(heading):
                    raise _wrong_fields(path, number, fields, heading, line, separator)
                yield number, fields

    def read(chosen: Sequence[str]) -> Values:
        _check_once(heading, chosen, path)
        places = [heading.index(name) for name in chosen]
        for number, fields in rows():
            yield number, tuple(fields[place] if fields else None for place in places)

    sample = [fields for _, fields in islice(rows(), SAMPLE) if fields]
    if not sample:
        raise DataError("there is no row below the heading", path)
    kinds = dict(zip(heading, map(_held, zip(*sample, strict=True)), strict=True))
    return Table(path, kinds, kinds.keys(), [n for n, k in kinds.items() if k == STRINGS], read, "line", assumed)


def _wrong_fields(
    path: Path, number: int, fields: Sequence[str], heading: Sequence[str], line: int, separator: str
) -> DataError:
    """Say how many fields a row has, and how many the heading."""
    have, want = (f"{n} field{'s' * (n != 1)}" for n in (len(fields), len(heading)))
    advice = "remove the last one, which is empty" if not fields[-1].strip() else "put a text that holds one in quotes"
    return DataError(
        f"{have} between {SEPARATORS[separator]}, but {want} in the heading on line {line} ({', '.join(heading)}): "
        f"{shortened(separator.join(fields))}; " + (advice if len(fields) > len(heading) else "complete the row"),
        path,
        number,
    )


def _is_name(field: str) -> bool:
    """Tell whether a field may name a column: up to three words, no digit first, no full stop last; or nothing."""
    begins = not field or field[0].isalpha() or field[0] == "_"
    ends = not field.endswith(tuple(".!?…。！？؟।"))
    return begins and ends and len(field) <= 40 and len(field.split()) <= 3 and not set(SEPARATORS) & set(field)


def _held(values: Sequence[str]) -> str:
    filled = [value for value in values if value.strip()]
    if not filled:
        return NOTHING
    return NUMBERS if all(map(_is_number, filled)) else STRINGS


def _is_number(value: str) -> bool:
    return is_real(value.strip())


# -- JSON -------------------------------------------------------------------------------------------

KINDS = {
    str: STRINGS,
    int: NUMBERS,
    float: NUMBERS,
    bool: "true or false",
    type(None): NOTHING,
    list: "lists",
    dict: "objects",
}
"""What values of JSON are called."""


def json_table(path: Path, asked: Collection[str]) -> Table:
    """Return the table of a JSON file: one object on each line, or one list of objects.

    Its columns are the keys of the first objects, and of more where one that is ``asked`` for is not among them.
    """
    first = next((text for _, text in text_lines(path) if text.strip()), "")
    if not first:
        raise DataError("the file is empty; expected an object with a text on each line, or a list of them", path)
    in_list = first.lstrip().startswith("[")
    objects = _listed_objects if in_list else _objects_by_line
    held: dict[str, dict[str, None]] = {}
    for row, (_, found) in enumerate(objects(path)):
        if row >= SAMPLE and all(has_name(list(held), [name]) for name in asked):
            break
        for key, value in found.items():
            held.setdefault(key, {})[KINDS[type(value)]] = None
    if not held:
        raise DataError("there is no object with keys in it; expected objects with a text each", path)

    def read(chosen: Sequence[str]) -> Values:
        return ((number, tuple(map(found.get, chosen))) for number, found in objects(path))

    likely = [key for key, kinds in held.items() if STRINGS in kinds]
    texts = [key for key, kinds in held.items() if not kinds.keys().isdisjoint((STRINGS, NOTHING))]
    kinds = {key: ", ".join(kinds) for key, kinds in held.items()}
    return Table(path, kinds, texts, likely, read, "row" if in_list else "line")


def _objects_by_line(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the object on each line with its number; blank lines are passed over."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            at = f" (character {error.pos + 1})" if isinstance(error, json.JSONDecodeError) else ""
            reason = f"{getattr(error, 'msg', error)}{at}"
            raise DataError(
                f"not JSON: {reason}; expected one object on each line, or one list of objects", path, number
            ) from error
        yield number, _object(value, path, "line", number)


def _listed_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a list with their number; the file's text is in memory, and of its objects one at a time."""
    text, decode = "".join(line for _, line in text_lines(path)).rstrip(), json.JSONDecoder().raw_decode
    number, place = 0, _behind_space(text, 0) + 1
    try:
        while number or text[_behind_space(text, place) :][:1] != "]":
            value, place = decode(text, _behind_space(text, place))
            number += 1
            yield number, _object(value, path, "row", number)
            place = _behind_space(text, place)
            if text[place : place + 1] != ",":
                break
            place += 1
        if text[_behind_space(text, place) :].strip() != "]":
            raise json.JSONDecodeError("Expecting ',' or the end of the list", text, place)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}; expected a list of objects", path, error.lineno) from error
    except DataError:
        raise
    except (RecursionError, ValueError) as error:
        reason = NESTED if isinstance(error, RecursionError) else str(error)
        raise fault(path, "row", number + 1, f"not JSON: {reason}; expected a list of objects") from error


def _behind_space(text: str, place: int) -> int:
    space = re.compile(r"\s*").match(text, place)
    return place if space is None else space.end()


def _object(value: Any, path: Path, unit: str, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        got = shortened(json.dumps(value, ensure_ascii=False))
        raise fault(path, unit, number, f'expected an object, such as {{"text": "…"}}; got {got}')
    return value


# -- parquet ----------------------------------------------------------------------------------------


def parquet_table(path: Path) -> Table:
    """Return the table of a parquet file; columns of strings are those of every Arrow type that holds some."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with open_regular(path) as content, parquet.ParquetFile(content) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error

    def read(chosen: Sequence[str]) -> Values:
        _check_once(schema.names, chosen, path)
        number = 0
        try:
            with open_regular(path) as content, parquet.ParquetFile(content) as file:
                for batch in file.iter_batches(SAMPLE, columns=list(chosen)):
                    columns = [batch.column(name) for name in chosen]
                    for row in strings_of(columns, path, number):
                        number += 1
                        yield number, row
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error

    texts = [field.name for field in schema if _holds_strings(field.type)]
    return Table(path, {field.name: str(field.type) for field in schema}, texts, texts, read)


def strings_of(columns: Sequence[Any], where: object, before: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of some Arrow columns as Python values; ``before`` rows came earlier.

    Raises:
        DataError: bytes that are not UTF-8, which the readers of Arrow take as they are.
    """
    try:
        yield from zip(*(column.to_pylist() for column in columns), strict=True)
    except UnicodeDecodeError:
        for number, row in enumerate(zip(*columns, strict=True), before + 1):
            try:
                yield tuple(value.as_py() for value in row)
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                message = f"row {number}: not UTF-8 text: byte 0x{byte:02X}; convert the file first"
                raise DataError(message, where) from error


def _holds_strings(kind: Any) -> bool:
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(value) or types.is_large_string(value) or types.is_string_view(value))


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return DataError(f"cannot be read as parquet: {shortened(reason, 300)[1:-1]}; give a whole parquet file", path)
