"""Chains of codes and their posteriors beside enumeration; tokens under codes beside a plain softmax."""

import itertools

import pytest
import torch

from ppl_text.distributions.choices import draw_index
from ppl_text.distributions.switching import (
    CodeChain,
    CodeChainPosterior,
    CodePosterior,
    Codes,
    Emissions,
    SwitchedTokens,
)

LENGTHS = torch.tensor([3, 1, 2])
DRAWS = 20_000


@pytest.fixture
def chain():
    torch.manual_seed(1)
    initial = torch.randn(3, 2, dtype=torch.float64).log_softmax(-1)
    transitions = torch.randn(3, 2, 2, 2, dtype=torch.float64).log_softmax(-1)
    return CodeChain(initial, transitions, LENGTHS)


def paths(length, codes=2, steps=3):
    """All values of a row of that length: zeros behind it."""
    return torch.tensor([[*path, *[0] * (steps - length)] for path in itertools.product(range(codes), repeat=length)])


def of_row(distribution, row, values):
    """ln p of many values (N, T) for one row."""
    given = torch.zeros(len(values), 3, 3, dtype=torch.int64)
    given[:, row] = values
    return distribution.log_prob(given)[:, row]


def test_probabilities_of_all_paths_sum_to_one(chain):
    emissions = torch.randn(3, 3, 2, dtype=torch.float64)
    for distribution in (chain, CodeChainPosterior(chain, emissions)):
        for row, length in enumerate(LENGTHS.tolist()):
            total = of_row(distribution, row, paths(length)).exp().sum()
            torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_the_posterior_is_bayes_rule(chain):
    emissions = torch.randn(3, 3, 2, dtype=torch.float64)
    posterior = CodeChainPosterior(chain, emissions)
    for row, length in enumerate(LENGTHS.tolist()):
        values = paths(length)
        scores = emissions[row].gather(-1, values.T).T[:, :length].sum(-1)
        joint = of_row(chain, row, values) + scores
        torch.testing.assert_close(of_row(posterior, row, values), joint.log_softmax(0))
        torch.testing.assert_close(posterior.evidence[row], joint.logsumexp(0))
        expected = torch.zeros(3, 2, dtype=torch.float64)
        for share, value in zip(joint.softmax(0), values, strict=True):
            for t in range(length):
                expected[t, value[t]] += share
        torch.testing.assert_close(posterior.marginals[row], expected)


def test_draws_have_the_probabilities_of_their_paths(chain):
    for distribution in (chain, CodeChainPosterior(chain, torch.randn(3, 3, 2, dtype=torch.float64))):
        torch.manual_seed(0)
        drawn = distribution.sample(torch.Size((DRAWS,)))
        assert drawn.shape == (DRAWS, 3, 3)
        for row, length in enumerate(LENGTHS.tolist()):
            for value, log_p in zip(paths(length), of_row(distribution, row, paths(length)), strict=True):
                p = float(log_p.exp())
                share = float((drawn[:, row] == value).all(-1).double().mean())
                assert abs(share - p) < 5 * (p * (1 - p) / DRAWS) ** 0.5 + 1e-9


def test_under_the_posterior_the_weight_is_the_evidence_whatever_is_drawn(chain):
    """With the gradient of the evidence, too: that is why it counts as reparametrised."""
    raw = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    posterior = CodeChainPosterior(chain, raw)
    z = posterior.rsample(torch.Size((4,)))
    scores = torch.where(posterior.mask, raw.expand(4, -1, -1, -1).gather(-1, z.unsqueeze(-1)).squeeze(-1), 0.0)
    weights = chain.log_prob(z) + scores.sum(-1) - posterior.log_prob(z)
    torch.testing.assert_close(weights, posterior.evidence.expand(4, -1))
    (ours,) = torch.autograd.grad(weights.mean(0).sum(), raw, retain_graph=True)
    (exact,) = torch.autograd.grad(posterior.evidence.sum(), raw)
    torch.testing.assert_close(ours, exact)


def test_one_code_for_a_text_is_enumerated():
    prior = Codes(torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64))
    scores = torch.tensor([[-4.0, -1.0, -9.0]], dtype=torch.float64)
    joint = prior.logits + scores
    posterior = CodePosterior(joint)
    values = torch.arange(3).unsqueeze(-1)
    torch.testing.assert_close(prior.log_prob(values).exp().sum(0), torch.ones(1, dtype=torch.float64))
    weight = prior.log_prob(values) + scores.T - posterior.log_prob(values)
    torch.testing.assert_close(weight, joint.logsumexp(-1).expand(3, 1))
    torch.testing.assert_close(posterior.marginals, joint.softmax(-1))
    torch.manual_seed(0)
    share = (posterior.sample(torch.Size((DRAWS,))) == 1).double().mean()
    assert abs(float(share - joint.softmax(-1)[0, 1])) < 0.02


def test_tokens_are_scored_by_the_softmax_of_their_code():
    torch.manual_seed(0)
    features, weight = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    tokens = torch.tensor([[4, 8, 2], [2, 0, 0]])
    emissions = Emissions(features, weight, tokens)
    lengths = torch.tensor([3, 1])
    codes = torch.randint(4, (6, 2, 3))
    found = SwitchedTokens(emissions, codes, lengths).log_prob(tokens)
    for k, row in itertools.product(range(6), range(2)):
        total = 0.0
        for t in range(int(lengths[row])):
            logits = weight @ features[row, t, codes[k, row, t]]
            total = total + logits.log_softmax(-1)[tokens[row, t] - 2]
        torch.testing.assert_close(found[k, row], total)
    other = torch.tensor([[3, 3, 2], [2, 0, 0]])
    assert SwitchedTokens(emissions, codes, lengths).log_prob(other)[0, 0] != found[0, 0]
    distribution = SwitchedTokens(emissions, codes, lengths)
    torch.testing.assert_close(distribution.logits[2, 1, 0], weight @ features[1, 0, codes[2, 1, 0]])
    assert distribution.sample().shape == (6, 2, 3)


def test_codes_are_drawn_in_proportion():
    torch.manual_seed(3)
    logits = torch.tensor([0.0, 1.0, -torch.inf])
    drawn = draw_index(logits.expand(DRAWS, 3))
    assert (drawn == 2).sum() == 0
    share = float((drawn == 1).double().mean())
    assert abs(share - float(logits.softmax(0)[1])) < 0.02
