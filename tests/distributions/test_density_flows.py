"""Densities by autoregressive flows: against the determinant of autograd, quadrature, and their own draws."""

import math

import torch
from pyro.distributions import Normal, TransformedDistribution

from ppl_text.distributions.density_flows import density_flows


def law(flows, width):
    base = Normal(torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)).to_event(1)
    return TransformedDistribution(base, [flow.inv for flow in flows])


def bent(width=2, number=2):
    flows = density_flows(width, number, 8).double()
    with torch.no_grad():
        for parameter in flows.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return flows


def test_they_begin_as_the_identity():
    flows, z = density_flows(4, 3, 8).double(), torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(law(flows, 4).log_prob(z), law([], 4).log_prob(z), rtol=0, atol=1e-12)


def test_the_density_is_that_of_the_change_of_variables():
    """ln p(z) = ln N(f(z)) + ln |det ∂f/∂z|, f from the value to its noise, the determinant by autograd."""
    flows = bent(3, 2)

    def to_noise(z):
        for flow in reversed(flows):
            z = flow(z)
        return z

    for z in torch.randn(4, 3, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(to_noise, z)
        wanted = Normal(0.0, 1.0).log_prob(to_noise(z)).sum() + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(law(flows, 3).log_prob(z), wanted, rtol=1e-9, atol=1e-9)


def test_it_integrates_to_one_and_draws_are_of_it():
    flows = bent()
    axis = torch.linspace(-30, 30, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weights = law(flows, 2).log_prob(grid).exp().detach() * (axis[1] - axis[0]) ** 2
    assert abs(float(weights.sum()) - 1) < 1e-3
    # Pyro inverts in float32.
    single = Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    drawn = TransformedDistribution(single, [flow.inv for flow in flows.float()]).sample((20_000,)).double()
    mean = (weights.unsqueeze(-1) * grid).sum(0)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - mean).abs() < 5 * error + 1e-2).all()
