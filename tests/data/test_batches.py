"""Batches: shapes, what stands where, the sampled distribution, and an exact continuation."""

import io
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from ppl_text.core.errors import CheckpointError, ConfigError, DataError
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID
from ppl_text.data.batches import EvaluationSet, TrainingBatches, collate, default_buckets
from ppl_text.data.batches import evaluation_batches as batches_of
from ppl_text.data.corpus import Side, Split
from ppl_text.data.randomness import CountSampler
from ppl_text.data.tokenizers import character_tokenizer

TOKENIZER = character_tokenizer("abcdefghij")
BUCKETS = (3, 5, 9)


def split_of(texts, counts, tokenizer=TOKENIZER):
    return Split(Side(tuple(texts), tokenizer), np.asarray(counts, dtype=np.int64))


@pytest.fixture(scope="module")
def split():
    """200 words of 1 to 8 letters with skewed counts."""
    rng = np.random.default_rng(0)
    words = sorted({"".join(rng.choice(list("abcdefghij"), size=n)) for n in rng.integers(1, 9, size=400)})[:200]
    return split_of(words, (1000 / (1 + rng.permutation(len(words)))).astype(np.int64))


def training(split, **options):
    return TrainingBatches(split, **{"batch_size": 16, "buckets": BUCKETS, "seed": 0, **options})


def texts_of(batch):
    return [TOKENIZER.decode(row) for row in batch.tokens]


def check_rows(batch):
    """Tokens, lengths and inputs of every row belong together."""
    for tokens, length, inputs in zip(
        batch.tokens.tolist(), batch.lengths.tolist(), batch.decoder_inputs.tolist(), strict=True
    ):
        words, rest = tokens[: length - 1], tokens[length:]
        assert tokens[length - 1] == EOS_ID
        assert all(w > EOS_ID for w in words)
        assert set(rest) <= {PAD_ID}
        assert inputs == [BOS_ID, *words, *[PAD_ID] * len(rest)]


