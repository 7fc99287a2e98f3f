"""Texts given a source: a model that writes its source moved by z letters, of which every text is known."""

from dataclasses import replace

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import nn

from ppl_text.core.errors import UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.data.tokenizers import character_tokenizer
from ppl_text.evaluation.decoding import Beam, Greedy, Sample
from ppl_text.evaluation.generation import encode_batch, interpolate_texts, reconstruct_texts, sample_texts

from .spelling import Reader, Spelling

TOKENIZER = character_tokenizer("abcdefgh")
FIRST = TOKENIZER.encode(["a"])[0][0]


class Moving(nn.Module):
    """z ~ N(1, 0.01²), w_t = source_t moved on by z letters, to the source's EOS."""

    family, conditional = "moving", True

    def __init__(self):
        super().__init__()
        self.vocabulary = replace(TOKENIZER.vocabulary, source=TOKENIZER.vocabulary)
        self.latents = (LatentSpec("z", axes=(), sizes={}),)
        self.anywhere = nn.Parameter(torch.zeros(1))

    def draw(self, n, steps, source=None):
        assert source.size == n
        return {"z": 1.0 + 0.01 * torch.randn(n)}

    def decoder(self, latents, source=None):
        assert source.size == len(latents["z"])
        return Mover(latents["z"], source.tokens)


class Mover:
    def __init__(self, z, source):
        self.z, self.source = z, source

    def begin(self, rows):
        return self.z, self.source, torch.zeros(rows, dtype=torch.long)

    def step(self, state, tokens):
        z, source, place = state
        letter = source.gather(-1, place.clamp(max=source.shape[1] - 1).unsqueeze(-1)).squeeze(-1)
        wanted = torch.where(letter >= FIRST, letter + z.round().long(), letter)
        ids = torch.arange(2, TOKENIZER.size)
        return -50.0 * (ids - wanted.unsqueeze(-1)).square().float(), (z, source, place + 1)


class Difference(nn.Module):
    """q(z | w, source) at the distance of their first letters."""

    def forward(self, batch):
        moved = (batch.tokens[:, 0] - batch.source.tokens[:, 0]).float()
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", Normal(moved, 0.01))


SOURCES = encode_batch(TOKENIZER, ["abc", "de"])
OPTIONS = {"max_steps": 6, "seed": 0}


@pytest.mark.parametrize("strategy", [Greedy(), Beam(3), Sample(), Sample(top_k=2)], ids=str)
def test_every_source_gets_so_many_texts_that_stand_together(strategy):
    found = sample_texts(Moving(), TOKENIZER, 3, steps=6, seed=0, strategy=strategy, source=SOURCES)
    assert found.texts == ["bcd"] * 3 + ["ef"] * 3
    assert found.unfinished == 0


def test_where_nothing_is_latent_a_source_has_one_most_probable_text():
    model = Moving()
    model.latents = ()
    found = sample_texts(model, TOKENIZER, 3, steps=6, seed=0, strategy=Beam(2), source=SOURCES)
    assert found.texts == ["bcd", "ef"]
    assert len(sample_texts(model, TOKENIZER, 3, steps=6, seed=0, source=SOURCES).texts) == 6


def test_a_text_is_reconstructed_beside_its_own_source(monkeypatch):
    monkeypatch.setattr("ppl_text.evaluation.generation.CHUNK", 2)
    texts, sources = ["cde", "b", "fgh", "ab", "h"], ["abc", "b", "def", "ab", "e"]
    batch = encode_batch(TOKENIZER, sources)
    assert reconstruct_texts(Moving(), Difference(), TOKENIZER, texts, source=batch, **OPTIONS) == texts


def test_an_interpolation_has_one_source_throughout():
    source = encode_batch(TOKENIZER, ["ab"])
    found = interpolate_texts(Moving(), Difference(), TOKENIZER, "ab", "ef", points=5, source=source, **OPTIONS)
    assert found == ["ab", "bc", "cd", "de", "ef"]


CALLS = {
    "sample": lambda model, guide, source: sample_texts(model, TOKENIZER, 2, steps=6, seed=0, source=source),
    "reconstruct": lambda model, guide, source: reconstruct_texts(
        model, guide, TOKENIZER, ["ab", "de"], source=source, **OPTIONS
    ),
    "interpolate": lambda model, guide, source: interpolate_texts(
        model, guide, TOKENIZER, "ab", "de", points=3, source=source, **OPTIONS
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_source_that_is_missing_or_not_read_is_refused(call):
    with pytest.raises(UserError, match=r"this model \(moving\) writes a text given a source; say which"):
        call(Moving(), Difference(), None)
    with pytest.raises(UserError, match=r"this model \(spelling\) reads no source; leave it out"):
        call(Spelling(), Reader(), SOURCES)


class Encoding(nn.Module):
    """A guide whose own draw and decoder write the texts."""

    def draw(self, n, steps, source=None):
        return {"z": torch.full((n,), 2.0)}

    def decoder(self, latents, source=None):
        return Mover(latents["z"], source.tokens)


def test_where_the_story_decodes_from_q_the_guide_writes():
    model = Moving()
    model.generation = "posterior"
    found = sample_texts(model, TOKENIZER, 2, steps=6, seed=0, guide=Encoding(), source=SOURCES)
    assert found.texts == ["cde", "cde", "fg", "fg"]
