"""Code vectors: a point mass whose gradient passes straight through, and a prior that sums to one."""

import itertools

import pyro
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.data.batches import collate
from ppl_text.distributions.codes import CodeSequences, IndependentCodes, NearestCodes, StoppedCodes, TiltedCodes
from ppl_text.distributions.steps import AutoregressiveNormals
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


def stopped(codes, steps=STEPS):
    torch.manual_seed(1)
    network = CausalConvolutions(4, BOOK + 1, width=5, layers=2, kernel=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    embedded = EmbeddedIndices(nn.Embedding(BOOK, 4), network).double()
    return StoppedCodes(embedded, codes, torch.tensor([steps]), steps)


def step_by_step(p, indices):
    """ln p of codes without their stop, and ln p(stop) and ln p(any code) behind them."""
    state, total = p.network.begin(1), torch.zeros((), dtype=torch.float64)
    logits, state = p.network.output(state)
    log_shares = torch.cat([logits[0, :BOOK], logits.new_full((1,), -torch.inf)]).log_softmax(-1)
    for index in indices:
        total = total + log_shares[index]
        state = p.network.follow(state, index.view(1))
        logits, state = p.network.output(state)
        log_shares = logits[0].log_softmax(-1)
    return total, log_shares[BOOK], log_shares[:BOOK].logsumexp(0)


def sequences(codes, length, steps):
    """All index sequences of a length, and as values of so many steps."""
    every = torch.tensor(list(itertools.product(range(BOOK), repeat=length)))
    return every, nn.functional.pad(codes[every], (0, 0, 0, steps - length))


def test_sequences_that_a_stop_ends_sum_to_one_over_all_lengths(codes):
    p = stopped(codes)
    total, left = torch.zeros(2, dtype=torch.float64)
    for length in range(1, STEPS + 1):
        every, values = sequences(codes, length, STEPS)
        found = p.log_prob(values.unsqueeze(1)).squeeze(1)
        by_steps = [step_by_step(p, row) for row in every]
        torch.testing.assert_close(found, torch.stack([before + stop for before, stop, _ in by_steps]))
        total = total + found.exp().sum()
        left = torch.stack([before + more for before, _, more in by_steps]).exp().sum()
    assert 0.01 < left < 0.99
    torch.testing.assert_close(total + left, torch.ones((), dtype=torch.float64))
    wide = stopped(codes, STEPS + 2)
    torch.testing.assert_close(wide.log_prob(nn.functional.pad(values, (0, 0, 0, 2)).unsqueeze(1)).squeeze(1), found)


def test_draws_that_a_stop_ends_have_the_probabilities(codes):
    count, p = 20_000, stopped(codes)
    torch.manual_seed(4)
    drawn = p.sample((count,))
    for length in (1, 2):
        _, values = sequences(codes, length, STEPS)
        probabilities = p.log_prob(values.unsqueeze(1)).squeeze(1).exp()
        found = (drawn == values).all(-1).all(-1).double().mean(0)
        error = (probabilities * (1 - probabilities) / count).sqrt()
        assert ((found - probabilities).abs() < 5 * error + 1.0 / count).all()


@pytest.mark.parametrize("kind", ["given", "stopped"])
def test_the_kl_of_a_point_mass_is_that_of_its_codes_one_by_one_and_looks_for_none(kind, codes, monkeypatch):
    p = prior(codes) if kind == "given" else stopped(codes)
    torch.manual_seed(7)
    q = NearestCodes(torch.randn(3, STEPS, WIDTH, dtype=torch.float64), codes, LENGTHS)
    expected = []
    for row, length in zip(q.indices, LENGTHS, strict=True):
        if kind == "stopped":
            before, stop, _ = step_by_step(p, row[:length])
            expected.append(-(before + stop))
        else:
            expected.append(-prior(codes, length.view(1)).log_prob(codes[row].unsqueeze(0)).squeeze(0))
    expected = torch.stack(expected)
    elsewhere = NearestCodes(q.states, codes.clone(), LENGTHS)  # other codes: the value is read
    torch.testing.assert_close(p.kl_from(elsewhere, elsewhere.rsample()), expected)
    monkeypatch.setattr("ppl_text.distributions.codes.nearest", None)
    torch.testing.assert_close(p.kl_from(q, q.rsample()), expected)
    torch.testing.assert_close(p.kl_from(q, q.expand((4, 3)).rsample()), expected.expand(4, 3))


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_tilted_codes_are_the_prior_times_the_likelihood_of_the_states_step_by_step(codes, temperature):
    torch.manual_seed(5)
    p, states = prior(codes, torch.tensor([STEPS])), torch.randn(1, STEPS, WIDTH, dtype=torch.float64)
    q = TiltedCodes(p, states, torch.tensor(temperature).double(), p.lengths)
    every, values = sequences(codes, STEPS, STEPS)
    apart = (states[0].unsqueeze(1) - codes).square().sum(-1)
    expected, kl = [], []
    for row in every:
        state, total, along = p.network.begin(1), 0.0, 0.0
        for step, index in enumerate(row):
            logits, state = p.network.output(state)
            log_gamma = logits[0].log_softmax(-1)
            weights = log_gamma - apart[step] / temperature
            shares = weights.softmax(-1)
            total = total + weights[index] - weights.logsumexp(-1)
            along = along - shares @ apart[step] / temperature - weights.logsumexp(-1)  # specification 6.iii
            state = p.network.follow(state, index.view(1))
        expected.append(total)
        kl.append(along)
    found = q.log_prob(values.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(found.logsumexp(0), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(p.kl_from(q, values.unsqueeze(1)).squeeze(1), torch.stack(kl))
    whole = (found.exp() * (found - p.log_prob(values.unsqueeze(1)).squeeze(1))).sum()
    torch.testing.assert_close((found.exp() * torch.stack(kl)).sum(), whole)


@pytest.mark.parametrize("kind", ["tilted", "independent"])
def test_draws_of_posteriors_over_codes_have_the_probabilities(kind, codes):
    torch.manual_seed(6)
    count, p = 20_000, prior(codes, torch.tensor([STEPS]))
    if kind == "tilted":
        q = TiltedCodes(p, torch.randn(1, STEPS, WIDTH).double(), torch.tensor(0.7).double(), p.lengths)
    else:
        q = IndependentCodes(torch.randn(1, STEPS, BOOK).double(), codes, p.lengths)
        torch.testing.assert_close(q.mean, q.logits.softmax(-1) @ codes)
    _, values = sequences(codes, STEPS, STEPS)
    probabilities = q.log_prob(values.unsqueeze(1)).squeeze(1).exp()
    torch.testing.assert_close(probabilities.sum(), torch.ones((), dtype=torch.float64))
    found = (q.expand((count, 1)).sample() == values).all(-1).all(-1).double().mean(0)
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


class Counting(CausalConvolutions):
    """Counts how often all steps are computed at once, and how often one is."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.passes = self.steps = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x)

    def output(self, state):
        self.steps += 1
        return super().output(state)


@pytest.mark.parametrize("kind", ["codes", "gaussian"])
def test_drawing_costs_a_step_of_convolutions_for_each_latent_and_scoring_one_pass(kind, codes):
    """Of steps, and of the multiplications in them: S latents cost S times what one does."""
    work = []
    for steps in (1, 5, 10):
        network = Counting(4 if kind == "codes" else WIDTH, BOOK if kind == "codes" else 2 * WIDTH, width=5, layers=3)
        network, lengths = network.double().requires_grad_(False), torch.full((2,), steps)
        if kind == "codes":
            embedded = EmbeddedIndices(nn.Embedding(BOOK, 4).double(), network)
            p = CodeSequences(embedded, codes, lengths, steps)
        else:
            p = AutoregressiveNormals(network, WIDTH, lengths, steps)
        with FlopCounterMode(display=False) as counter:
            value = p.sample()
        assert (network.passes, network.steps) == (0, steps)
        work.append(counter.get_total_flops())
        p.log_prob(value)
        assert (network.passes, network.steps) == (1, steps)
    assert work[0] > 0
    assert work == [work[0], 5 * work[0], 10 * work[0]]
