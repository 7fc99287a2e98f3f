"""Pareto k̂ of importance weights; needs no torch and runs on ArviZ 0.23 and 1.x alike."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ppl_text.plots import inference_data
from ppl_text.plots.inference_data import khat_shares, pareto_k

NAN, INF = math.nan, math.inf


def generalised_pareto(k, shape, seed=0):
    """Draws by inversion of the distribution function 1 - (1 + k w)^(-1/k)."""
    uniform = np.random.default_rng(seed).uniform(size=shape)
    return (uniform**-k - 1) / k if k else -np.log(uniform)


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3, 0.5, 0.7, 1.0, 2.0])
def test_the_shape_of_generalised_pareto_weights_is_found(k):
    """400 sentences; the fit's prior, k = 1/2 with ten draws' weight, moves 190 draws' k̂ by (k - 1/2)/20."""
    found = pareto_k(np.log(generalised_pareto(k, (400, 4000))))
    assert found.shape == (400,)
    assert found.mean() == pytest.approx(k + (0.5 - k) / 20, abs=0.03)


@pytest.mark.parametrize("rate", [1.25, 2.0, 5.0])
def test_an_exponential_guide_that_is_too_narrow_has_the_k_of_theory(rate):
    """p = Exp(1), q = Exp(λ): P(w > t) ∝ t^(-λ/(λ-1)), a Pareto law of shape k = 1 - 1/λ."""
    z = np.random.default_rng(1).exponential(size=(300, 4000)) / rate
    k = 1 - 1 / rate
    assert pareto_k((rate - 1) * z - math.log(rate)).mean() == pytest.approx(k + (0.5 - k) / 20, abs=0.03)


def test_a_normal_guide_is_judged_by_its_width():
    """p = N(0, 1), q = N(0, s²): k = 1 - s² for s < 1, reached slowly; for s > 1 the weights are bounded, k < 0."""
    z = np.random.default_rng(2).normal(size=(300, 4000))
    found = {s: pareto_k((s * z) ** 2 * (1 / s**2 - 1) / 2).mean() for s in (0.5, 0.7, 0.9, 1.2)}
    assert found[0.5] > 0.6 > found[0.7] > 0.4 > found[0.9] > 0 > found[1.2]
    assert found[0.7] == pytest.approx(1 - 0.7**2, abs=0.1)


def test_a_constant_in_the_log_weights_and_the_order_of_the_draws_change_nothing():
    rows = np.log(generalised_pareto(0.6, (3, 200)))
    shifted = rows[:, ::-1] + np.array([[-900.0], [0.0], [800.0]])
    assert pareto_k(shifted) == pytest.approx(pareto_k(rows), abs=1e-9)


def test_the_log_weights_are_left_as_they_are():
    rows = np.log(generalised_pareto(0.6, (3, 200)))
    before = rows.copy()
    pareto_k(rows)
    assert np.array_equal(rows, before)


def heavy(draws=100):
    return np.log(generalised_pareto(0.6, draws, seed=3))


def with_zeros(positive, draws=100):
    return np.r_[heavy(positive), np.full(draws - positive, -INF)]


LIMITS = {
    "all weights equal": (np.full(100, -7.0), -INF),
    "equal up to float32's rounding": (-300 + 1e-5 * np.random.default_rng(4).normal(size=100), -INF),
    "the tail reached its bound": (np.r_[np.full(30, 2.0), np.linspace(-9, 1, 70)], -INF),
    "one draw has all the weight": (with_zeros(1), INF),
    "four draws have all the weight": (with_zeros(4), INF),
    "zeros in the tail": (with_zeros(19), INF),
    "zeros in the tail, as a float64 sees it": (np.maximum(with_zeros(19), -1000), INF),
    "no draw has any weight": (np.full(100, -INF), INF),
    "zero for all a float64 knows": (np.linspace(0, -1e6, 100), INF),
}


@pytest.mark.parametrize(("row", "expected"), LIMITS.values(), ids=LIMITS)
def test_where_there_is_no_tail_to_fit_the_limit_is_the_answer(row, expected):
    ordinary = heavy()
    found = pareto_k(np.stack([ordinary, row, ordinary]))
    assert found[1] == expected
    assert found[0] == found[2] == pareto_k(ordinary[None])[0]