def same(one, two):
    pairs = zip((one.tokens, one.lengths, one.weights), (two.tokens, two.lengths, two.weights), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and torch.equal(one.decoder_inputs, two.decoder_inputs)


# -- collate ----------------------------------------------------------------------------------------


def test_collate_by_hand():
    batch = collate([[5, 6, 7], [4], []], [2.0, 0.5, 3.0], steps=5, rows=4)
    assert batch.tokens.tolist() == [[5, 6, 7, 2, 0], [4, 2, 0, 0, 0], [2, 0, 0, 0, 0], [2, 0, 0, 0, 0]]
    assert batch.decoder_inputs.tolist() == [[1, 5, 6, 7, 0], [1, 4, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert batch.lengths.tolist() == [4, 2, 1, 1]
    assert batch.weights.tolist() == [2.0, 0.5, 3.0, 0.0]
    assert batch.tokens.dtype == batch.lengths.dtype == batch.decoder_inputs.dtype == torch.int64
    assert batch.weights.dtype == torch.float32
    check_rows(batch)


def test_collate_fits_exactly():
    batch = collate([[5, 6]], torch.tensor([1.0], dtype=torch.float64), steps=3, rows=1)
    assert batch.tokens.tolist() == [[5, 6, 2]]
    assert batch.decoder_inputs.tolist() == [[1, 5, 6]]
    assert batch.weights.dtype == torch.float64


def test_collate_of_nothing_is_filler():
    batch = collate([], [], steps=2, rows=2)
    assert batch.tokens.tolist() == [[2, 0], [2, 0]]
    assert batch.weights.tolist() == [0.0, 0.0]


def test_collate_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match=r"3 tokens \(EOS counted\), which do not fit into 2 steps"):
        collate([[5, 6]], [1.0], steps=2, rows=1)
    with pytest.raises(ConfigError, match="2 sentences with 2 weights do not make a batch of 1 rows"):
        collate([[5], [6]], [1.0, 1.0], steps=2, rows=1)
    with pytest.raises(ConfigError, match="1 sentences with 2 weights"):
        collate([[5]], [1.0, 1.0], steps=2, rows=4)


# -- training: shapes -------------------------------------------------------------------------------


def test_training_batches_have_the_shape_of_a_bucket(split):
    seen = set()
    for batch in itertools.islice(training(split), 200):
        assert batch.size == 16
        assert batch.steps in BUCKETS
        shorter = max((b for b in BUCKETS if b < batch.steps), default=0)
        assert (batch.lengths <= batch.steps).all()
        assert (batch.lengths > shorter).all()
        assert batch.weights.tolist() == [1.0] * 16
        assert batch.tokens.is_contiguous()
        check_rows(batch)
        seen.add(batch.steps)
    assert seen == set(BUCKETS)


def test_batches_do_not_share_memory(split):
    stream = training(split)
    first = next(stream)
    first.weights.zero_()
    first.tokens.zero_()
    assert next(stream).weights.sum() == 16
    assert all(min(batch.tokens[:, 0]) > 0 for batch in itertools.islice(stream, 100))


def test_buckets_come_in_random_order(split):
    steps = [batch.steps for batch in itertools.islice(training(split, pool_batches=200), 150)]
    share = np.array([steps.count(b) / 150 for b in BUCKETS])
    changes = sum(a != b for a, b in itertools.pairwise(steps))
    expected = 149 * (1 - (share**2).sum())
    assert abs(changes - expected) < 5 * np.sqrt(expected)


def test_a_bucket_without_words_is_no_harm():
    words = split_of(("a", "abcdef"), [5, 5])
    steps = {batch.steps for batch in itertools.islice(training(words, buckets=(2, 4, 7, 20)), 60)}
    assert steps == {2, 7}


def test_rare_long_words_come_out_in_the_end():
    # One pool holds 16 words; the bucket of the rare one takes many pools to fill.
    words = split_of(("a", "abcdef"), [19, 1])
    stream = training(words, buckets=(2, 7), pool_batches=1)
    steps = Counter(batch.steps for batch in itertools.islice(stream, 4000))
    assert abs(steps[7] - 200) < 5 * np.sqrt(200 / 16 * 0.95) + 1


# -- training: distribution -------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [BUCKETS, (9,)], ids=["three buckets", "one bucket"])
@pytest.mark.parametrize("pool", [1, 64])
def test_sampled_in_proportion_to_counts(split, buckets, pool):
    stream = training(split, buckets=buckets, pool_batches=pool, seed=3)
    seen = Counter(text for batch in itertools.islice(stream, 4000) for text in texts_of(batch))
    n, p = seen.total(), split.probabilities()
    observed = np.array([seen[text] for text in split.texts])
    assert observed.sum() == n, "nothing but words of the split"
    chi_square, freedom = ((observed - n * p) ** 2 / (n * p)).sum(), len(p) - 1
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_what_comes_out_is_what_was_drawn(split, monkeypatch):
    """Nothing is dropped or repeated: what has come out and what waits are the draws, whichever pool they are from."""
    drawn = Counter()
    draw = CountSampler.draw

    def recorded(self, rng, number):
        rows = draw(self, rng, number)
        drawn.update(split.texts[i] for i in rows)
        return rows

    monkeypatch.setattr(CountSampler, "draw", recorded)
    stream = training(split, pool_batches=8)
    emitted = Counter()
    for _ in range(200):
        emitted.update(texts_of(next(stream)))
        waiting = Counter(split.texts[i] for _, rows in stream._queue[stream._position :] for i in rows)
        left = Counter(split.texts[i] for rows in stream._left for i in rows)
        assert emitted + waiting + left == drawn
        assert left.total() <= len(BUCKETS) * 15
    assert drawn.total() > 20 * 16 * 8, "many pools were looked at"


def test_words_without_count_never_appear():
    words = split_of(("a", "b", "c"), [0, 3, 0])
    seen = {text for batch in itertools.islice(training(words, buckets=(2,)), 20) for text in texts_of(batch)}
    assert seen == {"b"}


def test_huge_counts_are_sampled_exactly():
    words = split_of(("a", "b", "c"), [2**60, 2**60, 1])
    stream = training(words, buckets=(2,))
    seen = Counter(text for batch in itertools.islice(stream, 300) for text in texts_of(batch))
    assert set(seen) == {"a", "b"}
    assert abs(seen["a"] - 2400) < 5 * np.sqrt(1200)


def test_seed_decides_the_stream(split):
    first, again, other = (list(itertools.islice(training(split, seed=s), 20)) for s in (1, 1, 2))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not all(same(a, b) for a, b in zip(first, other, strict=True) if a.steps == b.steps)


# -- training: going on exactly ---------------------------------------------------------------------


def through_disk(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5, 11, 50])
def test_continuation_is_bit_identical(split, taken):
    stream = training(split, pool_batches=4)
    for _ in range(taken):
        next(stream)
    state = through_disk(stream.state_dict())
    expected = list(itertools.islice(stream, 30))
    resumed = training(split, pool_batches=4, seed=99)
    resumed.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(expected, itertools.islice(resumed, 30), strict=True))


