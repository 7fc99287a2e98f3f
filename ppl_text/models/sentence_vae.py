"""LSTM variational autoencoder of sentences: one Gaussian latent for the whole sentence, tokens fed back.

Source: Bowman et al. 2016, "Generating Sentences from a Continuous Space", with the sizes and constants of the
public baselines that later papers compare with (specification 0).
"""

from __future__ import annotations

from typing import ClassVar

import pyro
import torch
from pyro.distributions import Independent, Normal
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.latents import Latents, LatentSpec
from ..core.vocabulary import Vocabulary
from ..distributions.side import record_side_loss
from ..distributions.tokens import DecodedTokens, log_bag
from ..nn.decoders import GivenLatent, RecurrentDecoder
from ..nn.initial import initialise

BAG_OF_WORDS = "bag_of_words"
"""Name of the side loss."""


class SentenceVAE(nn.Module):
    """p(z, w_{1:T}) = N(z; 0, I_D) Π_t softmax(W_o s_t)[w_t], s_t = LSTM([emb(w_{t-1}); z], s_{t-1}), w_0 = BOS.

    z also makes the LSTM's initial state (:class:`~ppl_text.nn.decoders.RecurrentDecoder`). The tokens fed back are
    the batch's ``decoder_inputs``, after word dropout. A sentence ends at its first EOS, nothing after it is scored.
    With ``latent_dim=0`` nothing is latent: the LSTM language model with the same decoder, whose bounds are ln p(w).

    Args:
        vocabulary: V symbols, O of them outcomes.
        latent_dim: D, the width of z; 0 for a language model.
        embedding_dim, hidden_dim: E and H of the decoder (PTB 256 and 256, Yahoo 512 and 1024, SNLI 128 and 512).
        dropout_in, dropout_out: on embeddings and on states, in training only.
        tied: the softmax shares its weights with the embedding; needs E = H.
        initial: ``cell`` (c_0 = W_z z, s_0 = tanh c_0) or ``hidden`` (s_0 = W_z z + b, c_0 = 0).
        init: how parameters start, the guide's too: ``uniform`` (U(-0.01, 0.01), embeddings U(-0.1, 0.1)), ``wide``
            (U(-0.1, 0.1) everywhere) or ``torch``.
        bag_of_words: weight w of the side loss -w Σ_t ln softmax(W_b z + b)[w_t], which asks z for the words of its
            sentence whatever their order. It enters the training loss and never a bound; only in training mode.
    """

    family = "sentence_vae"
    story = (
        "z ~ N(0, I);  s_t = LSTM([emb(w_{t-1}); z], s_{t-1}), s_0 from z, w_0 = BOS;  w_t ~ softmax(W s_t), to EOS",
        "p(z, w) = N(z; 0, I) Π_t P(w_t | w_{<t}, z);  with D = 0 the LSTM language model",
    )
    measures = ("sentences",)
    former_names: ClassVar[dict[str, str]] = {"decoder.": "network."}

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        latent_dim: int = 32,
        embedding_dim: int = 256,
        hidden_dim: int = 256,
        dropout_in: float = 0.5,
        dropout_out: float = 0.5,
        tied: bool = False,
        initial: str = "cell",
        init: str = "uniform",
        bag_of_words: float = 0.0,
    ) -> None:
        super().__init__()
        if latent_dim < 0 or bag_of_words < 0:
            raise UserError(f"latent_dim and bag_of_words must be 0 or more; got {latent_dim} and {bag_of_words}")
        if bag_of_words and not latent_dim:
            raise UserError("bag_of_words asks z for the words, and with latent_dim=0 there is no z; leave one out")
        self.vocabulary, self.vocab_size, self.latent_dim = vocabulary, vocabulary.size, latent_dim
        self.embedding_dim, self.hidden_dim = embedding_dim, hidden_dim
        self.init, self.bag_of_words = init, bag_of_words
        self.latents = (LatentSpec("z", axes=("D",), sizes={"D": latent_dim}),) if latent_dim else ()
        self.network = RecurrentDecoder(
            vocabulary,
            latent_dim=latent_dim,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            dropout_in=dropout_in,
            dropout_out=dropout_out,
            tied=tied,
            initial=initial,
        )
        self.bag = nn.Linear(latent_dim, vocabulary.outcomes) if bag_of_words else None
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)
        initialise(self, init)

    def prior(self, size: int) -> Independent:
        """p(z) = N(0, I_D) for ``size`` sentences: event (D,), batch (B,)."""
        return Normal(self.zeros, self.ones).expand((size, self.latent_dim)).to_event(1)

    def likelihood(self, z: Tensor | None, batch: Batch) -> DecodedTokens:
        """P(w_{1:T} | z) for z (…, B, D), each token given those fed back before it; None where D = 0."""
        states = self.network(batch.decoder_inputs, z)
        return DecodedTokens(states, self.network.output_weight, None, batch.lengths, self.vocabulary.ids)

    def forward(self, batch: Batch) -> Tensor | None:
        """The Pyro program: samples site ``z``, observes site ``tokens``, returns z."""
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", self.prior(batch.size)) if self.latent_dim else None
            pyro.sample("tokens", self.likelihood(z, batch), obs=batch.tokens)
            if self.bag is not None:
                # Of no use outside of training, and (…, B, O) is large for many particles.
                zero = batch.weights.new_zeros(())
                bag = log_bag(self.bag(z), batch, self.vocabulary.ids) if self.training else zero
                record_side_loss(BAG_OF_WORDS, -self.bag_of_words * bag)
        return z

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """z ~ p(z), (n, D); nothing where D = 0."""
        return {"z": self.prior(n).sample()} if self.latents else {}

    def decoder(self, latents: Latents, source: Batch | None = None) -> GivenLatent:
        """Return what writes sentences given z (R, D)."""
        return GivenLatent(self.network, latents.get("z"))
