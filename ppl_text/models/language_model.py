"""Recurrent language model: tokens are fed back, nothing is latent, so the likelihood is exact.

The baseline of the state-space paper (a GRU cell trained with teacher forcing).
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UnknownNameError
from ..core.latents import Latents, LatentSpec
from ..core.protocols import State
from ..core.vocabulary import Vocabulary
from ..distributions.tokens import DecodedTokens
from ..nn.recurrent import forward_states

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
"""Recurrent cells by name."""


class LanguageModel(nn.Module):
    """p(w_{1:T}) = Π_t softmax(E s_t + b)[w_t], s_t = cell(w_{t-1}, s_{t-1}), w_0 = BOS.

    Each w_t is conditioned on all tokens before it ("teacher forcing"). EOS is an outcome and nothing after it is
    scored, so p is a distribution over strings as it stands: no normalisation over all strings is needed, which the
    paper supposes (specification 4G.7). Every bound equals ln p(w).

    Args:
        vocabulary: V symbols, O of them outcomes.
        hidden_dim: units of the cell (the paper's baselines have 8 and 16).
        embedding_dim: of the tokens fed back; ``hidden_dim`` where it is not given, as in the paper.
        cell: ``gru`` or ``lstm``.
    """

    family = "language_model"
    story = ("s_t = cell(w_{t-1}, s_{t-1}), w_0 = BOS;  w_t ~ softmax(E s_t + b), to the first EOS: nothing is latent",)
    latents: tuple[LatentSpec, ...] = ()
    measures = ("words", "sentences")

    def __init__(
        self, vocabulary: Vocabulary, *, hidden_dim: int = 8, embedding_dim: int | None = None, cell: str = "gru"
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise UnknownNameError("cell", cell, CELLS)
        width = hidden_dim if embedding_dim is None else embedding_dim
        self.vocabulary, self.vocab_size = vocabulary, vocabulary.size
        self.embedding = nn.Embedding(vocabulary.size, width)
        self.cell = CELLS[cell](width, hidden_dim, batch_first=True)
        self.head = nn.Linear(hidden_dim, vocabulary.outcomes)

    def likelihood(self, batch: Batch) -> DecodedTokens:
        """p(w_{1:T}), each token given those before it."""
        states, head = self.states(batch.decoder_inputs), self.head
        return DecodedTokens(states, head.weight, head.bias, batch.lengths, self.vocabulary.ids)

    def states(self, inputs: Tensor) -> Tensor:
        """s_1..s_T (B, T, H) given the tokens fed back, w_0..w_{T-1} (B, T)."""
        if isinstance(self.cell, nn.GRU):
            return forward_states(self.cell, self.embedding, inputs)
        states: Tensor = self.cell(self.embedding(inputs))[0]
        return states

    def forward(self, batch: Batch) -> None:
        """The Pyro program: observes site ``tokens``."""
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("tokens", self.likelihood(batch), obs=batch.tokens)

    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """Nothing is latent."""
        return {}

    def decoder(self, latents: Latents, source: Batch | None = None) -> LanguageModel:
        """Return the model itself: nothing is given to a text but its own tokens."""
        return self

    def begin(self, rows: int) -> State:
        """Return the state before the first token of ``rows`` texts: 0, each (R, H)."""
        zero = self.head.weight.new_zeros(rows, self.cell.hidden_size)
        return (zero,) if isinstance(self.cell, nn.GRU) else (zero, zero)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, O) of what follows ``tokens`` (R,), and the state after them."""
        before = tuple(part.unsqueeze(0) for part in state)
        states, after = self.cell(
            self.embedding(tokens).unsqueeze(1), before[0] if isinstance(self.cell, nn.GRU) else before
        )
        kept = (after,) if isinstance(self.cell, nn.GRU) else after
        return self.head(states.squeeze(1)), tuple(part.squeeze(0) for part in kept)
