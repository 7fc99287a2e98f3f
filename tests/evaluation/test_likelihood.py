"""Bounds and their standard errors against models whose log p(x) is known."""

import itertools
import math

import numpy as np
import pytest
import torch

from ppl_text.core.batch import Batch
from ppl_text.data.batches import evaluation_batches
from ppl_text.data.corpus import Side, Split
from ppl_text.data.tokenizers import character_tokenizer
from ppl_text.evaluation.likelihood import sentence_bounds, summarize
from ppl_text.evaluation.scores import join_scores
from ppl_text.metrics.words import entropy, letter_cross_entropy, letter_model

from .programs import (
    Enumerable,
    EnumerableGuide,
    Gaussian,
    GaussianGuide,
    Nothing,
    Unigram,
    batch_of,
    evaluation_set,
    gap,
    log_evidence,
)

LENGTHS = [1, 2, 3, 4, 6]


def measured(model, guide, *batches, particles, drawn_from=None, **options):
    bounds = sentence_bounds(model, guide, evaluation_set(*batches), particles=particles, **options)
    return summarize(bounds, particles, drawn_from=drawn_from)


@pytest.mark.parametrize(("particles", "chunk"), [(1, 16), (2, 16), (10, 4), (16, 1), (16, 16), (33, 16)])
def test_the_exact_posterior_leaves_no_gap_and_no_error(particles, chunk):
    """Every weight is p(x), so any particle that is dropped or counted twice would show in ESS and sums."""
    found = measured(Gaussian(), GaussianGuide(), batch_of(LENGTHS), particles=particles, chunk=chunk)
    exact = log_evidence(LENGTHS).mean()
    assert found.elbo == pytest.approx(exact, abs=1e-6)
    assert found.iw == pytest.approx(exact, abs=1e-6)
    assert found.ess == pytest.approx(particles, rel=1e-5)
    assert found.rec_sum + found.kl_sum == pytest.approx(-len(LENGTHS) * exact, abs=1e-5)
    errors = (found.elbo_se, found.iw_se)
    assert all(map(math.isnan, errors)) if particles == 1 else max(errors) < 1e-3


def words(*texts):
    """Words of a and b as a batch."""
    ids = [[{"a": 3, "b": 4}[c] for c in text] + [2] for text in texts]
    steps = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (steps - len(row)) for row in ids])
    return Batch(tokens, torch.tensor([len(row) for row in ids]), torch.ones(len(ids)), tokens)


def test_an_enumerable_model_with_its_exact_posterior():
    model, batch = Enumerable(), words("", "ab", "bbbb", "a")
    exact = float(model.joint(batch).logsumexp(0).mean())
    found = measured(model, EnumerableGuide(model), batch, particles=5)
    assert found.elbo == pytest.approx(exact, abs=1e-9)
    assert found.iw == pytest.approx(exact, abs=1e-9)


def test_an_enumerable_model_with_a_wrong_guide():
    """The ELBO against its exact value, the IW bound between it and ln p, nearer to ln p with more particles."""
    model, batch = Enumerable(), words("", "ab", "bbbb", "a")
    guide = EnumerableGuide(model, temperature=4.0)
    joint = model.joint(batch)
    log_q = (joint / 4.0).log_softmax(0)
    exact_elbo = float((log_q.exp() * (joint - log_q)).sum(0).mean())
    exact_kl = float((log_q.exp() * (log_q - model.prior.log().unsqueeze(-1))).sum(0).mean())
    log_p = float(joint.logsumexp(0).mean())
    found = measured(model, guide, batch, particles=4000, chunk=500)
    assert abs(found.elbo - exact_elbo) < 5 * found.elbo_se
    assert abs(found.kl - exact_kl) < 0.05
    assert abs(found.iw - log_p) < 5 * found.iw_se
    few = measured(model, guide, batch, particles=2)
    assert few.elbo < few.iw < log_p + 5 * few.iw_se


WRONG = {"shift": 0.25, "stretch": 1.3}
ERROR_OF_DEVIATION = 5 / math.sqrt(2 * 400)
"""Five standard errors of the standard deviation of the 400 evaluations below, relative."""


@pytest.fixture(scope="module")
def repeated():
    """400 evaluations with other seeds: five sentences, 64 particles, a wrong guide."""
    batch = batch_of(LENGTHS)
    return [measured(Gaussian(), GaussianGuide(**WRONG), batch, particles=64, seed=s, chunk=64) for s in range(400)]


