"""Race one training step of the LSTM language model: ours beside a hand-written PyTorch loop and stock Pyro.

    python -m benchmarks.language_model lstm --threads 1
    python -m benchmarks.language_model lstm --sizes paper --device cuda

Nothing is latent: every bound is ln p(w). The sizes are those of the sentence VAE, B = 32, T = 24. Rounds are
interleaved as in :mod:`benchmarks.race`; ``--sizes try`` only tries whether everything runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks import race
from benchmarks.contestants import LANGUAGE_CONTESTANTS
from benchmarks.peers import Parameters, Words, lstm_vae
from benchmarks.peers.language_model import RATE, Sizes
from benchmarks.steps import Contestant
from guides.language_model import ExactGuide
from ppl_text import objectives
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.language_model import LanguageModel

SIZES = {"small": Sizes(3_000, 64, 128), "paper": Sizes(), "try": Sizes(50, 8, 8)}
"""Of the small recipes, of the Penn Treebank, and of a try whether everything runs."""


class Ours(Contestant):
    """The contestant: ``LanguageModel`` and its guide, which has nothing to infer."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008 - numbers
        torch.manual_seed(seed)
        vocabulary, embedding, hidden = sizes
        model = LanguageModel(Vocabulary(vocabulary), embedding_dim=embedding, hidden_dim=hidden, cell="lstm")
        self.compete(model, ExactGuide(model), objectives.build("elbo"), device)
        self.optimizer = torch.optim.Adam(self.parameters, RATE, fused=True)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters under the peer's names, which are ours."""
        self.model.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})


def sentences(sizes: Sizes) -> Words:
    """Return the batch that is raced."""
    return lstm_vae.sentences(0, lstm_vae.Sizes(vocabulary=sizes.vocabulary))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the race and print the table."""
    tables = {"lstm": LANGUAGE_CONTESTANTS}
    race.run_kinds("benchmarks.language_model", tables, SIZES, sentences, arguments, rounds=15, steps=3, warmup=3)


if __name__ == "__main__":
    main()
