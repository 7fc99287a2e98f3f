"""A small family of its own, in a user's file: a latent of the sentence, one for each step, and a source.

No room of the package knows it; ``tests/test_own_family.py`` runs every command on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import Independent, Normal
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UserError
from ppl_text.core.latents import Latents, LatentSpec
from ppl_text.core.protocols import Choice, State
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.distributions.tokens import DecodedTokens


def standard(*shape: int, like: Tensor) -> Independent:
    """N(0, I) over the last axes that follow the sentences."""
    zero = torch.zeros(shape, dtype=like.dtype, device=like.device)
    return Normal(zero, torch.ones_like(zero)).to_event(len(shape) - 1)


def mean_embedding(embedding: nn.Embedding, texts: Batch) -> Tensor:
    """Mean embedding of the scored tokens of each text, (B, E)."""
    scored = torch.arange(texts.steps, device=texts.tokens.device) < texts.lengths.unsqueeze(-1)
    total = torch.where(scored.unsqueeze(-1), embedding(texts.tokens), 0.0).sum(1)
    return total / texts.lengths.unsqueeze(-1)


class Translation(nn.Module):
    """p(z, a, w | x) = N(z; 0, I) Π_t N(a_t; 0, I) softmax(W tanh(U [emb(w_{t-1}); z; a_t; x̄]))[w_t].

    x̄ is the mean embedding of the source x.

    Arguments:
        vocabulary: of the target; its ``source`` is that of the source.
        latent_dim: D, of z and of each a_t.
        width: of embeddings and of the hidden layer.
    """

    family = "translation"
    story = ("z ~ N(0, I);  a_t ~ N(0, I);  w_t ~ softmax(W tanh(U [emb(w_{t-1}); z; a_t; x̄])), to EOS",)
    measures = ("sentences",)
    conditional = True
    presets = (Choice("model.width", 4, 6, "a small paper had small networks"),)

    def __init__(self, vocabulary: Vocabulary, *, latent_dim: int = 2, width: int = 6) -> None:
        super().__init__()
        if vocabulary.source is None:
            raise UserError("a translation reads a source; give data with a source column (data.source)")
        self.vocabulary, self.latent_dim, self.width = vocabulary, latent_dim, width
        self.latents = (
            LatentSpec("z", axes=("D",), sizes={"D": latent_dim}),
            LatentSpec("a", axes=("T", "D"), sizes={"D": latent_dim}),
        )
        self.embedding = nn.Embedding(vocabulary.size, width)
        self.source_embedding = nn.Embedding(vocabulary.source.size, width)
        self.hidden = nn.Linear(2 * width + 2 * latent_dim, width)
        self.head = nn.Linear(width, vocabulary.outcomes)

    def read(self, source: Batch | None) -> Tensor:
        """x̄ (B, E)."""
        if source is None:
            raise UserError("a translation needs a source")
        return mean_embedding(self.source_embedding, source)

    def states(self, words: Tensor, z: Tensor, a: Tensor, read: Tensor) -> Tensor:
        """tanh(U […]) (…, B, T, E) given words fed back (B, T), z (…, B, D), a (…, B, T, D) and x̄ (B, E)."""
        lead = torch.broadcast_shapes(a.shape[:-1], words.shape)
        parts = [self.embedding(words), z.unsqueeze(-2), a, read.unsqueeze(-2)]
        return self.hidden(torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)).tanh()

    def forward(self, batch: Batch) -> None:
        """The Pyro program."""
        like, read = self.head.weight, self.read(batch.source)
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", standard(batch.size, self.latent_dim, like=like))
            a = pyro.sample("a", standard(batch.size, batch.steps, self.latent_dim, like=like))
            states = self.states(batch.decoder_inputs, z, a, read)
            tokens = DecodedTokens(states, self.head.weight, self.head.bias, batch.lengths, self.vocabulary.ids)
            pyro.sample("tokens", tokens, obs=batch.tokens)

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z (n, D) and a (n, T, D) from the prior."""
        like = self.head.weight
        shapes = {"z": (n, self.latent_dim), "a": (n, steps, self.latent_dim)}
        return {name: standard(*shape, like=like).sample() for name, shape in shapes.items()}

    def decoder(self, latents: Latents, source: Batch | None = None) -> Translator:
        """What writes the target, a_t at step t."""
        return Translator(self, latents, self.read(source))


