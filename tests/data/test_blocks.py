"""Epochs in blocks: those in memory where a pool holds all, every row once, going on exactly, and how random it is."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from ppl_text.core.errors import CheckpointError, ConfigError
from ppl_text.data.batches import EpochBatches, TrainingBatches
from ppl_text.data.blocks import BlockBatches, epochs_over

from .streaming import both, lines_of, write
from .test_epochs import same, through_disk

BUCKETS = (4, 7, 13)
SMALL = {"tiny blocks": (20, 100), "blocks": (100, 700), "a block a row": (1, 300), "a pool a block": (200, 200)}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """The training split of 700 lines, in memory and streamed."""
    folder = tmp_path_factory.mktemp("blocks")
    path = write(folder / "a.txt", lines_of(np.random.default_rng(0), 700))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPL_TEXT_CACHE", str(folder))
        return [corpus.splits["train"] for corpus in both(path)]


def stream_of(split, sizes=None, **options):
    made = BlockBatches
    if sizes is not None:
        made = type("Small", (BlockBatches,), dict(zip(("block_tokens", "pool_tokens"), sizes, strict=True)))
    return made(split, **{"batch_size": 16, "buckets": BUCKETS, "seed": 0, **options})


def numbers(batches):
    """Ids of the rows that count."""
    return [
        tuple(t[t > 2].tolist()) for batch in batches for t, w in zip(batch.tokens, batch.weights, strict=True) if w
    ]


@pytest.mark.parametrize("buckets", [BUCKETS, (13,), tuple(range(2, 14))])
@pytest.mark.parametrize("word_dropout", [0.0, 0.4])
def test_a_corpus_of_one_pool_comes_as_in_memory(splits, buckets, word_dropout):
    here, there = splits
    options = {"batch_size": 16, "buckets": buckets, "seed": 3, "word_dropout": word_dropout}
    assert type(epochs_over(here, **options)) is EpochBatches
    one, two = EpochBatches(here, **options), epochs_over(there, **options)
    assert two.batches_per_epoch == one.batches_per_epoch
    for _ in range(3 * one.batches_per_epoch + 5):
        assert two.epoch == one.epoch
        assert same(next(one), next(two))


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("buckets", [BUCKETS, (13,), tuple(range(2, 14))])
def test_an_epoch_has_every_sentence_once(splits, sizes, buckets):
    here, there = splits
    stream, table = stream_of(there, sizes, buckets=buckets), here.target.table
    expected = Counter(table.tokens(row) for row in range(len(table)))
    assert stream.batches_per_epoch == EpochBatches(here, batch_size=16, buckets=buckets, seed=0).batches_per_epoch
    for epoch in range(3):
        assert stream.epoch == epoch
        batches = list(itertools.islice(stream, stream.batches_per_epoch))
        assert stream.epoch == epoch + 1
        assert Counter(numbers(batches)) == expected
        assert {batch.size for batch in batches} == {16}
        assert {batch.steps for batch in batches} <= set(buckets)


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
def test_no_more_than_a_pool_is_held(splits, sizes):
    stream = stream_of(splits[1], sizes)
    most = 0
    for _ in range(2 * stream.batches_per_epoch):
        next(stream)
        most = max(most, stream._held.target.table.scored_tokens)
    # A block of rows has about so many tokens; what is left over is less than a batch of each bucket.
    assert most < 2 * sizes[1] + sum(16 * steps for steps in BUCKETS)


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("word_dropout", [0.0, 0.4])
@pytest.mark.parametrize("taken", [0, 1, 13, 36, 37, 38, 60])
def test_continuation_is_bit_identical(splits, sizes, word_dropout, taken):
    straight = stream_of(splits[1], sizes, word_dropout=word_dropout)
    for _ in range(taken):
        next(straight)
    state = through_disk(straight.state_dict())
    expected, epoch = list(itertools.islice(straight, 90)), straight.epoch
    resumed = stream_of(splits[1], sizes, word_dropout=word_dropout, seed=7)
    next(resumed)
    resumed.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(expected, itertools.islice(resumed, 90), strict=True))
    assert resumed.epoch == epoch


def test_processes_share_each_batch(splits):
    whole = stream_of(splits[1], (100, 700))
    shares = [stream_of(splits[1], (100, 700), parts=(rank, 2)) for rank in range(2)]
    for _ in range(2 * whole.batches_per_epoch):
        batch = next(whole)
        for rank, share in enumerate(shares):
            own = next(share)
            assert torch.equal(own.tokens, batch.tokens[rank::2])
            assert torch.equal(own.weights, batch.weights[rank::2])
    assert through_disk(shares[1].state_dict()) == through_disk(whole.state_dict())


def test_other_streams_are_refused(splits):
    here, there = splits
    state = stream_of(there, (100, 700)).state_dict()
    others = {
        "block": stream_of(there, (50, 700)),
        "order": EpochBatches(here, batch_size=16, buckets=BUCKETS, seed=0),
        "order, block, pool": TrainingBatches(here, batch_size=16, buckets=BUCKETS, seed=0),
        "data": stream_of(there.take(np.arange(500)), (100, 700)),
    }
    for names, stream in others.items():
        before = stream.state_dict()["position"]
        with pytest.raises(CheckpointError, match=f"(another stream of training batches: |, ){names}.* differ"):
            stream.load_state_dict(state)
        assert stream.state_dict()["position"] == before


DAMAGE = {
    "no place": lambda s: s.pop("rng"),
    "no order": lambda s: s.pop("shuffled_from"),
    "another generator": lambda s: s.update(shuffled_from={"bit_generator": "MT19937"}),
    "no pool": lambda s: s.pop("pool"),
    "a pool too many": lambda s: s.update(pool=10_000),
    "before the first epoch": lambda s: s.update(epoch=-1),
    "no remainders": lambda s: s.update(left=[]),
    "no rows": lambda s: s.update(left=["x" for _ in BUCKETS]),
    "a row too many": lambda s: s.update(left=[[10**9] for _ in BUCKETS]),
    "a row below": lambda s: s.update(left=[[-1] for _ in BUCKETS]),
    "a place too far": lambda s: s.update(position=10_000),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_state_changes_nothing(splits, damage):
    stream, twin = (stream_of(splits[1], (100, 700)) for _ in range(2))
    other = stream_of(splits[1], (100, 700), seed=5)
    for _ in range(20):
        next(other)
    state = other.state_dict()
    damage(state)
    with pytest.raises(CheckpointError, match="the state of the training batches is damaged"):
        stream.load_state_dict(state)
    assert all(same(a, b) for a, b in itertools.islice(zip(stream, twin, strict=False), 90))


def test_a_bucket_that_is_too_small_is_refused(splits):
    with pytest.raises(ConfigError, match="the longest sentence has 13 tokens"):
        stream_of(splits[1], buckets=(4, 7))


# -- how random it is -------------------------------------------------------------------------------


def places(stream, rows):
    """Where each row stands in the next epoch (rows,)."""
    order = []
    for _ in range(stream._pools):
        order += [row for _, taken in stream._queue for row in stream._given[taken].tolist()]
        stream._start_pool()
    return np.argsort(order)


class Numbered(BlockBatches):
    """Blocks that remember which rows of the split they hold."""

    block_tokens, pool_tokens = 40, 400

    def _full_batches(self, order, given):
        self._given = given
        return super()._full_batches(order, given)


def test_every_row_is_as_likely_at_every_place(splits):
    split = splits[1]
    n, epochs = len(split), 150
    stream = Numbered(split, batch_size=1, buckets=(13,), seed=0)
    found = np.stack([places(stream, n) for _ in range(epochs)])
    spread = np.sqrt((n * n - 1) / 12 / epochs)
    assert abs(found.mean(0) - (n - 1) / 2).max() < 5 * spread
    # Rows far apart in the file come in an order that their places in the file do not tell.
    rank = np.corrcoef(np.concatenate(found), np.tile(np.arange(n), epochs))[0, 1]
    assert abs(rank) < 5 / np.sqrt(n / stream._block * epochs)


def test_rows_of_a_block_come_within_a_pool(splits):
    split = splits[1]
    stream = Numbered(split, batch_size=1, buckets=(13,), seed=0)
    pool = stream._block * stream._at_once
    assert 20 < pool < len(split) / 5
    for _ in range(5):
        found = places(stream, len(split))
        blocks = [found[start : start + stream._block] for start in range(0, len(split), stream._block)]
        assert all(np.ptp(block) < pool for block in blocks)
        assert len({int(block.min()) // pool for block in blocks}) > 3
        assert np.mean([(np.diff(block) != 1).any() for block in blocks]) > 0.9, "they are shuffled"
