"""A conditional model of one token given one, of which every figure is known: it echoes its source by two ways."""

from dataclasses import replace

import pyro
import torch
from pyro.distributions import Categorical, Normal
from torch import nn

from ppl_text.core.latents import LatentSpec
from ppl_text.data.tokenizers import word_tokenizer
from ppl_text.evaluation.generation import encode_batch
from ppl_text.evaluation.sentences import CommonSentences

TOKENIZER = word_tokenizer(["no yes"] * 2)
NO, YES = (TOKENIZER.encode([word])[0][0] for word in ("no", "yes"))


def signs(source):
    """-1 for "no", 1 for "yes", (B,)."""
    return torch.where(source.tokens[:, 0] == YES, 1.0, -1.0)


class Echo(nn.Module):
    """z ~ N(0, 1); P(y = yes | z, x) = σ(through · z + around · x), x = ±1; then EOS."""

    family, generation, conditional = "echo", "posterior", True
    measures = ("sentences",)

    def __init__(self, through, around, latent=True):
        super().__init__()
        self.vocabulary = replace(TOKENIZER.vocabulary, source=TOKENIZER.vocabulary)
        self.latents = (LatentSpec("z", axes=(), sizes={}),) if latent else ()
        self.through, self.around, self.latent = through, around, latent
        self.anywhere = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", Normal(torch.zeros(batch.size), 1.0)) if self.latent else torch.zeros(batch.size)
            logit = self.through * z + self.around * signs(batch.source)
            first = torch.full((*logit.shape, 1, TOKENIZER.size), -torch.inf)
            first[..., 0, NO], first[..., 0, YES] = 0.0, logit
            end = torch.full_like(first, -torch.inf)
            end[..., 0, TOKENIZER.vocabulary.ids.eos] = 0.0
            pyro.sample("tokens", Categorical(logits=torch.cat([first, end], -2)).to_event(1), obs=batch.tokens)


class Sender(nn.Module):
    """q(z | x) = N(x, scale²)."""

    family = "echo"

    def __init__(self, model, scale):
        super().__init__()
        self.latent, self.scale = model.latent, scale

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            if self.latent:
                pyro.sample("z", Normal(signs(batch.source), self.scale))

    draw = decoder = staticmethod(lambda *_: None)


def echoed(sources, texts=None):
    """The sentences, by default each source's own word."""
    texts = sources if texts is None else texts
    return CommonSentences((encode_batch(TOKENIZER, texts, encode_batch(TOKENIZER, sources)),), tuple(texts))
