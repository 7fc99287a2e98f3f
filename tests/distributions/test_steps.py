"""Gaussians of every step: against torch, the joint Gaussian of an AR(1) process, and their KL in closed form."""

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from ppl_text.distributions.steps import AutoregressiveNormals, StepNormals

STEPS, WIDTH = 4, 2
LENGTHS = torch.tensor([4, 2, 1])
SLOPE, SHIFT, SPREAD = 0.7, 0.3, torch.tensor([0.5, 1.4], dtype=torch.float64)


class FirstOrder:
    """z_s ~ N(slope z_{s-1} + shift, spread²), z_0 = 0: a network whose joint law is known."""

    def __call__(self, x):
        before = torch.cat([torch.zeros_like(x[..., :1, :]), x[..., :-1, :]], -2)
        return self._outputs(before)

    def begin(self, rows):
        return torch.zeros(rows, WIDTH, dtype=torch.float64)

    def output(self, state):
        return self._outputs(state), state

    def follow(self, state, x):
        return x

    def _outputs(self, before):
        log_variance = SPREAD.square().log().expand_as(before)
        return torch.cat([SLOPE * before + SHIFT, log_variance], -1)


def joint(steps, dimension):
    """The Gaussian of z_1..z_n in one dimension: z = L (shift + spread ε), L_ij = slope^(i - j)."""
    i = torch.arange(steps)
    behind = i.unsqueeze(1) - i
    mix = torch.where(behind >= 0, SLOPE ** behind.clamp(min=0).double(), 0.0)
    mean = mix.sum(1) * SHIFT
    return MultivariateNormal(mean, SPREAD[dimension] ** 2 * mix @ mix.T)


def gaussians():
    torch.manual_seed(0)
    mean = torch.randn(3, STEPS, WIDTH, dtype=torch.float64).requires_grad_()
    scale = torch.rand(3, STEPS, WIDTH, dtype=torch.float64) + 0.3
    return mean, scale


def test_independent_steps_are_torchs_on_what_counts():
    mean, scale = gaussians()
    ours = StepNormals(mean, scale, LENGTHS).expand((5, 3))
    value = ours.rsample()
    assert value.shape == (5, 3, STEPS, WIDTH)
    for row, length in enumerate(LENGTHS):
        theirs = Independent(Normal(mean[row, :length], scale[row, :length]), 2)
        torch.testing.assert_close(ours.log_prob(value)[:, row], theirs.log_prob(value[:, row, :length]))
        assert not value[:, row, length:].any()
    (gradient,) = torch.autograd.grad(value.sum(), mean)
    assert torch.equal(gradient, 5.0 * ours.mask.unsqueeze(-1).expand_as(mean))


def test_their_kl_is_torchs_on_what_counts_and_padding_changes_nothing():
    mean, scale = gaussians()
    p = StepNormals(torch.zeros_like(mean), torch.ones_like(scale), LENGTHS)
    found = kl_divergence(StepNormals(mean, scale, LENGTHS), p)
    for row, length in enumerate(LENGTHS):
        q = Independent(Normal(mean[row, :length], scale[row, :length]), 2)
        one = Independent(Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean)), 2)
        torch.testing.assert_close(found[row], kl_divergence(q, one))
    wild = torch.where(p.mask.unsqueeze(-1), mean, 1e9)
    torch.testing.assert_close(kl_divergence(StepNormals(wild, scale, LENGTHS), p), found)


def test_autoregressive_density_is_that_of_the_joint_gaussian():
    torch.manual_seed(1)
    p = AutoregressiveNormals(FirstOrder(), WIDTH, LENGTHS, STEPS)
    value = torch.randn(6, 3, STEPS, WIDTH, dtype=torch.float64)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = sum(joint(length, d).log_prob(value[:, row, :length, d]) for d in range(WIDTH))
        torch.testing.assert_close(p.log_prob(value)[:, row], expected)


def test_draws_have_the_moments_of_the_joint_gaussian():
    torch.manual_seed(2)
    count = 20_000
    draws = AutoregressiveNormals(FirstOrder(), WIDTH, torch.tensor([STEPS]), STEPS).sample((count,)).squeeze(1)
    for d in range(WIDTH):
        law = joint(STEPS, d)
        error = law.variance.sqrt() / count**0.5
        assert ((draws[..., d].mean(0) - law.mean).abs() < 5 * error).all()
        spread = torch.cov(draws[..., d].T) - law.covariance_matrix
        variances = law.variance.unsqueeze(0) * law.variance.unsqueeze(1) + law.covariance_matrix**2
        assert (spread.abs() < 5 * (variances / count).sqrt()).all()


def test_kl_along_draws_is_in_expectation_that_of_the_joint_gaussian_with_less_variance():
    torch.manual_seed(3)
    count = 4_000
    mean, scale = gaussians()
    q = StepNormals(mean[:1].detach(), scale[:1], LENGTHS[:1]).expand((count, 1))
    p = AutoregressiveNormals(FirstOrder(), WIDTH, LENGTHS[:1], STEPS)
    value = q.rsample()
    along, sampled = p.kl_from(q, value).squeeze(1), (q.log_prob(value) - p.log_prob(value)).squeeze(1)
    exact = sum(
        kl_divergence(MultivariateNormal(mean[0, :, d], torch.diag(scale[0, :, d] ** 2)), joint(STEPS, d))
        for d in range(WIDTH)
    )
    assert (along.mean() - exact).abs() < 5 * along.std() / count**0.5
    assert along.var() < 0.7 * sampled.var()
    assert p.kl_from(Normal(0.0, 1.0), value) is None


@pytest.mark.parametrize("steps", [1, 3])
def test_more_padding_changes_no_density(steps):
    torch.manual_seed(4)
    p = AutoregressiveNormals(FirstOrder(), WIDTH, torch.tensor([2]), 2)
    wide = AutoregressiveNormals(FirstOrder(), WIDTH, torch.tensor([2]), 2 + steps)
    value = torch.randn(1, 2, WIDTH, dtype=torch.float64)
    padded = torch.cat([value, torch.full((1, steps, WIDTH), 7.0, dtype=torch.float64)], 1)
    torch.testing.assert_close(wide.log_prob(padded), p.log_prob(value))
