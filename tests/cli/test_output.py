"""What commands print: rendered on a terminal, plain elsewhere."""

import sys

import pytest

from ppl_text.cli.output import print_markdown, print_table

ROWS = [("ELBO", "-12.3"), ("a [bold] :smile: name", "1"), ("名前", "")]


@pytest.fixture
def terminal(monkeypatch, capsys):
    """A terminal of 40 columns."""
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")


def test_a_table_in_a_pipe_has_one_line_a_row_and_columns_that_stand_below_each_other(capsys):
    print_table(["quantity", "value"], ROWS, "Bounds")
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "Bounds"
    assert lines == [
        "  quantity               value",
        "  ELBO                   -12.3",
        "  a [bold] :smile: name  1",
        "  名前",
    ]


def test_a_long_row_in_a_pipe_is_not_folded(capsys):
    print_table(["name", "text"], [("x", "word " * 200)])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_table_on_a_terminal_is_no_wider_than_it_is(capsys, terminal):
    print_table(["name", "text"], [("first", "word " * 30), ("second", "end")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert all(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) <= 40 for line in lines)
    assert "".join(lines).count("word") == 30


REPORT = "# A run\n\n| what | value |\n| --- | --- |\n| ELBO | -12.3 |\n"


def test_a_report_is_printed_as_it_is_written_in_a_pipe(capsys):
    print_markdown(REPORT)
    assert capsys.readouterr().out == REPORT + "\n"


def test_a_report_is_rendered_on_a_terminal(capsys, terminal):
    print_markdown(REPORT)
    shown = capsys.readouterr().out
    assert "ELBO" in shown
    assert "| --- |" not in shown
    assert "# A run" not in shown
