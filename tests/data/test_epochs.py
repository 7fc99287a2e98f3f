"""Sentences epoch by epoch, and word dropout: what comes, how often, and going on exactly."""

import io
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from ppl_text.core.errors import CheckpointError, ConfigError, DataError
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from ppl_text.data.batches import EpochBatches, TrainingBatches, default_buckets, evaluation_batches
from ppl_text.data.corpus import Side, Split
from ppl_text.data.tokenizers import character_tokenizer, word_tokenizer

BUCKETS = (4, 7, 12)
WORDS = list("abcdefgh")
TOKENIZER = word_tokenizer([" ".join(WORDS)])


@pytest.fixture(scope="module")
def split():
    """211 sentences of 1 to 11 words, the first three of them equal."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=n)) for n in rng.integers(1, 12, size=208)]
    return sentence_split(["a b c"] * 3 + texts)


def sentence_split(texts, tokenizer=TOKENIZER):
    return Split(Side(texts, tokenizer))


def epochs(split, **options):
    return EpochBatches(split, **{"batch_size": 16, "buckets": BUCKETS, "seed": 0, **options})


def rows_of(batches):
    return [TOKENIZER.decode(row) for batch in batches for row, w in zip(batch.tokens, batch.weights, strict=True) if w]


def same(one, two):
    names = ("tokens", "lengths", "weights", "decoder_inputs")
    return all(torch.equal(getattr(one, n), getattr(two, n)) for n in names)


# -- epochs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [BUCKETS, (12,), tuple(range(2, 13))])
def test_an_epoch_has_every_sentence_once(split, buckets):
    stream = epochs(split, buckets=buckets)
    lengths = np.array([len(t.split()) + 1 for t in split.texts])
    sizes = np.bincount(np.searchsorted(buckets, lengths), minlength=len(buckets))
    assert stream.batches_per_epoch == sum(-(-n // 16) for n in sizes)
    for number in range(4):
        assert stream.epoch == number
        batches = list(itertools.islice(stream, stream.batches_per_epoch))
        assert stream.epoch == number + 1
        assert Counter(rows_of(batches)) == Counter(split.texts)
        assert {batch.size for batch in batches} == {16}
        assert sum(batch.weights.sum().item() for batch in batches) == 211


def test_epochs_differ_and_rows_are_shuffled(split):
    stream = epochs(split, buckets=(12,), batch_size=1)
    one, two = (rows_of(itertools.islice(stream, 211)) for _ in range(2))
    assert one != two
    assert one != list(split.texts)
    first = Counter(rows_of([next(epochs(split, buckets=(12,), batch_size=1, seed=s))])[0] for s in range(300))
    assert len(first) > 100, "any sentence may come first"


def test_filler_is_the_empty_sentence_without_weight(split):
    (batch,) = (b for b in itertools.islice(epochs(split, buckets=(12,)), 14) if b.weights.sum() < 16)
    assert batch.weights.tolist() == [1.0] * (211 % 16) + [0.0] * (16 - 211 % 16)
    assert batch.tokens[-1].tolist() == [EOS_ID] + [PAD_ID] * 11
    assert batch.lengths[-1] == 1


def test_a_bucket_for_each_length_pads_nothing(split):
    buckets = default_buckets(split, 100)
    assert buckets == tuple(range(2, 13))
    for batch in itertools.islice(epochs(split, buckets=buckets), 30):
        assert batch.lengths[batch.weights > 0].eq(batch.steps).all()


def test_one_sentence_is_an_epoch():
    stream = epochs(sentence_split(["a b"]), buckets=(3,))
    assert stream.batches_per_epoch == 1
    assert rows_of(itertools.islice(stream, 3)) == ["a b"] * 3


def test_no_sentence_is_refused():
    with pytest.raises(DataError, match="nothing to train on"):
        epochs(sentence_split([]))
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluation_batches(sentence_split([]), weighted=False, batch_size=4, buckets=BUCKETS)


# -- going on exactly -------------------------------------------------------------------------------


def through_disk(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("make", [EpochBatches, TrainingBatches])
@pytest.mark.parametrize("word_dropout", [0.0, 0.4])
@pytest.mark.parametrize("taken", [0, 1, 13, 14, 15, 16, 17, 40])
def test_continuation_is_bit_identical(split, make, word_dropout, taken):
    def stream(seed):
        return make(split, batch_size=16, buckets=BUCKETS, seed=seed, word_dropout=word_dropout)

    straight = stream(0)
    for _ in range(taken):
        next(straight)
    state = through_disk(straight.state_dict())
    expected = list(itertools.islice(straight, 40))
    resumed = stream(7)
    next(resumed)
    resumed.load_state_dict(state)
    if make is EpochBatches:
        assert resumed.epoch == taken // resumed.batches_per_epoch
    assert all(same(a, b) for a, b in zip(expected, itertools.islice(resumed, 40), strict=True))


def test_other_streams_are_refused(split):
    state = epochs(split, word_dropout=0.4).state_dict()
    plain = TrainingBatches(split, batch_size=16, buckets=BUCKETS, seed=0)
    cases = {
        "word_dropout differ": epochs(split, word_dropout=0.5),
        "word_dropout differ;": epochs(split),
        "data differ": epochs(sentence_split(["a b"]), word_dropout=0.4),
        "word_dropout, order differ": plain,
    }
    for message, stream in cases.items():
        before = stream.state_dict()["position"]
        with pytest.raises(CheckpointError, match=message):
            stream.load_state_dict(state)
        assert stream.state_dict()["position"] == before
    with pytest.raises(CheckpointError, match="order"):
        epochs(split).load_state_dict(plain.state_dict())


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("rng"),
        lambda s: s.pop("epoch"),
        lambda s: s.pop("dropout"),
        lambda s: s.update(epoch=-1),
        lambda s: s.update(position=10_000),
        lambda s: s.update(dropout={"bit_generator": "MT19937"}),
    ],
)
def test_damaged_state_changes_nothing(split, damage):
    stream, twin = epochs(split, word_dropout=0.4), epochs(split, word_dropout=0.4)
    state = epochs(split, word_dropout=0.4, seed=5).state_dict()
    damage(state)
    with pytest.raises(CheckpointError, match="the state of the training batches is damaged"):
        stream.load_state_dict(state)
    assert all(same(a, b) for a, b in itertools.islice(zip(stream, twin, strict=False), 40))


def test_state_of_a_word_list_is_what_it_was():
    """Checkpoints written before word dropout existed hold these keys, and still load."""
    words = Split(Side(("a", "b"), character_tokenizer("ab")), [1, 2])
    state = TrainingBatches(words, batch_size=2, buckets=(2,), seed=0).state_dict()
    assert set(state) == {"identity", "rng", "left", "position"}
    assert set(state["identity"]) == {"data", "batch_size", "buckets", "pool_batches"}


# -- word dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [EpochBatches, TrainingBatches])
def test_dropout_replaces_words_of_the_inputs_only(split, make):
    options = {"batch_size": 16, "buckets": BUCKETS, "seed": 0}
    dropped, kept = make(split, word_dropout=0.3, **options), make(split, **options)
    words = replaced = 0
    for with_, without in itertools.islice(zip(dropped, kept, strict=False), 400):
        assert torch.equal(with_.tokens, without.tokens)
        assert with_.decoder_inputs[:, 0].eq(BOS_ID).all()
        changed = with_.decoder_inputs != without.decoder_inputs
        assert with_.decoder_inputs[changed].eq(UNK_ID).all()
        is_word = (without.decoder_inputs != BOS_ID) & (without.decoder_inputs != PAD_ID)
        assert not (changed & ~is_word).any()
        words, replaced = words + is_word.sum().item(), replaced + changed.sum().item()
    assert words > 20_000
    assert abs(replaced - 0.3 * words) < 5 * np.sqrt(0.21 * words)


def test_dropout_does_not_follow_the_order_and_changes_every_epoch(split):
    stream = epochs(split, word_dropout=0.5, buckets=(12,), batch_size=211)
    patterns = [batch.decoder_inputs.eq(UNK_ID) for batch in itertools.islice(stream, 3)]
    assert not torch.equal(patterns[0], patterns[1])
    assert not torch.equal(patterns[1], patterns[2])


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_dropout_rate_is_checked(split, rate):
    with pytest.raises(ConfigError, match="word_dropout must be at least 0 and less than 1; got"):
        epochs(split, word_dropout=rate)


def test_dropout_needs_an_unknown():
    words = Split(Side(("a", "b"), character_tokenizer("ab")), [1, 2])
    with pytest.raises(ConfigError, match=r"by <unk>, which this tokenizer does not have .*data.unit=sentences"):
        TrainingBatches(words, batch_size=2, buckets=(2,), seed=0, word_dropout=0.1)


# -- evaluation of sentences ------------------------------------------------------------------------


def test_evaluation_has_every_sentence_once(split):
    evaluation = evaluation_batches(split, weighted=False, batch_size=16, buckets=BUCKETS)
    assert Counter(rows_of(evaluation)) == Counter(split.texts)
    assert Counter(itertools.chain.from_iterable(evaluation.texts)) == Counter(split.texts)
    assert evaluation.total_weight == 211
    scored = sum((batch.weights * batch.lengths).sum().item() for batch in evaluation)
    assert scored == split.target.table.scored_tokens == sum(len(t.split()) + 1 for t in split.texts)


def test_limited_evaluation_draws_different_rows(split):
    def build(limit, seed=0):
        return evaluation_batches(split, weighted=False, batch_size=16, buckets=BUCKETS, limit=limit, seed=seed)

    drawn = Counter(rows_of(build(100)))
    assert drawn.total() == build(100).total_weight == 100
    assert not drawn - Counter(split.texts), "without replacement"
    assert drawn == Counter(rows_of(build(100)))
    assert drawn != Counter(rows_of(build(100, seed=1)))
    for enough in (211, 5000):
        assert Counter(rows_of(build(enough))) == Counter(split.texts)
