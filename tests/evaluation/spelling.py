"""A sentence model that spells: z is the text itself, so that what is decoded and how far texts lie apart is known."""

from types import SimpleNamespace

import pyro
import torch
from pyro.distributions import Normal, TransformedDistribution
from pyro.distributions.transforms import AffineTransform
from torch import nn

from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import EOS_ID
from ppl_text.data.tokenizers import character_tokenizer

WIDTH = 4
TOKENIZER = character_tokenizer("abcdefgh")
MAX_STEPS = WIDTH + 1


def code(text):
    """z of a text: its ids, then EOS to the end."""
    ids = TOKENIZER.encode([text])[0]
    return [float(i) for i in (*ids, *[EOS_ID] * (WIDTH - len(ids)))]


class Spelling(nn.Module):
    """P(w_t | z) ∝ exp(-10 (w_t - z_t)²): the id nearest to z_t, EOS after the last; fed-back tokens are checked."""

    family = "spelling"

    def __init__(self, sharpness=10.0):
        super().__init__()
        self.sharpness = sharpness
        self.latents = (LatentSpec("z", axes=("D",), sizes={"D": WIDTH}),)
        self.vocabulary = TOKENIZER.vocabulary
        self.anywhere = nn.Parameter(torch.zeros(1))
        self.rows_at_once = []

    def draw(self, n, steps, source=None):
        return {"z": EOS_ID + 4 + 2 * torch.randn(n, WIDTH)}

    def decoder(self, latents, source=None):
        return Speller(latents["z"], self.sharpness, self.rows_at_once)


class Speller:
    def __init__(self, z, sharpness, rows_at_once):
        self.z, self.sharpness, self.rows_at_once = z, sharpness, rows_at_once

    def begin(self, rows):
        assert self.z.shape == (rows, WIDTH)
        return self.z, torch.zeros(rows, dtype=torch.long)

    def step(self, state, tokens):
        z, place = state
        self.rows_at_once.append(len(tokens))
        ids = torch.arange(EOS_ID, TOKENIZER.size)
        letter = torch.cat([z, torch.full((len(z), 100), float(EOS_ID))], -1).gather(-1, place.unsqueeze(-1))
        return -self.sharpness * (ids - letter).square(), (z, place + 1)


def means(batch):
    padded = torch.full((batch.size, WIDTH), float(EOS_ID))
    width = min(WIDTH, batch.steps)
    real = torch.arange(width) < batch.lengths.unsqueeze(-1)
    padded[:, :width] = torch.where(real, batch.tokens[:, :width].float(), float(EOS_ID))
    return padded


class Reader(nn.Module):
    """q(z | w) = N(code of w, 0.01²), whose mean is known."""

    def __init__(self):
        super().__init__()
        self.rows_at_once = []

    def posterior(self, batch):
        self.rows_at_once.append(batch.size)
        return Normal(means(batch), 0.01).to_event(1)

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", self.posterior(batch))


class FlowReader(Reader):
    """The same written as a flow, which does not know its mean."""

    def posterior(self, batch):
        self.rows_at_once.append(batch.size)
        return TransformedDistribution(
            Normal(torch.zeros(batch.size, WIDTH), 0.01), AffineTransform(means(batch), 1.0)
        ).to_event(1)


class PlainReader(nn.Module):
    """The same as a program alone."""

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", Normal(means(batch), 0.01).to_event(1))


def constant(model):
    """The same model with nothing latent: it spells 'abc' whatever happens."""
    z = torch.tensor([code("abc")])
    return SimpleNamespace(
        family="constant",
        latents=(),
        vocabulary=model.vocabulary,
        draw=lambda n, steps, source: {},
        decoder=lambda latents, source: Anywhere(z, model.sharpness, model.rows_at_once),
    )


class Anywhere(Speller):
    """The same z for as many rows as are asked for."""

    def begin(self, rows):
        return self.z.expand(rows, -1), torch.zeros(rows, dtype=torch.long)
