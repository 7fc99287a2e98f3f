"""A user's tables: csv and its kin, JSON, parquet. What they hold is made here, so that the truth is known."""

import csv
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppl_text.core.errors import DataError
from ppl_text.data.catalogue import load_corpus
from ppl_text.data.corpus import SPLITS

TEXTS = ["null", 'a, "b"; c', "NA", "é\u0301 😀", "line one\nline two", "1900", "true", "the | end\there"]
"""Texts that some reader takes for something else."""

CLEAN = [*TEXTS[:4], "line one line two", "1900", "true", "the | end here"]


def load(path, **options):
    return load_corpus(str(path), unit="sentences", **options)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def folder_of(path):
    """The same file as train, valid and test of a folder, so that no text moves."""
    folder = path.parent / f"{path.stem}-folder"
    folder.mkdir(exist_ok=True)
    for name in SPLITS:
        (folder / f"{name}{path.suffix}").write_bytes(path.read_bytes())
    return folder


def texts_of(path, **options):
    return list(load(folder_of(path), **options).splits["train"].texts)


def note_of(path, **options):
    """What the reader says of the file, beside how much it read."""
    return next(n for n in load(folder_of(path), **options).notes[1:] if n.startswith(f"train{path.suffix}: "))


def message_of(path, **options):
    with pytest.raises(DataError) as caught:
        load(path, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_csv(path, columns, delimiter=",", **options):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, **options)
        writer.writerows([list(columns), *zip(*columns.values(), strict=True)])


def write_lines(path, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_list(path, columns, indent=None):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")


def write_parquet(path, columns):
    pq.write_table(pa.table(columns), path, row_group_size=3)


def separated(delimiter, **options):
    return lambda path, columns: write_csv(path, columns, delimiter, **options)


WRITERS = {
    "comma.csv": separated(","),
    "semicolon.csv": separated(";"),
    "tab.csv": separated("\t"),
    "bar.csv": separated("|"),
    "unix.csv": separated(",", lineterminator="\n", quoting=csv.QUOTE_ALL),
    "quoted.tsv": separated("\t"),
    "lines.jsonl": write_lines,
    "lines.ndjson": write_lines,
    "lines.json": write_lines,
    "list.json": write_list,
    "indented.json": lambda path, columns: write_list(path, columns, indent=1),
    "list.jsonl": write_list,
    "table.parquet": write_parquet,
    "CAPITALS.CSV": separated(","),
}
"""Writers of other hands than ours by the name of their file."""


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_texts_that_were_written(tmp_path, name):
    WRITERS[name](tmp_path / name, {"id": list(range(len(TEXTS))), "text": TEXTS})
    assert texts_of(tmp_path / name) == CLEAN


@pytest.mark.parametrize("name", WRITERS)
def test_a_column_is_found_by_its_name_wherever_it_stands(tmp_path, name):
    columns = {"remark": ["x"] * 8, " Sentence ": TEXTS, "n": ["3"] * 8}
    WRITERS[name](tmp_path / name, columns)
    assert texts_of(tmp_path / name) == CLEAN
    assert texts_of(tmp_path / name, column="REMARK") == ["x"] * 8
    WRITERS[name](tmp_path / name, {**columns, "Text": ["y"] * 8})
    assert texts_of(tmp_path / name) == ["y"] * 8


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "quoted.tsv"])
def test_the_only_column_of_strings_is_taken_and_said(tmp_path, name):
    WRITERS[name](tmp_path / name, {"number": list(range(8)), "remark": TEXTS})
    assert texts_of(tmp_path / name) == CLEAN
    assert "column 'remark' is the text, the only one of strings" in note_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "columns", "note"),
    [
        ("comma.csv", {"text": TEXTS}, "column 'text' is the text"),
        ("semicolon.csv", {"id": [""] * 8, "text": TEXTS}, "column 'text' is the text; fields separated by semicolons"),
        ("bar.csv", {"id": [""] * 8, "text": TEXTS}, "column 'text' is the text; fields separated by bars"),
        (
            "quoted.tsv",
            {"id": [""] * 8, "text": TEXTS},
            "column 'text' is the text; fields separated by tabs, some of them in quotes",
        ),
        ("list.json", {"text": TEXTS}, "column 'text' is the text"),
    ],
)
def test_one_note_says_what_was_assumed(tmp_path, name, columns, note):
    WRITERS[name](tmp_path / name, columns)
    ending = (tmp_path / name).suffix
    assert note_of(tmp_path / name) == f"train{ending}: {note}"
    assert f"train{ending}: 8 rows read" in load(folder_of(tmp_path / name)).notes


