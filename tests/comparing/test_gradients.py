"""Mean, variance and signal-to-noise ratio of gradients, against a program whose gradient is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluation.programs import Gaussian, GaussianGuide, Nothing, batch_of
from torch import nn

from ppl_text import objectives
from ppl_text.comparing.costs import GradientMoments, loss_gradients, noise_floor, training_copies
from ppl_text.core.protocols import Estimate

BATCH = batch_of([2, 3])


class Known:
    """loss = θ·(μ + S ε): the gradient for θ is N(μ, S Sᵀ), that for φ half of it; another parameter gets none."""

    name, particles = "known", 1
    mean = torch.tensor([3.0, -1.0, 0.5])
    scale = torch.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.0, 1.0, 0.3]])

    def __call__(self, model, guide, batch, beta=1.0):
        noise = self.mean + self.scale @ torch.randn(3)
        loss = model.theta @ noise + 0.5 * guide.phi @ noise
        nothing = torch.zeros(batch.size)
        return Estimate(loss, nothing, nothing, nothing)


class Holder(nn.Module):
    def __init__(self, **values):
        super().__init__()
        for name, size in values.items():
            setattr(self, name, nn.Parameter(torch.ones(size)))


def collected(repeats, model, guide):
    moments = GradientMoments(), GradientMoments()
    for _ in range(repeats):
        for one, gradient in zip(moments, loss_gradients(Known(), model, guide, BATCH), strict=True):
            one.add(gradient)
    return [one.statistics() for one in moments]


@pytest.mark.parametrize(("directions", "most"), [(1, 0.25), (10, 0.1), (200, 0.001)])
def test_noise_alone_rarely_passes_the_floor(directions, most):
    """R gradients without signal: |ḡ|² > 2 tr/R is F(1, R-1) > 2 in one direction, p = 0.17, and ever rarer in more."""
    generator, passed, trials = torch.Generator().manual_seed(0), 0, 1000
    for noise in torch.randn(trials, 24, directions, dtype=torch.float64, generator=generator):
        moments = GradientMoments()
        for gradient in noise:
            moments.add(gradient)
        passed += moments.statistics().snr > noise_floor(24)
    assert passed / trials <= most
    assert passed > 0 or directions > 10


def test_mean_and_covariance_are_those_of_the_program():
    """Within five standard errors: Var tr S = 2 tr Σ² / R and Var |ḡ|² = 4 μᵀ Σ μ / R for R Gaussian gradients."""
    torch.manual_seed(0)
    repeats = 5000
    model, guide = collected(repeats, Holder(theta=3, unused=2), Holder(phi=3))
    covariance = Known.scale @ Known.scale.T
    trace, signal = float(covariance.trace()), float(Known.mean.square().sum())
    of_trace = 5 * math.sqrt(2 * float(covariance.square().sum()) / repeats)
    of_signal = 5 * math.sqrt(4 * float(Known.mean @ covariance @ Known.mean) / repeats)
    assert of_trace < 0.1 * trace
    assert of_signal < 0.1 * signal
    assert model.variance == pytest.approx(trace, abs=of_trace)
    assert model.signal == pytest.approx(signal, abs=of_signal)
    assert guide.variance == pytest.approx(trace / 4, abs=of_trace / 4)
    assert model.snr == pytest.approx(math.sqrt(model.signal / model.variance), rel=1e-6)
    assert guide.snr == pytest.approx(model.snr, rel=1e-4)  # half of each gradient, to the digit


def test_the_signal_is_unbiased_with_few_repeats():
    """‖ḡ‖² alone would be too large by tr/R, here by half the signal."""
    torch.manual_seed(1)
    found = [collected(2, Holder(theta=3), Holder(phi=3))[0].signal for _ in range(1500)]
    error = torch.tensor(found).std() / math.sqrt(len(found))
    assert 5 * error < float(Known.scale.square().sum()) / 2, "it would be seen"
    assert sum(found) / len(found) == pytest.approx(float(Known.mean.square().sum()), abs=5 * float(error))


def test_moments_equal_those_of_all_gradients_at_once():
    gradients = torch.randn(7, 5, dtype=torch.float64)
    moments = GradientMoments()
    for row in gradients:
        moments.add(row)
    found = moments.statistics()
    assert found.variance == pytest.approx(float(gradients.var(0).sum()))
    assert found.signal == pytest.approx(float(gradients.mean(0).square().sum()) - found.variance / 7)


def test_pure_noise_has_no_signal_and_no_noise_has_no_end():
    moments, still = GradientMoments(), GradientMoments()
    for sign in (1.0, -1.0):
        moments.add(torch.tensor([sign]))
        still.add(torch.tensor([2.0]))
    assert moments.statistics().snr == 0.0
    assert still.statistics().snr == math.inf


def test_no_parameters_no_figures():
    model, guide = collected(3, Holder(theta=3), Holder(phi=3))
    assert model is not None
    assert guide is not None
    gradient, _ = loss_gradients(objectives.build("elbo"), Gaussian(), GaussianGuide(), BATCH)
    moments = GradientMoments()
    moments.add(gradient)
    assert moments.statistics() is None


def test_one_gradient_has_no_variance():
    moments = GradientMoments()
    moments.add(torch.ones(2))
    with pytest.raises(ValueError, match="2 or more"):
        moments.statistics()


def test_a_loss_without_parameters_in_it_gives_zeros():
    class Unused(Nothing):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    class Fixed(nn.Module):
        def forward(self, batch):
            with pyro.plate("sentences", batch.size, dim=-1):
                pyro.sample("tokens", dist.Normal(0.0, 1.0), obs=torch.zeros(batch.size))

    _, gradient = loss_gradients(objectives.build("elbo"), Fixed(), Unused(), BATCH)
    assert gradient.tolist() == [0.0, 0.0]


def test_copies_train_without_dropout_and_leave_the_originals():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2), nn.LSTM(2, 2, num_layers=2, dropout=0.9)).eval()
    guide = Holder(phi=1).eval().requires_grad_(False)
    copied, other = training_copies(model, guide)
    assert copied[1].training
    assert copied[2].training
    assert not copied[0].training
    assert copied[2].dropout == 0.0
    assert other.phi.requires_grad
    copied[1](torch.randn(4, 2))
    assert not model[1].training
    assert model[1].num_batches_tracked == 0
    assert not guide.phi.requires_grad
    assert model[2].dropout == 0.9
