"""``vimco:K``: its gradient, averaged over everything that can be drawn, is that of the bound."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_text import objectives
from ppl_text.core.errors import UserError
from ppl_text.objectives.score_function import without_each

from .programs import Program, plain_batch

STATES = 3
LOG_JOINT = torch.tensor([[-1.0, 0.5, -2.0], [0.3, -0.7, 0.1]], dtype=torch.float64).log_softmax(-1)
"""ln p(z) and ln p(x | z) of three states."""


class Drawn(dist.Categorical):
    """A categorical that draws what the test says."""

    values = None

    def sample(self, sample_shape=()):
        return self.values

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, _instance or self.__new__(Drawn))


def tuples(count):
    """All that ``count`` particles can draw, (count, STATES ** count)."""
    return torch.cartesian_prod(*[torch.arange(STATES)] * count).T.contiguous()


def programs(logits, shift):
    def story(batch, values):
        z = pyro.sample("z", dist.Categorical(logits=LOG_JOINT[0] + values["shift"]))
        pyro.factor("x", LOG_JOINT[1][z] + values["shift"][z])

    def guide(batch, values):
        pyro.sample("z", Drawn(logits=values["logits"]))

    return Program(story, shift=shift), Program(guide, logits=logits)


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("count", [2, 3])
def test_the_mean_gradient_over_all_draws_is_that_of_the_bound(count, beta, monkeypatch):
    """One sentence for each tuple that can be drawn, weighted by its probability: the mean is exact."""
    logits = torch.tensor([0.4, -0.9, 0.2], dtype=torch.float64)
    shift = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    drawn = tuples(count)
    monkeypatch.setattr(Drawn, "values", drawn)
    model, guide = programs(logits, shift)
    batch = plain_batch(drawn.shape[1])
    probabilities = logits.log_softmax(-1)[drawn].sum(0).exp()
    batch = type(batch)(batch.tokens, batch.lengths, probabilities, batch.decoder_inputs)
    estimate = objectives.build(f"vimco:{count}")(model, guide, batch, beta)
    estimate.loss.backward()

    q, moved = logits.clone().requires_grad_(), shift.clone().requires_grad_()
    log_p = (LOG_JOINT[0] + moved).log_softmax(-1) + LOG_JOINT[1] + moved
    log_weights = (log_p - q.log_softmax(-1))[drawn]
    bound = log_weights.logsumexp(0) - math.log(count)
    # Everything but the likelihood.
    kl = (q.log_softmax(-1).exp() * (q.log_softmax(-1) - (LOG_JOINT[0] + moved).log_softmax(-1))).sum()
    expected = (q.log_softmax(-1)[drawn].sum(0).exp() * bound).sum() + (1.0 - beta) * kl
    expected.backward()
    torch.testing.assert_close(-estimate.loss.detach(), expected.detach())
    torch.testing.assert_close(estimate.bound, bound.detach())
    torch.testing.assert_close(-guide.values["logits"].grad, q.grad)
    torch.testing.assert_close(-model.values["shift"].grad, moved.grad)


def test_the_baseline_of_a_draw_does_not_know_it():
    torch.manual_seed(0)
    log_weights = torch.randn(4, 3, dtype=torch.float64)
    other = log_weights.clone()
    other[2] += 5.0
    torch.testing.assert_close(without_each(log_weights)[2], without_each(other)[2])
    by_hand = torch.cat([log_weights[:2], log_weights[3:], log_weights[[0, 1, 3]].mean(0, keepdim=True)])
    torch.testing.assert_close(without_each(log_weights)[2], by_hand.exp().mean(0).log())


def test_nothing_is_differentiated_through_a_draw():
    """A guide that could be reparametrised gets the gradient of the score function all the same."""

    def story(batch, values):
        pyro.sample("z", dist.Normal(values["mean"], 1.0))

    def q(batch, values):
        pyro.sample("z", dist.Normal(values["mean"], 1.0))

    torch.manual_seed(0)
    model, guide = Program(story, mean=torch.zeros(())), Program(q, mean=torch.ones(()))
    batch = plain_batch(5)
    objectives.build("vimco:4")(model, guide, batch).loss.backward()
    torch.manual_seed(0)
    z = 1.0 + torch.randn(4, 5)
    log_weights = -0.5 * z.square() + 0.5 * (z - 1.0).square()
    share, advantage = log_weights.softmax(0), (log_weights.logsumexp(0) - math.log(4)) - without_each(log_weights)
    score = z - 1.0
    expected = ((advantage - share) * score).sum(0).mean()
    torch.testing.assert_close(-guide.values["mean"].grad, expected)


@pytest.mark.parametrize("spec", ["vimco", "vimco:1", "vimco:0", "vimco:2:3", "vimco:x"])
def test_malformed_specs_are_refused(spec):
    with pytest.raises(UserError, match="write vimco:K, K ≥ 2"):
        objectives.build(spec)
