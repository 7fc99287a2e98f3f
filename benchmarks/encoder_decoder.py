"""Race one training step of sequence-to-sequence models with attention: ours beside hand-written PyTorch loops.

    python -m benchmarks.encoder_decoder ded-attn vattn-h --threads 1
    python -m benchmarks.encoder_decoder vattn-h --sizes paper --device cuda

Kinds: ``ded-attn``, nothing latent, and ``vattn-h``, a latent for the text and latent attention vectors
(:mod:`benchmarks.peers.encoder_decoder`). A step is both programs, loss, backward, clipping and Adam. In ``vattn-h``
stands a third beside them: ours without the states that the guide leaves, so that the model goes along the drawn path
itself, in one call of an LSTM. Rounds are interleaved as in :mod:`benchmarks.race`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks import race
from benchmarks.contestants import PAIR_CONTESTANTS
from benchmarks.peers import Parameters
from benchmarks.peers.encoder_decoder import DROPOUT, PAPER, RATE, Pairs, Sizes, pairs
from benchmarks.steps import Contestant, as_batch
from guides.encoder_decoder import ExactGuide, VectorGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.encoder_decoder import EncoderDecoder

SIZES = {"small": Sizes(), "paper": PAPER, "try": Sizes(50, 8, 6, 8, 6, 4, 4, 5, 6)}
"""Of the small recipes, of the public code, and of a try whether everything runs."""

NAMES = (
    ("source_embedding.", "model.reader.embedding."),
    ("latent.", "guide.latent."),
    ("scale.", "guide.scale."),
    ("bridge.", "model.bridge."),
    ("", "model.network."),
)
"""How the peer's names begin, and how ours do; the first that fits."""


def our_parameters(parameters: Parameters, hidden: int) -> Parameters:
    """Return the peer's parameters, or their gradients, as ours lie: one LSTM a direction, W_o as W_s beside W_a."""
    found: Parameters = {}
    for name, value in parameters.items():
        if name == "output.weight":
            found["model.network.from_state.weight"] = value[:, :hidden]
            found["model.network.from_memory.weight"] = value[:, hidden:]
        elif name.startswith("encoder."):
            direction = "backward" if name.endswith("_reverse") else "onward"
            own = name.removeprefix("encoder.").removesuffix("_reverse")
            found[f"model.reader.{direction}.{own}"] = value
        else:
            theirs, ours = next(pair for pair in NAMES if name.startswith(pair[0]))
            found[ours + name.removeprefix(theirs)] = value
    return found


class Ours(Contestant):
    """The contestant: ``EncoderDecoder`` and its guide."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        torch.manual_seed(seed)
        self.kind = kind
        latent = kind == "vattn-h"
        model = EncoderDecoder(
            Vocabulary(sizes.vocabulary, source=Vocabulary(sizes.vocabulary)),
            latent_dim=sizes.latent if latent else 0,
            attention="vectors" if latent else "deterministic",
            start="zero" if latent else "encoder",
            embedding_dim=sizes.embedding,
            encoder_dim=sizes.encoder,
            hidden_dim=sizes.hidden,
            output_dim=sizes.output,
            dropout_in=DROPOUT,
        )
        guide = VectorGuide(model) if latent else ExactGuide(model)
        self.compete(model, guide, objectives.build("elbo-analytic" if latent else "elbo"), device)
        self.optimizer = torch.optim.Adam(self.parameters, RATE, fused=True)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters under the peer's names."""
        given = our_parameters(parameters, self.model.network.hidden_dim)
        self.modules.load_state_dict({name: torch.tensor(value) for name, value in given.items()})

    def prepare(self, pairs: Pairs) -> Batch:
        """The batch as the project's data room makes it."""
        target, source = as_batch(pairs.target, self.device), as_batch(pairs.source, self.device)
        return Batch(target.tokens, target.lengths, target.weights, target.decoder_inputs, source)


def build_again(kind: str, seed: int, device: str = "cpu", sizes: Sizes = Sizes()) -> Ours:  # noqa: B008 - numbers
    """Our step with nothing left for the model: it goes along the drawn path itself."""
    ours = Ours(kind, seed, device, sizes)
    ours.model.path.put = lambda key, value: value  # type: ignore[method-assign]
    return ours


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the race of one kind after the other and print the tables."""
    race.run_kinds(
        "benchmarks.encoder_decoder",
        PAIR_CONTESTANTS,
        SIZES,
        lambda sizes: pairs(0, sizes),
        arguments,
        rounds=15,
        steps=2,
        warmup=2,
    )


if __name__ == "__main__":
    main()
