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
from ppl_text.evaluation.collapse import verdict_of
from ppl_text.evaluation.information import mutual_information
from ppl_text.evaluation.latents import StepFigures, latent_figures
from ppl_text.evaluation.likelihood import measuring
from ppl_text.evaluation.sentences import chosen_rows, subset
from ppl_text.models.sentence_vae import SentenceVAE

from . import linear_layers
from .test_information import LENGTHS, NORMAL, N, Program, sentences, x_of
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
        found = latent_figures(model, guide, data or sentences(), **options)
    assert found.sites == {"z": found.together}
    return found.together


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
    assert latent_figures(Path(), Program(closed), sentences()) is None
    assert (
        latent_figures(
            SentenceVAE(Vocabulary(9), latent_dim=0, embedding_dim=3, hidden_dim=3), Program(closed), sentences()
        )
        is None
    )


class TwoModel(nn.Module):
    """z ~ N(0, I_3) of the sentence and a_t ~ N(0, 1) of each step."""

    latents = (LatentSpec("a", axes=("T", "D"), sizes={"D": 1}), LatentSpec("z", axes=("D",), sizes={"D": 3}))

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(batch.size, 3), 1.0).to_event(1))
            mask = (torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)).unsqueeze(-1)
            prior = dist.Normal(torch.zeros(batch.size, batch.steps, 1), 1.0).mask(mask)
            pyro.sample("a", prior.to_event(2))
            pyro.sample("tokens", dist.Normal(z.sum(-1), 1.0), obs=torch.zeros(batch.size))


def steps(batch, mean=2.0):
    """q(a_t) = N(mean, 1): mean²/2 nats a step."""
    mask = (torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)).unsqueeze(-1)
    pyro.sample("a", dist.Normal(torch.full((batch.size, batch.steps, 1), mean), 1.0).mask(mask).to_event(2))


RAN = []


def sentence_then_steps(batch):
    closed(batch)
    RAN.append(batch.size)
    steps(batch)


def both(guide, lengths=LENGTHS, seed=0, **options):
    model = TwoModel()
    with measuring(seed, model, guide):
        return latent_figures(model, guide, sentences(lengths), **options)


def test_a_latent_of_the_sentence_is_read_beside_one_of_steps():
    """What is said of z is what is said where there is nothing else; of a, the KL of its steps."""
    found, alone = both(Program(sentence_then_steps), draws=20), figures(Program(closed), draws=20)
    z, a = found.sites["z"], found.sites["a"]
    assert found.together is z
    assert (z.kl, z.kl_by_dimension) == (pytest.approx(alone.kl), pytest.approx(alone.kl_by_dimension))
    assert (z.active_units, z.active_units_02, z.latent_units) == (2, 1, 3)
    assert z.mutual_information == pytest.approx(alone.mutual_information, abs=0.03)
    assert isinstance(a, StepFigures)
    assert (a.kl, a.steps, a.kl_per_step) == pytest.approx((2.0 * 3, 3.0, 2.0))
    values = found.as_dict()
    assert values["sites"]["z"] == {"kl": z.kl, **z.as_dict()}
    assert values["sites"]["a"] == a.as_dict()
    assert {name: value for name, value in values.items() if name != "sites"} == z.as_dict()


def test_the_steps_are_not_run_for_the_information_of_the_sentence():
    RAN.clear()
    both(Program(sentence_then_steps), draws=8, mean_draws=2)
    once = len(sentences(LENGTHS).batches)
    assert len(RAN) == 2 * once, "one look at the sites, and the draws behind the KL of a"


def test_what_is_drawn_behind_another_latent_has_no_information_of_its_own():
    """q(z | a, x) is no q(z | x): KL and active units are known, and the verdict says what is not."""

    def run(batch):
        steps(batch)
        closed(batch)

    found = both(Program(run), draws=8).sites["z"]
    assert math.isnan(found.mutual_information)
    assert found.as_dict()["mutual_information"] is None
    assert found.kl == pytest.approx(float(known_kl().sum()), rel=1e-5)
    assert (found.active_units, found.active_units_02) == (2, 1)
    assert verdict_of(found).startswith("latents unknown (")


class Layers(nn.Module):
    """z1, z2 ~ N(0, I_3)."""

    latents = tuple(LatentSpec(name, axes=("D",), sizes={"D": 3}) for name in ("z1", "z2"))

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            for name in ("z1", "z2"):
                pyro.sample(name, dist.Normal(torch.zeros(batch.size, 3), 1.0).to_event(1))
            pyro.sample("tokens", dist.Normal(torch.zeros(batch.size), 1.0), obs=torch.zeros(batch.size))


def chained(batch):
    """z1 = x + noise, z2 = z1 + noise: all that z2 says of x, z1 has said."""
    x = x_of(batch).unsqueeze(-1)
    first = pyro.sample("z1", dist.Normal(2.0 * x.expand(-1, 3), torch.tensor([1.0, 30.0, 30.0])).to_event(1))
    pyro.sample("z2", dist.Normal(first.mean(-1, keepdim=True).expand(*first.shape[:-1], 3), 0.5).to_event(1))


