"""Latents of every step and an attending decoder: VAE+Attn, GAVAM and DAVAM in one story.

Source: Fang et al. 2021, "Discrete Auto-regressive Variational Attention Models for Text Modeling" (specification 1).
"""

from __future__ import annotations

from typing import ClassVar

import pyro
import torch
from pyro.distributions import Delta
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UnknownNameError, UserError
from ..core.latents import Latents, LatentSpec
from ..core.protocols import Choice
from ..core.vocabulary import Vocabulary
from ..distributions.codes import CodeSequences
from ..distributions.steps import AutoregressiveNormals, StepDistribution, StepNormals
from ..distributions.tokens import DecodedTokens
from ..nn.attention import AttentiveDecoder, is_step
from ..nn.causal import CausalConvolutions
from ..nn.codebook import CodeBook, nearest
from ..nn.decoders import GivenLatent
from ..nn.initial import initialise
from ..nn.lengths import LengthTable

PRIORS = ("normal", "autoregressive", "codes")
"""N(0, I) of every step (VAE+Attn); Gaussian given those before it (GAVAM); a code given those before it (DAVAM)."""

LENGTHS = ("empirical", "given")
"""Whether the number of latents is a site that the bound pays for, or known to everybody (the paper's)."""


class LatentSequence(nn.Module):
    """p(n, z_{1:n}, w) = p(n) Π_s p(z_s | z_{<s}) Π_t softmax(W_o s_t)[w_t], s_t an LSTM that attends to z_1..z_n.

    There are as many latents as scored tokens. All that the decoder knows of the sentence comes through z: it starts at
    zero (:class:`~ppl_text.nn.attention.AttentiveDecoder`). A step of z that is zero in all entries is none.

    Args:
        vocabulary: V symbols, O of them outcomes.
        latent_dim: D, the width of each z_s.
        prior: of z: ``normal`` (N(0, I) each), ``autoregressive`` (N(μ(z_{<s}), σ²(z_{<s})) from causal convolutions)
            or ``codes`` (z_s one of M code vectors, with the probability of its index given those before it).
        latent_length: ``empirical`` (the site ``length``, from a table of the training texts) or ``given`` (the
            paper's: what the number of latents tells of the text costs nothing, so that bounds are too high).
        embedding_dim, hidden_dim: E and H of the decoder.
        attention_dim: of the attention's hidden layer; null: H.
        dropout_in, dropout_out: on embeddings and on states, in training only.
        codes: M.
        code_decay, code_start, revive: of the code book (:class:`~ppl_text.nn.codebook.CodeBook`).
        prior_width, prior_layers, prior_kernel: of the causal convolutions.
        init: how decoder and guide start: ``uniform``, ``wide`` or ``torch``.
    """

    family = "latent_sequence"
    story = (
        "n ~ p(n);  z_s ~ p(z_s | z_{<s}), s = 1..n;  s_t = LSTM([emb(w_{t-1}); attention over z], s_{t-1}), s_0 = 0",
        "p(n, z, w) = p(n) Π_s p(z_s | z_{<s}) Π_t P(w_t | w_{<t}, z)",
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
        Choice("model.revive", 0.0, 1.0, "no dead code is revived in the paper"),
    )

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        latent_dim: int = 32,
        prior: str = "normal",
        latent_length: str = "empirical",
        embedding_dim: int = 256,
        hidden_dim: int = 256,
        attention_dim: int | None = None,
        dropout_in: float = 0.5,
        dropout_out: float = 0.5,
        codes: int = 512,
        code_decay: float = 0.99,
        code_start: str = "data",
        revive: float = 1.0,
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
        self.vocabulary, self.vocab_size, self.latent_dim = vocabulary, vocabulary.size, latent_dim
        self.embedding_dim, self.hidden_dim, self.init = embedding_dim, hidden_dim, init
        self.latents = (LatentSpec("z", axes=("T", "D"), sizes={"D": latent_dim}),)
        self.network = AttentiveDecoder(
            vocabulary,
            latent_dim=latent_dim,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            attention_dim=hidden_dim if attention_dim is None else attention_dim,
            dropout_in=dropout_in,
            dropout_out=dropout_out,
        )
        initialise(self, init)
        sizes = {"width": prior_width, "layers": prior_layers, "kernel": prior_kernel}
        self.lengths = LengthTable() if latent_length == "empirical" else None
        self.book: CodeBook | None = None
        self.prior: nn.Module | None = None
        if prior == "autoregressive":
            self.prior = CausalConvolutions(latent_dim, 2 * latent_dim, **sizes)
        elif prior == "codes":
            self.book = CodeBook(codes, latent_dim, decay=code_decay, start=code_start, revive=revive)
            embedding = nn.Embedding(codes, prior_width)
            self.prior = nn.ModuleDict(
                {"embedding": embedding, "network": CausalConvolutions(prior_width, codes, **sizes)}
            )
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def law(self, lengths: Tensor, steps: int) -> StepDistribution:
        """p(z_{1:n} | n) for texts of these lengths (B,): event (T, D), batch (B,)."""
        if self.book is not None and isinstance(self.prior, nn.ModuleDict):
            network, embedding = self.prior["network"], self.prior["embedding"]
            return CodeSequences(network, embedding, self.book.codes, lengths, steps)  # type: ignore[arg-type]
        if isinstance(self.prior, CausalConvolutions):
            return AutoregressiveNormals(self.prior, self.latent_dim, lengths, steps)
        shape = (*lengths.shape, steps, self.latent_dim)
        return StepNormals(self.zero.expand(shape), self.one.expand(shape), lengths)

    def forward(self, batch: Batch) -> Tensor:
        """The Pyro program: observes ``length``, samples ``z``, observes ``tokens``, returns z."""
        with pyro.plate("sentences", batch.size, dim=-1):
            if self.lengths is not None:
                cost = self.lengths(batch.lengths, batch.weights)
                pyro.sample("length", Delta(batch.lengths, log_density=cost), obs=batch.lengths)
            z: Tensor = pyro.sample("z", self.law(batch.lengths, batch.steps))
            states = self.network(batch.decoder_inputs, z, batch.scored)
            tokens = DecodedTokens(states, self.network.head.weight, None, batch.lengths, self.vocabulary.ids)
            pyro.sample("tokens", tokens, obs=batch.tokens)
        return z

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z (n, T, D) ~ p, as many steps of T = ``steps`` as the length of each row says, zero behind them."""
        if self.lengths is None:
            lengths = torch.full((n,), steps, device=self.zero.device)
        else:
            lengths = self.lengths.draw(n, steps)
        return {"z": self.law(lengths, steps).sample()}

    @torch.no_grad()
    def draw_given(self, lengths: Tensor, source: Batch | None = None) -> Latents:
        """z (n, T, D) ~ p(z | n), T the largest of the lengths (n,), EOS counted."""
        return {"z": self.law(lengths, int(lengths.max())).sample()}

    def decoder(self, latents: Latents, source: Batch | None = None) -> GivenLatent:
        """Return what writes sentences given z (R, T, D)."""
        return GivenLatent(self.network, latents["z"])

    @torch.no_grad()
    def between(self, first: Latents, second: Latents, points: int, lengths: tuple[int, int]) -> Latents:
        """``points`` sequences (n, T, D) between two (T, D): step by step, on an arc; codes at the nearest ones.

        The number of steps goes linearly from one length to the other; a step that only one of the ends has is that
        end's.
        """
        a, b = first["z"], second["z"]
        there = [is_step(end).unsqueeze(-1) for end in (a, b)]
        a, b = torch.where(there[0], a, b), torch.where(there[1], b, a)
        share = torch.linspace(0.0, 1.0, points, dtype=a.dtype, device=a.device).view(-1, 1, 1)
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1.0, 1.0).unsqueeze(-1)
        angle = cosine.acos()
        straight = angle.sin() < 1e-6
        sine = torch.where(straight, 1.0, angle.sin())
        left = torch.where(straight, 1.0 - share, ((1.0 - share) * angle).sin() / sine)
        right = torch.where(straight, share, (share * angle).sin() / sine)
        z = left * a + right * b
        if self.book is not None:
            z = self.book.codes[nearest(z, self.book.codes)]
        steps = (lengths[0] + share.view(-1) * (lengths[1] - lengths[0])).round()
        counted = torch.arange(z.shape[1], device=z.device) < steps.unsqueeze(-1)
        return {"z": torch.where(counted.unsqueeze(-1), z, 0.0)}
