"""Errors are interface: exit status and text."""

from __future__ import annotations

import pytest

from ppl_text.core import errors

EXIT_CODES = {
    "PplTextError": 1,
    "UserError": 2,
    "UnknownNameError": 2,
    "DataError": 2,
    "ConfigError": 2,
    "GuideMismatchError": 2,
    "RunFolderError": 2,
    "TrustError": 2,
    "CheckpointError": 1,
    "NonFiniteLossError": 1,
    "ProcessLostError": 1,
    "DivergedError": 1,
    "Interrupted": 1,
}


def test_every_error_class_has_its_exit_code_and_no_class_is_forgotten() -> None:
    classes = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.PplTextError)
    }
    assert classes == EXIT_CODES


@pytest.mark.parametrize("name", [n for n, code in EXIT_CODES.items() if code == 2])
def test_users_mistakes_are_value_errors(name: str) -> None:
    assert issubclass(getattr(errors, name), (errors.UserError, ValueError))


@pytest.mark.parametrize("code", [130, 143])
def test_interrupted_carries_the_status_of_its_signal(code: int) -> None:
    error = errors.Interrupted("stopped", code)
    assert (error.exit_code, str(error), errors.Interrupted.exit_code) == (code, "stopped", 1)


DATA = {
    "file and line": (("bad count", "a/b.tsv", 3), "a/b.tsv, line 3: bad count"),
    "file": (("is empty", "a/b.tsv", None), "a/b.tsv: is empty"),
    "neither": (("nothing left", None, None), "nothing left"),
}


@pytest.mark.parametrize(("arguments", "text"), DATA.values(), ids=DATA)
def test_data_errors_name_file_and_line(arguments: tuple, text: str) -> None:
    assert str(errors.DataError(*arguments)) == text


def test_unknown_names_list_the_known_ones_sorted_with_the_nearest_and_the_hint() -> None:
    error = errors.UnknownNameError("guide", "tirl", ["tril", "diagonal"], "Or give FILE.py:CLASS.")
    assert str(error) == "unknown guide 'tirl' (did you mean 'tril'?); known: diagonal, tril. Or give FILE.py:CLASS."
    assert str(errors.UnknownNameError("guide", "x", [])) == "unknown guide 'x'; known: none"


@pytest.mark.parametrize(
    ("name", "text"), [("wrods", " (did you mean 'words'?)"), ("zzz", ""), ("words", " (did you mean 'words'?)")]
)
def test_nearest(name: str, text: str) -> None:
    assert errors.nearest(name, (n for n in ("words", "verses"))) == text