# -- csv --------------------------------------------------------------------------------------------

READ = {
    "one column": ("text\nno separator here\nnor; here\n", ["no separator here", "nor; here"]),
    "byte-order mark": ("\ufefftext,id\na,1\n", ["a"]),
    "carriage returns": ("id,text\r\n1,a\r\n2,b\r\n", ["a", "b"]),
    "no end of the last line": ("id,text\n1,a", ["a"]),
    "blank lines": ("\nid,text\n\n1,a\n  \n2,b\n\n", ["a", "b"]),
    "quoted line end": ('id,text\n1,"a\nb"\n2,c\n', ["a b", "c"]),
    "quoted separator": ('id,text\n1,"a, b"\n', ["a, b"]),
    "quote within a field": ('id,text\n1,he said "a" and\n', ['he said "a" and']),
    "separators of other kinds": ("id;text\n1;a, b | c\n2;d\n", ["a, b | c", "d"]),
    "unnamed first column": (",text\n0,a\n1,b\n", ["a", "b"]),
    "names that are no text's": ("a;b.c\n1;x y\n2;z, w\n", ["x y", "z, w"]),
    "heading of another script": ("номер|текст\n1|да\n", ["да"]),
}
"""Content of a csv file, and its texts."""


@pytest.mark.parametrize("case", READ)
def test_csv_that_is_read(tmp_path, case):
    content, texts = READ[case]
    assert texts_of(write(tmp_path / "x.csv", content)) == texts


REFUSED = {
    "a comma that is not quoted": (
        "text\na bird, today .\n",
        ", line 2: 2 fields between commas, but 1 field in the heading on line 1 (text): 'a bird, today .'; put a text "
        "that holds one in quotes",
    ),
    "a comma at the end": (
        "id,text\n0,a b,\n",
        ", line 2: 3 fields between commas, but 2 fields in the heading on line 1 (id, text): '0,a b,'; remove the "
        "last one, which is empty",
    ),
    "a field too few": (
        'id;text\n0;"a\nb"\n\n1\n',
        ", line 5: 1 field between semicolons, but 2 fields in the heading on line 1 (id, text): '1'; complete the row",
    ),
    "no heading": (
        '"my friend found the river ."\n"that woman forgot ."\n',
        ", line 1: expected a heading with the names of columns, got 'my friend found the river .'; write one above "
        "it, such as text",
    ),
    "no heading of two": ("0;a b\n1;c d\n", ", line 1: expected a heading with the names of columns, got '0;a b'"),
    "no heading in a language without spaces": ("他今天来了。他今天来了。\n" * 9, ", line 1: expected a heading"),
    "an open quote": (
        'text\na\n"b\nc\nd\n',
        ", line 3: the fields cannot be told apart: a quote is not closed; a field",
    ),
    "an open quote in a long file": (
        'id,text\n1,"a\n' + "2,b c d\n" * 20_000,
        ", line 2: the fields cannot be told apart",
    ),
    "text behind a quote": ('id,text\n1,"a" b\n', ", line 2: the fields cannot be told apart: ',' expected after '\"'"),
    "returns alone": (
        "id,text\r1,a\r",
        ", line 1: the fields cannot be told apart: new-line character seen in unquoted",
    ),
    "two columns of one name": ("text,text\na,b\n", ": 2 columns are called 'text'; rename all but one of them"),
    "several columns": (
        "a,b,n\nx,y,1\n",
        ": which column is the text? Its columns are a (strings), b (strings), n (num",
    ),
    "numbers alone": ("a,b\n1,2\n", ": which column is the text? Its columns are a (numbers), b (numbers); set data.c"),
    "nothing": ("", ": the file is empty; expected a heading with the names of columns"),
    "blank lines alone": ("\n \n", ": the file is empty; expected a heading"),
    "a heading alone": ("id,text\n\n", ": there is no row below the heading"),
    "another encoding": (b"text\ngood\ncaf\xe9\n", ", line 3: not UTF-8 text: byte 0xE9 (byte 4 of the line); convert"),
    "wide characters": ("id,text\n1,a\n".encode("utf-16"), ", line 1: not UTF-8 text: byte 0xFF (byte 1 of the line)"),
    "gzip": (b"\x1f\x8b\x08\x00", ": this is no text but gzip; unpack it, or write it as csv or jsonl"),
    "a workbook": (b"PK\x03\x04\x14\x00", ": this is no text but zip (an .xlsx is one); unpack it"),
    "empty texts": ('id,text\n1,\n2,""\n', ": there is no sentence in it"),
}
"""Content of a csv file, and how the message goes on behind its path."""