def test_layers_are_read_each_by_itself_and_all_together():
    model, guide = Layers(), Program(chained)
    with measuring(0, model, guide):
        found = latent_figures(model, guide, sentences(), draws=50)
    first, second, together = found.sites["z1"], found.sites["z2"], found.together
    assert first.mutual_information == pytest.approx(0.5 * math.log(5), abs=0.05)
    assert together.mutual_information == pytest.approx(first.mutual_information, abs=0.3)
    assert math.isnan(second.mutual_information), "given x alone it is an integral over z1"
    assert together.kl == pytest.approx(first.kl + second.kl)
    assert together.latent_units == first.latent_units + second.latent_units == 6
    assert together.active_units == first.active_units + second.active_units
    assert together.kl_by_dimension == pytest.approx(first.kl_by_dimension + second.kl_by_dimension)


def test_a_chain_says_layer_by_layer_what_is_known():
    """KL of each site, and information of the sites so far; the entries of one draw deviate by about 1 nat."""
    model, guide = linear_layers.Chain(), linear_layers.chain_guide()
    with measuring(0, model, guide):
        # All N are compared, and by more than one draw, so that the noise is small.
        found = latent_figures(model, guide, sentences(), draws=200, costly=N)
        joint = [
            mutual_information(guide, sentences(), model.latents, draws=50).so_far,
            mutual_information(guide, sentences(), model.latents[:2], draws=50).so_far,
        ]
    kl = [found.sites[name].kl for name in linear_layers.SITES]
    assert kl == pytest.approx(linear_layers.kl_by_site(), abs=5 * 2.0 / math.sqrt(200 * N))
    assert found.together.kl == pytest.approx(sum(linear_layers.kl_by_site()), abs=5 * 2.0 / math.sqrt(200 * N))
    known = linear_layers.information_so_far(1.0)
    near = {"abs": 5 / math.sqrt(50 * N) + 0.01}
    assert [*joint[0].values()] == pytest.approx(known, **near)
    assert [*joint[1].values()] == pytest.approx(known[:2], **near)
    so_far = [found.sites[name].so_far for name in linear_layers.SITES]
    assert so_far == pytest.approx(known, abs=5 / math.sqrt(N))
    assert so_far[-1] == found.together.mutual_information
    assert found.sites["z_1"].as_dict()["information_so_far"] == so_far[0]
    assert found.together.so_far is None


def test_sites_so_far_are_in_the_order_in_which_they_are_drawn():
    """z_2 is drawn before z_1: what both say stands at z_1, the last."""

    def run(batch):
        x = x_of(batch).unsqueeze(-1)
        pyro.sample("z2", dist.Normal(3.0 * x, 1.0).to_event(1))
        pyro.sample("z1", dist.Normal(torch.zeros(batch.size, 1), 1.0).to_event(1))

    sites = tuple(LatentSpec(name, axes=("D",), sizes={"D": 1}) for name in ("z1", "z2"))
    with measuring(0):
        found = mutual_information(Program(run), sentences(), sites, draws=20)
    assert list(found.so_far) == ["z2", "z1"]
    assert found.so_far["z1"] == pytest.approx(found.so_far["z2"], abs=1e-9)
    assert found.value == pytest.approx(0.5 * math.log(10), abs=5 / math.sqrt(20 * N) + 0.02)


def behind(batch):
    """z_2 = 2 z_1 + noise, whose mean varies with x: bought, and nothing new."""
    first = pyro.sample("z1", dist.Normal(0.5 * x_of(batch).unsqueeze(-1).expand(-1, 3), 1.0).to_event(1))
    pyro.sample("z2", dist.Normal(2.0 * first, 1.0).to_event(1))


def beside(batch):
    """z_1 says nothing of x, two entries of z_2 do."""
    x, shares = x_of(batch).unsqueeze(-1), torch.tensor([0.9, 0.9, 0.0])
    first = pyro.sample("z1", dist.Normal(torch.zeros(batch.size, 3), 1.0).to_event(1))
    pyro.sample("z2", dist.Normal(shares * x + 0.0 * first, torch.tensor([0.4, 0.4, 1.0])).to_event(1))


@pytest.mark.parametrize(
    ("run", "verdict", "known"), [(behind, "idle", 0.0), (beside, "in use", 0.5 * math.log(1 + 2 * 0.81 / 0.16))]
)
def test_the_verdict_on_a_latent_behind_others_is_by_what_it_adds(run, verdict, known):
    model, guide = Layers(), Program(run)
    with measuring(0, model, guide):
        found = latent_figures(model, guide, sentences(), draws=8, costly=N).sites["z2"]
    assert math.isnan(found.mutual_information)
    assert found.added == pytest.approx(known, abs=5 / math.sqrt(N) * (known > 0) + 1e-6)
    assert verdict_of(found).startswith(f"latents {verdict} (")
