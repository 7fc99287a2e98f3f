import pytest

from ppl_text.data.catalogue import load_corpus
from ppl_text.data.corpus import Corpus


@pytest.fixture(scope="session")
def words_corpus() -> Corpus:
    """The built-in list, loaded once."""
    return load_corpus("words")
