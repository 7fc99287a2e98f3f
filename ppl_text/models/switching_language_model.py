"""A language model whose output layer is switched by latent codes: contextual codes, Markov codes, sentence codes.

The codes are drawn between the tokens, each before its own token, and are summed out exactly: ln p(w) is no bound but
the thing itself. With codes that depend on the context alone (B = 0) it is the mixture of softmaxes of Yang et al.
2018, "Breaking the Softmax Bottleneck" (specification 6).
"""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UnknownNameError, UserError
from ..core.latents import Latents, LatentSpec
from ..core.protocols import Decoder, State
from ..core.vocabulary import Vocabulary
from ..distributions.precision import at_least_float32
from ..distributions.switching import CodeChain, CodeChainPosterior, CodePosterior, Codes, Emissions, SwitchedTokens
from ..nn.activations import tanh
from ..nn.handed import HandedOn
from ..nn.initial import initialise

SWITCHING = ("contextual", "markov", "sentence")
"""What the next code depends on: the code and the words before it; the code before it; nothing, one for a text."""


class Evidence(NamedTuple):
    """What a batch says of its codes: their ``prior``, what each ``emits``, and the exact ``posterior``."""

    prior: CodeChain | Codes
    emits: Emissions
    posterior: CodeChainPosterior | CodePosterior


class SwitchingLanguageModel(nn.Module):
    """p(z, w) = Π_t softmax(W s_t + B_{z_{t-1}})[z_t] softmax(E tanh(U_{z_t} s_t))[w_t], s_t = LSTM(w_{t-1}, s_{t-1}).

    A code z_t in 0..M-1 stands before each token and chooses the map U between the state and the softmax; B has a row
    for the beginning. The tokens fed back are the batch's ``decoder_inputs``. Codes do not touch the state, so that
    Σ_z p(z, w) is a sum over paths of a chain (:class:`~ppl_text.nn.forward_algorithm.LogEvidence`), or over M codes.

    Args:
        vocabulary: V symbols, O of them outcomes.
        codes: of a book; with a single one nothing is switched: the language model to compare with.
        books: M = codes^books; U_z = U + Σ_b V^b_{z_b}, where V of a book's first code is 0. All V start near 0: the
            model starts near a language model, which a first stage may train alone (recipes ``…-codes-sentence``).
        switching: ``contextual`` (as above), ``markov`` (W = 0: the codes are drawn before any word) or ``sentence``
            (one code for all tokens of a text, z ~ softmax(B)).
        embedding_dim, hidden_dim: E and H of the LSTM.
        output_dim: P, the width between U and the softmax; null: E.
        dropout_in, dropout_out: on embeddings and on states, in training only.
        init: how parameters start: ``uniform``, ``wide`` or ``torch``.
    """

    family = "switching_language_model"
    story = (
        "s_t = LSTM(w_{t-1}, s_{t-1});  z_t ~ softmax(W s_t + B_{z_{t-1}});  w_t ~ softmax(E tanh(U_{z_t} s_t))",
        "p(z, w) = Π_t p(z_t | z_{t-1}, w_{<t}) P(w_t | w_{<t}, z_t): z is interleaved with w, not drawn first",
    )
    measures = ("sentences", "codes")
    start: nn.Parameter

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        codes: int = 4,
        books: int = 1,
        switching: str = "contextual",
        embedding_dim: int = 256,
        hidden_dim: int = 256,
        output_dim: int | None = None,
        dropout_in: float = 0.5,
        dropout_out: float = 0.5,
        init: str = "torch",
    ) -> None:
        super().__init__()
        if switching not in SWITCHING:
            raise UnknownNameError("switching", switching, SWITCHING)
        if codes < 1 or books < 1:
            raise UserError(f"codes and books must be 1 or more; got {codes} and {books}")
        self.vocabulary, self.vocab_size = vocabulary, vocabulary.size
        self.switching, self.codes = switching, codes**books
        self.embedding_dim, self.hidden_dim, self.init = embedding_dim, hidden_dim, init
        axes = () if switching == "sentence" else ("T",)
        self.latents = (LatentSpec("z", axes=axes, sizes={}, support="integer_interval"),)
        width = embedding_dim if output_dim is None else output_dim
        self.embedding = nn.Embedding(vocabulary.size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, batch_first=True)
        self.map = nn.Linear(hidden_dim, width)
        self.shifts = nn.ModuleList(
            nn.Linear(hidden_dim, (codes - 1) * width) for _ in range(books if codes > 1 else 0)
        )
        self.head = nn.Linear(width, vocabulary.outcomes, bias=False)
        self.context = nn.Linear(hidden_dim, self.codes, bias=False) if switching == "contextual" else None
        self.start = nn.Parameter(torch.zeros(self.codes))
        self.onward = None if switching == "sentence" else nn.Parameter(torch.zeros(self.codes, self.codes))
        self.dropout_in, self.dropout_out = nn.Dropout(dropout_in), nn.Dropout(dropout_out)
        initialise(self, init)
        initialise(self.shifts, "uniform")
        self.evidence = HandedOn(self, self._evidence)
        """What a batch says of its codes: computed once, by the guide."""

    def states(self, inputs: Tensor) -> Tensor:
        """s_1..s_T (B, T, H) given the tokens fed back, w_0..w_{T-1} (B, T)."""
        states: Tensor = self.dropout_out(self.lstm(self.dropout_in(self.embedding(inputs)))[0])
        return states

    def features(self, states: Tensor) -> Tensor:
        """tanh(U_k s) of every code, (…, M, P), given states (…, H)."""
        summed: Tensor = self.map(states).unsqueeze(-2)
        width = summed.shape[-1]
        for shift in self.shifts:
            others = shift(states).unflatten(-1, (-1, width))
            own = torch.cat([torch.zeros_like(others[..., :1, :]), others], dim=-2)
            summed = (summed.unsqueeze(-2) + own.unsqueeze(-3)).flatten(-3, -2)
        return tanh(summed)

    def chances(self, states: Tensor, onward: Tensor) -> tuple[Tensor, Tensor]:
        """ln π (…, M) of the first code and ln A_t (…, T, M, M) of any, given states (…, T, H) and B (M, M)."""
        given = states.new_zeros(*states.shape[:-1], self.codes) if self.context is None else self.context(states)
        first = at_least_float32(given[..., 0, :] + self.start).log_softmax(-1)
        return first, at_least_float32(given.unsqueeze(-2) + onward).log_softmax(-1)

    def _evidence(self, batch: Batch) -> Evidence:
        states = self.states(batch.decoder_inputs)
        emits = Emissions(self.features(states), self.head.weight, batch.tokens, self.vocabulary.ids)
        if self.onward is None:
            prior = Codes(self.start.expand(batch.size, -1))
            scored = torch.where(batch.scored.unsqueeze(-1), emits.scores, 0.0).sum(1)
            return Evidence(prior, emits, CodePosterior(prior.logits + scored))
        first, steps = self.chances(states, self.onward)
        chain = CodeChain(first, steps[:, 1:], batch.lengths)
        return Evidence(chain, emits, CodeChainPosterior(chain, emits.scores))

    def forward(self, batch: Batch) -> Tensor:
        """The Pyro program: samples ``z``, observes ``tokens``, returns z."""
        with pyro.plate("sentences", batch.size, dim=-1):
            found = self.evidence.take(batch)
            z: Tensor = pyro.sample("z", found.prior)
            codes = z.unsqueeze(-1).expand(*z.shape, batch.steps) if self.onward is None else z
            pyro.sample("tokens", SwitchedTokens(found.emits, codes, batch.lengths), obs=batch.tokens)
        return z

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z ~ p(z), (n,), where a text has one code; nothing where codes are drawn with the tokens."""
        return {"z": Codes(self.start.expand(n, -1)).sample()} if self.onward is None else {}

    def decoder(self, latents: Latents, source: Batch | None = None) -> Decoder:
        """Return what writes texts: given one code for each, given one for each token, or with codes summed out."""
        if "z" not in latents and self.onward is not None:
            return _Marginal(self, self.onward)
        z = latents["z"]
        return _Given(self, z.unsqueeze(-1) if self.onward is None else z)

    def between(self, first: Latents, second: Latents, points: int, lengths: tuple[int, int]) -> Latents:
        """Codes are names, between which nothing lies: raises :class:`UserError`."""
        raise UserError(
            f"this model ({self.family}) has codes for latents, between which nothing lies; take another run"
        )

    def read(self, state: State, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the LSTM's output s_t, hidden and cell state, each (R, H), after ``tokens`` (R,)."""
        embedded = self.embedding(tokens).unsqueeze(1)
        output, (hidden, cell) = self.lstm(embedded, (state[0].unsqueeze(0), state[1].unsqueeze(0)))
        return output.squeeze(1), hidden[0], cell[0]

    def nothing_read(self, rows: int) -> tuple[Tensor, Tensor]:
        """s_0 and c_0, (R, H)."""
        zero = self.head.weight.new_zeros(rows, self.hidden_dim)
        return zero, zero