@pytest.mark.parametrize("case", REFUSED)
def test_csv_that_is_refused(tmp_path, case):
    content, message = REFUSED[case]
    path = write(tmp_path / "x.csv", content)
    assert message_of(path).startswith(f"{path}{message}")


def test_a_text_that_looks_like_numbers_at_first(tmp_path):
    """The kind of a column is nobody's concern where its name tells what it is."""
    texts = [str(1900 + i % 100) for i in range(2500)] + ["and a sentence"]
    write_csv(tmp_path / "x.csv", {"text": texts, "id": [*range(2500), "last"]})
    assert texts_of(tmp_path / "x.csv") == texts


def test_a_wrong_row_is_named_however_late_it_comes(tmp_path):
    path = write(tmp_path / "x.csv", "id,text\n" + "1,a\n" * 3000 + "2,b,c\n")
    assert message_of(path).startswith(f"{path}, line 3002: 3 fields between commas, but 2 fields in the heading")
    assert message_of(write(tmp_path / "y.csv", 'text\n"a\nb"\n\nc\n'), empty="refuse").startswith(
        f"{tmp_path / 'y.csv'}, line 4: no text; remove the line"
    )


# -- fields between tabs ----------------------------------------------------------------------------


def test_tabs_with_and_without_a_heading(tmp_path):
    headed = write(tmp_path / "headed.tsv", 'Label\tText\n1\tgood "food"\n0\t"so," he said\n')
    assert texts_of(headed) == ['good "food"', '"so," he said']
    assert note_of(headed) == (
        "train.tsv: column 'Text' is the text; fields separated by tabs, quotes are characters like others"
    )
    bare = write(tmp_path / "bare.tsv", "1\ttext\n0\tbad food\n")
    assert texts_of(bare) == ["text", "bad food"], "a number is no name of a column"
    assert texts_of(write(tmp_path / "one.tsv", "text\na b\nc\n")) == ["a b", "c"]
    assert texts_of(write(tmp_path / "asked.tsv", "id\tmine\n1\ta\n"), column="mine") == ["a"]
    lost = write(tmp_path / "lost.tsv", "id\tmine\n1\ta\n")
    assert "no column 'other'; its columns are id (numbers), mine (strings)" in message_of(lost, column="other")
    short = write(tmp_path / "short.tsv", "id\ttext\n1\ta\n2\n")
    assert message_of(short).startswith(f"{short}, line 3: 1 field between tabs, but 2 fields in the heading on line 1")
    alone = write(tmp_path / "alone.tsv", "some words\nand more\n")
    assert message_of(alone).startswith(f"{alone}, line 1: expected two columns, 'label<TAB>text'; got 1: 'some words'")


