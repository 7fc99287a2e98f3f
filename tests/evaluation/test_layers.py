"""Figures that average over latents: on a linear-Gaussian chain in closed form, and identities with the valid ones."""

import math

import pyro
import pytest
import torch
from pyro.distributions import Normal

from ppl_text.evaluation.layers import averaged_figures
from ppl_text.evaluation.likelihood import measuring, sentence_bounds, summarize
from ppl_text.evaluation.sentences import CommonSentences
from ppl_text.objectives.terms import trace_terms

from .linear_layers import SITES, Chain, chain_guide, kl_by_site, reconstruction
from .programs import Gaussian, GaussianGuide, Nothing, Unigram, batch_of
from .test_information import NORMAL, N, Program, sentences, x_of

ONE_DRAW = 3.0
"""Nats by which ln q - ln p of one draw deviates at most: some three squares of normal numbers."""


@pytest.mark.parametrize("particles", [1, 50])
def test_the_kl_is_the_mean_over_the_latents_and_the_rest_is_as_it_is(particles):
    found = averaged_figures(Chain(), chain_guide(), sentences(), particles=particles)
    near = {"abs": 5 * ONE_DRAW / math.sqrt(particles * N)}
    assert found.layers == 3
    assert found.kl == pytest.approx(sum(kl_by_site()) / 3, **near)
    assert found.rec == pytest.approx(reconstruction(), **near)
    assert found.elbo_negative == found.rec + found.kl
    assert found.tokens == 2.0  # one token, which ends the text, and BOS
    if particles == 1:
        assert found.nats == pytest.approx(found.elbo_negative, rel=1e-9)
    assert found.perplexity == pytest.approx(math.exp(found.nats / 2))


def test_the_weights_of_the_paper_are_those_of_its_code():
    """-ln of the mean over K of p(x | z) · Π_l (p/q)^(1/L), by hand from the terms of the same draws."""
    model, guide, data = Chain(), chain_guide(), sentences(number=50, rows=50)
    found = averaged_figures(model, guide, data, particles=8, seed=3)
    with measuring(3, model, guide):
        terms = trace_terms(model, guide, data.batches[0], 8)
    weights = terms.log_likelihood + sum((s.log_p - s.log_q) / 3 for s in terms.latents.values())
    assert found.nats == pytest.approx(-float((weights.logsumexp(0) - math.log(8)).mean()), rel=1e-5)


def test_the_averaged_elbo_lies_above_the_log_likelihood_itself():
    """With a third of the KL paid, ln p(x) = ln N(x; 0, Var(z_1 + z_2 + z_3) + 1) is passed: no bound."""

    def run(batch):
        for name in SITES:
            pyro.sample(name, Normal(x_of(batch).unsqueeze(-1) / 3, 0.5).to_event(1))

    averaged = averaged_figures(Chain(), Program(run), sentences(), particles=50)
    of_sum = (1 + 0.4 * (1 + 0.3)) ** 2 + (1 + 0.3) ** 2 + 1.0
    evidence = Normal(0.0, math.sqrt(of_sum + 1.0)).log_prob(NORMAL).mean()
    assert -averaged.elbo_negative > float(evidence) + 0.2
    valid = summarize(sentence_bounds(Chain(), Program(run), sentences(), particles=50), 50)
    assert valid.elbo < valid.iw < float(evidence)


def test_one_latent_and_none_have_their_own_figures_by_other_tokens():
    lengths = CommonSentences((batch_of([2, 3, 5]), batch_of([4])), ("a", "b", "c", "d"))
    guide = GaussianGuide(0.3, 1.2)
    one = averaged_figures(Gaussian(), guide, lengths, particles=64, seed=1, chunk=64)
    valid = summarize(sentence_bounds(Gaussian(), guide, lengths, particles=64, seed=1, chunk=64), 64)
    assert (one.layers, one.tokens) == (1, 14 / 4 + 1)
    assert (one.rec, one.kl, one.nats) == pytest.approx((valid.rec, valid.kl, -valid.iw))
    assert one.perplexity == pytest.approx(math.exp(-valid.iw * 4 / (14 + 4)))
    table = torch.tensor([0.0, 0.0, 0.25, 0.75]).log()
    none = averaged_figures(Unigram(table), Nothing(), lengths)
    assert (none.layers, none.particles, none.kl) == (0, 1, 0.0)
    nats = -(4 * math.log(0.25) + 10 * math.log(0.75)) / 4
    assert (none.rec, none.nats) == pytest.approx((nats, nats))


def test_chunks_and_weights():
    data = sentences(number=6, rows=2, weights=torch.tensor([5.0, 1, 1, 1, 1, 1], dtype=torch.float64))
    model, guide = Chain(), chain_guide()
    weighted = averaged_figures(model, guide, data, particles=4000)
    first = averaged_figures(model, guide, sentences(number=1), particles=4000)
    others = averaged_figures(
        model, guide, sentences(number=6, weights=torch.tensor([0.0, 1, 1, 1, 1, 1]).double()), particles=4000
    )
    assert weighted.kl == pytest.approx((first.kl + others.kl) / 2, abs=10 * ONE_DRAW / math.sqrt(4000))
