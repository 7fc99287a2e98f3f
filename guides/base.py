"""What guides over one latent site share: the model that they were built for, and the Pyro program."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_text.core.batch import Batch

M = TypeVar("M")


class SiteGuide(nn.Module, Generic[M]):
    """q(site | w): samples the one site of the model from ``posterior(batch)``.

    The model is held as a one-tuple, so that its parameters are not counted as the guide's.
    """

    site: ClassVar[str] = "z"
    event: ClassVar[str] = "(D,)"
    """Shape of one sentence's value, for messages."""

    def __init__(self, model: M) -> None:
        super().__init__()
        self._model = (model,)

    @property
    def model(self) -> M:
        """The model that this guide was built for."""
        return self._model[0]

    def posterior(self, batch: Batch) -> TorchDistribution:
        """q(site | w) for a batch: batch shape (B,)."""
        what = f"a distribution with event {self.event}"
        raise NotImplementedError(f"{type(self).__name__}: define posterior(batch), {what}")

    def forward(self, batch: Batch) -> Tensor:
        """The Pyro program: samples the site. The sentences are read once, however many particles there are."""
        with pyro.plate("sentences", batch.size, dim=-1):
            value: Tensor = pyro.sample(self.site, self.posterior(batch))
        return value
