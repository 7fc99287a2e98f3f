"""Names, paths and kinds of corpora."""

import subprocess
import sys

import pytest

from ppl_text.core.errors import ConfigError, UnknownNameError, UserError
from ppl_text.data.catalogue import CORPORA, load_corpus, locate


def test_unknown_name_gives_the_nearest_and_accepts_paths():
    with pytest.raises(UnknownNameError) as caught:
        load_corpus("wrods")
    assert "unknown corpus 'wrods' (did you mean 'words'?)" in str(caught.value)
    assert "path of a file or a folder is accepted too, but 'wrods' does not exist" in str(caught.value)


@pytest.mark.parametrize("name", ["", "no/such/file.tsv", "a\0b", "x" * 5000], ids=["empty", "path", "NUL", "long"])
def test_missing_path_is_an_unknown_name(name):
    with pytest.raises(UnknownNameError, match="path of a file or a folder is accepted too"):
        load_corpus(name)


def test_hub_is_refused_with_advice():
    with pytest.raises(UserError, match="hub:NAME is not supported for word lists yet; download the data set"):
        load_corpus("hub:ptb")


def test_listing_the_corpora_is_light():
    heavy = ("torch", "numpy", "tokenizers", "wordfreq")
    code = f"import sys, ppl_text.data.catalogue; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert all(found.description for found in CORPORA.values())


def test_kinds_that_do_not_fit_say_what_to_set():
    with pytest.raises(ConfigError, match=r"corpus 'verses' is of kind sentences, but .* set data.unit=sentences, or"):
        load_corpus("verses", unit="word-list")
    with pytest.raises(ConfigError, match=r"corpus 'words' is of kind word-list, but .* set data.unit=word-list, or"):
        load_corpus("words", unit="sentences")
    with pytest.raises(ConfigError, match=r"data.unit must be 'word-list' or 'sentences'; got 'lines'"):
        load_corpus("words", unit="lines")
    with pytest.raises(ConfigError, match=r"unknown key 'max_tokens'.*\(max_tokens: for sentences, data.unit="):
        load_corpus("words", max_tokens=3)


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_found_before_it_is_read(name):
    found = locate(name)
    assert (found.unit, found.defaults) == (CORPORA[name].unit, CORPORA[name].defaults)