# -- JSON -------------------------------------------------------------------------------------------

LINES = [json.dumps({"text": f"text {i}"}) for i in range(200)]

JSON_REFUSED = {
    "a number": (
        [*LINES, '{"text": 42}'],
        ", line 201: column 'text' holds 42, which is no string; write it in quotes",
    ),
    "a truth": ([*LINES, '{"text": true}'], ", line 201: column 'text' holds true, which is no string"),
    "a list": ([*LINES, '{"text": ["a", "é"]}'], ', line 201: column \'text\' holds ["a", "é"], which is no string'),
    "an object": (
        [*LINES, '{"text": {"de": "a"}}'],
        ', line 201: column \'text\' holds {"de": "a"}, which is no string',
    ),
    "half a character": ([*LINES, '{"text": "\\ud83d"}'], ", line 201: column 'text' holds half of a surrogate pair"),
    "a NUL": (['{"text": "a\\u0000b"}'], ", line 1: a NUL character in 'a\\x00b'; remove it"),
    "a line that breaks off": (
        ['{"text": "a"}', "", '{"text": '],
        ", line 3: not JSON: Expecting value (character 11); expected one object on each line, or one list of objects",
    ),
    "a line that is no object": (
        ['{"text": "a"}', '"b"'],
        ', line 2: expected an object, such as {"text": "…"}; got \'"b"\'',
    ),
    "an indented object": (
        ["{", ' "text": "a"', "}"],
        ", line 1: not JSON: Expecting property name enclosed in double",
    ),
    "no strings": (['{"text": 1, "b": [2]}'], ": which column is the text? Its columns are text (numbers), b (lists)"),
    "two columns": (
        ['{"a": "x", "b": "y"}', '{"a": null}'],
        ": which column is the text? Its columns are a (strings, nothing), b (strings); set data.column to its name",
    ),
    "nothing": ([], ": the file is empty; expected an object with a text on each line, or a list of them"),
    "empty objects": (["{}", "{}"], ": there is no object with keys in it"),
    "texts that are missing": (['{"text": null}', '{"id": 3}'], ": there is no sentence in it"),
    "an empty list": (["[", "]"], ": there is no object with keys in it"),
    "a list that breaks off": (
        ["[", '{"text": "a"},', '{"text": "b"}'],
        ", line 3: not JSON: Expecting ',' or the end of",
    ),
    "an item that breaks off": (["[", '{"text": "a"},', '{"text":}]'], ", line 3: not JSON: Expecting value"),
    "a list with no comma": (
        ['[{"text": "a"}', '{"text": "b"}]'],
        ", line 2: not JSON: Expecting ',' or the end of the",
    ),
    "a list and more": (
        ['[{"text": "a"}]', '{"text": "b"}'],
        ", line 1: not JSON: Expecting ',' or the end of the list",
    ),
    "a list of texts": (['["a", "b"]'], ': row 1: expected an object, such as {"text": "…"}; got \'"a"\''),
    "a number in a list": (['[{"text": "a"},', '{"text": 3}]'], ": row 2: column 'text' holds 3, which is no string"),
}
"""Lines of a JSON file, and how the message goes on behind its path."""


@pytest.mark.parametrize("case", JSON_REFUSED)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_json_that_is_refused(tmp_path, case, ending):
    lines, message = JSON_REFUSED[case]
    path = write(tmp_path / f"x.{ending}", "".join(f"{line}\n" for line in lines))
    assert message_of(path).startswith(f"{path}{message}")


