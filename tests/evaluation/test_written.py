"""What texts take from their sources: against closed forms, quadrature, and models whose ways are known."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_text.data.tokenizers import word_tokenizer
from ppl_text.evaluation.generation import encode_batch
from ppl_text.evaluation.sentences import CommonSentences
from ppl_text.evaluation.sources import ways_of, written_likelihood

from .echo import Echo, Sender, echoed

FILE = Path(__file__).parent.parent / "families" / "translation.py"


def gauss_hermite(function, mean, scale, nodes=60):
    """E f(N(mean, scale²))."""
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return float(sum(w * function(mean + scale * x) for x, w in zip(places, weights, strict=True)) / weights.sum())


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("scale", [0.1, 1.5])
def test_the_likelihood_of_what_writes_is_the_integral_over_q(scale):
    """ln E_q σ(3z + ½) for "yes" of "yes"; no KL is part of it."""
    model = Echo(3.0, 0.5)
    found = written_likelihood(model, Sender(model, scale), echoed(["yes"] * 300), particles=400)
    exact = math.log(gauss_hermite(lambda z: sigmoid(3 * z + 0.5), 1.0, scale))
    assert found.nats == pytest.approx(exact, abs=5 * found.nats_se + 1e-3)
    assert 0 < found.nats_se < 0.01
    assert found.tokens == 2
    assert found.perplexity == pytest.approx(math.exp(-found.nats / 2))


def test_few_draws_bound_it_from_below():
    """E of the mean of the logarithms for one draw, less for every K than for the next."""
    model, data = Echo(3.0, 0.0), echoed(["yes"] * 4000)
    by_k = [written_likelihood(model, Sender(model, 1.0), data, particles=k).nats for k in (1, 4, 64)]
    exact = math.log(gauss_hermite(lambda z: sigmoid(3 * z), 1.0, 1.0))
    jensen = gauss_hermite(lambda z: -math.log1p(math.exp(-3 * z)), 1.0, 1.0)
    assert by_k[0] == pytest.approx(jensen, abs=0.1)
    assert by_k[0] < by_k[1] < by_k[2] < exact + 0.02


def test_where_nothing_is_latent_it_is_the_likelihood():
    model = Echo(0.0, 2.0, latent=False)
    found = written_likelihood(model, Sender(model, 1.0), echoed(["yes", "no"]), particles=8)
    # The odds of "yes" are e^{±2}.
    assert found.nats == pytest.approx(math.log(sigmoid(2.0)), rel=1e-5)
    assert (found.particles, found.nats_se) == (1, 0.0)


def test_a_story_that_draws_from_its_prior_has_none():
    model = Echo(1.0, 1.0)
    model.generation = "prior"
    found = written_likelihood(model, Sender(model, 1.0), echoed(["yes", "no"]), particles=4)
    assert math.isnan(found.nats)
    assert math.isnan(found.perplexity)


@pytest.fixture
def programs():
    """A model with z and a path a, of one dimension each, with random weights."""
    spec = importlib.util.spec_from_file_location("translation", FILE)
    family = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(family)
    torch.manual_seed(0)
    tokenizer = word_tokenizer(["a b c"] * 2)
    vocabulary = replace(tokenizer.vocabulary, source=tokenizer.vocabulary)
    model = family.FromSource(vocabulary, latent_dim=1, width=5)
    guide = family.Encoding(model, scale=0.8)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.of_source.parameters(), *guide.of_step.parameters()]:
            parameter.mul_(2.0)
    return model, guide, tokenizer


def test_paths_that_depend_on_z_and_on_the_text_are_integrated_out(programs):
    """ln ∫ q(z | x) Π_t ∫ q(a_t | z, y_{t-1}) p(y_t | y_{t-1}, z, a_t, x) by a grid over z and each a_t."""
    model, guide, tokenizer = programs
    texts, sources = ["a b", "c"], ["b c a", "a"]
    batch = encode_batch(tokenizer, texts, encode_batch(tokenizer, sources))
    places, weights = (torch.tensor(v, dtype=torch.float32) for v in np.polynomial.hermite_e.hermegauss(40))
    weights = weights / weights.sum()
    scale = guide.log_scale.exp()
    with torch.no_grad():
        read = model.read(batch.source)
        z = guide.of_source(read) + scale[0] * places.view(-1, 1, 1)  # (Z, B, 1)
        mean = guide.step_means(batch.decoder_inputs, z)
        a = mean + scale[1] * places.view(-1, 1, 1, 1, 1)  # (A, Z, B, T, 1)
        log_p = model.head(model.states(batch.decoder_inputs, z, a, read)).log_softmax(-1)
        chosen = (batch.tokens - tokenizer.vocabulary.ids.first_outcome).clamp(min=0)[..., None]
        p = log_p.gather(-1, chosen.expand(*log_p.shape[:-1], 1)).squeeze(-1).exp()
        p = torch.einsum("azbt,a->zbt", p, weights).where(batch.scored, 1.0).prod(-1)
        exact = torch.einsum("zb,z->b", p, weights).log()
    data = CommonSentences((batch,), tuple(texts))
    found = written_likelihood(model, guide, data, particles=4000)
    assert found.nats == pytest.approx(float(exact.mean()), abs=5 * found.nats_se + 1e-3)


def lost(p, q):
    """ln σ(p) - ln σ(q)."""
    return math.log(sigmoid(p)) - math.log(sigmoid(q))


@pytest.mark.parametrize(("through", "around"), [(2.0, 0.0), (0.0, 2.0), (1.5, 0.7)])
def test_what_is_lost_with_another_source_by_either_way(through, around):
    """Two texts, each the other's partner, and a q without spread: all is a difference of two logistics."""
    model = Echo(through, around)
    found = ways_of(model, Sender(model, 1e-4), echoed(["yes", "no"]))
    right = through + around
    assert found.sentences == 2
    assert found.whole.nats == pytest.approx(lost(right, -right), abs=1e-3)
    assert found.around.nats == pytest.approx(lost(right, through - around), abs=1e-3)
    assert found.other["z"].nats == pytest.approx(lost(right, around - through), abs=1e-3)
    assert found.whole.error == pytest.approx(0.0, abs=1e-3), "both texts lose the same"


