"""Standard errors against the spread over seeds, for weights whose tails are known; what they do not claim is said."""

import math

import numpy as np
import pytest
import torch

from ppl_text.evaluation.likelihood import bounds_of, summarize
from ppl_text.evaluation.scores import SentenceScores
from ppl_text.evaluation.standard_errors import (
    is_unreliable,
    jackknife_variance,
    log_means_without_each,
)
from ppl_text.measures.base import khat_of
from ppl_text.objectives.bounds import means_without_each
from ppl_text.plots.inference_data import khat_columns

SEEDS, TEXTS, K, TOKENS = 400, 40, 64, 5.0
NORMAL_90 = 1.645


def log_weights(tail, rows, draws=K, seed=0):
    """Return ln w - ln p(x) (rows, draws) of a Gaussian posterior under a guide whose variance is 1 - ``tail`` of it.

    With z standard normal it is (ln(1 - tail) + tail·z²) / 2, so that w has mean 1 and a Pareto tail of k = ``tail``.
    """
    z = torch.randn(rows, draws, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.5 * (math.log1p(-tail) + tail * z.square())


def scores_of(weights):
    """The scores of texts whose ln p(x) is 0, with these log-weights."""
    one = torch.ones(len(weights), dtype=torch.float64)
    rec = -weights.mean(1)
    return SentenceScores(one, TOKENS * one, rec, *[0 * one] * 3, weights)


def over_seeds(tail):
    """Evaluations of the same texts with other draws, each as an evaluation prints it."""
    return summaries(bounds_of(scores_of(log_weights(tail, SEEDS * TEXTS))))


def summaries(bounds):
    """Those of each seed by itself."""
    columns = [column.view(SEEDS, -1) for column in bounds]
    return [summarize(type(bounds)(*(column[seed] for column in columns)), K) for seed in range(SEEDS)]


def covered(found, name, error, expected):
    """The share of 90 % intervals that hold what is expected."""
    values, errors = (np.array([getattr(one, key) for one in found]) for key in (name, error))
    return np.mean(np.abs(values - expected) < NORMAL_90 * errors)


@pytest.mark.parametrize("tail", [0.1, 0.3, 0.5, 0.65])
def test_intervals_cover_the_expectation_at_that_k(tail):
    """90 % intervals cover 80 % and more where k < 0.7: of the bound, of the gap, of the perplexity."""
    found = over_seeds(tail)
    many = bounds_of(scores_of(log_weights(tail, 40_000, seed=1)))
    iw, elbo = float(many.iw.mean()), 0.5 * (math.log1p(-tail) + tail)  # E z² = 1
    assert iw < 0, "a lower bound of ln p(x) = 0"
    assert covered(found, "iw", "iw_se", iw) >= 0.8
    assert covered(found, "elbo", "elbo_se", elbo) >= 0.8
    assert covered(found, "gap", "gap_se", iw - elbo) >= 0.8
    assert covered(found, "perplexity", "perplexity_se", math.exp(-iw / TOKENS)) >= 0.8
    assert covered(found, "elbo_perplexity", "elbo_perplexity_se", math.exp(-elbo / TOKENS)) >= 0.8


def test_a_few_texts_of_heavy_weights_are_covered_too():
    """A quarter of the texts has k = 0.85: that is no third, and the error need not be marked."""
    texts, poor = 120, 30
    weights = log_weights(0.3, SEEDS * texts).view(SEEDS, texts, K)
    weights[:, :poor] = log_weights(0.85, SEEDS * poor, seed=1).view(SEEDS, poor, K)
    expected = [float(bounds_of(scores_of(log_weights(tail, 40_000, seed=2))).iw.mean()) for tail in (0.85, 0.3)]
    assert not is_unreliable((khat_of(scores_of(weights[0])) > 0.7).mean())
    found = summaries(bounds_of(scores_of(weights.view(-1, K))))
    assert covered(found, "iw", "iw_se", expected[0] / 4 + expected[1] * 3 / 4) >= 0.8


@pytest.mark.parametrize("tail", [0.3, 0.65, 0.9, 0.99])
def test_stated_errors_are_the_spread_over_seeds_whatever_the_tail(tail):
    """The delta method states 0.6 of it at k = 0.9, and less beyond."""
    found = over_seeds(tail)
    for name, error in (("iw", "iw_se"), ("gap", "gap_se"), ("perplexity", "perplexity_se")):
        values, errors = (np.array([getattr(one, key) for one in found]) for key in (name, error))
        # The deviation of 400 values is known to 1/√800; tails make it less sure, of the stated variances as well.
        assert math.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.2)


