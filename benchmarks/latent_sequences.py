"""Race one training step of latent sequences at the sizes of the Penn Treebank: ours beside hand-written PyTorch loops.

    python -m benchmarks.latent_sequences gavam --threads 1
    python -m benchmarks.latent_sequences davam-codes davam-prior --device cuda

Kinds of training: ``vae-attn``, ``gavam``, and the two stages of DAVAM, ``davam-codes`` and ``davam-prior``
(:mod:`benchmarks.peers.latent_sequence`); ``codes-contextual``, the switching language model, is ours alone. A step is
both programs, loss, backward, clipping and the optimiser, and in ``davam-codes`` the moving averages of the codes.
Rounds are interleaved as in :mod:`benchmarks.race`; ``--sizes try`` only tries whether everything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from benchmarks import race
from benchmarks.contestants import LATENT_CONTESTANTS
from benchmarks.peers import Parameters, Words, lstm_vae
from benchmarks.peers.latent_sequence import COMMITMENT, PRIOR_RATE, RATE, Sizes
from benchmarks.steps import PROGRAMS, Contestant
from guides.latent_sequence import GaussianGuide, QuantisedGuide
from guides.switching_language_model import ExactGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.latent_sequence import LatentSequence
from ppl_text.models.switching_language_model import SwitchingLanguageModel
from ppl_text.nn.statistics import commit, discard, statistics_of

SWITCHING = "codes-contextual"
"""Ours alone: nobody has written its peer."""

PRIORS = {"vae-attn": "normal", "gavam": "autoregressive", "davam-codes": "codes", "davam-prior": "codes"}
OBJECTIVES = {
    "vae-attn": "elbo-analytic",
    "gavam": "elbo-analytic",
    "davam-codes": "reconstruction",
    "davam-prior": "rate",
    SWITCHING: "elbo",
}
TRAINED = {"davam-prior": ["model.prior"]}
"""Submodules that are trained, where not all are."""

SIZES = {
    "paper": Sizes(),
    "small": Sizes(3_000, 64, 128, 16, 512, 64, 6),
    "try": Sizes(vocabulary=50, embedding=8, hidden=8, latent=4, codes=8, width=8, layers=2),
}
"""Of the Penn Treebank, of the small recipes, and of a try whether everything runs."""

NAMES = (
    ("encoder.embedding.", "guide.reader.embedding."),
    ("encoder.lstm.", "guide.reader.lstm."),
    ("encoder.output.", "guide.projection."),
    ("decoder.keys.", "model.network.attention.memory."),
    ("decoder.query.", "model.network.attention.query."),
    ("decoder.score.", "model.network.attention.score."),
    ("decoder.", "model.network."),
    ("codes.vectors", "model.book.codes"),
    ("codes.", "model.book."),
    ("embedding.", "model.prior.embedding."),
)
"""How the peer's names begin, and how ours do; the first that fits."""


def sequences(kind: str, sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    """``LatentSequence`` and its guide."""
    prior = PRIORS[kind]
    model = LatentSequence(
        Vocabulary(sizes.vocabulary),
        prior=prior,
        latent_length="given",
        latent_dim=sizes.latent,
        embedding_dim=sizes.embedding,
        hidden_dim=sizes.hidden,
        codes=sizes.codes,
        code_start="uniform",
        prior_width=sizes.width,
        prior_layers=sizes.layers,
        prior_kernel=sizes.kernel,
        init="torch",
    )
    return model, QuantisedGuide(model, commitment=COMMITMENT) if prior == "codes" else GaussianGuide(model)


def switching(sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    """A language model whose softmax is switched by contextual codes, and the exact posterior of these."""
    model = SwitchingLanguageModel(
        Vocabulary(sizes.vocabulary), codes=4, embedding_dim=sizes.embedding, hidden_dim=sizes.hidden
    )
    return model, ExactGuide(model)


class Ours(Contestant):
    """The contestant: ``LatentSequence`` and its guide under the objective of one kind of training."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        torch.manual_seed(seed)
        self.kind = kind
        model, guide = switching(sizes) if kind == SWITCHING else sequences(kind, sizes)
        self.compete(model, guide, objectives.build(OBJECTIVES[kind]), device, TRAINED.get(kind, PROGRAMS))
        self.statistics = statistics_of(self.modules)
        adam, sgd = torch.optim.Adam, torch.optim.SGD
        adaptive = kind == "davam-prior"
        self.optimizer = adam(self.parameters, PRIOR_RATE, fused=True) if adaptive else sgd(self.parameters, RATE)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters and code book under the peer's names."""
        own = self.modules.state_dict()
        given = {our_name(name, self.kind): torch.tensor(value) for name, value in parameters.items()}
        self.modules.load_state_dict({name: value.view(own[name].shape) for name, value in given.items()}, strict=False)

    def step(self, batch: Batch) -> float:
        """Take one training step, after which the codes follow; return the loss, nats per sentence."""
        discard(self.statistics)
        loss = super().step(batch)
        commit(self.statistics)
        return loss

    def loss(self, batch: Batch, noise: np.ndarray | None = None) -> Tensor:
        """Loss of a batch, nats per sentence; on fresh noise, or on the z that given noise (B, T, D) makes."""
        guide = self.guide if noise is None else self._replayed(batch, torch.from_numpy(noise).to(self.device))
        loss: Tensor = self.objective(self.model, guide, batch).loss
        return loss

    def _replayed(self, batch: Batch, noise: Tensor) -> Callable[[Batch], Any]:
        """The guide, made to draw the z that the noise gives; one of codes draws what it draws."""
        q, trace = self.guide.posterior(batch), poutine.Trace()
        if isinstance(self.guide, GaussianGuide):
            z = q.kept(q.mean_ + q.scale * noise)
            trace.add_node("z", name="z", type="sample", value=z, is_observed=False, infer={})
        return poutine.replay(self.guide, trace=trace)


def our_name(name: str, kind: str) -> str:
    """Our name for a parameter or buffer of the peer's."""
    prior = "model.prior.network." if PRIORS[kind] == "codes" else "model.prior."
    theirs, ours = next(pair for pair in (*NAMES, ("prior.", prior)) if name.startswith(pair[0]))
    return ours + name.removeprefix(theirs)


def sentences(sizes: Sizes) -> Words:
    """Return the batch that is raced."""
    return lstm_vae.sentences(0, lstm_vae.Sizes(vocabulary=sizes.vocabulary))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the race of one kind after the other and print the tables."""
    race.run_kinds(
        "benchmarks.latent_sequences", LATENT_CONTESTANTS, SIZES, sentences, arguments, rounds=15, steps=1, warmup=2
    )


if __name__ == "__main__":
    main()
