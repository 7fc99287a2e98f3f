"""Word lists: which words are kept, and how they are divided."""

import numpy as np
import pytest

from ppl_text.data.corpus import SPLITS
from ppl_text.data.options import WordListOptions
from ppl_text.data.word_lists import Tally, WordCounts, divide, frequent, thin


def as_dict(split):
    return dict(zip(split.texts, split.counts.tolist(), strict=True))


def added(splits):
    total = {}
    for split in splits:
        for word, count in as_dict(split).items():
            total[word] = total.get(word, 0) + count
    return total


@pytest.fixture(scope="module")
def small():
    """A long-tailed list of 3,000 words, rank r with a count of 2·10^5 / r."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = tuple(letters[i // 676] + letters[i // 26 % 26] + letters[i % 26] for i in range(3000))
    return WordCounts(texts, np.array([200_000 // (i + 1) for i in range(3000)]))


def test_filters_count_what_they_remove():
    found = {"a": 50, "to": 40, "toolongword": 30, "rare": 1, "the": 20, "of": 20, "and": 10}
    tally = Tally(len(found))
    split = frequent(found, WordListOptions(min_count=2, max_length=5, limit=3), tally)
    assert as_dict(split) == {"to": 40, "of": 20, "the": 20}
    assert list(split.texts) == ["to", "of", "the"], "ties in alphabetical order"
    assert list(tally.removed.values()) == [2, 1, 1]
    assert tally.describe() == (
        "7 types read, dropped: 2 with fewer than 2 or more than 5 letters, "
        "1 with a count below 2, 1 beyond the 3 most frequent"
    )


def test_thinning_takes_each_token_with_the_share(words_corpus):
    test, rest = words_corpus.splits["test"], added([words_corpus.splits["train"], words_corpus.splits["valid"]])
    n, taken = np.array([[rest.get(w, 0) + c, c] for w, c in as_dict(test).items()]).T
    taken_types = set(test.texts)
    missing = sum(c for w, c in rest.items() if w not in taken_types)
    total = n.sum() + missing
    assert abs(test.total - 0.1 * total) < 5 * np.sqrt(0.09 * total)
    frequent_types = n > 1000
    z = (taken - 0.1 * n)[frequent_types] / np.sqrt(0.09 * n[frequent_types])
    assert len(z) > 10_000
    assert abs(z.mean()) < 5 / np.sqrt(len(z))
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / len(z)), "the variance is that of a binomial"


def test_valid_is_drawn_from_what_test_leaves(words_corpus):
    remaining = words_corpus.splits["train"].total + words_corpus.splits["valid"].total
    assert abs(words_corpus.splits["valid"].total - 0.05 * remaining) < 5 * np.sqrt(0.0475 * remaining)


def test_a_test_set_of_so_many_tokens(small):
    taken = divide(small, WordListOptions(test_tokens=10_000))["test"].total
    assert abs(taken - 10_000) < 5 * np.sqrt(10_000)
    plenty = divide(small, WordListOptions(test_tokens=small.total))
    assert as_dict(plenty["test"]) == as_dict(divide(small, WordListOptions())["test"]), "test_share has fewer"


def test_rare_types_drop_out_of_a_split_as_often_as_they_should():
    ones = WordCounts(tuple(f"w{i}" for i in range(20_000)), np.full(20_000, 3))
    _, taken = thin(ones, 0.1, np.random.default_rng(0))
    expected = 1 - 0.9**3
    assert abs(len(taken) / 20_000 - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000)
    assert taken.counts.min() == 1


@pytest.mark.parametrize("split", ["standard", "alternative"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_count_is_lost_or_doubled(small, split, seed):
    parts = divide(small, WordListOptions(split=split, seed=seed, test_share=0.3, valid_share=0.2))
    assert set(parts) == set(SPLITS)
    assert added(parts.values()) == as_dict(small)
    assert all(part.counts.min() > 0 for part in parts.values())


@pytest.mark.parametrize("split", ["standard", "alternative"])
def test_division_is_repeatable_and_follows_the_seed(small, split):
    same = [divide(small, WordListOptions(split=split, seed=s))["test"] for s in (4, 4, 5)]
    assert as_dict(same[0]) == as_dict(same[1])
    assert as_dict(same[0]) != as_dict(same[2])


@pytest.mark.parametrize("split", ["standard", "alternative"])
def test_test_set_does_not_depend_on_valid(small, split):
    full = divide(small, WordListOptions(split=split, valid_share=0.05))
    assert as_dict(divide(small, WordListOptions(split=split, valid_share=0.5))["test"]) == as_dict(full["test"])
    assert as_dict(divide(small, WordListOptions(split=split), wanted=["test"])["test"]) == as_dict(full["test"])


def test_test_and_valid_have_independent_streams():
    # Counts this small take one random number each, so that equal streams would stay in step.
    words = WordCounts(tuple(f"w{i}" for i in range(50_000)), np.full(50_000, 100))
    parts = divide(words, WordListOptions(test_share=0.2, valid_share=0.2))
    test, valid = (parts[name].counts - parts[name].counts.mean() for name in ("test", "valid"))
    # What test takes, valid cannot: the correlation is that of two cells of a multinomial, not 1.
    expected = -np.sqrt(0.2 * 0.16 / (0.8 * 0.84))
    correlation = (test * valid).mean() / np.sqrt((test**2).mean() * (valid**2).mean())
    assert abs(correlation - expected) < 5 / np.sqrt(50_000)


def test_alternative_split_takes_types_whatever_their_frequency(small):
    parts = divide(small, WordListOptions(split="alternative"))
    types = {name: set(part.texts) for name, part in parts.items()}
    assert len(types["test"]) == 300
    assert len(types["valid"]) == round(0.05 * 2700)
    assert not types["test"] & types["train"]
    assert not types["test"] & types["valid"]
    assert not types["valid"] & types["train"]
    whole = as_dict(small)
    assert all(whole[w] == c for w, c in as_dict(parts["test"]).items())


def test_alternative_split_is_uniform_over_ranks(small):
    rank = {w: i for i, w in enumerate(small.texts)}
    thirds = np.zeros(3)
    for seed in range(30):
        test = divide(small, WordListOptions(split="alternative", seed=seed))["test"]
        thirds += np.bincount([rank[w] // 1000 for w in test.texts], minlength=3)
    # Hypergeometric: 300 of 3,000 a seed, 1,000 in each third.
    deviation = np.sqrt(30 * 300 * (1 / 3) * (2 / 3) * (2700 / 2999))
    assert np.abs(thirds - 3000).max() < 5 * deviation
