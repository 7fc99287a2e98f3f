"""The objective ``reconstruction``: an autoencoder's loss, an ELBO's bound, no NaN without a density."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UserError
from ppl_text.distributions.point import PointMass
from ppl_text.distributions.steps import AutoregressiveNormals, StepNormals
from ppl_text.objectives import build

from .programs import Program, gradients, plain_batch

X = torch.tensor([0.3, -0.2, 1.0, 0.5], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=torch.float64)
LOC = torch.tensor([[0.1, 0.9], [1.5, 0.0], [0.2, 0.2], [0.6, -1.1]], dtype=torch.float64)
SCALE = torch.tensor([[0.9, 0.8], [1.0, 0.6], [1.0, 1.0], [0.7, 0.3]], dtype=torch.float64)
SLOPE = torch.tensor([0.7, -1.3], dtype=torch.float64)


def decoder(batch: Batch, values: nn.ParameterDict) -> None:
    """z ~ N(0, I) in R², x ~ N(slope · z, 1)."""
    z = pyro.sample("z", dist.Normal(torch.zeros(4, 2).double(), 1.0).to_event(1))
    pyro.sample("tokens", dist.Normal((z * values["slope"]).sum(-1), 1.0), obs=X)


def point(batch: Batch, values: nn.ParameterDict) -> None:
    """q(z) = δ(z - loc)."""
    pyro.sample("z", PointMass(values["loc"]))


def gaussian(batch: Batch, values: nn.ParameterDict) -> None:
    """q(z) = N(loc, scale²)."""
    pyro.sample("z", dist.Normal(values["loc"], values["scale"]).to_event(1))


def programs(posterior=point) -> tuple[Program, Program]:
    parameters = {"loc": LOC} if posterior is point else {"loc": LOC, "scale": SCALE}
    return Program(decoder, slope=SLOPE), Program(posterior, **parameters)


def batch() -> Batch:
    return Batch(**{**vars(plain_batch(4)), "weights": WEIGHTS})


def log_likelihood(z: Tensor, slope: Tensor) -> Tensor:
    """ln N(x; slope · z, 1), written out."""
    return -0.5 * (X - (z * slope).sum(-1)) ** 2 - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("spec", ["reconstruction", "reconstruction:3"])
def test_loss_and_gradients_are_those_of_an_autoencoder_written_out(spec):
    model, guide = programs()
    estimate = build(spec)(model, guide, batch(), torch.tensor(0.3))
    loc, slope = LOC.clone().requires_grad_(), SLOPE.clone().requires_grad_()
    expected = log_likelihood(loc, slope)
    loss = -(WEIGHTS * expected).sum() / WEIGHTS.sum()
    torch.testing.assert_close(estimate.loss, loss)
    torch.testing.assert_close(estimate.log_likelihood, expected.detach())
    found = gradients(estimate.loss, model, guide)
    slopes, locs = torch.autograd.grad(loss, [slope, loc])
    torch.testing.assert_close(found, {"0.values.slope": slopes, "1.values.loc": locs})


@pytest.mark.parametrize("spec", ["reconstruction", "reconstruction:3"])
def test_a_point_mass_has_an_infinite_bound_in_every_sentence_that_counts(spec):
    with torch.no_grad():
        estimate = build(spec)(*programs(), batch())
    assert estimate.bound.tolist() == [-math.inf, -math.inf, 0.0, -math.inf]
    assert estimate.kl.tolist() == [math.inf, math.inf, 0.0, math.inf]
    assert (estimate.bound @ WEIGHTS).item() == -math.inf, "and not 0 · ∞"


def test_a_training_step_does_not_run_a_prior_for_its_report():
    class Counted(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.cat([x, x], -1)

    network, lengths = Counted(), torch.ones(4, dtype=torch.int64)

    def coded(batch, values):
        z = pyro.sample("z", AutoregressiveNormals(network, 2, lengths, 1))
        pyro.sample("tokens", dist.Normal((z.squeeze(1) * values["slope"]).sum(-1), 1.0), obs=X)

    def guide(batch, values):
        pyro.sample("z", StepNormals(values["loc"].unsqueeze(1), values["scale"].unsqueeze(1), lengths))

    both = Program(coded, slope=SLOPE), Program(guide, loc=LOC, scale=SCALE)
    estimate = build("reconstruction")(*both, batch())
    assert network.calls == 0
    assert estimate.kl.isnan().tolist() == estimate.bound.isnan().tolist() == [True, True, False, True]
    assert estimate.log_likelihood.isfinite().all()
    with torch.no_grad():
        assert build("reconstruction")(*both, batch()).bound.isfinite().all()
    assert network.calls == 1


@pytest.mark.parametrize("particles", [1, 4])
def test_with_a_gaussian_the_bound_is_the_elbo_and_the_loss_has_no_kl(particles):
    model, guide = programs(gaussian)
    torch.manual_seed(0)
    estimate = build(f"reconstruction:{particles}")(model, guide, batch())
    torch.manual_seed(0)
    shape = (particles, 4, 2) if particles > 1 else (4, 2)
    z = LOC + SCALE * torch.randn(shape, dtype=torch.float64)
    likelihood = log_likelihood(z, SLOPE).reshape(particles, 4).mean(0)
    kl = (0.5 * (SCALE**2 + LOC**2 - 1) - SCALE.log()).sum(-1)
    counts = WEIGHTS > 0
    torch.testing.assert_close(estimate.log_likelihood, likelihood)
    torch.testing.assert_close(estimate.bound[counts], (likelihood - kl)[counts])
    torch.testing.assert_close(estimate.kl[counts], kl[counts])
    torch.testing.assert_close(estimate.loss, -(likelihood @ WEIGHTS) / WEIGHTS.sum())


def test_beta_changes_nothing_by_site_or_for_all():
    model, guide = programs(gaussian)
    losses = []
    for beta in (1.0, torch.tensor(0.0), {"z": torch.tensor(5.0)}):
        torch.manual_seed(0)
        losses.append(build("reconstruction")(model, guide, batch(), beta).loss.item())
    assert len(set(losses)) == 1
    with pytest.raises(UserError, match="unknown latent site or side loss in β 'y'"):
        build("reconstruction")(model, guide, batch(), {"y": 0.5})


def test_it_is_written_with_or_without_a_number_of_particles():
    assert (build("reconstruction").particles, build("reconstruction:5").particles) == (1, 5)
    assert build("reconstruction:5").criterion == "log_likelihood"
    for spec in ("reconstruction:0", "reconstruction:x", "reconstruction:1:2"):
        with pytest.raises(UserError, match="write reconstruction or reconstruction:K with K a whole number"):
            build(spec)
