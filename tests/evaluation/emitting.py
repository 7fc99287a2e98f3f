"""State-space programs of few classes, of which everything is known in closed form."""

import torch
from torch import nn

from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.distributions.tokens import TokenSequence

from .programs import evaluation_set

EOS, A, B = 2, 3, 4


class Step:
    """The law of the next state from each of R states: white noise, or the state itself."""

    def __init__(self, state, stays):
        self.state, self.stays = state, stays

    def sample(self, shape=()):
        return self.state.expand(*shape, *self.state.shape) if self.stays else torch.randn(*shape, *self.state.shape)


class Chain:
    """h_t i.i.d. N(0, 1) of width 1, or one draw for the whole path."""

    def __init__(self, size, steps, sticky):
        self.size, self.steps, self.sticky = size, steps, sticky

    def sample(self):
        drawn = 1 if self.sticky else self.steps
        return torch.randn(self.size, drawn, 1).expand(self.size, self.steps, 1)

    def at(self, t, state):
        return Step(state, self.sticky and t > 0)


class Classes(nn.Module):
    """M equally likely classes, the M-quantiles of h; P(w_t | class) is a row of ``table`` (M, O), EOS first."""

    def __init__(self, table, sticky=False):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(table, dtype=torch.float64))
        self.initial = nn.Parameter(torch.zeros(1))
        self.sticky, self.drawn, self.dropout = sticky, [], nn.Dropout(0.5)
        self.latents = (LatentSpec("h", axes=("T", "D"), sizes={"D": 1}),)
        self.vocabulary = Vocabulary(2 + self.table.shape[1])

    def prior(self, lengths, steps):
        self.drawn.append(len(lengths))
        return Chain(len(lengths), steps, self.sticky)

    def draw(self, n, steps, source=None):
        return {"h": self.prior(torch.full((n,), steps), steps).sample()}

    def emit(self, latents):
        states = latents["h"]
        return TokenSequence(self.logits(states), torch.tensor(states.shape[-2]))

    def logits(self, states):
        quantile = torch.special.ndtr(states.squeeze(-1)) * len(self.table)
        logits = self.table.log()[quantile.long().clamp(max=len(self.table) - 1)]
        return self.dropout(torch.ones(())) * logits

    def probability(self, ids):
        """P(w) of a word with its EOS."""
        factors = self.table.detach()[:, [i - 2 for i in ids]]
        return float(factors.prod(1).mean() if self.sticky else factors.mean(0).prod())


class Recorded(Classes):
    """The same, which keeps the paths that it drew."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.paths = []

    def emit(self, latents):
        self.paths.append(latents["h"])
        return super().emit(latents)


def words(*texts, weights=None, rows=None, steps=None):
    """An evaluation set of one batch; a text is a sequence of ids without EOS."""
    steps = steps or max(map(len, texts)) + 1
    weights = [1.0] * len(texts) if weights is None else weights
    return evaluation_set(collate(texts, weights, steps, rows or len(texts)))
