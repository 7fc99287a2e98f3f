"""One rule for numbers that users write."""

import math

import pytest

from ppl_text.core.numbers import is_real, is_whole, real, whole

OTHERS = ["١٢", "１２", "²", "१२", "𝟙", "1٢", "½", "Ⅳ", "一", "1_0", " 1", "1 ", "1\n", "", "x", "+", "0x1"]


@pytest.mark.parametrize("text", OTHERS)
def test_no_other_text_is_a_number(text):
    assert not is_whole(text)
    assert not is_real(text)
    for read in (whole, real):
        with pytest.raises(ValueError, match="write numbers with the digits 0 to 9"):
            read(text)


def test_numbers_are_read_as_python_reads_them():
    assert [whole(text) for text in ("0", "12", "-3", "+4", "007")] == [0, 12, -3, 4, 7]
    assert [real(text) for text in ("1", ".5", "2.", "-1e-3", "1E5")] == [1.0, 0.5, 2.0, -1e-3, 1e5]
    assert real("-inf") == -math.inf
    assert math.isnan(real("nan"))
    assert is_whole("12")
    assert not is_whole("-12")
    assert not is_real("1e")
