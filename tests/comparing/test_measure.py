"""Pairs that run, and what is measured of them, on programs that are known."""

import math

import pytest
import torch
from evaluation.programs import Gaussian, GaussianGuide, Nothing, Unigram, batch_of, evaluation_set, log_evidence
from torch import nn

from ppl_text import objectives
from ppl_text.comparing.candidates import Candidate, Settings, runnable_pairs
from ppl_text.comparing.measure import measure
from ppl_text.core.errors import UserError
from ppl_text.evaluation.sentences import common_sentences

FEW = Settings(draws=4, sentences=3, repeats=2)
LENGTHS = [2, 3, 1]


@pytest.fixture
def common():
    """Three sentences in one batch."""
    return common_sentences(evaluation_set(batch_of(LENGTHS)))


def gaussian(name="exact", guide=None, run="run"):
    return Candidate(run, run, name, Gaussian(), guide or GaussianGuide())


def measured(common, candidates, *specs):
    made = [objectives.build(spec) for spec in specs]
    pairs, _ = runnable_pairs(candidates, made, common.minibatch(2, seed=0), strict=True)
    return measure(pairs, common, FEW, lambda what, done, total: None)


def test_where_nothing_runs_all_reasons_are_told(common):
    batch, stepwise = common.minibatch(2, seed=0), [objectives.build("fivo:2")]
    with pytest.raises(UserError, match=r"no objective runs on these programs: left out for guide 'exact': .*smc_init"):
        runnable_pairs([gaussian()], stepwise, batch, strict=False)


def test_trying_an_objective_leaves_the_random_state_alone(common):
    before = torch.get_rng_state()
    pairs, notes = runnable_pairs([gaussian()], [objectives.build("elbo")], common.minibatch(2, seed=0), strict=False)
    assert (len(pairs), notes) == (1, [])
    assert torch.get_rng_state().equal(before)


def test_a_model_without_latents_is_exact_and_has_no_khat(common):
    class Letters(Unigram):
        def __init__(self):
            super().__init__(torch.full((4,), math.log(1 / 4)))
            self.weight = nn.Parameter(torch.ones(1))

    found = measured(common, [Candidate("run", "run", "none", Letters(), Nothing())], "elbo", "iwae:4")
    for row in found.rows:
        assert row.exact
        assert row.bound == pytest.approx(-math.log(4) * sum(LENGTHS) / 3)
        assert (row.khat_good, row.khat_median, row.active_units, row.units, row.kl) == (None, None, None, None, 0.0)
        assert row.bound_se == pytest.approx(0.0, abs=1e-6)
        assert row.sites == {}
        assert row.sizes == (1, 0)
    assert found.settings["equal_k"] == 4
    assert found.settings["khat_draws"] == 30, "the fewest that k̂ can be fitted to"


def test_the_row_of_the_exact_posterior(common):
    (row,) = measured(common, [gaussian()], "iwae:4").rows
    assert row.by_sentence == pytest.approx(log_evidence(LENGTHS), abs=1e-5)
    assert row.bound == row.bound_equal_k == pytest.approx(float(log_evidence(LENGTHS).mean()), abs=1e-5)
    assert row.ess == pytest.approx(1.0)
    assert (row.khat_good, row.khat_bad, row.khat_median) == (1.0, 0.0, -math.inf)
    assert (row.family, row.particles, row.draws) == ("iwae", 4, 8)
    assert row.snr_model is None, "nothing to differentiate"


def test_guides_are_labelled_by_their_runs_where_there_are_several(common):
    assert list(measured(common, [gaussian("a"), gaussian("b")], "elbo").guides) == ["a", "b"]
    assert list(measured(common, [gaussian("a", run="x"), gaussian("a", run="y")], "elbo").guides) == ["a (x)", "a (y)"]
