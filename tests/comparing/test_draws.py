"""Objectives by name and K, and what draws of a guide say, against a Gaussian program that is known."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluation.programs import (
    Enumerable,
    EnumerableGuide,
    Gaussian,
    GaussianGuide,
    batch_of,
    evaluation_set,
    gap,
    log_evidence,
    posterior_scale,
)
from torch import nn

from ppl_text import objectives
from ppl_text.comparing.candidates import Candidate, family_of, with_particles
from ppl_text.comparing.draws import DrawFigures, draw_terms, measure_guide
from ppl_text.core.latents import LatentSpec
from ppl_text.evaluation.information import MutualInformation
from ppl_text.evaluation.likelihood import estimate_bounds
from ppl_text.evaluation.scores import Draws
from ppl_text.evaluation.sentences import common_sentences

KEPT = np.array([2, 3, 4, 1])


@pytest.fixture
def common():
    """Four sentences of lengths KEPT in two batches."""
    return common_sentences(evaluation_set(batch_of([2, 3]), batch_of([4, 5, 1], [1.0, 0.0, 1.0])))


def test_chunks_change_the_memory_only(common, monkeypatch):
    monkeypatch.setattr("ppl_text.comparing.draws.AT_ONCE", 16)
    model = Gaussian()
    terms, _ = draw_terms(model, GaussianGuide(), common, Gaussian.latents, draws=50, seed=0)
    assert terms.log_likelihood.shape == (50, 4)
    assert model.widest == 8


def test_drawn_terms_are_those_of_the_guide(common):
    shift, stretch = 0.3, 1.2
    terms, moments = draw_terms(Gaussian(), GaussianGuide(shift, stretch), common, Gaussian.latents, draws=5000, seed=0)
    expected = log_evidence(KEPT) - gap(shift, stretch)
    weights = terms.scores.log_weights
    error = weights.std(0).numpy() / math.sqrt(5000)
    assert np.abs(weights.mean(0).numpy() - expected) / error == pytest.approx(np.zeros(4), abs=5)
    assert weights.allclose(terms.log_likelihood + terms.log_p["z"] - terms.log_q["z"])
    assert terms.values == {}
    assert moments["z"].mean.shape == (4, 1)
    centre = (KEPT - 3) / (1 + 0.7**2) + shift
    error = stretch * posterior_scale() / math.sqrt(5000)
    assert moments["z"].mean[:, 0].numpy() == pytest.approx(centre, abs=5 * error)


@pytest.mark.parametrize(
    ("spec", "family"),
    [
        ("elbo", "elbo"),
        ("elbo:4", "elbo"),
        ("iwae:16", "iwae"),
        ("iwae:16/4", "iwae"),
        ("renyi:0.5:16", "renyi:0.5"),
        ("renyi:2:2", "renyi:2"),
        ("fivo:8:multinomial", "fivo:multinomial"),
        ("free-bits:1", "free-bits:1"),
        ("free-bits:4:sentence:4", "free-bits:4:sentence"),
        ("pyro:RenyiELBO:8", "pyro:RenyiELBO"),
    ],
)
def test_families_are_names_without_k(spec, family):
    assert family_of(objectives.build(spec)) == family


def test_an_objective_at_another_k_is_the_same_estimator(common):
    pair = with_particles(objectives.build("iwae:3"), 8), objectives.build("iwae:8")
    programs, options = (Gaussian(), GaussianGuide(0.5, 1.5)), {"draws": 64, "seed": 2}
    found, expected = (estimate_bounds(objective, *programs, common, **options) for objective in pair)
    assert found.by_sentence.equal(expected.by_sentence)
    assert with_particles(objectives.build("pyro:Trace_ELBO"), 8) is None


class Two(nn.Module):
    """z ~ N(0, I_2), a_t ~ N(0, 1); nothing is observed but the length, which says nothing."""

    latents = (LatentSpec("z", axes=("D",), sizes={"D": 2}), LatentSpec("a", axes=("T", "D"), sizes={"D": 1}))

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(torch.zeros(batch.size, batch.steps, 1), 1.0).to_event(2))
            pyro.sample("tokens", dist.Normal(0.0, 1.0), obs=torch.zeros(batch.size))


class First(nn.Module):
    """q(z_1 | x) = N(±3, 1) by the length, q(z_2) = N(0, 1), q(a) = p(a): one unit of z is used, and none of a."""

    def forward(self, batch):
        sign = torch.where(batch.lengths > 2, 3.0, -3.0)
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(torch.stack([sign, 0 * sign], -1), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(torch.zeros(batch.size, batch.steps, 1), 1.0).to_event(2))


def test_each_of_several_latents_is_read_by_itself(common):
    found = measure_guide(Candidate("run", "run", "first", Two(), First()), common, draws=1000, seed=0)
    z, a = found.sites["z"], found.sites["a"]
    assert (z.active_units, z.units) == (1, 2)
    assert (a.active_units, a.units) == (0, 1)
    assert z.kl == pytest.approx(9 / 2, abs=5 * 3 / math.sqrt(4 * 1000))  # ln q - ln p = 3 z - 9/2: deviation 3
    assert a.kl == 0.0
    assert found.together == (z.kl, 1, 3)
    assert found.information.cap == pytest.approx(math.log(4)), "of z, whatever the lengths"
    assert found.information.value == pytest.approx(math.log(2), abs=0.1)


def test_effective_sizes_are_means_over_groups_of_draws():
    weights = torch.tensor([[0.0], [0.0], [0.0], [-math.inf], [50.0]])
    figures = DrawFigures(Draws(weights, {}, {}, {}, {}), np.zeros(1), {}, MutualInformation(0.0, 0.0, {}))
    assert figures.ess_by_sentence(2).tolist() == pytest.approx([(1.0 + 0.5) / 2])
    assert figures.ess_by_sentence(5).tolist() == pytest.approx([0.2]), "one draw has all the weight"


class Discrete(Enumerable):
    """The same with its support said."""

    latents = (LatentSpec("z", axes=(), sizes={}, support="nonnegative_integer"),)


def test_a_latent_that_is_not_real_has_no_units():
    model = Discrete()
    words = common_sentences(evaluation_set(batch_of([2, 1, 3])))
    found = measure_guide(Candidate("run", "run", "exact", model, EnumerableGuide(model)), words, draws=30, seed=0)
    assert found.sites["z"].units is None
    assert found.together[1:] == (None, None)
    assert found.khat.tolist() == [-math.inf] * 3, "the exact posterior leaves no tail"
