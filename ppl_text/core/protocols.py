"""The contract between the rooms: what a model, a guide and an objective must offer.

These are structural types (``typing.Protocol``): nothing has to inherit from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from .batch import Batch
from .latents import LatentSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Model(Protocol):
    """p(latents, tokens): an ``nn.Module`` whose ``forward`` is a Pyro program.

    It opens ``pyro.plate("sentences", B, dim=-1)``, samples each site of ``latents`` and observes the
    site ``tokens``. Networks accept any leading axes, so that an objective may open
    ``pyro.plate("particles", K, dim=-2)`` around it. Parameters are ordinary ``nn.Parameter``s.
    """

    family: str
    latents: tuple[LatentSpec, ...]

    def forward(self, batch: Batch) -> Any:
        """The Pyro program."""
        ...


@runtime_checkable
class Guide(Protocol):
    """q(latents | text): an ``nn.Module``, built as ``Guide(model, **options)``, over the model's latents."""

    family: str

    def forward(self, batch: Batch) -> Any:
        """The Pyro program."""
        ...


class Estimate(NamedTuple):
    """What an objective says about one batch; every field but ``loss`` is per sentence, in nats.

    ``loss``            scalar to descend: what was trained, with β, free bits and side losses
    ``bound``           (B,) a lower bound of log p(tokens) at β = 1, without any of them
    ``log_likelihood``  (B,) mean over particles of log p(tokens | latents)
    ``kl``              (B,) KL(q ‖ p) of all latents: in closed form or by Monte Carlo over the particles
    ``ess``             (B,) effective sample size of the estimator's own weights by K, in (0, 1]; mean over the
                        steps for step-wise estimators; None for one particle and where there are no weights
    """

    loss: Tensor
    bound: Tensor
    log_likelihood: Tensor
    kl: Tensor
    ess: Tensor | None = None


class Objective(Protocol):
    """A bound and its gradient estimator: ``objective(model, guide, batch, beta) -> Estimate``."""

    @property
    def name(self) -> str:
        """The text that :func:`ppl_text.objectives.build` makes it from."""
        ...

    @property
    def particles(self) -> int:
        """K."""
        ...

    def __call__(
        self,
        model: nn.Module,
        guide: nn.Module,
        batch: Batch,
        beta: float | Tensor | Mapping[str, float | Tensor] = 1.0,
    ) -> Estimate:
        """Estimate the bound and the loss of one batch."""
        ...