def test_state_survives_the_stream_going_on(split):
    stream = training(split, pool_batches=2)
    next(stream)
    state = stream.state_dict()
    expected = list(itertools.islice(stream, 20))
    stream.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(expected, itertools.islice(stream, 20), strict=True))


def test_state_of_other_data_is_refused(split):
    state = training(split).state_dict()
    fewer = split_of(split.texts[:-1], split.counts[:-1])
    recounted = split_of(split.texts, split.counts + 1)
    for other in (training(fewer), training(recounted)):
        before = other.state_dict()["position"]
        with pytest.raises(
            CheckpointError, match="another stream of training batches: data differ; resume with the corpus"
        ):
            other.load_state_dict(state)
        assert other.state_dict()["position"] == before
    with pytest.raises(CheckpointError, match="batch_size, buckets differ"):
        training(split, batch_size=8, buckets=(4, 9)).load_state_dict(state)
    tokenizer = character_tokenizer("jihgfedcba")
    other = TrainingBatches(split_of(split.texts, split.counts, tokenizer), batch_size=16, buckets=BUCKETS, seed=0)
    with pytest.raises(CheckpointError, match="data differ"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("rng"),
        lambda s: s.pop("identity"),
        lambda s: s.update(rng={"bit_generator": "MT19937"}),
        lambda s: s.update(position="first"),
        lambda s: s.update(position=-1),
        lambda s: s.update(left=[]),
    ],
)
def test_damaged_state_is_refused(split, damage):
    stream = training(split)
    state = stream.state_dict()
    damage(state)
    with pytest.raises(CheckpointError, match="the state of the training batches is damaged"):
        stream.load_state_dict(state)


# -- errors -----------------------------------------------------------------------------------------


def test_buckets_must_hold_the_longest_sentence(split):
    message = r"the longest sentence has 9 tokens \(EOS counted\), the largest bucket only 6 steps"
    with pytest.raises(ConfigError, match=message):
        training(split, buckets=(3, 6))
    with pytest.raises(ConfigError, match=message):
        batches_of(split, weighted=True, batch_size=4, buckets=(3, 6))


@pytest.mark.parametrize("buckets", [(), (0, 9), (9, 9), (9, 5)])
def test_buckets_must_rise(split, buckets):
    with pytest.raises(ConfigError, match="buckets must be rising numbers of steps"):
        training(split, buckets=buckets)


def test_sizes_must_be_positive(split):
    with pytest.raises(ConfigError, match="batch_size and pool_batches must be 1 or more"):
        training(split, batch_size=0)
    with pytest.raises(ConfigError, match="batch_size and limit must be 1 or more"):
        batches_of(split, weighted=True, batch_size=4, buckets=BUCKETS, limit=0)


def test_nothing_to_sample():
    empty = split_of((), [])
    with pytest.raises(DataError, match="nothing to sample"):
        training(empty)
    with pytest.raises(DataError, match="nothing to sample"):
        batches_of(empty, weighted=True, batch_size=4, buckets=BUCKETS)


# -- evaluation -------------------------------------------------------------------------------------


def rows_of(evaluation):
    """(text, weight) of each row that is not filler, from the tensors."""
    for batch, texts in zip(evaluation.batches, evaluation.texts, strict=True):
        assert texts_of(batch)[: len(texts)] == texts
        assert batch.weights[len(texts) :].eq(0).all()
        assert batch.lengths[len(texts) :].eq(1).all()
        yield from zip(texts, batch.weights.tolist(), strict=False)


