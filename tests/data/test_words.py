"""The built-in word list: which words it holds, how they are divided, and what options may say."""

import re
import subprocess
import sys

import numpy as np
import pytest

from ppl_text.core.errors import ConfigError, DataError, UnknownNameError, UserError
from ppl_text.data import words as words_module
from ppl_text.data.catalogue import CORPORA, DESCRIPTIONS, load_corpus
from ppl_text.data.corpus import SPLITS, Split
from ppl_text.data.wordlist import Tally, WordOptions, divide, frequent, thin


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
    return Split(texts, np.array([200_000 // (i + 1) for i in range(3000)]))


# -- which words ------------------------------------------------------------------------------------


def test_list_is_the_most_frequent_words_of_wordfreq(words_corpus):
    from wordfreq import get_frequency_dict

    scaled = {w: round(f * 10**9) for w, f in get_frequency_dict("en", wordlist="large").items()}
    fit = [w for w, c in scaled.items() if re.fullmatch("[a-z]{2,12}", w) and c >= 10]
    expected = sorted(fit, key=lambda w: (-scaled[w], w))[:143_000]
    assert len(expected) == 143_000
    assert added(words_corpus.splits.values()) == {w: scaled[w] for w in expected}
    train = words_corpus.splits["train"].texts
    left = set(train)
    assert list(train) == [w for w in expected if w in left], "in the order of the list"


def test_corpus_describes_itself(words_corpus):
    assert words_corpus.name == "words"
    assert tuple(words_corpus.splits) == SPLITS
    assert words_corpus.max_steps == 13
    assert words_corpus.tokenizer.symbols == ("<pad>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
    assert re.fullmatch("[0-9a-f]{64}", words_corpus.fingerprint)
    (note,) = words_corpus.notes
    assert "143,000 types" in note
    assert "other characters than a-z" in note
    read, *dropped, kept = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:types|with|beyond)", note))
    assert read == sum(dropped) + kept


def test_filters_count_what_they_remove():
    found = {"a": 50, "to": 40, "toolongword": 30, "rare": 1, "the": 20, "of": 20, "and": 10}
    tally = Tally(len(found))
    split = frequent(found, WordOptions(min_count=2, max_length=5, limit=3), tally)
    assert as_dict(split) == {"to": 40, "of": 20, "the": 20}
    assert list(split.texts) == ["to", "of", "the"], "ties in alphabetical order"
    assert list(tally.removed.values()) == [2, 1, 1]
    assert tally.describe() == (
        "7 types read, dropped: 2 with fewer than 2 or more than 5 letters, "
        "1 with a count below 2, 1 beyond the 3 most frequent"
    )


def test_order_of_the_source_does_not_matter(monkeypatch):
    found = words_module.scaled_counts()
    few = dict(list(found.items())[:5000])
    monkeypatch.setattr(words_module, "scaled_counts", lambda: few)
    forward = load_corpus("words")
    monkeypatch.setattr(words_module, "scaled_counts", lambda: dict(reversed(few.items())))
    assert load_corpus("words").fingerprint == forward.fingerprint


def test_options_reach_the_list():
    corpus = load_corpus("words", limit=500, min_length=3, max_length=4, min_count=100_000)
    total = added(corpus.splits.values())
    assert {len(w) for w in total} == {3, 4}
    assert min(total.values()) >= 100_000
    assert len(total) <= 500
    assert corpus.max_steps == 5


# -- the standard split -----------------------------------------------------------------------------


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


def test_rare_types_drop_out_of_a_split_as_often_as_they_should():
    ones = Split(tuple(f"w{i}" for i in range(20_000)), np.full(20_000, 3))
    _, taken = thin(ones, 0.1, np.random.default_rng(0))
    expected = 1 - 0.9**3
    assert abs(len(taken) / 20_000 - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000)
    assert taken.counts.min() == 1


@pytest.mark.parametrize("split", ["standard", "alternative"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_count_is_lost_or_doubled(small, split, seed):
    parts = divide(small, WordOptions(split=split, seed=seed, test_share=0.3, valid_share=0.2))
    assert set(parts) == set(SPLITS)
    assert added(parts.values()) == as_dict(small)
    assert all(part.counts.min() > 0 for part in parts.values())


@pytest.mark.parametrize("split", ["standard", "alternative"])
def test_division_is_repeatable_and_follows_the_seed(small, split):
    same = [divide(small, WordOptions(split=split, seed=s))["test"] for s in (4, 4, 5)]
    assert as_dict(same[0]) == as_dict(same[1])
    assert as_dict(same[0]) != as_dict(same[2])


@pytest.mark.parametrize("split", ["standard", "alternative"])
def test_test_set_does_not_depend_on_valid(small, split):
    full = divide(small, WordOptions(split=split, valid_share=0.05))
    assert as_dict(divide(small, WordOptions(split=split, valid_share=0.5))["test"]) == as_dict(full["test"])
    assert as_dict(divide(small, WordOptions(split=split), wanted=["test"])["test"]) == as_dict(full["test"])


def test_test_and_valid_have_independent_streams():
    # Counts this small take one random number each, so that equal streams would stay in step.
    words = Split(tuple(f"w{i}" for i in range(50_000)), np.full(50_000, 100))
    parts = divide(words, WordOptions(test_share=0.2, valid_share=0.2))
    test, valid = (parts[name].counts - parts[name].counts.mean() for name in ("test", "valid"))
    # What test takes, valid cannot: the correlation is that of two cells of a multinomial, not 1.
    expected = -np.sqrt(0.2 * 0.16 / (0.8 * 0.84))
    correlation = (test * valid).mean() / np.sqrt((test**2).mean() * (valid**2).mean())
    assert abs(correlation - expected) < 5 / np.sqrt(50_000)


# -- the alternative split --------------------------------------------------------------------------


def test_alternative_split_takes_types_whatever_their_frequency(small):
    parts = divide(small, WordOptions(split="alternative"))
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
        test = divide(small, WordOptions(split="alternative", seed=seed))["test"]
        thirds += np.bincount([rank[w] // 1000 for w in test.texts], minlength=3)
    # Hypergeometric: 300 of 3,000 a seed, 1,000 in each third.
    deviation = np.sqrt(30 * 300 * (1 / 3) * (2 / 3) * (2700 / 2999))
    assert np.abs(thirds - 3000).max() < 5 * deviation


def test_built_in_alternative_split_has_a_tenth_of_the_types():
    corpus = load_corpus("words", split="alternative", limit=20_000)
    assert [len(corpus.splits[name]) for name in SPLITS] == [17_100, 900, 2000]


# -- errors and names -------------------------------------------------------------------------------


def test_all_faulty_options_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load_corpus("words", splt="standard", seed=-1, limit="many", test_share=1.0, min_length=9, max_length=3)
    message = str(caught.value)
    for part in (
        "unknown option 'splt' (did you mean 'split'?); known: split, seed, limit,",
        "seed must be a whole number, 0 or more; got -1",
        "limit must be a whole number, 1 or more, or none for all types; got 'many'",
        "test_share must be a number between 0 and 1, both excluded; got 1.0",
        "min_length 9 is greater than max_length 3",
    ):
        assert part in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("split", "both"), ("split", ["standard"]), ("seed", True), ("seed", 0.5), ("valid_share", 0)],
        *[("limit", 0), ("min_length", "2"), ("min_count", 0), ("test_share", "0.1"), ("valid_share", float("nan"))],
    ],
)
def test_each_option_is_checked(option, value):
    with pytest.raises(ConfigError, match=f"{option} must be .*; got "):
        load_corpus("words", **{option: value})


def test_no_word_left_says_what_removed_them():
    with pytest.raises(
        DataError, match=r"no word is left: 321,\d+ types read, dropped: .* with a count below 900000000"
    ):
        load_corpus("words", min_count=900_000_000)


def test_too_few_words_say_which_split_is_empty():
    with pytest.raises(DataError, match=r"too few words to divide: 3 types \(.*\) leave none for valid and test"):
        load_corpus("words", limit=3, split="alternative")


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
    assert set(DESCRIPTIONS) == set(CORPORA)


# -- Split and fingerprints -------------------------------------------------------------------------


def test_split_knows_its_distribution():
    split = Split(("the", "of"), np.array([3, 1]))
    assert (len(split), split.total) == (2, 4)
    assert split.probabilities().tolist() == [0.75, 0.25]
    with pytest.raises(ValueError, match="read-only"):
        split.counts[0] = 9
    with pytest.raises(DataError, match="no probabilities"):
        Split((), np.zeros(0, dtype=np.int64)).probabilities()


def test_split_keeps_its_own_counts():
    given = np.array([3, 1])
    split = Split(("the", "of"), given)
    given[0] = 100
    assert split.total == 4


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1], r"one whole count for each of its 2 texts; got shape \(1,\)"),
        ([1.0, 2.0], "of float64"),
        ([1, -1], "must be 0 or more"),
        ([2**62, 2**62], "less than 2\\^62"),
    ],
)
def test_split_refuses_counts_that_are_none(counts, message):
    with pytest.raises(DataError, match=message):
        Split(("the", "of"), np.array(counts))


def test_fingerprint_follows_data_and_nothing_else(small):
    from ppl_text.data.wordlist import character_corpus

    parts = divide(small, WordOptions())
    letters = "abcdefghijklmnopqrstuvwxyz"
    base = character_corpus("one", parts, letters, []).fingerprint
    assert character_corpus("two", parts, letters, ["a note"]).fingerprint == base
    other = {
        "counts": {**parts, "test": Split(parts["test"].texts, parts["test"].counts + 1)},
        "swapped": {**parts, "test": parts["valid"], "valid": parts["test"]},
        "borders": {**parts, "test": Split(("ab", "c"), np.array([1, 1]))},
        "other borders": {**parts, "test": Split(("a", "bc"), np.array([1, 1]))},
    }
    prints = [character_corpus("one", splits, letters, []).fingerprint for splits in other.values()]
    prints.append(character_corpus("one", parts, letters[::-1], []).fingerprint)
    assert len({base, *prints}) == 6