def test_what_is_lost_with_a_draw_of_the_prior():
    """E over z ~ N(0, 1), by quadrature."""
    model = Echo(2.0, 0.0)
    found = ways_of(model, Sender(model, 1e-4), echoed(["yes", "no"] * 250))
    exact = math.log(sigmoid(2.0)) - gauss_hermite(lambda z: -math.log1p(math.exp(-2 * z)), 0.0, 1.0)
    assert found.prior["z"].nats == pytest.approx(exact, abs=5 * found.prior["z"].error)
    # Half of the partners have the same source.
    assert found.whole.nats == pytest.approx(0.5 * lost(2.0, -2.0), abs=5 * found.whole.error)


def test_sources_of_other_lengths_and_several_sites_take_part(programs):
    model, guide, tokenizer = programs
    texts = ["a b c a", "c", "b b", "a a c"]
    sources = ["a", "b c a b", "c c", "b"]
    data = CommonSentences((encode_batch(tokenizer, texts, encode_batch(tokenizer, sources)),), tuple(texts))
    found = ways_of(model, guide, data)
    assert set(found.other) == set(found.prior) == {"z", "a"}
    assert all(math.isfinite(value.nats) for value in (found.whole, found.around, *found.other.values()))
    assert ways_of(model, guide, data) == found


def test_who_reads_the_text_is_not_asked_what_another_source_says():
    model = Echo(1.0, 1.0)
    model.generation = "prior"
    found = ways_of(model, Sender(model, 0.5), echoed(["yes", "no"]))
    assert found.whole is None
    assert found.other == {}
    assert set(found.prior) == {"z"}
    assert ways_of(model, Sender(model, 0.5), echoed(["yes"])) is None


def test_without_latents_all_goes_around():
    model = Echo(0.0, 1.0, latent=False)
    found = ways_of(model, Sender(model, 1.0), echoed(["yes", "no"]))
    assert found.whole == found.around
    assert found.around.nats == pytest.approx(lost(1.0, -1.0), rel=1e-4)