def test_evaluation_is_the_exact_expectation(split):
    evaluation = batches_of(split, weighted=True, batch_size=16, buckets=BUCKETS)
    assert isinstance(evaluation, EvaluationSet)
    assert dict(rows_of(evaluation)) == dict(zip(split.texts, split.counts.tolist(), strict=True))
    assert sum(len(texts) for texts in evaluation.texts) == len(split)
    assert evaluation.total_weight == split.total
    letters = sum((batch.weights * (batch.lengths - 1)).sum().item() for batch in evaluation)
    expected = sum(p * len(t) for t, p in zip(split.texts, split.probabilities(), strict=True))
    assert letters / evaluation.total_weight == pytest.approx(expected, rel=1e-12)
    for batch in evaluation:
        assert batch.steps in BUCKETS
        check_rows(batch)
    assert len(evaluation) == len(evaluation.batches)


def test_batches_of_an_evaluation_have_one_shape_a_bucket_and_little_filler(split):
    evaluation = batches_of(split, weighted=False, batch_size=32, buckets=BUCKETS)
    members = Counter(batch.steps for batch, texts in zip(evaluation, evaluation.texts, strict=True) for _ in texts)
    shapes = {batch.tokens.shape for batch in evaluation}
    assert shapes == {(min(32, number), steps) for steps, number in members.items()}
    assert min(members.values()) < 32 < max(members.values())
    filled = [
        batch.steps for batch, texts in zip(evaluation, evaluation.texts, strict=True) if len(texts) < len(batch.tokens)
    ]
    assert len(set(filled)) == len(filled), "of the batches of a bucket one at most"
    assert [batch.steps for batch in evaluation] == sorted(batch.steps for batch in evaluation)


def test_large_counts_are_exact_weights():
    words = split_of(("a", "b"), [2**53 - 1, 16_777_217])
    (batch,) = batches_of(words, weighted=True, batch_size=2, buckets=(2,))
    assert batch.weights.tolist() == [2**53 - 1, 16_777_217]


def test_limited_evaluation_aggregates_its_draws(split):
    def build(**options):
        return batches_of(split, weighted=True, batch_size=16, buckets=BUCKETS, **options)

    one, again, other = build(limit=500, seed=1), build(limit=500, seed=1), build(limit=500, seed=2)
    drawn = dict(rows_of(one))
    assert sum(drawn.values()) == one.total_weight == 500
    assert min(drawn.values()) >= 1
    assert len(drawn) == sum(len(texts) for texts in one.texts), "each type once"
    assert drawn == dict(rows_of(again))
    assert drawn != dict(rows_of(other))


def test_limited_evaluation_is_proportional_to_counts(split):
    n, p = 200_000, split.probabilities()
    drawn = dict(rows_of(batches_of(split, weighted=True, batch_size=64, buckets=(9,), limit=n, seed=5)))
    observed = np.array([drawn.get(text, 0) for text in split.texts])
    chi_square, freedom = ((observed - n * p) ** 2 / (n * p)).sum(), len(p) - 1
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_evaluation_does_not_follow_the_draws_of_training(split):
    stream = training(split, buckets=(9,), seed=0)
    pool = Counter(text for batch in itertools.islice(stream, 64) for text in texts_of(batch))
    drawn = dict(rows_of(batches_of(split, weighted=True, batch_size=16, buckets=(9,), limit=64 * 16, seed=0)))
    assert pool != drawn


# -- the built-in list ------------------------------------------------------------------------------


def test_built_in_list_in_batches(words_corpus):
    train = words_corpus.splits["train"]
    buckets = default_buckets(train, 3)
    assert buckets[-1] == words_corpus.max_steps
    stream = TrainingBatches(train, batch_size=128, buckets=buckets, seed=0)
    seen = Counter(
        words_corpus.tokenizer.decode(row) for batch in itertools.islice(stream, 200) for row in batch.tokens
    )
    expected = train.probabilities()[0] * seen.total()
    assert train.texts[0] == "the"
    assert abs(seen["the"] - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_processes_share_batches_of_an_evaluation_as_many_for_each(split, size):
    evaluation = batches_of(split, weighted=True, batch_size=32, buckets=BUCKETS)
    shares = [evaluation.share(rank, size) for rank in range(size)]
    assert {len(share) for share in shares} == {-(-len(evaluation) // size)}
    own = [batch for batches in itertools.zip_longest(*shares) for batch in batches]
    for batch, given in zip(own, evaluation, strict=False):
        assert batch is given
    assert all(float(batch.weights.sum()) == 0 for batch in own[len(evaluation) :])
