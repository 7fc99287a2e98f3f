"""Race one training step of Transformers with latents: ours beside plain language-model training of ``transformers``.

    python -m benchmarks.layerwise_transformer none value memory --threads 1
    python -m benchmarks.layerwise_transformer value --sizes gpt2 --device cuda

Kinds: ``none``, the decoder alone, which computes what the plain model does; ``value``, a latent of each layer fused
with its values (DELLA), and ``memory``, one latent that every position attends to, which read the text once more with
the same blocks; ``particles``, five importance-weighted particles of ``value`` beside five passes of one. A step is
both programs, loss, backward, clipping and AdamW. Rounds are interleaved as in :mod:`benchmarks.race`; ``--sizes try``
only tries whether everything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import race
from benchmarks.contestants import LAYERED_CONTESTANTS
from benchmarks.peers.gpt2 import GPT2_SMALL, RATE, Sizes, texts
from benchmarks.steps import Contestant
from guides.layerwise_transformer import ExactGuide, LayerWiseGuide, SingleGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import OWN_IDS, ReservedIds, Vocabulary
from ppl_text.models.layerwise_transformer import LayerwiseTransformer

SIZES = {"small": Sizes(), "gpt2": GPT2_SMALL, "try": Sizes(2, 16, 2, 50, 4, 3, 6)}
"""Of the small recipes, of GPT-2 small, and of a try whether everything runs."""

GUIDES = {"none": ExactGuide, "value": LayerWiseGuide, "memory": SingleGuide}
PARTICLES = 5


class Ours(Contestant):
    """The contestant: ``LayerwiseTransformer`` and its guide.

    ``ids``: the reserved ids; as in training, padding and BOS are no outcomes. ``options``: of the model.
    """

    def __init__(
        self,
        kind: str,
        seed: int = 0,
        device: str = "cpu",
        sizes: Sizes = Sizes(),  # noqa: B008 - numbers
        *,
        objective: str = "elbo-analytic",
        ids: ReservedIds = OWN_IDS,
        **options: Any,
    ) -> None:
        torch.manual_seed(seed)
        self.kind = kind
        model = LayerwiseTransformer(
            Vocabulary(sizes.vocabulary, ids),
            paradigm=kind,
            latent_dim=sizes.latent,
            layers=sizes.layers,
            width=sizes.width,
            heads=sizes.heads,
            **options,
        )
        self.compete(model, GUIDES[kind](model), objectives.build(objective), device)
        self.optimizer = torch.optim.AdamW(self.parameters, RATE, fused=True)

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Take over the parameters of the blocks and of the embedding, which the head shares."""
        self.model.backbone.network.load_state_dict(parameters)


class Passes(Ours):
    """As many passes of one particle as ``particles`` has, each with its own way through the encoder."""

    def backward(self, batch: Batch) -> Tensor:
        """Leave the mean of the gradients behind, and return the mean of the losses."""
        losses = []
        for _ in range(PARTICLES):
            loss = self.loss(batch) / PARTICLES
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()


def build_checkpointed(kind: str, seed: int, device: str = "cpu", sizes: Sizes = Sizes()) -> Ours:  # noqa: B008 - numbers
    """Our step with activations computed twice rather than kept."""
    return Ours(kind, seed, device, sizes, checkpointing=True)


def build_particles(seed: int, device: str = "cpu", sizes: Sizes = Sizes()) -> Ours:  # noqa: B008 - numbers
    """Our step of several importance-weighted particles, which read the text once."""
    return Ours("value", seed, device, sizes, objective=f"iwae:{PARTICLES}")


def build_passes(seed: int, device: str = "cpu", sizes: Sizes = Sizes()) -> Passes:  # noqa: B008 - numbers
    """The same number of passes, one after the other."""
    return Passes("value", seed, device, sizes, objective="elbo")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the race of one kind after the other and print the tables."""
    race.run_kinds(
        "benchmarks.layerwise_transformer",
        LAYERED_CONTESTANTS,
        SIZES,
        lambda sizes: texts(0, sizes),
        arguments,
        rounds=15,
        steps=2,
        warmup=2,
    )


if __name__ == "__main__":
    main()
