"""Active units and mutual information, against linear-Gaussian guides for which both are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_text.comparing.draws import draw_terms
from ppl_text.core.batch import Batch
from ppl_text.core.latents import LatentSpec
from ppl_text.distributions.point import PointMass
from ppl_text.evaluation.information import (
    VERY_ACTIVE,
    DrawMoments,
    active_units,
    mutual_information,
    unit_variances,
)
from ppl_text.evaluation.likelihood import measuring
from ppl_text.evaluation.sentences import CommonSentences

N = 200
NORMAL = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(N) + 0.5) / N)
"""x of N sentences, as good as drawn from N(0, 1)."""

VECTOR = (LatentSpec("z", axes=("D",), sizes={"D": 2}),)
PATH = (LatentSpec("z", axes=("T", "D"), sizes={"D": 1}),)


def sentences(lengths=None, rows=64, number=N, weights=None):
    """Sentence i begins with the token 3 + i."""
    lengths = torch.ones(number, dtype=torch.long) if lengths is None else lengths
    weights = torch.ones(number, dtype=torch.float64) if weights is None else weights
    tokens = torch.zeros(number, int(lengths.max()), dtype=torch.long)
    tokens[:, 0] = 3 + torch.arange(number)
    parts = [slice(i, i + rows) for i in range(0, number, rows)]
    batches = tuple(Batch(tokens[p], lengths[p], weights[p], tokens[p]) for p in parts)
    return CommonSentences(batches, tuple(map(str, range(number))))


def x_of(batch):
    return NORMAL[batch.tokens[:, 0] - 3]


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            return self.run(batch)


def gaussian(slope, scale, noise=0.0):
    """q(z | x, u) = N([slope·x + u, 0], scale²), u ~ N(0, noise²) auxiliary."""

    def run(batch):
        mean = slope * x_of(batch)
        if noise:
            auxiliary = dist.Normal(torch.zeros(batch.size), noise).mask(False)
            mean = mean + pyro.sample("u", auxiliary, infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(torch.stack([mean, torch.zeros_like(mean)], -1), scale).to_event(1))

    return Program(run)


def path(slope, by_length=0.0):
    """q(z_t | x) = N(10·t + slope·x + by_length·length, 1): the step says much, which every guide knows."""

    def run(batch):
        steps = 10.0 * torch.arange(batch.steps)
        mean = steps + (slope * x_of(batch) + by_length * batch.lengths).unsqueeze(-1)
        mask = torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)
        density = dist.Normal(mean.unsqueeze(-1), 1.0).mask(mask.unsqueeze(-1))
        pyro.sample("z", density.to_event(2))

    return Program(run)


def standard_model(batch):
    pyro.sample("z", dist.Normal(torch.zeros(batch.size, 2), 1.0).to_event(1))
    pyro.sample("tokens", dist.Normal(torch.zeros(batch.size), 1.0), obs=torch.zeros(batch.size))


def information(guide, latents=VECTOR, data=None, draws=20, seed=0, **options):
    with measuring(seed, guide):
        return mutual_information(guide, data or sentences(), latents, draws=draws, **options)


@pytest.mark.parametrize("noise", [0.0, 2.0], ids=["plain", "auxiliary noise"])
@pytest.mark.parametrize(("slope", "scale"), [(1.0, 1.0), (2.0, 0.5), (0.3, 1.0)])
def test_mutual_information_of_a_gaussian_channel(slope, scale, noise):
    """I(x; z) = ½ ln(1 + slope² Var x / scale²); given auxiliary noise just as much.

    The information of one draw has the variance ρ², below 1; the N quantiles have a variance 1% below that of N(0, 1).
    """
    found = information(gaussian(slope, scale, noise), draws=100)
    error = 1 / math.sqrt(100 * N)
    assert found.value == pytest.approx(0.5 * math.log(1 + slope**2 / scale**2), abs=5 * error + 0.005)
    assert found.cap == pytest.approx(math.log(N))


def test_a_guide_that_ignores_the_sentence_says_nothing():
    assert information(gaussian(0.0, 1.0)).value == pytest.approx(0.0, abs=1e-6)


def test_a_guide_that_tells_every_sentence_reaches_the_cap():
    found = information(gaussian(1.0, 1e-5))
    assert found.value == pytest.approx(found.cap, rel=1e-6)


class Narrow(nn.Module):
    """The network of a gated flow with scales of 1e-25, each entry moved by all before it."""

    permutation = range(4)

    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, u):
        before = torch.cat([torch.zeros_like(u[..., :1]), u.cumsum(-1)[..., :-1]], -1)
        return before + self.offset, torch.full_like(u, -60.0)


def narrow_flow(batch):
    base = dist.Normal(torch.zeros(batch.size, 4), 1.0).to_event(1)
    flow = dist.transforms.AffineAutoregressive(Narrow(x_of(batch).unsqueeze(-1)), stable=True)
    pyro.sample("z", dist.TransformedDistribution(base, [flow]))


def test_a_flow_out_of_range_is_a_density_of_zero():
    """The undefined ln q of other sentences do not make the figure undefined: all sentences are told apart."""
    batch = sentences(number=9, rows=9).batches[0]
    with pyro.validation_enabled(False):
        site = pyro.poutine.trace(Program(narrow_flow)).get_trace(batch).nodes["z"]
        elsewhere = site["fn"].log_prob(site["value"].roll(1, 0).clone())
    assert elsewhere.isnan().any()
    found = information(Program(narrow_flow), data=sentences(number=9, rows=4))
    assert found.value == pytest.approx(math.log(9), rel=1e-6)


def test_an_undefined_density_of_a_sentence_itself_is_not_hidden():
    def run(batch):
        mean = torch.full((batch.size, 2), torch.nan).where(x_of(batch).unsqueeze(-1) > 0, torch.zeros(()))
        pyro.sample("z", dist.Normal(mean, 1.0, validate_args=False).to_event(1))

    assert math.isnan(information(Program(run)).value)


def test_chunks_change_nothing():
    whole, parts = (information(gaussian(1.0, 1.0), draws=2, pairs=pairs) for pairs in (10**6, 7 * N))
    assert whole.value == pytest.approx(parts.value, abs=1e-6)


def test_weights_are_those_of_the_aggregate():
    """Three sentences told apart with certainty: I is the entropy of their weights."""
    share = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    data = sentences(number=3, weights=10 * share)
    found = information(gaussian(5.0, 1e-5), data=data)
    entropy = -float((share * share.log()).sum())
    assert found.value == pytest.approx(entropy)
    assert found.cap == pytest.approx(entropy)


LENGTHS = torch.tensor([2, 4]).repeat(N // 2)


def test_the_length_is_no_information_of_a_path():
    data = sentences(LENGTHS, rows=50)
    found = information(path(0.0, by_length=5.0), PATH, data)
    assert found.value == pytest.approx(0.0, abs=1e-5)
    assert found.cap == pytest.approx(math.log(N / 2))
    assert information(path(3.0), PATH, data).value > 1.0


def moments_of(guide, model, data, latents, draws):
    _, moments = draw_terms(Program(model), guide, data, latents, draws=draws, seed=0)
    return moments["z"]


@pytest.mark.parametrize("draws", [4, 64])
def test_variances_of_posterior_means(draws):
    """Var_x E[z | x] = slope² Var x; the noise of few draws is taken off."""
    data = sentences()
    moments = moments_of(gaussian(0.5, 2.0), standard_model, data, VECTOR, draws)
    assert moments.mean.shape == moments.variance.shape == (N, 2)
    found = unit_variances(moments, data.weights)
    error = 5 * math.sqrt(2 / N) * (0.25 + 4.0 / draws)
    assert found.tolist() == pytest.approx([0.25 * float(NORMAL.var(correction=0)), 0.0], abs=error)
    assert moments.variance.mean().item() == pytest.approx(4.0, rel=5 / math.sqrt((draws - 1) * N))


def test_active_units_are_counted():
    data = sentences()
    moments = moments_of(gaussian(0.5, 0.1), standard_model, data, VECTOR, 64)
    assert active_units(unit_variances(moments, data.weights)) == 1
    blind = moments_of(gaussian(0.0, 0.1), standard_model, data, VECTOR, 64)
    assert active_units(unit_variances(blind, data.weights)) == 0


def test_a_path_is_looked_at_step_by_step():
    """What all sentences share at a step is no activity, nor is padding; steps weigh by who reaches them."""
    mean = torch.zeros(4, 3, 1, dtype=torch.float64)
    mean[:, :, 0] = torch.tensor([0.0, 100.0, 200.0])
    mean[:2, 0] += torch.tensor([[1.0], [-1.0]])  # variance 1/2 among the four at step 0
    mean[0, 1] += 2.0  # variance 1 among the two at step 1
    mean[2:, 1:] = 1e6  # padding
    lengths = torch.tensor([2.0, 2.0, 1.0, 1.0])
    moments = DrawMoments(mean, torch.zeros_like(mean), 8)
    weights = torch.ones(4, dtype=torch.float64)
    assert unit_variances(moments, weights, lengths).tolist() == pytest.approx([(4 * 0.5 + 2 * 1.0) / 6])


def test_the_correction_is_unbiased_under_weights():
    """Means that differ by Monte-Carlo noise alone: on average nothing is left."""
    torch.manual_seed(0)
    weights = torch.tensor([5.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    draws = torch.randn(4000, 6, 4, 1, dtype=torch.float64)
    found = torch.stack([unit_variances(DrawMoments(d.mean(0), d.var(0), 6), weights) for d in draws])
    assert float(found.mean()) == pytest.approx(0.0, abs=5 * float(found.std()) / math.sqrt(4000))


def test_the_prior_guide_of_a_run_is_blind(trained):
    """0 nats and 0 units on a real model."""
    from guides.deep_state_space import PriorGuide
    from ppl_text.evaluation.sentences import common_sentences
    from ppl_text.recipes.build import evaluation_set

    data = common_sentences(evaluation_set(trained.corpus, "valid", 40, 0, batch_size=16))
    latents = trained.model.latents
    blind = PriorGuide(trained.model)
    assert information(blind, latents, data, draws=2).value == pytest.approx(0.0, abs=1e-5)
    terms, moments = draw_terms(trained.model, blind, data, latents, draws=256, seed=0)
    assert active_units(unit_variances(moments["h"], data.weights, data.tokens)) == 0
    assert float(terms.scores.mean_kl["h"].abs().max()) < 1e-4


class Fixed(dist.Normal):
    """A normal whose draw for sentence i is always the same, so that other ways to batch draw the same."""

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * torch.sin(37.0 * self.loc)


def single(slope, scale, auxiliary):
    """q(z | x) = N([slope·x, x²], scale²); a site u besides changes nothing but the way: the guide is run."""

    def run(batch):
        mean = torch.stack([slope * x_of(batch), x_of(batch) ** 2], -1)
        if auxiliary:
            pyro.sample("u", dist.Normal(torch.zeros(batch.size), 1.0).mask(False), infer={"is_auxiliary": True})
        pyro.sample("z", Fixed(mean, scale).to_event(1))

    return Program(run)


@pytest.mark.parametrize("pairs", [50, 10**6])
def test_distributions_at_hand_say_what_running_the_guide_says(pairs):
    weights = 1.0 + torch.arange(N, dtype=torch.float64) % 3
    data = sentences(rows=64, weights=weights)
    fast, slow = (information(single(0.7, 0.5, u), data=data, draws=1, pairs=pairs) for u in (False, True))
    assert fast.value == pytest.approx(slow.value, rel=1e-6)
    assert fast.cap == pytest.approx(slow.cap, rel=1e-12)
    assert 0.3 < fast.value < fast.cap - 0.5


def test_a_distribution_at_hand_is_made_once_for_a_batch():
    calls = []

    def run(batch):
        calls.append(batch.size)
        pyro.sample("z", dist.Normal(x_of(batch).unsqueeze(-1), 1.0).to_event(1))

    information(Program(run), data=sentences(rows=100), draws=5, pairs=64)
    assert calls == [100, 100, 100]


def test_points_tell_apart_all_sentences_that_have_points_of_their_own():
    """Two of four sentences share their point: I = H(1/2, 1/4, 1/4)."""

    def run(batch):
        pyro.sample("z", PointMass((batch.tokens[:, 0].clamp(min=4) - 3.0).unsqueeze(-1)))

    found = information(Program(run), data=sentences(number=4))
    assert found.value == pytest.approx(1.5 * math.log(2))
    assert found.cap == pytest.approx(math.log(4))


@pytest.mark.parametrize("path_like", [False, True], ids=["z", "path"])
def test_equal_texts_are_one_text(path_like):
    """Copies of 20 texts: who tells all texts apart knows ln 20, and no more is said to be possible."""
    data = sentences(torch.full((N,), 2) if path_like else None)
    for batch in data.batches:
        batch.tokens[:, 0] = 3 + (batch.tokens[:, 0] - 3) % 20 * 10
    found = information(path(1e5), PATH, data, draws=2) if path_like else information(gaussian(1.0, 1e-6), data=data)
    assert found.cap == pytest.approx(math.log(20))
    assert found.value == pytest.approx(found.cap, rel=1e-6)


@pytest.mark.parametrize(("conditional", "texts"), [(False, 2), (True, 4)])
def test_a_text_and_its_source_are_one_where_the_model_reads_it(conditional, texts):
    """Beside one text stand two sources, beside another one as well: four pairs of two texts."""
    ids, ones = torch.tensor([[3], [3], [4], [4]]), torch.ones(4, dtype=torch.long)
    source = Batch(torch.tensor([[5], [6], [5], [6]]), ones, torch.ones(4), ids)
    data = CommonSentences((Batch(ids, ones, torch.ones(4), ids, source),), tuple("abcd"))
    assert information(gaussian(1.0, 1.0), data=data, conditional=conditional).cap == pytest.approx(math.log(texts))


def test_the_threshold_is_an_argument():
    variances = torch.tensor([0.009, 0.01, 0.19, 0.2, 1.0])
    assert (active_units(variances), active_units(variances, VERY_ACTIVE)) == (4, 2)