def test_leaving_out_is_in_expectation_no_less_than_the_variance():
    """Efron and Stein, where no moment of the weights is finite: k = 3, ln w = 3·Exp(1)."""
    rng = torch.Generator().manual_seed(0)
    weights = 3.0 * torch.empty(24, 50_000, dtype=torch.float64).exponential_(generator=rng)
    stated = jackknife_variance(log_means_without_each(weights)).mean()
    true = (weights.logsumexp(0) - math.log(24)).var()
    assert true < stated < 1.5 * true


@pytest.mark.parametrize(("tail", "marked"), [(0.1, False), (0.5, False), (0.6, False), (0.9, True), (0.99, True)])
def test_where_khat_is_high_the_error_claims_no_coverage(tail, marked):
    scores = scores_of(log_weights(tail, 1000))
    khat = khat_columns(khat_of(scores), scores.weights.numpy())
    found = summarize(bounds_of(scores), K, khat=khat)
    assert found.unreliable is marked
    assert found.khat_good + found.khat_ok + found.khat_bad == pytest.approx(1.0)
    assert not summarize(bounds_of(scores), K).unreliable, "of no draws nothing is known"
    assert not is_unreliable(None)


def test_without_each_is_the_estimate_of_all_others():
    """By hand, also where one weight is nearly the whole sum, and where all are alike."""
    weights = torch.tensor(
        [[0.0, 1.0, -2.0, 0.5], [900.0, 1.0, 0.0, 2.0], [3.0, 3.0, 3.0, 3.0], [0.0, 40.0, 39.0, 1.0]]
    ).T
    weights = weights.double()
    for k in range(4):
        others = weights[[i for i in range(4) if i != k]]
        torch.testing.assert_close(log_means_without_each(weights)[k], others.logsumexp(0) - math.log(3))
        torch.testing.assert_close(means_without_each(weights)[k], others.mean(0))


def test_of_a_mean_it_is_the_usual_error():
    values = torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(jackknife_variance(means_without_each(values)), values.var(0) / 7)


def test_one_draw_knows_no_spread_and_a_lone_weight_knows_no_bound_of_it():
    one = torch.zeros(1, 2, dtype=torch.float64)
    assert jackknife_variance(log_means_without_each(one)).isnan().all()
    lone = torch.tensor([[0.0], [-math.inf], [-math.inf]], dtype=torch.float64)
    assert jackknife_variance(log_means_without_each(lone)).tolist() == [math.inf]
    nothing = torch.full((3, 1), -math.inf, dtype=torch.float64)
    assert jackknife_variance(log_means_without_each(nothing)).isnan().all()


def test_drawing_texts_moves_the_perplexity_as_stated():
    """Texts of many lengths, drawn without replacement: a ratio of two sums, by draws of a quarter of them."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 20, size=200).astype(float)
    values = torch.tensor(-2.0 * tokens + rng.normal(size=200) * np.sqrt(tokens))
    exact = SentenceScores(*map(torch.ones, [200] * 6), values.unsqueeze(1), exact=True)
    bounds = bounds_of(exact._replace(tokens=torch.tensor(tokens)))
    found = []
    for _ in range(600):
        rows = torch.from_numpy(rng.permutation(200)[:50])
        found.append(summarize(type(bounds)(*(column[rows] for column in bounds)), 1, drawn_from=200, exact=True))
    perplexities = np.array([one.perplexity for one in found])
    stated = math.sqrt(np.mean([one.perplexity_sampling_se**2 for one in found]))
    assert stated == pytest.approx(perplexities.std(), rel=5 / math.sqrt(2 * 600))
    alone = [one.perplexity * one.sampling_se * one.n_sent / one.n_eos for one in found]
    assert stated < 0.5 * np.mean(alone), "long texts have more nats and more tokens"
    assert summarize(bounds, 1, drawn_from=200, exact=True).perplexity_sampling_se == 0.0
