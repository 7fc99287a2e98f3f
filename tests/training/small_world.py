"""A small real problem: a Gaussian z per sentence, categorical tokens, a traced ELBO, repeatable batches.

Shared by the tests and by the scripts that they start, hence no conftest.
"""

import torch
from pyro import distributions as dist
from pyro import plate, poutine, sample
from torch import nn

from ppl_text.core.batch import Batch
from ppl_text.core.protocols import Estimate

V, T, D = 7, 4, 3


class Model(nn.Module):
    """p(z) = N(0, I), p(w_t | z) = Cat(softmax(W z + b)), with dropout on z."""

    family = "small"

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D, V)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("zero", torch.zeros(D))
        self.register_buffer("one", torch.ones(D))

    def forward(self, batch):
        with plate("sentences", batch.size, dim=-1):
            z = sample("z", dist.Normal(self.zero, self.one).to_event(1))
            logits = self.head(self.dropout(z)).unsqueeze(-2).expand(*z.shape[:-1], batch.steps, V)
            mask = torch.arange(batch.steps, device=z.device) < batch.lengths.unsqueeze(-1)
            sample("tokens", dist.Categorical(logits=logits).mask(mask).to_event(1), obs=batch.tokens)


class Guide(nn.Module):
    """q(z | w) = N(μ, σ²) of the bag of words; holds the model as a one-tuple."""

    family = "small"

    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        self.net = nn.Linear(V, 2 * D)

    def forward(self, batch):
        units = torch.eye(V, dtype=self.net.weight.dtype, device=self.net.weight.device)
        bag = nn.functional.embedding(batch.tokens, units).mean(-2)
        loc, raw = self.net(bag).chunk(2, -1)
        with plate("sentences", batch.size, dim=-1):
            sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


class Elbo:
    """The plain ELBO from two traces: loss = -Σ_b w_b (log p(x|z) - β (log q - log p)) / Σ_b w_b."""

    name, particles = "elbo", 1

    def __call__(self, model, guide, batch, beta=1.0):
        drawn = poutine.trace(guide).get_trace(batch)
        scored = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(batch)
        log_q = drawn.nodes["z"]["fn"].log_prob(drawn.nodes["z"]["value"])
        log_p = scored.nodes["z"]["fn"].log_prob(scored.nodes["z"]["value"])
        likelihood = scored.nodes["tokens"]["fn"].log_prob(batch.tokens)
        kl = log_q - log_p
        weight = beta["z"] if isinstance(beta, dict) else beta
        loss = -((likelihood - weight * kl) * batch.weights).sum() / batch.weights.sum()
        return Estimate(loss, (likelihood - kl).detach(), likelihood.detach(), kl.detach())


def make_batch(generator, size=8):
    lengths = torch.randint(1, T + 1, (size,), generator=generator)
    tokens = torch.randint(3, V, (size, T), generator=generator)
    steps = torch.arange(T)
    tokens = torch.where(steps < lengths[:, None] - 1, tokens, torch.where(steps == lengths[:, None] - 1, 2, 0))
    weights = torch.ones(size)
    weights[-1] = 0.0
    inputs = torch.cat((torch.ones(size, 1, dtype=torch.int64), tokens[:, :-1]), -1)
    return Batch(tokens, lengths, weights, inputs)


class Batches:
    """Endless batches from a generator of their own."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        return self

    def __next__(self):
        return make_batch(self.generator)

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


def held_out(n=2):
    generator = torch.Generator().manual_seed(99)
    return [make_batch(generator, size=6) for _ in range(n)]


def programs(seed=5):
    """Model and guide with the same parameters every time, whatever else draws random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model()
        return model, Guide(model)
