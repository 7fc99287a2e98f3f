import pytest

from ppl_text.data.corpora import Corpus, load_corpus


@pytest.fixture(scope="session")
def words_corpus() -> Corpus:
    """The built-in list, loaded once."""
    return load_corpus("words")
