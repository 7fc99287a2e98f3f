"""β of several latent sites: by name and pattern, and as the weight of their mean, in a training."""

from functools import partial

import pytest
import torch
from pyro import distributions as dist
from pyro import plate, sample
from torch import nn

from ppl_text import objectives
from ppl_text.core.latents import LatentSpec
from ppl_text.distributions.side import record_side_loss
from ppl_text.recipes.procedures import TrainingSection
from ppl_text.schedules import build
from ppl_text.training.beta import averaged
from ppl_text.training.optimizers import build_optimizer

from .conftest import equal, metrics
from .small_world import D, Guide, Model, V

SITES = ("z_1", "z_2")


class Layers(Model):
    """p(z_1) = N(0, I), p(z_2 | z_1) = N(A z_1, I), p(w_t | z_2) = Cat(softmax(W z_2 + b)); a side loss of z_1."""

    latents = tuple(LatentSpec(name, ("D",), {"D": D}) for name in SITES)

    def __init__(self):
        super().__init__()
        self.link = nn.Linear(D, D)

    def forward(self, batch):
        with plate("sentences", batch.size, dim=-1):
            first = sample("z_1", dist.Normal(self.zero, self.one).to_event(1))
            record_side_loss("size", first.square().sum(-1))
            second = sample("z_2", dist.Normal(self.link(first), self.one).to_event(1))
            logits = self.head(second).unsqueeze(-2).expand(*second.shape[:-1], batch.steps, V)
            mask = torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)
            sample("tokens", dist.Categorical(logits=logits).mask(mask).to_event(1), obs=batch.tokens)


class LayersGuide(Guide):
    """q(z_1, z_2 | w): two Gaussians of the bag of words."""

    def forward(self, batch):
        bag = nn.functional.one_hot(batch.tokens, V).to(self.net.weight.dtype).mean(-2)
        loc, raw = self.net(bag).chunk(2, -1)
        with plate("sentences", batch.size, dim=-1):
            for site, sign in zip(SITES, (1.0, -1.0), strict=True):
                sample(site, dist.Normal(sign * loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


def layers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Layers()
        return model, LayersGuide(model)


def trained(make, folder, **options):
    options = {"steps": 6, "log_every": 1, "validate_every": 6} | options
    objective, descent = objectives.build("elbo-analytic"), partial(build_optimizer, "sgd")
    made = make(folder, world=layers, objective=objective, optimizer=descent, lr=0.05, **options)
    made.trainer.fit()
    return made, metrics(folder)


RISING = {"name": "linear", "start": 0.25, "end": 1.0, "steps": 4}
"""Halves of its values are exact."""

HALVES = {
    "one for all sites": (build(RISING), build({**RISING, "start": 0.125, "end": 0.5})),
    "a constant": (build(1.0), build(0.5)),
    "by name, pattern and side loss": (
        {"z_1": build(RISING), "z_*": build(0.5), "size": build(0.25)},
        {"z_1": build({**RISING, "start": 0.125, "end": 0.5}), "z_2": build(0.25), "size": build(0.25)},
    ),
    "one that has no name has 1": ({"z_2": build(0.0)}, {"z_1": build(0.5), "z_2": build(0.0)}),
    "a pattern of sites and side losses": (
        {"*": build(0.5)},
        {"z_1": build(0.25), "z_2": build(0.25), "*": build(0.5)},
    ),
}


@pytest.mark.parametrize(("given", "half"), HALVES.values(), ids=HALVES)
def test_the_mean_over_two_sites_is_half_of_each_beta_and_side_losses_keep_theirs(make, tmp_path, given, half):
    mean, of_mean = trained(make, tmp_path / "mean", beta=given, kl_sites="mean")
    total, of_sum = trained(make, tmp_path / "sum", beta=half)
    assert equal(mean.parameters(), total.parameters())
    for one, other in zip(of_mean, of_sum, strict=True):
        named = (record.pop("beta", None) for record in (one, other))
        assert len({beta["z_1"] if isinstance(beta, dict) else beta for beta in named}) == 1
        assert one == other


def test_bounds_have_the_sum_of_the_kls_all_the_same(make, tmp_path):
    """At the same parameters: the first update's figures, and a bound at β = 1."""
    _, of_mean = trained(make, tmp_path / "mean", kl_sites="mean", steps=1)
    _, of_sum = trained(make, tmp_path / "sum", steps=1)
    for name in ("bound", "kl", "log_likelihood"):
        assert of_mean[0][name] == of_sum[0][name]
    # An update's loss is Σ w (-ln p + β KL) / Σ w + side losses: the two differ by half of the KL.
    assert of_mean[0]["loss"] == pytest.approx(of_sum[0]["loss"] - of_sum[0]["kl"] / 2, rel=1e-5)


def test_the_kl_of_one_site_alone_leaves_the_others_prior_untrained(make, tmp_path):
    made, records = trained(make, tmp_path, beta={"z_1": build(1.0), "z_*": build(0.0)})
    start = layers()[0].link.state_dict()
    assert equal(dict(made.model.link.state_dict()), dict(start))
    assert records[0]["beta"] == {"z_1": 1.0, "z_*": 0.0}


def test_one_site_or_none_has_no_mean():
    beta = build(0.5)
    assert averaged(beta, ["z"]) is beta
    assert averaged(beta, []) is beta


def test_a_configuration_says_the_beta_of_the_first_update():
    section = TrainingSection(steps=10, kl_sites="mean", beta={"z_1": 1.0, "z_*": 0.0})
    assert section.first_beta(SITES) == {"z_1": 0.5, "z_2": 0.0, "z_*": 0.0}
    assert TrainingSection(steps=10, kl_sites="mean").first_beta(SITES) == 0.5
    assert section.in_stages()[0].in_steps(None).kl_sites == "mean"
    (line,) = section.described("elbo")
    assert line == "10 steps of elbo, β z_1 1, z_* 0, mean KL of the sites"
