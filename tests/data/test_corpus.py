"""Splits, their sides and token tables; what tells corpora apart."""

import numpy as np
import pytest
import torch

from ppl_text.core.errors import DataError
from ppl_text.core.vocabulary import ReservedIds, Vocabulary
from ppl_text.data.corpus import CHUNK, Corpus, Side, Split, TokenTable
from ppl_text.data.tokenizers import character_tokenizer, word_tokenizer

LETTERS = character_tokenizer("abcdefgh")
WORDS = word_tokenizer(["a b c d"])


def split_of(*texts, counts=None, tokenizer=LETTERS, sources=None):
    source = None if sources is None else Side(sources, WORDS)
    return Split(Side(texts, tokenizer), counts, source)


def corpus_of(train, valid=None, test=None, name="some"):
    splits = {"train": train, "valid": valid or train, "test": test or train}
    return Corpus(name, splits, notes=(), noun="word", symbol="letter", weighted=True)


# -- token tables -----------------------------------------------------------------------------------


def test_table_by_hand():
    table = TokenTable.build([[5, 6, 7], [], [4]])
    assert (table.ids.tolist(), table.ids.dtype) == ([5, 6, 7, 4], np.int32)
    assert (table.offsets.tolist(), table.lengths.tolist()) == ([0, 3, 3, 4], [4, 1, 2])
    assert (len(table), table.scored_tokens) == (3, 7)
    assert [table.tokens(i) for i in range(3)] == [(5, 6, 7), (), (4,)]
    with pytest.raises(ValueError, match="read-only"):
        table.ids[0] = 1
    assert len(TokenTable.build([])) == len(TokenTable.joined([])) == 0


@pytest.mark.parametrize("cut", [0, 1, 20, 40])
def test_tables_are_joined_and_taken_apart(cut):
    rng = np.random.default_rng(0)
    sentences = [rng.integers(3, 90, size=n).tolist() for n in rng.integers(0, 7, size=40)]
    whole = TokenTable.build(sentences)
    joined = TokenTable.joined([TokenTable.build(sentences[:cut]), TokenTable.build(sentences[cut:])])
    assert joined.ids.tolist() == whole.ids.tolist()
    assert joined.offsets.tolist() == whole.offsets.tolist()
    rows = rng.integers(0, 40, size=cut)
    taken = whole.take(rows)
    assert [list(taken.tokens(i)) for i in range(cut)] == [sentences[i] for i in rows]
    assert taken.lengths.tolist() == whole.lengths[rows].tolist()


class Wrapped:
    """A tokenizer of someone else: letters as 0, 1, …, with its own ids of padding, ends and unknown at the end."""

    vocabulary = Vocabulary(11, ReservedIds(pad=10, bos=8, eos=9, unk=10, first_outcome=0))
    fingerprint = "wrapped"

    def __init__(self):
        self.encoded = 0

    def encode(self, texts):
        self.encoded += len(texts)
        return [[ord(c) - ord("a") for c in text] for text in texts]

    def count(self, texts):
        return None


def test_a_wrapped_tokenizer_keeps_its_own_ids():
    split = Split(Side(["ab", "", "hga"], Wrapped()))
    batch = split.batch(np.array([2, 0, 1]), steps=5, size=4)
    end, pad, begin = 9, 10, 8
    assert batch.tokens.tolist() == [
        [7, 6, 0, end, pad],
        [0, 1, end, pad, pad],
        *[[end, pad, pad, pad, pad]] * 2,
    ]
    assert batch.decoder_inputs.tolist() == [
        [begin, 7, 6, 0, pad],
        [begin, 0, 1, pad, pad],
        *[[begin, pad, pad, pad, pad]] * 2,
    ]
    assert batch.lengths.tolist() == [4, 3, 1, 1]
    assert batch.weights.tolist() == [1, 1, 1, 0]
    assert split.target.take(np.array([0])).table.reserved.eos == end


# -- sides ------------------------------------------------------------------------------------------


def test_texts_are_encoded_once_and_only_where_they_are_needed():
    tokenizer = Wrapped()
    side = Side(["ab", "c", "defg"] * 3000, tokenizer)
    some = side.take(np.array([4, 8999]))
    assert tokenizer.encoded == 0
    assert [some.table.tokens(i) for i in range(2)] == [(2,), (3, 4, 5, 6)]
    assert tokenizer.encoded == 2
    assert len(side.table) == 9000 > 2 * CHUNK
    assert side.lengths.tolist() == [3, 2, 5] * 3000
    again = side.take(np.array([4, 8999]))
    assert again.table.tokens(1) == some.table.tokens(1)
    assert tokenizer.encoded == 9002


