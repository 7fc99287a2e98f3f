"""GPT-2 as a language model in stock Pyro: the library's network, every token a site, nothing latent, ``SVI.step``."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import Trace_ELBO

from benchmarks.peers import CLIP_NORM
from benchmarks.peers.gpt2 import RATE, PlainGPT2, Sizes
from benchmarks.peers.stock import Programs, Stock, observe


class _Programs(Programs):
    def model(self, batch: Any) -> None:
        """p(w_t | w_{<t}), a site for every t."""
        with self.texts(len(batch.labels)):
            observe(self.networks(batch.inputs).logits, batch.labels)


class StockPyro(Stock, PlainGPT2):
    """The contestant: ``SVI(model, guide, AdamW, Trace_ELBO())``."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> None:  # noqa: B008 - numbers
        super().__init__(seed, device, sizes)
        self.follow(_Programs(self.networks), Trace_ELBO(), torch.optim.AdamW, RATE, CLIP_NORM)