@pytest.mark.parametrize(("bound", "lost"), [("elbo", gap(**WRONG)), ("iw", 0.0)])
def test_standard_errors_are_the_spread_over_seeds_and_cover_the_truth(repeated, bound, lost):
    values = np.array([getattr(found, bound) for found in repeated])
    errors = np.array([getattr(found, f"{bound}_se") for found in repeated])
    truth = log_evidence(LENGTHS).mean() - lost
    assert values.std() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=ERROR_OF_DEVIATION)
    covered = np.mean(np.abs(values - truth) < 1.96 * errors)
    assert abs(covered - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 400)
    assert abs(values.mean() - truth) < 5 * values.std() / 20 + 0.01 * (bound == "iw")  # the bias of ln w̄ is O(1/K)


def test_chunks_change_draws_and_memory_but_no_distribution(repeated):
    model, batch = Gaussian(), batch_of(LENGTHS)
    singly = [measured(model, GaussianGuide(**WRONG), batch, particles=64, seed=s, chunk=1) for s in range(12)]
    assert model.widest == 1
    for bound in ("elbo", "iw", "kl", "ess"):
        all_values = np.array([getattr(found, bound) for found in repeated])
        values = np.array([getattr(found, bound) for found in singly])
        assert abs(values.mean() - all_values.mean()) < 5 * all_values.std() / math.sqrt(len(singly))
    measured(model, GaussianGuide(), batch, particles=40, chunk=16)
    assert model.widest == 16


def test_elbo_is_reconstruction_less_kl_and_below_the_iw_bound(repeated):
    for found in repeated[:20]:
        assert found.elbo == pytest.approx(-found.rec - found.kl, abs=1e-9)
        assert found.elbo < found.iw
        assert 1 <= found.ess <= 64


def test_weights_count_and_filler_rows_do_not():
    """A row of weight 3 is three rows; a row of weight 0, on which the model is unsure, is none."""
    exact = log_evidence([1, 1, 1, 4])
    found = measured(Gaussian(), GaussianGuide(), batch_of([1, 4, 6, 9], [3.0, 1.0, 0.0, 0.0]), particles=4)
    assert found.iw == pytest.approx(exact.mean(), abs=1e-6)
    assert found.rec_sum + found.kl_sum == pytest.approx(-exact.sum(), abs=1e-5)
    assert (found.n_sent, found.n_eos, found.n_words) == (4.0, 7.0, 3.0)
    data = evaluation_set(batch_of([1, 6, 4], [3.0, 0.0, 1.0]))
    bounds = sentence_bounds(Gaussian(), GaussianGuide(), data, particles=2)
    assert [column.tolist() for column in bounds[:2]] == [[3.0, 1.0], [1.0, 4.0]]
    assert {len(column) for column in bounds} == {2}


def test_a_weighted_row_has_one_draw_and_its_error_says_so():
    """A row that counts 9 times has the error of one row and not of nine independent ones."""
    alone = measured(Gaussian(), GaussianGuide(**WRONG), batch_of([4]), particles=16, seed=3)
    often = measured(Gaussian(), GaussianGuide(**WRONG), batch_of([4], [9.0]), particles=16, seed=3)
    assert often.elbo_se == pytest.approx(alone.elbo_se)
    assert often.n_sent == 9


def test_drawn_sentences_add_the_error_of_drawing():
    """The spread of exact values over √N, against many draws of N sentences."""
    rng = np.random.default_rng(0)
    lengths = rng.choice(LENGTHS, size=(300, 40))
    means = log_evidence(lengths).mean(1)
    found = measured(Gaussian(), GaussianGuide(), batch_of(lengths[0].tolist()), particles=2, drawn_from=math.inf)
    assert found.sampling_se == pytest.approx(log_evidence(lengths[0]).std() / math.sqrt(40), rel=1e-5)
    assert found.sampling_se == pytest.approx(means.std(), rel=0.35)
    assert measured(Gaussian(), GaussianGuide(), batch_of([1, 4]), particles=2).sampling_se == 0.0


def test_drawing_most_of_the_sentences_adds_little():
    """Means of n of N values without replacement: their spread over all choices is s²/n · (N - n)/(N - 1)."""
    lengths = [1, 2, 3, 4, 6, 6]
    values = log_evidence(lengths)
    for n in (2, 4, 5):
        of_all = np.mean([(np.mean(c) - values.mean()) ** 2 for c in itertools.combinations(values, n)])
        estimates = []
        for chosen in itertools.combinations(lengths, n):
            found = measured(Gaussian(), GaussianGuide(), batch_of(list(chosen)), particles=2, drawn_from=len(lengths))
            estimates.append(found.sampling_se**2)
        # s² over n - 1 instead of n, which is known of the printed figure, and N - 1 of N.
        assert np.mean(estimates) * n / (n - 1) == pytest.approx(of_all, rel=1e-4)
    whole = measured(Gaussian(), GaussianGuide(), batch_of(lengths), particles=2, drawn_from=len(lengths))
    assert whole.sampling_se == 0.0


