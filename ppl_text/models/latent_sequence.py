"""Latents of every step and an attending decoder: VAE+Attn, GAVAM and DAVAM in one story.

Source: Fang et al. 2021, "Discrete Auto-regressive Variational Attention Models for Text Modeling" (specification 1).
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UnknownNameError, UserError
from ..core.latents import Latents, LatentSpec
from ..core.protocols import Choice
from ..core.vocabulary import Vocabulary
from ..distributions.codes import CodeSequences, StoppedCodes
from ..distributions.steps import AutoregressiveNormals, StepDistribution, StepNormals
from ..distributions.tokens import DecodedTokens
from ..nn.attention import AttentiveDecoder, is_step
from ..nn.causal import CausalConvolutions, EmbeddedIndices, Unconditional
from ..nn.codebook import EVEN, CodeBook, nearest
from ..nn.decoders import GivenLatent, RecurrentDecoder
from ..nn.initial import initialise
from ..nn.lengths import LengthTable

PRIORS = ("normal", "autoregressive", "codes")
"""N(0, I) of every step (VAE+Attn); Gaussian given those before it (GAVAM); a code given those before it (DAVAM)."""

LENGTHS = ("empirical", "given", "eos_code")
"""The number of latents is a site that the bound pays for, known to everybody (the paper's), or said by a stop code."""

POSITIONS = ("tokens", "last")
"""Where latents stand: one for each ``stride`` tokens, or one for the text."""


class EveryFew:
    """z_1..z_S for a text of n scored tokens, S = ⌈n / stride⌉: one after each ``stride`` of them and one at the end.

    The decoder attends to all of them.
    """

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.axes = ("T",) if stride == 1 else ("S",)

    def number(self, tokens: Tensor) -> Tensor:
        """⌈n / stride⌉ of each text."""
        return -(-tokens // self.stride)

    def room(self, steps: int) -> int:
        """⌈T / stride⌉."""
        return -(-steps // self.stride)

    def read(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the last state of each chunk of ``stride`` tokens, (B, S, H)."""
        if self.stride == 1:
            return states
        ends = self.stride * torch.arange(1, self.room(states.shape[1]) + 1, device=states.device)
        index = torch.minimum(ends, tokens.unsqueeze(-1)) - 1
        return states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1]))

    def cut(self, z: Tensor, numbers: Tensor) -> Tensor:
        """Return z (R, S, D) with zeros behind as many steps as each row has."""
        counted = torch.arange(z.shape[1], device=z.device) < numbers.unsqueeze(-1)
        return torch.where(counted.unsqueeze(-1), z, 0.0)

    def site(self, sequence: StepDistribution) -> TorchDistribution:
        """Return the sequence itself."""
        return sequence

    def states(self, network: nn.Module, inputs: Tensor, z: Tensor, counted: Tensor) -> Tensor:
        """Return the states of a decoder that attends."""
        found: Tensor = network(inputs, z, counted)
        return found


class AtTheEnd:
    """One z for the whole text: read from the last state, at the decoder's start and at each of its steps."""

    axes: tuple[str, ...] = ()

    def number(self, tokens: Tensor) -> Tensor:
        """1 for each text."""
        return torch.ones_like(tokens)

    def room(self, steps: int) -> int:
        """1."""
        return 1

    def read(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the state after EOS, (B, 1, H)."""
        index = (tokens - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        return states.gather(1, index)

    def cut(self, z: Tensor, numbers: Tensor) -> Tensor:
        """Return z (R, D), of which nothing is cut."""
        return z

    def site(self, sequence: StepDistribution) -> TorchDistribution:
        """Return the distribution of the lone step, event (D,)."""
        return sequence.alone()

    def states(self, network: nn.Module, inputs: Tensor, z: Tensor, counted: Tensor) -> Tensor:
        """Return the states of a decoder that is given z at every step."""
        found: Tensor = network(inputs, z)
        return found


def _places(positions: str, stride: int, prior: str) -> EveryFew | AtTheEnd:
    """Return where the latents stand; raises :class:`UserError` for options that do not go together."""
    if positions not in POSITIONS:
        raise UnknownNameError("positions of the latents", positions, POSITIONS)
    if stride < 1:
        raise UserError(f"stride must be 1 or more; got {stride}")
    if positions == "tokens":
        return EveryFew(stride)
    if stride > 1 or prior == "autoregressive":
        raise UserError(
            "with positions: last a text has one latent, and none before it: leave stride at 1, and make the prior "
            f"normal or codes; got stride {stride} and prior: {prior}"
        )
    return AtTheEnd()


class LatentSequence(nn.Module):
    """p(S, z_{1:S}, w) = p(S) Π_s p(z_s | z_{<s}) Π_t softmax(W_o s_t)[w_t], s_t an LSTM that attends to z_1..z_S.

    There is a latent for each ``stride`` scored tokens. All that the decoder knows of the sentence comes through z: it
    starts at zero (:class:`~ppl_text.nn.attention.AttentiveDecoder`). A step of z that is zero in all entries is none.
    With ``positions: last`` there is one z (D) for the whole text, which makes the decoder's initial state and stands
    beside the embedding at every step (:class:`~ppl_text.nn.decoders.RecurrentDecoder`); no number of latents is paid
    for, and no attention is there.

    Args:
        vocabulary: V symbols, O of them outcomes.
        latent_dim: D, the width of each z_s.
        prior: of z: ``normal`` (N(0, I) each), ``autoregressive`` (N(μ(z_{<s}), σ²(z_{<s})) from causal convolutions)
            or ``codes`` (z_s one of M code vectors, with the probability of its index given those before it).
        positions: ``tokens`` (a latent for each ``stride`` tokens) or ``last`` (one, read from a guide's last state).
        stride: scored tokens for each latent: S = ⌈n / stride⌉, n the tokens of the text.
        latent_length: ``empirical`` (the site ``length``, from a table of the training texts), ``given`` (the paper's:
            what the number of latents tells of the text costs nothing, so that bounds are too high) or ``eos_code``
            (with ``prior: codes``: the prior has a stop beside its M codes, which ends the sequence and costs in p(z)).
        embedding_dim, hidden_dim: E and H of the decoder.
        attention_dim: of the attention's hidden layer; null: H.
        dropout_in, dropout_out: on embeddings and on states, in training only.
        codes: M.
        code_decay, code_start, revive: of the code book (:class:`~ppl_text.nn.codebook.CodeBook`): γ of its moving
            averages, ``data`` (k-means on the first batch) or ``uniform``, and how rarely a dead code is chosen, as a
            share of the mean.
        prior_width, prior_layers, prior_kernel: of the causal convolutions.
        init: how decoder and guide start: ``uniform``, ``wide`` or ``torch``.
    """

    family = "latent_sequence"
    story = (
        "S ~ p(S);  z_s ~ p(z_s | z_{<s}), s = 1..S;  s_t = LSTM([emb(w_{t-1}); attention over z], s_{t-1}), s_0 = 0",
        "p(S, z, w) = p(S) Π_s p(z_s | z_{<s}) Π_t P(w_t | w_{<t}, z);  positions: last has one z and no attention",
    )
    measures = ("sentences", "codes")
    lengths: LengthTable | None
    zero: Tensor
    one: Tensor
    presets: ClassVar[tuple[Choice, ...]] = (
        Choice(
            "model.latent_length",
            "given",
            "empirical",
            "the number of latents is the length of the text, which the decoder sees: the bound has to pay for it",
        ),
        Choice("model.revive", 0.0, EVEN, "no dead code is revived in the paper"),
    )

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        latent_dim: int = 32,
        prior: str = "normal",
        positions: str = "tokens",
        stride: int = 1,
        latent_length: str = "empirical",
        embedding_dim: int = 256,
        hidden_dim: int = 256,
        attention_dim: int | None = None,
        dropout_in: float = 0.5,
        dropout_out: float = 0.5,
        codes: int = 512,
        code_decay: float = 0.99,
        code_start: str = "data",
        revive: float = EVEN,
        prior_width: int = 256,
        prior_layers: int = 16,
        prior_kernel: int = 3,
        init: str = "uniform",
    ) -> None:
        super().__init__()
        if prior not in PRIORS:
            raise UnknownNameError("prior of the latents", prior, PRIORS)
        if latent_length not in LENGTHS:
            raise UnknownNameError("latent length", latent_length, LENGTHS)
        if latent_dim < 1:
            raise UserError(f"latent_dim must be 1 or more; got {latent_dim}")
        self.stopped = latent_length == "eos_code"
        if self.stopped and (prior != "codes" or positions != "tokens"):
            raise UserError(
                "latent_length: eos_code ends a sequence of codes by a code of its own; it needs prior: codes and "
                f"positions: tokens; got {prior} and {positions}"
            )
        self.places = _places(positions, stride, prior)
        alone = isinstance(self.places, AtTheEnd)
        self.vocabulary, self.vocab_size, self.latent_dim = vocabulary, vocabulary.size, latent_dim
        self.embedding_dim, self.hidden_dim, self.init = embedding_dim, hidden_dim, init
        along = stride if stride > 1 else None
        self.latents = (LatentSpec("z", axes=(*self.places.axes, "D"), sizes={"D": latent_dim}, stride=along),)
        options: dict[str, Any] = {"latent_dim": latent_dim, "embedding_dim": embedding_dim, "hidden_dim": hidden_dim}
        options |= {"dropout_in": dropout_in, "dropout_out": dropout_out}
        self.network: AttentiveDecoder | RecurrentDecoder
        if alone:
            self.network = RecurrentDecoder(vocabulary, **options)
        else:
            width = hidden_dim if attention_dim is None else attention_dim
            self.network = AttentiveDecoder(vocabulary, attention_dim=width, **options)
        initialise(self, init)
        sizes = {"width": prior_width, "layers": prior_layers, "kernel": prior_kernel}
        self.lengths = LengthTable() if latent_length == "empirical" and not alone else None
        self.book: CodeBook | None = None
        self.prior: CausalConvolutions | EmbeddedIndices | Unconditional | None = None
        if prior == "autoregressive":
            self.prior = CausalConvolutions(latent_dim, 2 * latent_dim, **sizes)
        elif prior == "codes":
            self.book = CodeBook(codes, latent_dim, decay=code_decay, start=code_start, revive=revive)
            if alone:
                self.prior = Unconditional(codes)
            else:
                network = CausalConvolutions(prior_width, codes + self.stopped, **sizes)
                self.prior = EmbeddedIndices(nn.Embedding(codes, prior_width), network)
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def remarks(self, lengths: Tensor) -> list[str]:
        """Return what there is to say of training texts of these lengths (N,), scored tokens.

        Raises :class:`UserError` where they have fewer latents than there are codes, or one each for all of a stride.
        """
        numbers = self.places.number(lengths)
        most, places = int(numbers.max()), int(numbers.sum())
        if self.book is not None and len(self.book.codes) > places:
            raise UserError(
                f"the training texts have {places:,} latents in all, and the code book {len(self.book.codes):,} codes, "
                f"some of which nothing could choose; set model.codes to {places} at most, or train on more texts"
            )
        if isinstance(self.places, EveryFew) and self.places.stride > int(lengths.max()):
            raise UserError(
                f"no training text is longer than {int(lengths.max())} tokens, EOS counted, and a stride of "
                f"{self.places.stride} gives each a single latent; set model.stride lower, or model.positions=last"
            )
        network = self.prior.network if isinstance(self.prior, EmbeddedIndices) else self.prior
        if not isinstance(network, CausalConvolutions) or network.reach >= most - 1 + self.stopped:
            return []
        return [
            f"the prior of a latent sees {network.reach} before it (1 + prior_layers (prior_kernel - 1)), and the "
            f"longest training text has {most}: what lies further back has no part in its probability"
        ]

    def law(self, numbers: Tensor, room: int) -> StepDistribution:
        """p(z_{1:S} | S) for texts of so many latents (B,), of ``room`` places: event (S, D), batch (B,).

        With ``latent_length: eos_code`` it is p(z_{1:S}), whatever S.
        """
        if self.stopped and self.prior is not None and self.book is not None:
            return StoppedCodes(self.prior, self.book.codes, torch.full_like(numbers, room), room)
        return self.given(numbers, room)

    def given(self, numbers: Tensor, room: int) -> StepDistribution:
        """p(z_{1:S} | S); with ``latent_length: eos_code`` the prior's codes in turn, among codes alone."""
        if self.prior is None:
            shape = (*numbers.shape, room, self.latent_dim)
            return StepNormals(self.zero.expand(shape), self.one.expand(shape), numbers)
        if self.book is None:
            return AutoregressiveNormals(self.prior, self.latent_dim, numbers, room)
        return CodeSequences(self.prior, self.book.codes, numbers, room)

    def forward(self, batch: Batch) -> Tensor:
        """The Pyro program: observes ``length``, samples ``z``, observes ``tokens``, returns z."""
        numbers = self.places.number(batch.lengths)
        with pyro.plate("sentences", batch.size, dim=-1):
            if self.lengths is not None:
                cost = self.lengths(numbers, batch.weights)
                pyro.sample("length", Delta(numbers, log_density=cost), obs=numbers)
            law = self.law(numbers, self.places.room(batch.steps))
            z: Tensor = pyro.sample("z", self.places.site(law))
            states = self.places.states(self.network, batch.decoder_inputs, z, law.counted(z))
            tokens = DecodedTokens(states, self.network.output_weight, None, batch.lengths, self.vocabulary.ids)
            pyro.sample("tokens", tokens, obs=batch.tokens)
        return z

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z (n, S, D) ~ p for texts of at most ``steps`` tokens: of S each row has as many as p(S) says, then zeros."""
        room = self.places.room(steps)
        if self.lengths is None:
            numbers = torch.full((n,), room, device=self.zero.device)
        else:
            numbers = self.lengths.draw(n, room)
        return {"z": self.places.site(self.law(numbers, room)).sample()}

    @torch.no_grad()
    def draw_given(self, lengths: Tensor, source: Batch | None = None) -> Latents:
        """z (n, S, D) ~ p(z | S) for texts of these lengths (n,), EOS counted."""
        law = self.given(self.places.number(lengths), self.places.room(int(lengths.max())))
        return {"z": self.places.site(law).sample()}

    def decoder(self, latents: Latents, source: Batch | None = None) -> GivenLatent:
        """Return what writes sentences given z (R, S, D), or (R, D)."""
        return GivenLatent(self.network, latents["z"])

    @torch.no_grad()
    def between(self, first: Latents, second: Latents, points: int, lengths: tuple[int, int]) -> Latents:
        """``points`` sequences (n, S, D) between two (S, D): step by step, on an arc; codes at the nearest ones.

        The number of steps goes linearly from that of one length to that of the other; a step that only one of the ends
        has is that end's. Of one z for the whole text (D) it is (n, D).
        """
        a, b = first["z"], second["z"]
        there = [is_step(end).unsqueeze(-1) for end in (a, b)]
        a, b = torch.where(there[0], a, b), torch.where(there[1], b, a)
        share = torch.linspace(0.0, 1.0, points, dtype=a.dtype, device=a.device).view(-1, *(1,) * a.dim())
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1.0, 1.0).unsqueeze(-1)
        angle = cosine.acos()
        straight = angle.sin() < 1e-6
        sine = torch.where(straight, 1.0, angle.sin())
        left = torch.where(straight, 1.0 - share, ((1.0 - share) * angle).sin() / sine)
        right = torch.where(straight, share, (share * angle).sin() / sine)
        z = left * a + right * b
        if self.book is not None:
            z = self.book.codes[nearest(z, self.book.codes)]
        ends = self.places.number(torch.tensor(lengths, device=z.device))
        numbers = (ends[0] + share.view(-1) * (ends[1] - ends[0])).round()
        return {"z": self.places.cut(z, numbers)}
