"""What the latents carry, read off guides whose KL, means and information are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides.sentence_vae import FlowGuide, GaussianGuide, PointGuide, PriorGuide
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.evaluation.latents import latent_figures, sentence_latents
from ppl_text.evaluation.likelihood import measuring
from ppl_text.evaluation.sentences import chosen_rows, subset
from ppl_text.models.sentence_vae import SentenceVAE

from .test_representation import NORMAL, N, Program, sentences, x_of
from .test_scores import Path


class Model(nn.Module):
    """p(z) = N(0, I_3); what it observes does not matter."""

    latents = (LatentSpec("z", axes=("D",), sizes={"D": 3}),)

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(batch.size, 3), 1.0).to_event(1))
            pyro.sample("tokens", dist.Normal(torch.zeros(batch.size), 1.0), obs=torch.zeros(batch.size))


SCALE = torch.tensor([0.5, 1.0, 1.0])


def loc(batch):
    return torch.stack([x_of(batch), torch.full((batch.size,), 0.6), 0.2 * x_of(batch)], -1)


def closed(batch):
    pyro.sample("z", dist.Normal(loc(batch), SCALE).to_event(1))


def flow(batch):
    """The same posterior in a form whose mean and KL nobody has registered."""
    noise = dist.Normal(torch.zeros(batch.size, 3), 1.0).to_event(1)
    shift = dist.transforms.AffineTransform(loc(batch), SCALE.expand(batch.size, 3), event_dim=1)
    pyro.sample("z", dist.TransformedDistribution(noise, [shift]))


def figures(guide, model=None, data=None, seed=0, **options):
    model = model or Model()
    with measuring(seed, model, guide):
        return latent_figures(model, guide, data or sentences(), **options)


def known_kl():
    mean = torch.stack([NORMAL, torch.full((N,), 0.6), 0.2 * NORMAL], -1)
    return (0.5 * (SCALE**2 + mean**2 - 1) - SCALE.log()).mean(0)


ONE_DRAW = math.sqrt(0.25 + 0.36 + 0.04 + 0.5 * 0.75**2)
"""The standard deviation of ln q(z | x) - ln p(z) of one draw: Σ (s m)² + ½ (1 - s²)² over the entries, E m² of x."""


def test_a_gaussian_guide_is_read_in_closed_form():
    found = figures(Program(closed), draws=100)
    assert list(found.kl_by_dimension) == pytest.approx(known_kl().tolist(), rel=1e-5)
    assert found.kl == pytest.approx(sum(found.kl_by_dimension), rel=1e-6)
    assert (found.active_units, found.active_units_02, found.latent_units) == (2, 1, 3)
    # One draw's information has a variance of ρ² an entry, 0.8 + 0.04; the quantiles have 1% less than N(0, 1).
    error = math.sqrt(0.84 / (100 * N))
    known = 0.5 * math.log(1 + 4) + 0.5 * math.log(1.04)
    assert found.mutual_information == pytest.approx(known, abs=5 * error + 0.005)
    assert found.mutual_information_cap == pytest.approx(math.log(N))
    assert found.marginal_kl == pytest.approx(found.kl - found.mutual_information)
    assert (found.sentences, found.compared) == (N, N)


def test_a_guide_without_closed_forms_is_read_by_its_draws():
    """KL and means by Monte Carlo, the information among fewer sentences, whose cap is said."""
    found = figures(Program(flow), draws=200, costly=100)
    assert found.kl == pytest.approx(float(known_kl().sum()), abs=5 * ONE_DRAW / math.sqrt(200 * N))
    assert found.kl_by_dimension == ()
    assert (found.active_units, found.active_units_02) == (2, 1)
    assert found.compared == 100
    assert found.mutual_information_cap == pytest.approx(math.log(100))
    assert found.mutual_information == pytest.approx(0.5 * math.log(5), abs=0.25)


def test_the_variance_of_posterior_means_is_unbiased():
    """Two sentences with means ±a have the unbiased variance 2a², not a²: that decides at the thresholds."""

    def run(batch):
        sign = (batch.tokens[:, :1] - 3) * 2.0 - 1.0
        pyro.sample("z", dist.Normal(sign * torch.tensor([0.0710, 0.0705, 0.4]), 1.0).to_event(1))

    found = figures(Program(run), data=sentences(number=2))
    assert (found.active_units, found.active_units_02) == (2, 1)


def test_one_sentence_has_no_variance_and_no_information():
    found = figures(Program(closed), data=sentences(number=1))
    assert found.active_units is None
    assert (found.mutual_information, found.mutual_information_cap) == (0.0, 0.0)
    assert found.kl > 0.1


def test_weights_count():
    weights = torch.ones(N, dtype=torch.float64)
    weights[: 3 * N // 4] = 1e-6
    found = figures(Program(closed), data=sentences(weights=weights))
    mean = NORMAL[3 * N // 4 :]
    expected = (0.5 * (0.25 + mean**2 - 1) - math.log(0.5)).mean()
    assert found.kl_by_dimension[0] == pytest.approx(float(expected), rel=1e-2)


@pytest.mark.parametrize("make", [GaussianGuide, FlowGuide, PointGuide, PriorGuide])
def test_the_guides_of_the_sentence_model_can_be_read(make):
    torch.manual_seed(0)
    model = SentenceVAE(Vocabulary(N + 3), latent_dim=4, embedding_dim=5, hidden_dim=6, init="wide")
    guide = make(model)
    found = figures(guide, model, costly=20)
    assert found.latent_units == 4
    assert len(found.kl_by_dimension) == (4 if make in (GaussianGuide, PriorGuide) else 0)
    if make is PointGuide:
        assert found.kl == math.inf
        assert found.mutual_information == pytest.approx(math.log(found.compared))
        assert found.as_dict()["marginal_kl"] is None
    if make is PriorGuide:
        assert (found.kl, found.active_units) == (0.0, 0)


def test_no_unit_is_active_by_the_noise_of_its_draws():
    """Unit 3 of a guide whose mean is not known has a variance over sentences of 0.2², all else is noise of draws."""
    found = [figures(Program(wide_flow), seed=seed) for seed in range(5)]
    assert [(f.active_units, f.active_units_02) for f in found] == [(1, 0)] * 5


def wide_flow(batch):
    noise = dist.Normal(torch.zeros(batch.size, 3), 1.0).to_event(1)
    where = torch.zeros(batch.size, 3).index_copy(-1, torch.tensor([2]), 0.2 * x_of(batch).unsqueeze(-1))
    shift = dist.transforms.AffineTransform(where, torch.ones(batch.size, 3), event_dim=1)
    pyro.sample("z", dist.TransformedDistribution(noise, [shift]))


def test_the_aggregates_kl_is_that_of_the_compared_sentences():
    """KL and mutual information of the same 20 sentences, whose KL is another than that of all."""
    found = figures(Program(flow), costly=20, draws=400)
    chosen = chosen_rows(N, 20)
    own = figures(Program(closed), data=subset(sentences(), chosen))
    assert (found.compared, found.as_dict()["compared"]) == (20, 20)
    assert found.compared_kl == pytest.approx(own.kl, abs=5 * ONE_DRAW / math.sqrt(20 * 400))
    assert abs(own.kl - found.kl) > 0.12, "or nothing was tested"
    assert found.marginal_kl == found.compared_kl - found.mutual_information


def test_latents_of_steps_and_no_latents_are_left_out():
    assert sentence_latents(Path()) == ()
    assert latent_figures(Path(), Program(closed), sentences()) is None
    assert (
        latent_figures(
            SentenceVAE(Vocabulary(9), latent_dim=0, embedding_dim=3, hidden_dim=3), Program(closed), sentences()
        )
        is None
    )
