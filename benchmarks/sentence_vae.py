"""Race one training step of the sentence VAE at PTB sizes: ours, stock Pyro, a PyTorch loop, and NumPyro jitted.

    python -m benchmarks.sentence_vae --threads 1
    python -m benchmarks.sentence_vae --device cuda

E = H = 256, D = 32, V = 10,000, B = 32, T = 24. A step is encoder, decoder, loss with the KL in closed form, backward,
clipping at norm 5 and SGD. Rounds are interleaved as in :mod:`benchmarks.race`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from benchmarks import race
from benchmarks.contestants import SENTENCE_CONTESTANTS
from benchmarks.peers import Parameters, Words, lstm_vae
from benchmarks.peers.lstm_vae import LEARNING_RATE, Sizes
from benchmarks.steps import Contestant
from guides.sentence_vae import GaussianGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.sentence_vae import SentenceVAE

NAMES = {
    "guide.reader.embedding": "encoder_embedding",
    "guide.reader.lstm": "encoder",
    "guide.projection": "moments",
    "model.network.embedding": "decoder_embedding",
    "model.network.lstm": "decoder",
    "model.network.bridge": "bridge",
    "model.network.head": "head",
}
"""Our modules to the peer's."""

SIZES = {"paper": Sizes(), "small": Sizes(3_000, 64, 128, 16), "try": Sizes(50, 8, 8, 4)}
"""Of the Penn Treebank, of the small recipes, and of a try whether everything runs."""


class Ours(Contestant):
    """The contestant: ``elbo-analytic`` on ``SentenceVAE`` and its Gaussian guide."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008 - numbers
        torch.manual_seed(seed)
        vocabulary, embedding, hidden, latent = sizes
        model = SentenceVAE(
            Vocabulary(vocabulary), latent_dim=latent, embedding_dim=embedding, hidden_dim=hidden, init="torch"
        )
        self.compete(model, GaussianGuide(model), objectives.build("elbo-analytic"), device)
        self.optimizer = torch.optim.SGD(self.parameters, lr=LEARNING_RATE)

    def load(self, parameters: Parameters) -> None:
        """Take over parameters under the peer's names."""
        own = dict(self.modules.named_parameters())
        self.modules.load_state_dict({name: torch.tensor(parameters[_peer_name(name)]) for name in own})

    def elbo(self, words: Words, noise: np.ndarray) -> np.ndarray:
        """Bound of each sentence, (B,) in nats, with the KL in closed form, from given noise (B, D)."""
        with torch.no_grad():
            return self._estimate(words, noise).bound.cpu().numpy()

    def gradients(self, words: Words, noise: np.ndarray) -> Parameters:
        """Gradient of the loss with respect to every parameter, from given noise and without dropout."""
        self.optimizer.zero_grad(set_to_none=True)
        self._estimate(words, noise).loss.backward()
        return {_peer_name(name): value.grad.cpu().numpy().copy() for name, value in self.modules.named_parameters()}

    def _estimate(self, words: Words, noise: np.ndarray) -> Any:
        self.modules.eval()
        batch = self.prepare(words)
        return self.objective(self.model, self._replayed(batch, torch.from_numpy(noise).to(self.device)), batch)

    def _replayed(self, batch: Batch, noise: Tensor) -> Callable[[Batch], Any]:
        """The guide, made to draw the z that the noise gives."""
        gaussian = self.guide.posterior(batch).base_dist
        trace = poutine.Trace()
        z = gaussian.loc + gaussian.scale * noise
        trace.add_node("z", name="z", type="sample", value=z, is_observed=False, infer={})
        return poutine.replay(self.guide, trace=trace)


def run(
    names: Sequence[str],
    *,
    rounds: int,
    steps: int,
    warmup: int = 3,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> race.Raced:
    """Race contestants of the sentence VAE, interleaved."""
    words = lstm_vae.sentences()
    return race.run(
        names,
        rounds=rounds,
        steps=steps,
        warmup=warmup,
        device=device,
        table=SENTENCE_CONTESTANTS,
        words=words,
        clock=clock,
    )


def _peer_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{NAMES[module]}.{leaf}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of this race."""
    module, table = "benchmarks.sentence_vae", SENTENCE_CONTESTANTS
    return race.parse_for(module, table, arguments, rounds=20, steps=3, warmup=3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the race and print the table."""
    options = parse(arguments)
    threads = race.limit_threads(options.threads)
    names = race.chosen(options, SENTENCE_CONTESTANTS)
    raced = run(names, **race.settings(options))
    race.tell(options, raced, {"B": lstm_vae.BATCH, "T": lstm_vae.STEPS, **Sizes()._asdict()}, threads)


if __name__ == "__main__":
    main()
