"""Common sentences, and bounds by repeated draws of a Gaussian program whose evidence and gap are known."""

import math

import numpy as np
import pytest
import torch

from ppl_text import objectives
from ppl_text.evaluation.likelihood import estimate_bounds, repeats_of
from ppl_text.evaluation.sentences import common_sentences, merge, stream_seed, tile

from .programs import Gaussian, GaussianGuide, batch_of, evaluation_set, gap, log_evidence

LENGTHS = [[2, 3], [4, 5, 1]]
WEIGHTS = [[1.0, 2.0], [3.0, 0.0, 2.0]]
KEPT = np.array([2, 3, 4, 1])
SHARE = np.array([1.0, 2.0, 3.0, 2.0]) / 8


@pytest.fixture
def common():
    batches = [batch_of(lengths, weights) for lengths, weights in zip(LENGTHS, WEIGHTS, strict=True)]
    return common_sentences(evaluation_set(*batches))


def estimate(common, spec, guide, **options):
    options = {"draws": 64, "seed": 0, **options}
    return estimate_bounds(objectives.build(spec), Gaussian(), guide, common, **options)


def test_filler_is_dropped_and_weights_are_kept(common):
    assert common.weights.tolist() == [1.0, 2.0, 3.0, 2.0]
    assert common.tokens.tolist() == KEPT.tolist()
    assert common.tokens_per_sentence == pytest.approx(SHARE @ KEPT)


def test_batches_are_taken_tiled_and_merged(common):
    merged = common.merged()
    assert merged.tokens.shape == (4, 4)
    assert merged.tokens[0].tolist() == [3, 2, 3, 0]  # one step of padding for the wider batch
    assert merged.take(torch.tensor([3, 0])).tokens.tolist() == [[2, 3], [3, 2]]
    assert tile(common.batches[0], 3).lengths.tolist() == [2, 3] * 3
    assert merge((merged,)).tokens.equal(merged.tokens)


def test_a_minibatch_has_each_sentence_as_often_as_it_was_drawn(common):
    batch = common.minibatch(100, seed=3)
    assert sorted(batch.lengths.tolist()) == [1, 1, 2, 3, 3, 4, 4, 4]
    assert batch.weights.tolist() == [1.0] * 8
    assert common.minibatch(100, seed=3).lengths.equal(batch.lengths)
    assert common.minibatch(3, seed=3).size == 3


def test_the_exact_posterior_leaves_no_spread(common):
    found = estimate(common, "elbo", GaussianGuide())
    assert found.by_sentence.numpy() == pytest.approx(log_evidence(KEPT), abs=1e-5)
    assert found.mean(common.share) == pytest.approx(float(SHARE @ log_evidence(KEPT)), abs=1e-5)
    assert found.standard_error(common.share) == pytest.approx(0.0, abs=1e-6)


def test_the_elbo_is_below_by_the_known_gap(common):
    found = estimate(common, "elbo", GaussianGuide(0.3, 1.2), draws=20000)
    expected = float(SHARE @ log_evidence(KEPT)) - gap(0.3, 1.2)
    assert found.mean(common.share) == pytest.approx(expected, abs=5 * found.standard_error(common.share))
    assert found.draws == 20000


def test_the_standard_error_is_the_spread_of_the_estimate(common):
    """Over many seeds: of the mean of all sentences, at K = 4."""
    runs = [estimate(common, "iwae:4", GaussianGuide(0.3, 1.5), seed=seed) for seed in range(150)]
    means = torch.tensor([run.mean(common.share) for run in runs])
    claimed = math.sqrt(sum(run.standard_error(common.share) ** 2 for run in runs) / len(runs))
    assert claimed == pytest.approx(float(means.std()), rel=5 / math.sqrt(2 * 150))  # 5 errors of a deviation of 150


def test_every_k_pays_for_the_same_draws(common):
    assert [repeats_of(128, k) for k in (1, 16, 5, 128, 500)] == [128, 8, 25, 2, 2]
    assert [estimate(common, spec, GaussianGuide()).draws for spec in ("elbo", "iwae:16", "iwae:64")] == [64, 64, 128]


def test_the_bound_rises_with_k(common):
    specs = ("elbo", "iwae:4", "iwae:32")
    found = [estimate(common, spec, GaussianGuide(0.5, 1.5), draws=8000) for spec in specs]
    means = [each.mean(common.share) for each in found]
    assert means == sorted(means)
    assert means[2] - means[0] > 0.1
    assert means[2] < float(SHARE @ log_evidence(KEPT)) + 5 * found[2].standard_error(common.share)


def test_effective_sample_sizes_are_those_of_the_estimator(common):
    assert estimate(common, "elbo", GaussianGuide()).ess is None
    exact = estimate(common, "iwae:8", GaussianGuide()).ess
    assert exact.tolist() == pytest.approx([1.0] * 4)
    assert float(estimate(common, "iwae:8", GaussianGuide(0.8, 1.5)).ess.max()) < 0.9


def test_chunks_change_the_memory_only(common, monkeypatch):
    model = Gaussian()
    monkeypatch.setattr("ppl_text.evaluation.likelihood.AT_ONCE", 16)
    found = estimate_bounds(objectives.build("elbo"), model, GaussianGuide(), common, draws=50, seed=0)
    assert found.by_sentence.numpy() == pytest.approx(log_evidence(KEPT), abs=1e-5)
    assert model.widest == 1


def test_measuring_leaves_random_state_and_modes_alone(common):
    model, guide = Gaussian().train(), GaussianGuide().train()
    before = torch.get_rng_state()
    first = estimate_bounds(objectives.build("elbo"), model, guide, common, draws=4, seed=1)
    assert torch.get_rng_state().equal(before)
    assert model.training
    assert guide.training
    again = estimate_bounds(objectives.build("elbo"), model, guide, common, draws=4, seed=1)
    assert again.by_sentence.equal(first.by_sentence)


def test_streams_differ_by_every_label_and_fit_torch():
    seeds = {stream_seed(s, *labels) for s in (0, 1) for labels in (("a", "b"), ("ab", ""), ("a",), ("b", "a"))}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(0, "a") == stream_seed(0, "a")