LETTERS = character_tokenizer("abc")
TRAIN = Split(Side(("ab", "c", "abba"), LETTERS), [3, 2, 1])
TEST = Split(Side(("ab", "c"), LETTERS), [3, 2])


def unigram(split):
    fitted = letter_model(split)
    table = torch.full((LETTERS.size,), -torch.inf, dtype=torch.float64)
    table[2] = fitted.eos
    for letter, value in fitted.letters.items():
        table[LETTERS.symbols.index(letter)] = value
    return Unigram(table)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_iid_unigram_model_has_the_perplexity_of_its_closed_form(batch_size):
    """Specification 5.i: EOS counts, BOS does not; by hand over n_sent = 5, n_words = 8, n_eos = 13."""
    data = evaluation_batches(TEST, weighted=True, batch_size=batch_size, buckets=(2, 3))
    bounds = sentence_bounds(unigram(TRAIN), Nothing(), data, particles=2)
    found = summarize(bounds, 2)
    p = {"a": 5 / 18, "b": 5 / 18, "c": 2 / 18, "": 6 / 18}  # 12 letters and 6 EOS in the training words
    by_hand = 3 * (2 * math.log(p["a"])) + 2 * math.log(p["c"]) + 5 * math.log(p[""])
    assert (found.n_sent, found.n_words, found.n_eos) == (5.0, 8.0, 13.0)
    assert found.iw * 5 == pytest.approx(by_hand, rel=1e-12)
    assert found.perplexity == pytest.approx(math.exp(-by_hand / 13), rel=1e-12)
    assert found.iw_per_token == pytest.approx(by_hand / 13, rel=1e-12)
    assert -found.iw == pytest.approx(letter_cross_entropy(TRAIN, TEST), rel=1e-12)
    assert -found.elbo == pytest.approx(-found.iw, rel=1e-12)
    assert found.kl == 0.0
    assert found.rec_sum == pytest.approx(-by_hand, rel=1e-12)
    assert -found.iw >= entropy(TEST.counts)


def test_evaluation_leaves_no_trace():
    """The same seed gives the same numbers; dropout is off; modes and the global random state are as before."""
    model, guide, batch = Gaussian(), GaussianGuide(**WRONG), batch_of(LENGTHS)
    guide.eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (measured(model, guide, batch, particles=8, seed=2) for _ in range(2))
    assert first == second
    assert measured(model, guide, batch, particles=8, seed=3) != first
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not guide.training


def test_modes_come_back_when_a_program_fails():
    class Broken(GaussianGuide):
        def forward(self, batch):
            raise ArithmeticError

    model, guide = Gaussian(), Broken()
    with pytest.raises(ArithmeticError):
        measured(model, guide, batch_of(LENGTHS), particles=2)
    assert model.training
    assert guide.training


def test_progress_is_reported_by_batch():
    seen = []
    batches = [batch_of([1, 2]), batch_of([3])]
    measured(Gaussian(), GaussianGuide(), *batches, particles=2, report=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_the_gaps_standard_error_knows_that_both_bounds_share_their_draws(repeated):
    """The spread over seeds; the difference of dependent estimates varies less than their errors add up to."""
    gaps, errors = (np.array([getattr(found, name) for found in repeated]) for name in ("gap", "gap_se"))
    assert gaps.std() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=ERROR_OF_DEVIATION)
    independent = np.sqrt(np.mean([found.elbo_se**2 + found.iw_se**2 for found in repeated]))
    assert abs(gaps.std() - independent) > 0.1 * independent
    assert gaps.mean() == pytest.approx(gap(**WRONG), abs=0.05)


@pytest.mark.parametrize("chunk", [16, 3])
def test_log_weights_are_kept_whole(chunk):
    """Under the exact posterior each is ln p(x); their mean and log-mean are the bounds; filler rows are left out."""
    data = evaluation_set(batch_of([1, 4, 6], [3.0, 0.0, 1.0]))

    def kept(guide, **options):
        parts = []
        bounds = sentence_bounds(Gaussian(), guide, data, particles=8, chunk=chunk, keep=parts.append, **options)
        return join_scores(parts), bounds

    exact, _ = kept(GaussianGuide())
    assert exact.weights.tolist() == [3.0, 1.0]
    assert exact.log_weights.shape == (2, 8)
    assert exact.log_weights.numpy() == pytest.approx(np.array([log_evidence([1, 6])] * 8).T, abs=1e-5)
    drawn, bounds = kept(GaussianGuide(**WRONG), seed=4)
    assert torch.allclose(drawn.log_weights.mean(1), bounds.elbo)
    assert torch.allclose(drawn.log_weights.logsumexp(1) - math.log(8), bounds.iw)
    assert drawn.log_weights.std() > 0.01
