"""The comparison of texts with numbers: what it lets pass and what it does not."""

import pytest
from numbers_in_text import assert_same_text, differences

TABLE = """\
| quantity | nats  | s.e.  | n   |
|----------|-------|-------|-----|
| ELBO     | {elbo} | {error} | {n} |
"""

SAME = {
    "the same": ("a 1.25 b", "a 1.25 b", 0.0),
    "one unit of the last decimal": ("bound -12.613", "bound -12.614", 0.0),
    "one unit of the coarser": ("0.1234", "0.13", 0.0),
    "a sign that rounding decides": ("KL 0.00", "KL -0.00", 0.0),
    "minus as a letter and as a mark": ("−3.5", "-3.5", 0.0),
    "thousands": ("1,234.5 words", "1,234.6 words", 0.0),
    "powers of ten": ("3e-05", "4e-05", 0.0),
    "wider columns": ("| 9.99 | x |\n|------|---|", "|  10.00 | x |\n|--------|---|", 0.0),
    "blank lines": ("a\n\nb", "a\nb\n", 0.0),
    "two standard errors": ("1.00 ± 0.10", "1.20 ± 0.10", 2.0),
    "standard errors of few draws": ("1.00 ± 0.10", "1.00 ± 0.19", 5.0),
    "a count with an error": ("100 ± 7", "110 ± 7", 5.0),
    "a column of errors": (
        TABLE.format(elbo="-12.61", error="0.010", n=5),
        TABLE.format(elbo="-12.65", error="0.012", n=5),
        5.0,
    ),
}

DIFFERENT = {
    "two units": ("bound -12.613", "bound -12.615", 0.0),
    "a word": ("bound 1.0", "bond 1.0", 0.0),
    "a count": ("8 units", "9 units", 5.0),
    "a count with decimals in one text": ("8 units", "8.9 units", 0.0),
    "a name": ("kn3 2.13.0", "kn3 2.13.1", 5.0),
    "digits of a name": ("alt-k5", "alt-k6", 5.0),
    "a line more": ("a 1.0", "a 1.0\nb", 0.0),
    "a number more": ("a 1.0", "a 1.0 2.0", 0.0),
    "a sign": ("1.50", "-1.50", 0.0),
    "beyond the errors": ("1.00 ± 0.01", "1.20 ± 0.01", 5.0),
    "errors not asked for": ("1.00 ± 0.10", "1.20 ± 0.10", 0.0),
    "an error three times as large": ("1.00 ± 0.10", "1.00 ± 0.30", 5.0),
    "not a number": ("ELBO 1.0", "ELBO nan", 5.0),
    "a count beside a column of errors": (
        TABLE.format(elbo="-12.61", error="0.010", n=5),
        TABLE.format(elbo="-12.61", error="0.010", n=6),
        5.0,
    ),
    "beyond a column of errors": (
        TABLE.format(elbo="-12.61", error="0.010", n=5),
        TABLE.format(elbo="-12.81", error="0.010", n=5),
        5.0,
    ),
}


@pytest.mark.parametrize(("found", "expected", "sigmas"), SAME.values(), ids=SAME)
def test_passes(found, expected, sigmas):
    assert_same_text(found, expected, sigmas=sigmas)
    assert_same_text(expected, found, sigmas=sigmas)


@pytest.mark.parametrize(("found", "expected", "sigmas"), DIFFERENT.values(), ids=DIFFERENT)
def test_fails(found, expected, sigmas):
    assert differences(found, expected, sigmas=sigmas)
    assert differences(expected, found, sigmas=sigmas)


def test_says_which_line_and_what_stood_there():
    with pytest.raises(AssertionError, match=r"^line 2: found 'b 2.0', expected 'b 2.5'$"):
        assert_same_text("a 1.0\nb 2.0\nc 3.0", "a 1.0\nb 2.5\nc 3.0")
