"""The objective ``rate``: gradient of the ELBO for what the KL depends on, and no token is scored for it."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_text.core.errors import UserError
from ppl_text.objectives import build

from .programs import Program, gradients, plain_batch

X = torch.tensor([0.3, -0.2, 1.0, 0.5], dtype=torch.float64)
LOC = torch.tensor([[0.1, 0.9], [1.5, 0.0], [0.2, 0.2], [0.6, -1.1]], dtype=torch.float64)
SCALE = torch.tensor([[0.9, 0.8], [1.0, 0.6], [1.0, 1.0], [0.7, 0.3]], dtype=torch.float64)


class World:
    """z ~ N(mean, 1) in R², u ~ N(z_1, 1), x ~ N(slope (z_2 + u), 1); the model says how far it was run."""

    def __init__(self):
        self.decoded = 0

    def model(self, batch, values):
        pyro.sample("seen", dist.Normal(torch.zeros(4).double(), 1.0), obs=X)
        z = pyro.sample("z", dist.Normal(values["mean"].expand(4, 2), 1.0).to_event(1))
        u = pyro.sample("u", dist.Normal(z[..., 0], 1.0))
        self.decoded += 1
        pyro.sample("tokens", dist.Normal(values["slope"] * (z[..., 1] + u), 1.0), obs=X)

    def guide(self, batch, values):
        z = pyro.sample("z", dist.Normal(values["loc"], values["scale"]).to_event(1))
        pyro.sample("u", dist.Normal(values["loc"][:, 0] + z[..., 0], 2.0))

    def programs(self):
        model = Program(self.model, mean=torch.tensor([0.2, -0.4]).double(), slope=torch.tensor(0.7).double())
        return model, Program(self.guide, loc=LOC, scale=SCALE)


def run(spec, world, beta=1.0):
    torch.manual_seed(0)
    model, guide = world.programs()
    estimate = build(spec)(model, guide, plain_batch(4), beta)
    return estimate, gradients(estimate.loss, model, guide)


@pytest.mark.parametrize("particles", [1, 3])
def test_loss_is_the_kl_and_the_model_is_left_after_its_last_latent(particles):
    world, other = World(), World()
    estimate, found = run(f"rate:{particles}", world)
    assert world.decoded == 0
    assert estimate.bound.isnan().all()
    assert estimate.log_likelihood.isnan().all()
    whole, wanted = run(f"elbo-analytic:{particles}", other)
    assert other.decoded == 1
    torch.testing.assert_close(estimate.kl, whole.kl)
    torch.testing.assert_close(estimate.loss, whole.kl.mean())
    torch.testing.assert_close(found["0.values.mean"], wanted["0.values.mean"])  # a prior's gradient is the ELBO's
    assert found["0.values.slope"] == 0.0


def test_nothing_is_left_behind_where_the_model_was_left():
    world = World()
    run("rate:2", world)
    assert not pyro.poutine.runtime.am_i_wrapped()
    torch.testing.assert_close(run("rate:2", world)[0].loss, run("rate:2", world)[0].loss)


def test_beta_weighs_the_kl():
    loss = run("rate", World())[0].loss
    for beta in (0.3, torch.tensor(0.3), {"z": 0.3, "u": 0.3}):
        torch.testing.assert_close(run("rate", World(), beta)[0].loss, 0.3 * loss)


def test_without_gradients_the_bound_is_the_elbo():
    bounds = []
    for spec in ("rate:2", "elbo-analytic:2"):
        torch.manual_seed(0)
        with torch.no_grad():
            bounds.append(build(spec)(*World().programs(), plain_batch(4)).bound)
    torch.testing.assert_close(*bounds)


def test_a_model_without_latents_has_no_rate():
    def model(batch, values):
        pyro.sample("tokens", dist.Normal(values["slope"], torch.ones(4).double()), obs=X)

    programs = Program(model, slope=torch.tensor(0.7).double()), Program(lambda batch, values: None)
    with pytest.raises(UserError, match="this model has none"):
        build("rate")(*programs, plain_batch(4))
