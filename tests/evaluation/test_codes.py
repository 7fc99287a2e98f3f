"""Codes that guides choose, read off programs whose codes and prices are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_text.core.latents import LatentSpec
from ppl_text.distributions.codes import CodeSequences, NearestCodes
from ppl_text.evaluation.codes import CodeMonitor, code_figures
from ppl_text.evaluation.likelihood import measuring
from ppl_text.evaluation.sentences import common_sentences

from .programs import batch_of, evaluation_set

PRICES = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
"""p(k) of five codes."""


class Fixed(nn.Module):
    """A network that says the same of every step, whatever came before."""

    def forward(self, x):
        return PRICES.log().expand(*x.shape, 5)


class Vectors(nn.Module):
    """z_t ~ PRICES over five code vectors, t ≤ length."""

    latents = (LatentSpec("z", axes=("T", "D"), sizes={"D": 2}),)

    def __init__(self):
        super().__init__()
        self.network = Fixed()
        self.register_buffer("codes", torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [2, 2]]))

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            law = CodeSequences(self.network, self.codes, batch.lengths, batch.steps)
            pyro.sample("z", law)
            pyro.sample("tokens", dist.Normal(torch.zeros(batch.size), 1.0), obs=torch.zeros(batch.size))


class Nearest(nn.Module):
    """Code 1 at the first step of a text, code 2 at all others; states lie beside their codes."""

    def forward(self, batch):
        states = torch.tensor([0.1, 0.9]).repeat(batch.size, batch.steps, 1)
        states[:, 0] = torch.tensor([0.9, 0.2])
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", NearestCodes(states, Vectors().codes, batch.lengths))


class Integers(nn.Module):
    """Two integers a text, each 1..4 with equal probabilities."""

    latents = (LatentSpec("z", axes=("S",), sizes={}, support="integer_interval"),)

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Categorical(torch.full((batch.size, 2, 4), 0.25)).to_event(1))
            pyro.sample("tokens", dist.Normal(torch.zeros(batch.size), 1.0), obs=torch.zeros(batch.size))


class Parity(nn.Module):
    """Whether the length is odd, then 3."""

    def forward(self, batch):
        chosen = torch.stack([batch.lengths % 2, torch.full_like(batch.lengths, 3)], -1)
        logits = torch.where(torch.arange(4) == chosen.unsqueeze(-1), 0.0, -torch.inf)
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Categorical(logits=logits).to_event(1))


def texts(*batches):
    return common_sentences(evaluation_set(*batches))


def figures(model, guide, *batches):
    with measuring(0, model, guide):
        return code_figures(model, guide, texts(*batches))


def test_code_vectors_of_steps_are_counted_up_to_the_length():
    """Texts of 1, 3 and 2 steps, the second twice: code 1 four times, code 2 five times; ln p(1) = -ln 4."""
    found = figures(Vectors(), Nearest(), batch_of([1, 3, 5], [1.0, 2.0, 0.0]), batch_of([2]))["z"]
    assert (found.usage.size, found.usage.used, found.usage.dead) == (5, 2, 3)
    shares = torch.tensor([4 / 9, 5 / 9], dtype=torch.float64)
    assert found.usage.perplexity == pytest.approx(float((-(shares * shares.log()).sum()).exp()))
    assert found.steps == pytest.approx(9 / 4)
    assert found.kl == pytest.approx((4 * math.log(4) + 5 * math.log(8)) / 4)
    assert found.kl_per_step == pytest.approx((4 * math.log(4) + 5 * math.log(8)) / 9)


def test_integers_are_codes_by_their_support():
    found = figures(Integers(), Parity(), batch_of([1, 2, 4, 4]))["z"]
    assert (found.usage.size, found.usage.used) == (4, 3)
    assert found.usage.entropy == pytest.approx(-(3 / 8 * math.log(3 / 8) + math.log(1 / 8) / 8 + math.log(0.5) / 2))
    assert (found.kl, found.steps, found.kl_per_step) == pytest.approx((2 * math.log(4), 2, math.log(4)))


class Lookups(nn.Module):
    """A Gaussian latent, which is none of codes."""

    latents = (LatentSpec("z", axes=("D",), sizes={"D": 2}),)
    seen = 0

    def forward(self, batch):
        self.seen += 1
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(batch.size, 2), 1.0).to_event(1))


def test_a_monitor_records_the_codes_and_is_silent_where_there_are_none():
    data = texts(batch_of([1, 3]), batch_of([2]))
    recorded = CodeMonitor(data)(Vectors(), Nearest())
    assert recorded["codes_used"] == 2
    assert recorded["dead_codes"] == 3
    assert recorded["kl_per_code"] == pytest.approx((3 * math.log(4) + 3 * math.log(8)) / 6)
    model, monitor = Lookups(), CodeMonitor(data)
    assert [monitor(model, model) for _ in range(3)] == [{}] * 3
    assert model.seen == 2, "one batch, by guide and model, and none after it"


def test_sites_stand_by_name_where_there_are_several(monkeypatch):
    one = figures(Integers(), Parity(), batch_of([1, 2]))["z"]
    monkeypatch.setattr("ppl_text.evaluation.codes.code_figures", lambda *_: {"y": one, "z": one})
    recorded = CodeMonitor(texts(batch_of([1])))(Integers(), Parity())
    assert recorded["y.codes_used"] == recorded["z.codes_used"] == 3