def test_draws_of_weight_zero_below_the_tail_change_nothing():
    """The tail is 20 of 100 draws; what weighs less than its lower end may as well weigh nothing."""
    row = np.sort(heavy())
    row[:60] = -INF
    assert pareto_k(row[None]) == pytest.approx(pareto_k(np.sort(heavy())[None]), abs=1e-12)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 1e3, 1e6])
def test_k_is_a_number_or_infinite_for_weights_of_any_spread(spread):
    found = pareto_k(spread * np.random.default_rng(5).normal(size=(200, 100)))
    assert not np.isnan(found).any()


def test_float32_is_taken():
    rows = np.log(generalised_pareto(0.6, (5, 400)))
    assert pareto_k(rows.astype(np.float32)) == pytest.approx(pareto_k(rows), abs=1e-3)


REFUSED = {
    "too few draws": (np.zeros((3, 29)), "needs 30 draws a sentence or more .*got 29"),
    "NaN": (np.array([[0.0] * 30, [NAN] * 30, [NAN] * 30]), "2 sentences are NaN .* first of sentence 1"),
    "infinite weight": (np.array([[INF] + [0.0] * 29]), "NaN or \\+inf, first of sentence 0"),
    "one axis": (np.zeros(30), r"\(sentences, draws\), got the shape \(30,\)"),
}


@pytest.mark.parametrize(("rows", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_k_is_refused_with_a_reason(rows, message):
    with pytest.raises(ValueError, match=message):
        pareto_k(rows)


def test_thirty_draws_are_enough():
    assert np.isfinite(pareto_k(np.log(generalised_pareto(0.5, (20, 30))))).all()


def test_the_branch_for_arviz_1_hands_over_what_arviz_1_expects(monkeypatch):
    """A fake of ArviZ 1.x's accessor, which takes log-likelihoods and gives k̂ of their negation (NaN: no fit)."""
    import xarray as xr

    def psislw(array, dim):
        assert array.dims == ("sentence", dim)
        return array, (-array).max(dim).where((-array).max(dim) < 5)

    accessor = property(lambda array: SimpleNamespace(psislw=lambda dim: psislw(array, dim)))
    monkeypatch.setattr(xr.DataArray, "azstats", accessor, raising=False)
    monkeypatch.setattr(inference_data, "_arviz", lambda: SimpleNamespace())
    rows = np.stack([np.linspace(0, end, 100) for end in (2.0, 3.0, 6.0)])
    assert pareto_k(rows).tolist() == [2.0, 3.0, INF]


def in_a_process(code, cache):
    """Run ``code`` where warnings are errors and ArviZ 0.23 has not given today's notice yet."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


ONE_K = "import numpy as np; from ppl_text.plots.inference_data import pareto_k; "


def test_the_daily_notice_of_arviz_reaches_nobody_and_other_warnings_stay(tmp_path):
    code = ONE_K + "pareto_k(np.random.default_rng(0).normal(size=(2, 100))); import warnings; warnings.warn('other')"
    done = in_a_process(code, tmp_path)
    assert "refactor" not in done.stderr
    assert done.stderr.strip().endswith("UserWarning: other")


@pytest.mark.skipif(not hasattr(inference_data._arviz(), "psislw"), reason="only ArviZ 0.x writes to the cache folder")
def test_a_cache_folder_that_cannot_be_written_is_told_from_a_fault(tmp_path):
    (tmp_path / "cache").write_text("a file, no folder")
    done = in_a_process(ONE_K + "pareto_k(np.random.default_rng(0).normal(size=(2, 100)))", tmp_path / "cache")
    assert "UserError: ArviZ cannot start" in done.stderr
    assert "XDG_CACHE_HOME" in done.stderr


# Shares


def test_shares_are_those_counted_by_hand():
    k = np.array([-INF, 0.49, 0.5, 0.7, 0.71, INF, NAN, 0.2])
    assert khat_shares(k) == (3 / 8, 2 / 8, 3 / 8)
    assert khat_shares(k, np.array([1, 2, 3, 4, 0, 5, 5, 0])) == pytest.approx((3 / 20, 7 / 20, 10 / 20))
    assert khat_shares(k)._fields == ("good", "ok", "bad")


@pytest.mark.parametrize("weights", [np.zeros(2), np.ones(3), np.ones((2, 1))])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match=r"expected \(2,\) weights with a positive sum"):
        khat_shares(np.zeros(2), weights)
