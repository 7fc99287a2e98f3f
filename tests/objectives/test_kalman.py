"""Every bound on a linear-Gaussian chain, against the Kalman likelihood."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from ppl_text.objectives import build

from .linear_gaussian import Chain, LinearGuide, LinearModel, dense_log_likelihood, kalman
from .programs import chain_batch, gradients, plain_batch

CHAIN = Chain()
TRUTH = kalman(CHAIN).log_likelihood
SPECS = (
    *("elbo", "elbo:4", "iwae:1", "iwae:4", "iwae:16", "renyi:0.5:4", "renyi:2:4", "renyi:-1:4", "renyi:5:16"),
    *("renyi:-inf:4", "renyi:inf:4", "renyi:0.999:4", "stl", "stl:4", "dreg:1", "dreg:4", "dreg:16", "iwae:16/5"),
    *("stepwise:1", "fivo:1", "fivo:4:1e-9"),
)
"""What is exact at the exact posterior: of the filters, those that never resample (see test_sequential)."""


def test_the_kalman_filter_agrees_with_the_dense_gaussian() -> None:
    assert pytest.approx(dense_log_likelihood(CHAIN), abs=1e-12) == TRUTH


@pytest.mark.parametrize("spec", SPECS)
def test_the_exact_posterior_leaves_no_gap_and_no_variance_at_any_k(spec: str) -> None:
    batch = chain_batch(50, len(CHAIN.y))
    torch.manual_seed(0)
    estimate = build(spec)(LinearModel(CHAIN), LinearGuide(CHAIN), batch)
    torch.testing.assert_close(estimate.bound, torch.full((50,), TRUTH, dtype=torch.float64), rtol=0, atol=1e-9)
    assert estimate.loss.item() == pytest.approx(-TRUTH, abs=1e-9)
    assert float(estimate.log_likelihood.std()) > 0.1


def test_analytic_kl_at_the_exact_posterior_agrees_in_expectation() -> None:
    torch.manual_seed(0)
    estimate = build("elbo-analytic")(LinearModel(CHAIN), LinearGuide(CHAIN), plain_batch(20_000))
    error = float(estimate.bound.std()) / 20_000**0.5
    assert abs(float(estimate.bound.mean()) - TRUTH) < 5 * error


@pytest.mark.parametrize("spec", ["elbo", "elbo-analytic", "iwae:4", "renyi:0.5:4", "stl", "dreg:4", "fivo:4:1e-9"])
def test_gradient_at_the_exact_posterior_is_that_of_the_kalman_likelihood(spec: str) -> None:
    chain, runs, step = CHAIN._replace(c=np.array([0.2, -1.5])), 16, 1e-5
    model, guide = LinearModel(chain), LinearGuide(chain)
    torch.manual_seed(0)
    found = torch.stack(
        [-gradients(build(spec)(model, guide, chain_batch(2000, 4)).loss, model)["0.c"] for _ in range(runs)]
    )
    beside = [
        [kalman(chain._replace(c=chain.c + move * e)).log_likelihood for e in np.eye(2)] for move in (step, -step)
    ]
    expected = (np.array(beside[0]) - np.array(beside[1])) / (2 * step)
    error = found.std(0).numpy() / runs**0.5
    assert (np.abs(found.mean(0).numpy() - expected) < 5 * error).all()
    assert 5 * error.max() < 0.25 * np.abs(expected).max()


def bounds(spec: str, rows: int = 4000) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        estimate = build(spec)(LinearModel(CHAIN), LinearGuide(CHAIN, shift=0.4, stretch=1.5), plain_batch(rows))
    return estimate.bound


def test_with_a_wrong_guide_iwae_rises_with_k_and_stays_below() -> None:
    values = [bounds(f"iwae:{k}") for k in (1, 4, 16, 64)]
    means = [float(v.mean()) for v in values]
    errors = [float(v.std()) / len(v) ** 0.5 for v in values]
    for (low, high), (a, b) in zip(pairwise(means), pairwise(errors), strict=True):
        assert high - low > 4 * (a**2 + b**2) ** 0.5
    for mean, error in zip(means, errors, strict=True):
        assert mean < TRUTH + 5 * error
    assert means[0] + 10 * errors[0] < TRUTH
    assert TRUTH - means[-1] < 0.1 * (TRUTH - means[0])


def test_renyi_bounds_fall_as_the_order_rises_on_every_row() -> None:
    orders = (0.0, 0.3, 0.9, 1.5, 4.0)
    values = [bounds(f"renyi:{order}:8", rows=500) for order in orders]
    for lower_order, higher_order in pairwise(values):
        assert (lower_order > higher_order).all()
    torch.testing.assert_close(values[0], bounds("iwae:8", rows=500))
    torch.testing.assert_close(bounds("renyi:0.999999:8", rows=500), bounds("elbo:8", rows=500), rtol=0, atol=1e-3)
    for value in values:
        assert float(value.mean()) < TRUTH + 5 * float(value.std()) / 500**0.5


def test_a_negative_order_trains_above_the_iwae_bound_and_reports_the_iwae_bound() -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        estimate = build("renyi:-2:8")(LinearModel(CHAIN), LinearGuide(CHAIN, shift=0.4, stretch=1.5), plain_batch(500))
    iwae = bounds("iwae:8", rows=500)
    torch.testing.assert_close(estimate.bound, iwae)
    assert -estimate.loss.item() > float(iwae.mean()) + 0.05


def test_one_particle_is_the_elbo_for_every_bound() -> None:
    elbo = bounds("elbo", rows=50)
    for spec in ("iwae:1", "renyi:0.5:1", "renyi:3:1", "renyi:-1:1", "renyi:-inf:1", "stl", "dreg:1"):
        torch.testing.assert_close(bounds(spec, rows=50), elbo)
