"""Reconstruction alone: what an autoencoder is trained by, also one that pretrains a VAE (specification 0: β = 0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.protocols import Estimate
from .bounds import Reading, Scores, elbo
from .closed_form import closed_form_scores
from .estimate import Beta, assemble
from .terms import trace_terms


@dataclass(frozen=True)
class Reconstruction:
    """``reconstruction:K``: loss = -Σ_b w_b E_q ln p(x_b | z) / Σ_b w_b + side losses, mean over K particles.

    No KL has a part in the loss or in any gradient, and β none either. The reported bound is the ELBO all the same,
    with the KL in closed form where one is known: -inf where q is a point mass, which has no density. So validations
    are compared by ``criterion``, the mean of E_q ln p(x | z), whose -1-fold is the validation loss at β = 0.
    """

    name: str
    particles: int
    criterion: ClassVar[str] = "log_likelihood"

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Estimate`; rows of weight 0 have the bound and the KL 0."""
        terms = trace_terms(model, guide, batch, self.particles)
        with torch.no_grad():
            found = elbo(closed_form_scores(terms))
        scores = Scores(terms.log_likelihood, {}, terms.side)
        counts = batch.weights > 0

        def counted(value: Tensor) -> Tensor:  # whoever sums w·bound would make NaN of 0 · ∞
            return torch.where(counts, value, 0.0)

        target = terms.log_likelihood.mean(0)
        kl = {name: counted(value) for name, value in found.kl.items()}
        free = {name: torch.zeros_like(target) for name in kl}
        reading = Reading(target, counted(found.bound), kl, free)
        return assemble(reading, scores, batch, beta)
