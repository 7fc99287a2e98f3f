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

import pyro
import torch
from torch import Tensor, nn

from benchmarks import race
from benchmarks.contestants import PAIR_CONTESTANTS
from benchmarks.ours import as_batch, in_trainer
from benchmarks.peers import Parameters
from benchmarks.peers.encoder_decoder import CLIP_NORM, DROPOUT, PAPER, RATE, Pairs, Sizes, pairs
from guides.encoder_decoder import ExactGuide, VectorGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.encoder_decoder import EncoderDecoder
from ppl_text.training.programs import Joint

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


class Ours:
    """The contestant: ``EncoderDecoder`` and its guide."""

    def __init__(self, kind: str, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008
        torch.manual_seed(seed)
        self.kind, self.device = kind, device
        latent = kind == "vattn-h"
        self.model = EncoderDecoder(
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
        self.guide = VectorGuide(self.model) if latent else ExactGuide(self.model)
        self.modules = nn.ModuleDict({"model": self.model, "guide": self.guide}).to(device)
        self.objective = objectives.build("elbo-analytic" if latent else "elbo")
        Joint(self.model, self.guide, self.objective).train()
        self.parameters = list(self.modules.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, RATE, fused=True)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters under the peer's names."""
        given = our_parameters(parameters, self.model.network.hidden_dim)
        self.modules.load_state_dict({name: torch.tensor(value) for name, value in given.items()})

    def prepare(self, pairs: Pairs) -> Batch:
        """The batch as the project's data room makes it."""
        target, source = as_batch(pairs.target, self.device), as_batch(pairs.source, self.device)
        return Batch(target.tokens, target.lengths, target.weights, target.decoder_inputs, source)

    def step(self, batch: Batch) -> float:
        """Take one training step with fresh noise and dropout; return the loss, nats per pair."""
        self.optimizer.zero_grad(set_to_none=True)
        with pyro.validation_enabled(False):
            loss = self.loss(batch)
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        return loss.item()

    def loss(self, batch: Batch) -> Tensor:
        """Loss of a batch on fresh noise, nats per pair."""
        loss: Tensor = self.objective(self.model, self.guide, batch).loss
        return loss


def build_again(kind: str, seed: int, device: str = "cpu", sizes: Sizes = Sizes()) -> Ours:  # noqa: B008 - numbers
    """Our step with nothing left for the model: it goes along the drawn path itself."""
    ours = Ours(kind, seed, device, sizes)
    ours.model.path.put = lambda key, value: value  # type: ignore[method-assign]
    return ours


build_in_trainer = in_trainer(Ours)
build_captured = in_trainer(Ours, captured=True)
build_captured_bf16 = in_trainer(Ours, captured=True, precision="bf16-mixed")
"""Our step inside the trainer; replayed as a graph; the same with the networks in bf16."""


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
