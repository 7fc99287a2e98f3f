"""Batches that processes share out: their parts are the whole, and all stand at the same place of the stream."""

import numpy as np
import pytest
import torch

from ppl_text.core.errors import ConfigError
from ppl_text.data.batches import EpochBatches, TrainingBatches
from ppl_text.data.corpus import Side, Split
from ppl_text.data.tokenizers import word_tokenizer

TEXTS = [" ".join("abcdefgh"[(i * j) % 8] for j in range(1, 2 + i % 5)) for i in range(1, 24)]
TOKENIZER = word_tokenizer(TEXTS)
STREAMS = {"epochs": EpochBatches, "counts": TrainingBatches}


def stream_of(name, parts, paired=True, **options):
    sources = Side(tuple(reversed(TEXTS)), TOKENIZER) if paired else None
    split = Split(Side(tuple(TEXTS), TOKENIZER), source=sources)
    shape = {"batch_size": 6, "buckets": (3, 6), "seed": 1, "word_dropout": 0.3}
    return STREAMS[name](split, **{**shape, **options}, parts=parts)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("number", [2, 3, 6])
def test_the_parts_of_a_batch_are_the_batch(name, number):
    whole, parts = stream_of(name, (0, 1)), [stream_of(name, (own, number)) for own in range(number)]
    for _ in range(12):
        batch, shared = next(whole), [next(part) for part in parts]
        for field in ("tokens", "lengths", "weights", "decoder_inputs"):
            dealt = torch.stack([getattr(part, field) for part in shared], 1).flatten(0, 1)
            assert torch.equal(dealt, getattr(batch, field)), field
        lengths = torch.stack([part.source.lengths for part in shared], 1).flatten()
        assert torch.equal(lengths, batch.source.lengths)
        assert {part.size for part in shared} == {6 // number}


def test_filler_rows_make_whole_parts():
    weights = [[next(part).weights for _ in range(6)] for part in (stream_of("epochs", (own, 6)) for own in range(6))]
    sums = torch.stack([torch.cat(own) for own in weights])
    assert sums.shape == (6, 6)
    assert int(sums.sum()) <= 36
    assert bool((sums == 0).any())  # the last batch of a bucket has fewer texts than processes


@pytest.mark.parametrize("name", STREAMS)
def test_all_parts_have_one_position_which_any_number_of_them_goes_on_from(name):
    two, three = [stream_of(name, (own, 2)) for own in range(2)], stream_of(name, (1, 3), seed=5)
    for _ in range(5):
        first, second = (next(part) for part in two)
    states = [part.state_dict() for part in two]
    assert repr(states[0]) == repr(states[1])
    three.load_state_dict(states[0])
    alone = stream_of(name, (0, 1), seed=9)
    alone.load_state_dict(states[1])
    for _ in range(9):
        whole, part = next(alone), next(three)
        assert torch.equal(part.tokens, whole.tokens[1::3])
        assert torch.equal(part.decoder_inputs, whole.decoder_inputs[1::3])
    assert first.size == second.size == 3


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ConfigError, match=r"6 texts .* evenly among 4 processes; give a multiple of 4"):
        stream_of("epochs", (0, 4))


def test_shares_of_rows_are_those_of_their_weights():
    batch = next(stream_of("epochs", (0, 1)))
    assert batch.shares.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(batch.shares, batch.weights / batch.weights.sum())
    filler = batch.map(lambda tensor: tensor * 0 if tensor is batch.weights else tensor)
    assert np.array_equal(filler.shares.numpy(), np.zeros(6, dtype=np.float32))
