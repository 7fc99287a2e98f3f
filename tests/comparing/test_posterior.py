"""Draws from the posterior of programs whose posterior is known, and lengths of texts whose law is known."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluation.programs import (
    NOISE,
    Enumerable,
    EnumerableGuide,
    Gaussian,
    GaussianGuide,
    Nothing,
    Unigram,
    batch_of,
    evaluation_set,
    log_evidence,
    observed,
    posterior_scale,
)
from torch import nn

from ppl_text.comparing import posterior
from ppl_text.comparing.candidates import Candidate
from ppl_text.comparing.draws import measure_guide
from ppl_text.comparing.posterior import inference_of
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.evaluation.sentences import common_sentences
from ppl_text.plots.inference_data import pareto_k

KEPT = np.array([2, 3, 4, 1])


def sentences(*batches):
    """Batches of lengths as common sentences, with the lengths as texts."""
    found = common_sentences(evaluation_set(*map(batch_of, batches)))
    return type(found)(found.batches, tuple(str(int(length)) for length in found.tokens))


def inference(model, guide, common, draws, seed=0):
    candidate = Candidate("run", "run", "guide", model, guide)
    return inference_of(candidate, measure_guide(candidate, common, draws=draws, seed=seed), common, seed)


def test_picks_are_from_the_posterior_and_not_from_the_guide(monkeypatch):
    """In chunks, as draws come that do not fit into memory at once; the guide is beside the posterior and too wide."""
    monkeypatch.setattr(posterior, "PICKS", 300)
    monkeypatch.setattr(posterior, "AT_ONCE", 256)
    shift, stretch = 0.5, 1.3
    found = inference(Gaussian(), GaussianGuide(shift, stretch), sentences([2, 3], [4, 1]), draws=300)
    picked = found.posterior.values["z"]
    assert picked.shape == (300, 4)
    assert found.posterior.of == 1200
    order = np.array([int(text) for text in found.texts])
    centre, scale = (order - 3) / (1 + 0.7**2), posterior_scale()
    # The mean of R picks of S draws: Var z / R for the picks, and E_p[w (z - m)²] / S for the weights, which with w
    # bounded by the ratio at the centre is a fraction of the first.
    error = scale * math.sqrt(1 / 300 + 2 * stretch / 1200)
    assert picked.mean(0) == pytest.approx(centre, abs=5 * error)
    assert picked.std(0) == pytest.approx(np.full(4, scale), abs=5 * error)
    assert np.all(np.abs(picked.mean(0) - centre - shift) > 5 * error)


def test_a_mean_over_picks_is_the_self_normalised_mean_of_the_draws_that_they_come_from(monkeypatch):
    common = sentences([2, 3, 4])
    model, guide = Gaussian(), GaussianGuide(0.5, 1.5)
    seen = []
    drawn = posterior.draw
    monkeypatch.setattr(posterior, "draw", lambda *arguments: seen.append(drawn(*arguments)) or seen[-1])
    candidate = Candidate("run", "run", "guide", model, guide)
    ((_, values),) = posterior._resampled(candidate, common, draws=50, picks=5_000)
    (of,) = seen
    shares = of.scores.log_weights.softmax(0)
    mean = (shares * of.values["z"]).sum(0)
    scale = ((shares * of.values["z"].square()).sum(0) - mean.square()).sqrt()
    assert values["z"].mean(0).numpy() == pytest.approx(mean.numpy(), abs=5 * float(scale.max()) / math.sqrt(5_000))
    assert {float(z) for z in values["z"][:, 0]} <= {float(z) for z in of.values["z"][:, 0]}


def test_the_log_evidence_that_loo_reads_is_that_of_each_text():
    found = inference(Gaussian(), GaussianGuide(0.1, 1.2), sentences([2, 3], [4, 1]), draws=500)
    order = np.array([int(text) for text in found.texts])
    weights = found.terms.scores.log_weights.exp()
    error = float((weights.std(0) / weights.mean(0)).max()) / math.sqrt(500)
    assert found.log_evidence.shape == (500, 4)
    assert found.log_evidence.mean(0) == pytest.approx(log_evidence(order), abs=5 * error)
    assert found.log_evidence.std(0).max() == pytest.approx(error, rel=0.2)
    assert found.khat == pytest.approx(pareto_k(found.terms.scores.log_weights.T.numpy()))


class Writer(Enumerable):
    """:class:`Enumerable` with a decoder: z stays, each token is drawn from θ_z."""

    vocabulary = Vocabulary(5)

    def decoder(self, latents, source=None):
        logits = self.table.log()[latents["z"]]
        return SimpleNamespace(begin=lambda rows: (torch.zeros(rows, 1),), step=lambda state, token: (logits, state))


def test_predicted_lengths_have_the_law_of_texts_from_the_posterior(monkeypatch):
    """Given z the length is geometric, cut off at the limit: E = Σ_z p(z | w) Σ_{t < limit} (1 - θ_z,EOS)^t."""
    monkeypatch.setattr(posterior, "TEXTS", 500)
    model, common = Writer(), sentences([5], [2, 3])
    found = inference(model, EnumerableGuide(model, temperature=2.0), common, draws=500)
    batch = common.merged()
    shares = model.joint(batch).softmax(0)
    limit = 2 * 5
    moments = (1 - model.table[:, :1]) ** torch.arange(limit)
    expected = (shares * moments.sum(-1, keepdim=True)).sum(0)
    assert found.predicted.lengths.shape == (500, 3)
    assert found.predicted.lengths.min() >= 1
    assert found.predicted.lengths.max() == limit
    assert list(found.predicted.observed) == [5, 2, 3]
    error = found.predicted.lengths.std(0) / math.sqrt(500)
    # The draws behind the picks are as many as the picks, and no wider than the lengths are.
    assert found.predicted.lengths.mean(0) == pytest.approx(expected.numpy(), abs=5 * math.sqrt(3) * float(error.max()))


class Path(nn.Module):
    """h_t ~ N(t, 0.01²) for each step of a text, of D = 2 units; the texts tell nothing of it."""

    latents = (LatentSpec("h", axes=("T", "D"), sizes={"D": 2}),)

    def draw_path(self, batch):
        steps = torch.arange(1.0, batch.steps + 1).unsqueeze(-1).expand(batch.size, -1, 2)
        pyro.sample("h", dist.Normal(steps, 0.01).to_event(2))

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            self.draw_path(batch)
            pyro.sample("tokens", dist.Normal(0.0, 1.0), obs=batch.lengths.float())


class PathGuide(Path):
    """q = p, which is the posterior."""

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            self.draw_path(batch)


def test_texts_of_middle_length_have_steps_as_far_as_the_shortest_of_them(monkeypatch):
    monkeypatch.setattr(posterior, "SENTENCES", 4)
    found = inference(Path(), PathGuide(), sentences([9, 1, 5], [4, 6], [3, 5]), draws=30)
    assert [found.texts[row] for row in found.posterior.rows] == ["5", "4", "3", "5"]
    assert found.posterior.axes == {"h": ("T", "D")}
    values = found.posterior.values["h"]
    assert values.shape == (30, 4, 3, 2)
    assert np.abs(values - np.arange(1.0, 4)[:, None]).max() < 0.1
    assert found.predicted is None
    assert found.left_out == dict.fromkeys(("posterior_predictive", "observed_data"), "the model writes no text")


@pytest.mark.parametrize(("values", "shape"), [(1000, (30, 1, 9, 2)), (36, (2, 1, 9, 2)), (1, (1, 1, 9, 2))])
def test_the_latents_of_a_file_are_bounded_and_then_the_draws(monkeypatch, values, shape):
    """18 numbers a draw of one text, however much room there is."""
    monkeypatch.setattr(posterior, "VALUES", values)
    found = inference(Path(), PathGuide(), sentences([9, 9, 9]), draws=30)
    assert found.posterior.values["h"].shape == shape


def test_the_sentences_of_a_file_are_bounded(monkeypatch):
    monkeypatch.setattr(posterior, "PAIRS", 100)
    found = inference(Gaussian(), GaussianGuide(), sentences([2, 3], [4, 1]), draws=50)
    assert len(found.texts) == len(found.khat) == len(found.weights) == 2
    assert found.terms.log_likelihood.shape == found.log_evidence.shape == (50, 2)
    assert found.posterior.rows.tolist() == [0, 1]
    monkeypatch.setattr("ppl_text.plots.inference_data.REPLICATES", 20)
    found = inference(Gaussian(), GaussianGuide(), sentences([2, 3]), draws=200)
    assert found.terms.log_likelihood.shape == (200, 1)
    assert found.log_evidence.shape == (20, 1)


def test_a_language_model_has_no_posterior_and_says_why():
    found = inference(Unigram(torch.full((5,), 0.2).log()), Nothing(), sentences([2, 3]), draws=30)
    assert (found.posterior, found.log_evidence, found.predicted) == (None, None, None)
    assert set(found.left_out) == {"posterior", "log_likelihood", "posterior_predictive", "observed_data"}
    assert all("nothing is latent" in reason for reason in found.left_out.values())


class HalfGuide(GaussianGuide):
    """The posterior of texts of three tokens and more; ten standard deviations beside it for those of two."""

    def __init__(self, longest=3):
        super().__init__()
        self.longest = longest

    def forward(self, batch):
        loc = observed(batch) / (1 + NOISE**2) + 10 * posterior_scale() * (batch.lengths < self.longest)
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(loc, posterior_scale()))


def test_texts_whose_weights_cannot_be_believed_have_no_draws_from_the_posterior():
    found = inference(Gaussian(), HalfGuide(), sentences([2, 3, 4]), draws=200)
    assert [found.texts[row] for row in found.posterior.rows] == ["3", "4"]
    assert found.log_evidence.shape == (200, 3)  # a third, no more than that
    found = inference(Gaussian(), HalfGuide(), sentences([2, 3]), draws=200)
    assert found.log_evidence is None
    assert "k > 0.7 on 50% of the texts" in found.left_out["log_likelihood"]
    assert "--draws" in found.left_out["log_likelihood"]
    found = inference(Gaussian(), HalfGuide(longest=9), sentences([2, 3]), draws=200)
    assert found.posterior is None
    assert "no picture of the posterior" in found.left_out["posterior"]
