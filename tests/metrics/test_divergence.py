"""Distances of generated from real texts as distributions: n-grams by hand, MAUVE on clusters that are known."""

import math
import sys

import numpy as np
import pytest

from ppl_text.core.errors import DataError, UserError
from ppl_text.metrics.divergence import mauve, ngram_divergence


def words(*texts):
    return [text.split() for text in texts]


def test_the_divergence_of_n_grams_by_hand():
    """Words a 2, b 1, c 1 against a 1, b 2, d 1: covered (2 + 2)/16, repeated 2/12 on both sides.

    Pairs ab 2, ca 1 against ba 1, ab 1, bd 1: covered 2/9, repeated 2/6 and 0.
    """
    references, texts = words("a b", "c a"), words("b a b d")
    assert ngram_divergence(texts, references, [1]) == pytest.approx(1 - (2 * 4 / 16 - 2 / 12) / (2 / 12))
    references = words("a b", "c a b")
    pairs = 1 - (2 * 2 / 9 - 0) / (2 / 6)
    assert ngram_divergence(texts, references, [2]) == pytest.approx(pairs)
    # Of five words a and b come twice: (2 + 2)/20 repeated; a 1 · 2 + b 2 · 2 covered of 5 · 4.
    both = (1 - (2 * 6 / 20 - 2 / 12) / (4 / 20) + pairs) / 2
    assert ngram_divergence(texts, references, [1, 2]) == pytest.approx(both)
    assert ngram_divergence(texts, references, [1, 2, 3]) == pytest.approx(both)  # no triple comes twice


@pytest.mark.parametrize("number", [20, 200])
def test_the_divergence_of_n_grams_is_right_on_average_however_few_texts_there_are(number):
    """Words are independent with shares p and q, where the divergence is known; 300 samples of each size."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    draw = np.random.RandomState(0)

    def sample(shares, size):
        return [[symbol] for symbol in draw.choice(list("abc"), size=size, p=shares)]

    references = sample(p, 200_000)
    found = [ngram_divergence(sample(q, number), references, [1]) for _ in range(300)]
    error = np.std(found) / math.sqrt(300) + 0.01  # of the references: some n^-1/2
    assert np.mean(found) == pytest.approx(float(((p - q) ** 2).sum() / (p**2).sum()), abs=5 * error)


def test_the_divergence_of_n_grams_is_one_where_nothing_is_shared_or_repeated():
    references = words("a b c d e", "a b c d e")
    assert ngram_divergence(words("v w x y z"), references) == 1.0
    assert ngram_divergence(words("v"), references) == 1.0
    assert ngram_divergence([], references) == 1.0
    assert ngram_divergence(words("z z z z z"), references, [1]) == pytest.approx(1 + 9)  # all of 10 pairs, 1 of 9
    with pytest.raises(DataError, match="CND needs references in which some word comes twice"):
        ngram_divergence(references, words("a b c"))


def frontier(p, q):
    """The area under the divergence frontier of two histograms, with the grid of the authors' package."""
    points = [(1.0, 0.0), (0.0, 1.0)]
    for share in np.linspace(1e-6, 1 - 1e-6, 25):
        r = share * p + (1 - share) * q
        points.append((math.exp(-5 * (q * np.log(q / r)).sum()), math.exp(-5 * (p * np.log(p / r)).sum())))
    x, y = np.array(sorted(points)).T
    return np.trapezoid(y, x)


def clusters(first, second, seed):
    """Rows around two points of the unit circle."""
    noise = np.random.RandomState(seed).standard_normal((first + second, 2)) * 0.01
    return np.repeat([[1.0, 0.0], [0.0, 1.0]], [first, second], axis=0) + noise


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mauve_is_the_area_under_the_frontier_of_the_clusters():
    pytest.importorskip("mauve")
    found = mauve(clusters(15, 5, 0), clusters(5, 15, 1))
    assert found.buckets == 2
    assert found.score == pytest.approx(frontier(np.array([0.75, 0.25]), np.array([0.25, 0.75])), abs=1e-6)
    assert mauve(clusters(12, 8, 2), clusters(12, 8, 3)).score == pytest.approx(1.0, abs=1e-6)
    assert mauve(clusters(20, 0, 4), clusters(0, 20, 5)).score < 0.01


def test_mauve_without_its_package_and_of_few_texts_says_what_it_needs(monkeypatch):
    with pytest.raises(DataError, match="MAUVE needs 20 texts or more on each side; got 19"):
        mauve(np.zeros((19, 2)), np.zeros((30, 2)))
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(UserError, match=r"mauve-text \(GPLv3\).*pip install 'ppl-text\[metrics\]'.*leave mauve out"):
        mauve(np.zeros((20, 2)), np.zeros((20, 2)))