class Translator:
    """Step by step: the state is the number of the step, z, a and x̄ of each row."""

    def __init__(self, model: Translation, latents: Latents, read: Tensor) -> None:
        self._model, self._latents, self._read = model, latents, read

    def begin(self, rows: int) -> State:
        """Step 0."""
        assert len(self._read) == rows
        return (
            torch.zeros(rows, dtype=torch.long, device=self._read.device),
            self._latents["z"],
            self._latents["a"],
            self._read,
        )

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Logits (R, O), and the state of the next step."""
        step, z, a, read = state
        at = step.clamp(max=a.shape[1] - 1).view(-1, 1, 1).expand(-1, 1, a.shape[-1])
        states = self._model.states(tokens.unsqueeze(-1), z, a.gather(1, at), read)
        return self._model.head(states.squeeze(-2)), (step + 1, z, a, read)


class Reading(nn.Module):
    """q(z, a | w, x) = N(z; m(w̄, x̄), s²) Π_t N(a_t; m(w_t, z), s²)."""

    family = "translation"

    def __init__(self, model: Translation, *, scale: float = 0.5) -> None:
        super().__init__()
        self._model = (model,)
        dim, width = model.latent_dim, model.width
        self.embedding = nn.Embedding(model.vocabulary.size, width)
        self.of_sentence = nn.Linear(2 * width, dim)
        self.of_step = nn.Linear(width + dim, dim)
        self.log_scale = nn.Parameter(torch.full((2,), scale).log())

    def forward(self, batch: Batch) -> None:
        """The Pyro program."""
        both = torch.cat([mean_embedding(self.embedding, batch), self._model[0].read(batch.source)], -1)
        scale = self.log_scale.exp()
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", Normal(self.of_sentence(both), scale[0]).to_event(1))
            words = self.embedding(batch.tokens)
            lead: Sequence[int] = torch.broadcast_shapes(words.shape[:-1], (*z.shape[:-1], 1))
            joined = torch.cat([words.expand(*lead, -1), z.unsqueeze(-2).expand(*lead, -1)], -1)
            scored = torch.arange(batch.steps, device=words.device) < batch.lengths.unsqueeze(-1)
            mean = torch.where(scored.unsqueeze(-1), self.of_step(joined), 0.0)
            spread = torch.where(scored.unsqueeze(-1), scale[1], 1.0)
            pyro.sample("a", Normal(mean, spread).to_event(2))


class FromSource(Translation):
    """The same story, but texts are written from draws of q, which reads the source and what has been written."""

    generation = "posterior"
    measures = ("sentences", "pairs")


class Encoding(nn.Module):
    """q(z, a | x, w) = N(z; m(x̄), s²) Π_t N(a_t; m(w_{t-1}, z), s²): no token is read before it is written."""

    family = "translation"

    def __init__(self, model: FromSource, *, scale: float = 0.5) -> None:
        super().__init__()
        self._model = (model,)
        dim, width = model.latent_dim, model.width
        self.of_source = nn.Linear(width, dim)
        self.of_step = nn.Linear(width + dim, dim)
        self.log_scale = nn.Parameter(torch.full((2,), scale).log())

    @property
    def model(self) -> FromSource:
        """The model that this guide was built for."""
        return self._model[0]

    def step_means(self, words: Tensor, z: Tensor) -> Tensor:
        """m (…, B, T, D) given words fed back (B, T) and z (…, B, D)."""
        before = self.model.embedding(words)
        lead: Sequence[int] = torch.broadcast_shapes(before.shape[:-1], (*z.shape[:-1], 1))
        parts = [before.expand(*lead, -1), z.unsqueeze(-2).expand(*lead, -1)]
        return self.of_step(torch.cat(parts, -1))

    def forward(self, batch: Batch) -> None:
        """The Pyro program."""
        scale = self.log_scale.exp()
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", Normal(self.of_source(self.model.read(batch.source)), scale[0]).to_event(1))
            scored = batch.scored.unsqueeze(-1)
            mean = torch.where(scored, self.step_means(batch.decoder_inputs, z), 0.0)
            pyro.sample("a", Normal(mean, torch.where(scored, scale[1], 1.0)).to_event(2))

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None, spread: float = 1.0) -> Latents:
        """z (n, D) of the sources; a is drawn as the text goes on."""
        mean = self.of_source(self.model.read(source))
        return {"z": mean + spread * self.log_scale[0].exp() * torch.randn_like(mean)}

    def decoder(self, latents: Latents, source: Batch | None = None, spread: float = 1.0) -> Drawing:
        """What writes the target, drawing a_t before w_t."""
        return Drawing(self, latents["z"], self.model.read(source), spread)

    def at_means(self) -> Means:
        """The same at posterior means."""
        return Means(self)


class Means:
    """A guide without spread."""

    def __init__(self, guide: Encoding) -> None:
        self._guide = guide

    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """Posterior means of z."""
        return self._guide.draw(n, steps, source, spread=0.0)

    def decoder(self, latents: Latents, source: Batch | None = None) -> Drawing:
        """What writes the target at posterior means of a."""
        return self._guide.decoder(latents, source, spread=0.0)


class Drawing:
    """Step by step: the state is z and x̄ of each row."""

    def __init__(self, guide: Encoding, z: Tensor, read: Tensor, spread: float) -> None:
        self._guide, self._z, self._read, self._spread = guide, z, read, spread

    def begin(self, rows: int) -> State:
        """Nothing has been written."""
        assert len(self._read) == rows
        return self._z, self._read

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Logits (R, O) given a draw of a_t."""
        z, read = state
        guide, words = self._guide, tokens.unsqueeze(-1)
        mean = guide.step_means(words, z)
        a = mean + self._spread * guide.log_scale[1].exp() * torch.randn_like(mean)
        return guide.model.head(guide.model.states(words, z, a, read).squeeze(-2)), state


class Blind(nn.Module):
    """q(z, a | w, x) = N(0, I), whatever the texts say."""

    family = "translation"

    def __init__(self, model: Translation) -> None:
        super().__init__()
        self._model = (model,)

    def forward(self, batch: Batch) -> None:
        """The Pyro program."""
        model = self._model[0]
        with pyro.plate("sentences", batch.size, dim=-1):
            for name, shape in (("z", ()), ("a", (batch.steps,))):
                pyro.sample(name, standard(batch.size, *shape, model.latent_dim, like=model.head.weight))