def test_bytes_of_another_encoding_in_json(tmp_path):
    path = write(tmp_path / "x.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n')
    assert message_of(path).startswith(f"{path}, line 2: not UTF-8 text: byte 0xFF (byte 11 of the line); convert")


def test_other_keys_may_hold_anything_and_change(tmp_path):
    late = [{"note": None, "text": f"text {i}"} for i in range(2500)]
    late += [
        {"note": "seen", "text": "a"},
        {"note": {"b": [1]}},
        {"text": "b", "more": 1e400},
        {"note": 1, "text": None},
    ]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, late)))
    assert texts_of(path) == [f"text {i}" for i in range(2500)] + ["a", "b"]
    assert "train.jsonl: 2,504 rows read, 2 without text dropped" in load(folder_of(path)).notes
    assert message_of(path, empty="refuse").startswith(f"{path}, line 2502: no text; remove the line")
    path = write(tmp_path / "y.jsonl", "\n".join(map(json.dumps, [*late, {"mine": "c"}])))
    assert texts_of(path, column="mine") == ["c"], "a column that is asked for is looked for to the end"


@pytest.mark.parametrize("unit", ["sentences", "word-list"])
def test_a_text_file_of_json_is_refused(tmp_path, unit):
    path = write(tmp_path / "x.txt", "\n".join(LINES))
    with pytest.raises(DataError, match=r"its first line is an object of JSON; give the file the ending .jsonl"):
        load_corpus(str(path), unit=unit)
    assert texts_of(write(tmp_path / "y.txt", "{ a brace }\n")) == ["{ a brace }"]


# -- parquet ----------------------------------------------------------------------------------------

STRINGS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
    "dictionary of large ones": pa.dictionary(pa.int32(), pa.large_string()),
}


@pytest.mark.parametrize("kind", STRINGS)
def test_every_arrow_type_of_strings(tmp_path, kind):
    texts = ["a", None, "b", *[f"c {i}" for i in range(60)]]
    columns = {"text": pa.array(texts).cast(STRINGS[kind]), "id": list(range(63))}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=50)
    assert texts_of(tmp_path / "x.parquet") == [text for text in texts if text]
    path = tmp_path / "x.parquet"
    assert "x.parquet: 63 rows read, 1 without text dropped" in load(path).notes
    assert message_of(path, empty="refuse").startswith(f"{path}: row 2: no text; remove the line")
    assert message_of(path, max_tokens=1, long="refuse").startswith(f"{path}: row 4: 2 tokens, more than")


def test_parquet_that_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": ["x"], "b": ["y"], "n": [1]}), path)
    described = "Its columns are a (string), b (string), n (int64)"
    assert message_of(path) == f"{path}: which column is the text? {described}; set data.column to its name"
    assert message_of(path, column="text").startswith(f"{path}: no column 'text'; {described.replace('I', 'i')}")
    assert message_of(path, column="n").startswith(f"{path}: column 'n' holds int64, not strings")
    pq.write_table(pa.table({"text": [1, 2], "tokens": [["a"], ["b"]]}), path)
    assert "which column is the text? Its columns are text (int64), tokens (list" in message_of(path)
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    assert message_of(path) == f"{path}: 2 columns are called 'text'; rename all but one of them"
    for content in (b"PAR1 no table", b"", b"text\n"):
        assert message_of(write(path, content)).startswith(f"{path}: cannot be read as parquet: ")
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"text": bad}), path)
    assert message_of(path) == f"{path}: row 2: not UTF-8 text: byte 0xFF; convert the file first"
    assert "this is no text but Parquet; give it the ending .parquet" in message_of(path.rename(tmp_path / "x.csv"))


# -- what stands on the disk is what is read --------------------------------------------------------


@pytest.mark.parametrize("name", ["comma.csv", "lines.jsonl", "list.json", "table.parquet"])
def test_a_file_that_is_replaced_is_read_anew_whatever_its_times(tmp_path, name):
    path, prints = tmp_path / name, set()
    for word in ("wolf", "lion"):
        WRITERS[name](path, {"text": [f"the {word} number {i}" for i in range(60)]})
        os.utime(path, (1_577_836_800, 1_577_836_800))
        corpus = load(path)
        assert word in corpus.tokenizer.symbols
        prints.add(corpus.fingerprint)
    assert len(prints) == 2
