"""Code vectors: a point mass whose gradient passes straight through, and a prior that sums to one."""

import itertools

import pyro
import pytest
import torch
from torch import nn

from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.data.batches import collate
from ppl_text.distributions.codes import CodeSequences, NearestCodes
from ppl_text.distributions.tokens import TokenSequence
from ppl_text.nn.causal import CausalConvolutions, EmbeddedIndices
from ppl_text.nn.codebook import nearest

BOOK, WIDTH, STEPS = 3, 2, 3
LENGTHS = torch.tensor([3, 2, 1])


@pytest.fixture
def codes():
    torch.manual_seed(0)
    return torch.randn(BOOK, WIDTH, dtype=torch.float64)


def prior(codes, lengths=LENGTHS):
    torch.manual_seed(1)
    network = CausalConvolutions(4, BOOK, width=5, layers=2, kernel=2).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    embedded = EmbeddedIndices(nn.Embedding(BOOK, 4).double(), network)
    return CodeSequences(embedded, codes, lengths, STEPS)


def test_a_point_mass_is_the_code_in_value_and_the_state_in_gradient(codes):
    states = torch.randn(3, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)
    book = codes.clone().requires_grad_()
    q = NearestCodes(states, book, LENGTHS).expand((4, 3))
    value = q.rsample()
    assert torch.equal(value[1], q.kept(codes[nearest(states, codes)]))
    weights = torch.randn_like(value)
    for_states, for_codes = torch.autograd.grad((weights * value).sum(), [states, book], allow_unused=True)
    assert torch.equal(for_states, q.kept(weights).sum(0))
    assert for_codes is None
    assert torch.equal(q.log_prob(value), torch.zeros(4, 3, dtype=torch.float64))
    other = value.detach().clone()
    other[0, 1, 0] += 1e-3
    assert q.log_prob(other)[0].tolist() == [0.0, -torch.inf, 0.0]


def test_probabilities_of_all_sequences_sum_to_one(codes):
    p = prior(codes, torch.tensor([STEPS]))
    every = torch.tensor(list(itertools.product(range(BOOK), repeat=STEPS)))
    total = p.log_prob(codes[every].unsqueeze(1)).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_a_probability_is_that_of_the_steps_one_by_one(codes):
    p = prior(codes)
    indices = torch.tensor([[0, 2, 1], [1, 1, 0], [2, 0, 0]])
    expected = []
    for row, length in zip(indices, LENGTHS, strict=True):
        state, total = p.network.begin(1), torch.zeros((), dtype=torch.float64)
        for index in row[:length]:
            logits, state = p.network.output(state)
            total = total + logits.log_softmax(-1)[0, index]
            state = p.network.follow(state, index.view(1))
        expected.append(total)
    torch.testing.assert_close(p.log_prob(codes[indices]), torch.stack(expected))


def test_draws_have_the_probabilities(codes):
    count = 20_000
    p = prior(codes, torch.tensor([STEPS]))
    torch.manual_seed(2)
    drawn = nearest(p.sample((count,)).squeeze(1), codes)
    every = torch.tensor(list(itertools.product(range(BOOK), repeat=STEPS)))
    probabilities = p.log_prob(codes[every].unsqueeze(1)).squeeze(1).exp()
    found = (drawn.unsqueeze(1) == every).all(-1).double().mean(0)
    error = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((found - probabilities).abs() < 5 * error + 1.0 / count).all()


class Story(nn.Module):
    """p(z, w): codes, and letters given the code of their step."""

    def __init__(self, codes):
        super().__init__()
        self.codes, self.prior, self.head = codes, prior(codes), nn.Linear(WIDTH, 3).double()

    def forward(self, batch: Batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", self.prior)
            pyro.sample("tokens", TokenSequence(self.head(z), batch.lengths), obs=batch.tokens)


class Reader(nn.Module):
    """q(z | w): the code nearest to an embedding of the letter."""

    def __init__(self, codes):
        super().__init__()
        self.codes, self.embedding = codes, nn.Embedding(5, WIDTH).double()

    def forward(self, batch: Batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", NearestCodes(self.embedding(batch.tokens), self.codes, batch.lengths))


def test_under_a_point_mass_the_kl_is_the_cost_of_the_codes_and_every_bound_is_one(codes):
    torch.manual_seed(3)
    model, guide = Story(codes), Reader(codes)
    batch = collate([[3, 4], [4], []], torch.ones(3, dtype=torch.float64), STEPS, 3)
    bounds = {spec: objectives.build(spec)(model, guide, batch) for spec in ("elbo", "elbo:4", "iwae:4", "renyi:0.5:4")}
    cost = -model.prior.log_prob(codes[nearest(guide.embedding(batch.tokens), codes)])
    for estimate in bounds.values():
        torch.testing.assert_close(estimate.kl, cost.detach())
        torch.testing.assert_close(estimate.bound, bounds["elbo"].bound)
    bounds["elbo"].loss.backward()
    assert guide.embedding.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.prior.network.parameters())
