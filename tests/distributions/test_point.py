"""The point mass: infinitely far from every density, and honest about it."""

from __future__ import annotations

import pytest
import torch
from pyro.distributions import Normal
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_text.distributions.point import PointMass

VALUE = torch.tensor([[1.0, -2.0], [0.0, 3.0]])


def test_draws_are_the_point_with_its_gradient() -> None:
    value = VALUE.clone().requires_grad_()
    point = PointMass(value)
    assert (point.batch_shape, point.event_shape, point.has_rsample) == ((2,), (2,), True)
    draws = point.expand(torch.Size((5, 2))).rsample((3,))
    assert draws.shape == (3, 5, 2, 2)
    assert (draws == value).all()
    draws.sum().backward()
    assert (value.grad == 15).all()
    assert torch.equal(point.mean, value)


def test_density_is_infinite_at_the_point_and_none_elsewhere() -> None:
    point = PointMass(VALUE.double())
    near = VALUE.double().clone()
    near[1, 1] += 1e-9
    assert point.log_prob(VALUE.double()).tolist() == [torch.inf, torch.inf]
    assert point.log_prob(near).tolist() == [torch.inf, -torch.inf]
    assert point.expand(torch.Size((4, 2))).log_prob(near).tolist() == [[torch.inf, -torch.inf]] * 4
    assert point.log_prob(near).dtype is torch.float64


@pytest.mark.parametrize(
    "p", [Normal(torch.zeros(2), 1.0).to_event(1), MultivariateNormal(torch.zeros(2), torch.eye(2))], ids=str
)
def test_divergence_from_every_density_is_infinite(p: torch.distributions.Distribution) -> None:
    assert kl_divergence(PointMass(VALUE).expand(torch.Size((3, 2))), p).tolist() == [[torch.inf] * 2] * 3


def test_bad_points_are_refused() -> None:
    with pytest.raises(ValueError, match="value"):
        PointMass(torch.tensor([[torch.nan, 1.0]]), validate_args=True)