def test_letters_are_counted_without_encoding(monkeypatch):
    texts = ["", "ab", "e\u0301" + "abc"]
    side = Side(texts, character_tokenizer("abcé"))
    expected = Side(texts, side.tokenizer).table.lengths
    monkeypatch.setattr(type(side.tokenizer), "encode", None)
    assert side.lengths.tolist() == expected.tolist() == [1, 3, 5]


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 texts have 1 rows of ids"):
        Side(["a", "b"], LETTERS, TokenTable.build([[3]]))
    with pytest.raises(ValueError, match="2 texts have 1 sources"):
        split_of("a", "b", sources=["a b"])


# -- splits -----------------------------------------------------------------------------------------


def test_split_knows_its_distribution():
    split = split_of("abc", "de", counts=[3, 1])
    assert (len(split), split.total, split.texts) == (2, 4, ("abc", "de"))
    assert split.probabilities().tolist() == [0.75, 0.25]
    with pytest.raises(ValueError, match="read-only"):
        split.counts[0] = 9
    with pytest.raises(DataError, match="no probabilities"):
        split_of().probabilities()
    assert split_of("abc", "de").counts.tolist() == [1, 1]


def test_split_keeps_its_own_counts():
    given = np.array([3, 1])
    split = split_of("abc", "de", counts=given)
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
        split_of("abc", "de", counts=counts)


def test_rows_keep_their_counts_and_sources():
    split = split_of("abc", "d", "ee", counts=[3, 1, 2], sources=["a", "b c", "d"]).take(np.array([2, 0]))
    assert (split.texts, split.counts.tolist(), split.source.texts) == (("ee", "abc"), [2, 3], ("d", "a"))


def test_batch_with_sources_by_hand():
    split = split_of("ab", "c", sources=["d", "a b c"])
    batch = split.batch(np.array([1, 0]), 4, torch.tensor([2.0, 0.5]), 3, source_steps=(2, 5, 9))
    assert batch.tokens.tolist() == [[5, 2, 0, 0], [3, 4, 2, 0], [2, 0, 0, 0]]
    assert batch.weights.tolist() == batch.source.weights.tolist() == [2.0, 0.5, 0.0]
    assert batch.source.tokens.tolist() == [[4, 5, 6, 2, 0], [7, 2, 0, 0, 0], [2, 0, 0, 0, 0]]
    assert batch.source.lengths.tolist() == [4, 2, 1]
    assert batch.source.source is None
    narrow = split.batch(np.array([0]))
    assert (narrow.steps, narrow.source.steps, narrow.weights.tolist()) == (3, 2, [1.0])


# -- corpora ----------------------------------------------------------------------------------------


def test_fingerprint_follows_data_and_nothing_else():
    base = split_of("ab", "c", counts=[3, 1])
    assert corpus_of(base).fingerprint == corpus_of(split_of("ab", "c", counts=[3, 1]), name="other").fingerprint
    pairs = split_of("ab", "c", counts=[3, 1], sources=["a", "b"])
    other = {
        "counts": corpus_of(base, test=split_of("ab", "c", counts=[4, 1])),
        "one split": corpus_of(base, test=split_of("ab", counts=[3])),
        "swapped": corpus_of(base, valid=split_of("ab", counts=[3])),
        "borders": corpus_of(base, test=split_of("a", "bc", counts=[3, 1])),
        "alphabet": corpus_of(split_of("ab", "c", counts=[3, 1], tokenizer=character_tokenizer("hgfedcba"))),
        "sources": corpus_of(pairs),
        "other sources": corpus_of(pairs, test=split_of("ab", "c", counts=[3, 1], sources=["a", "c"])),
        "their borders": corpus_of(pairs, test=split_of("ab", "c", counts=[3, 1], sources=["ab", ""])),
    }
    assert len({corpus_of(base).fingerprint, *(corpus.fingerprint for corpus in other.values())}) == 9


def test_corpus_publishes_both_vocabularies():
    plain, pairs = corpus_of(split_of("abcd", "e")), corpus_of(split_of("abcd", "e", sources=["a", "b"]))
    assert plain.vocabulary == Vocabulary(11)
    assert (plain.source_tokenizer, pairs.source_tokenizer) == (None, WORDS)
    assert pairs.vocabulary == Vocabulary(11, source=Vocabulary(8, ReservedIds(unk=3)))
    assert plain.max_steps == 5