class _Given:
    """Writes texts given their codes (R, S); the last goes on where the text does."""

    def __init__(self, model: SwitchingLanguageModel, codes: Tensor) -> None:
        self._model, self._codes = model, codes

    def begin(self, rows: int) -> State:
        """Return the state before the first token: of the LSTM, and the codes that are to come."""
        return (*self._model.nothing_read(rows), self._codes)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, O) of what follows ``tokens`` (R,), and the state after them."""
        codes = state[2]
        output, hidden, cell = self._model.read(state, tokens)
        index = codes[:, :1].unsqueeze(-1)
        features = self._model.features(output)
        chosen = features.gather(1, index.expand(-1, 1, features.shape[-1])).squeeze(1)
        rest = codes[:, 1:] if codes.shape[1] > 1 else codes
        return self._model.head(chosen), (hidden, cell, rest)


class _Marginal:
    """Writes texts with codes summed out: the logits are ln p(w_t | w_{<t}), and the state has ln p(z_t | w_{<t})."""

    def __init__(self, model: SwitchingLanguageModel, onward: Tensor) -> None:
        self._model, self._onward = model, onward

    def begin(self, rows: int) -> State:
        """Return the state before the first token: of the LSTM; of the step before, which is none, ln p(z, w | …)."""
        model = self._model
        return (*model.nothing_read(rows), model.head.weight.new_full((rows, model.codes, 1), torch.nan))

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the log-probabilities (R, O) of what follows ``tokens`` (R,), and the state after them."""
        model, joint = self._model, state[2]
        output, hidden, cell = model.read(state, tokens)
        first, onward = model.chances(output.unsqueeze(1), self._onward)
        place = (tokens - model.vocabulary.ids.first_outcome).clamp(0, joint.shape[-1] - 1)
        before = joint.gather(-1, place.view(-1, 1, 1).expand(-1, model.codes, 1)).squeeze(-1).log_softmax(-1)
        codes = torch.where(before.isnan(), first, (before.unsqueeze(-1) + onward.squeeze(1)).logsumexp(-2))
        scores = at_least_float32(model.head(model.features(output))).log_softmax(-1)
        joint = codes.unsqueeze(-1) + scores
        return joint.logsumexp(1), (hidden, cell, joint)
