"""What reaches a terminal: texts from anywhere, of which it obeys nothing."""

import html
import io
import json
import re
import shlex
import subprocess
import sys

import pytest

from ppl_text.core.printing import (
    LONGEST_LINE,
    Quote,
    Screened,
    cut,
    escaped,
    printable,
    quoted_path,
    screened_output,
    unscreened,
)
from ppl_text.evaluation.report import table

OBEYED = {
    "colours": "a\x1b[31mb",
    "a title": "a\x1b]0;pwned\x07b",
    "a link": "a\x1b]8;;https://example.org\x1b\\b",
    "a bell": "a\x07b",
    "backspaces": "safe\b\b\b\bevil",
    "a carriage return": "safe\revil",
    "CSI of C1": "a\x9b31mb",
    "OSC of C1": "a\x9d0;t\x9cb",
    "DEL": "a\x7fb",
    "NUL": "a\0b",
    "right to left": "a\u202egnp.exe",
    "an isolate": "a\u2066b\u2069",
    "a separator of lines": "a\u2028b",
}


@pytest.mark.parametrize("text", OBEYED.values(), ids=OBEYED)
def test_what_a_terminal_obeys_is_shown(text):
    shown = printable(text)
    assert not any(c in shown for c in "\x1b\x07\b\r\x9b\x9d\x9c\x7f\0\u202e\u2066\u2069\u2028")
    assert "\\u00" in shown or "\\u20" in shown
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text  # JSON stays the same text
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["Ärger 名前 😀 ‏مرحبا", "a\tb\nc", "ends\\u001b", "👩‍💻"])
def test_texts_are_printed_as_they_are(text):
    assert printable(text) == text


def test_line_ends_of_windows_are_line_ends():
    assert printable("a\r\nb\r") == "a\nb\\u000d"


def test_a_screened_stream_lets_nothing_through(capsys):
    with screened_output():
        print("a\x1b[31mb", file=sys.stdout)
        print("a\u202eb", file=sys.stderr)
        sys.stdout.writelines(["c\x07", "d\n"])
        assert not hasattr(sys.stdout, "buffer")
        with screened_output():  # twice is once
            print("e\x1b")
    out, err = capsys.readouterr()
    assert out == "a\\u001b[31mb\nc\\u0007d\ne\\u001b\n"
    assert err.startswith("a\\u202eb\n")


def test_what_was_there_before_comes_back():
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), screened_output():
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


def test_what_is_ours_passes_behind_the_screen():
    stream = io.StringIO()
    print("\x1b[K", end="", file=unscreened(Screened(stream)))
    assert stream.getvalue() == "\x1b[K"
    assert unscreened(stream) is stream


@pytest.mark.parametrize(
    "name", ["a b", "x; echo pwned", "$(echo pwned)", "`id`", "it's", "-rf", "a\nb", "~x", "*", ""]
)
def test_a_shell_reads_a_quoted_path_as_that_path(name):
    (read,) = shlex.split(quoted_path(name))
    assert read.removeprefix("./") == name
    assert not quoted_path(name).startswith("-")
    line = ["sh", "-c", f"printf %s {quoted_path(name)}"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == read


def test_long_lines_lose_their_middle():
    long = "expected x; got " + "y" * 20_000 + "; give z"
    short = cut(f"first\n{long}\nlast")
    assert short.startswith("first\nexpected x; got y")
    assert short.endswith("; give z\nlast")
    assert max(map(len, short.split("\n"))) <= LONGEST_LINE
    assert cut("x" * LONGEST_LINE) == "x" * LONGEST_LINE


@pytest.mark.parametrize(
    "text", ["<script>x</script>", "**a** _b_ `c`", "![d](e) [f](g)", "# h", "a | b", "&amp;", "\\<u>"]
)
def test_markdown_shows_a_text_as_it_is(text):
    from markdown_it import MarkdownIt

    shown = MarkdownIt("commonmark", {"html": True}).render(f"> {escaped(text)}")
    inner = shown.removeprefix("<blockquote>\n<p>").removesuffix("</p>\n</blockquote>\n")
    assert html.unescape(inner) == text
    assert not re.search("<[a-z/!]", inner)


def test_cells_hold_no_tags_links_or_pictures():
    shown = table(["a"], [["<b>x</b> | ![y](z)"], ["w_{<t}"], ["<img src"]])
    assert shown.splitlines()[2:] == ["| \\<b>x\\</b> \\| ![y]\\(z) |", "| w_{<t} |", "| \\<img src |"]


def test_a_quote_in_a_table_is_no_markup():
    shown = table(("text", "n"), [(Quote("**a** |\n<b> [c](d) _e_"), "a|b <i> E[z]")])
    assert shown.splitlines()[2] == r"| \*\*a\*\* \| \<b\> \[c\](d) \_e\_ | a\|b \<i> E[z] |"
