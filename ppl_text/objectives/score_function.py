"""The importance-weighted bound where nothing can be differentiated through what was drawn: VIMCO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.protocols import Estimate
from .bounds import iwae, log_mean_exp, means_without_each, monte_carlo_scores
from .estimate import Beta, assemble
from .terms import trace_terms


class _Constants(Messenger):
    """Makes what the guide draws a constant, at once: so that nothing that follows it is differentiated through it."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"] and isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


def without_each(log_weights: Tensor) -> Tensor:
    """ln of the mean weight where each in turn is replaced by the geometric mean of the others; (K, B) to (K, B)."""
    count = len(log_weights)
    others = means_without_each(log_weights)
    own = torch.eye(count, dtype=torch.bool, device=log_weights.device).unsqueeze(-1)
    replaced = torch.where(own, others.unsqueeze(1), log_weights.unsqueeze(0))
    return replaced.logsumexp(1) - math.log(count)


@dataclass(frozen=True)
class Vimco:
    """``vimco:K``: the bound of ``iwae:K`` with the score-function gradient of Mnih and Rezende (2016), for any guide.

    With L = ln (1/K) Σ_k w_k and L_{-k} the same with w_k replaced by the geometric mean of the others,
    ∇ = Σ_k (L - L_{-k}) ∇ ln q(z_k) + Σ_k w̃_k ∇ ln w_k, all at fixed draws: unbiased, since L_{-k} does not know z_k.
    What is drawn may be discrete; what could be differentiated through is not. K is 2 at least. A β other than 1 adds
    (1 - β) KL by the same rule, with the mean over the other particles as its baseline.
    """

    name: str
    particles: int

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Estimate`."""
        with _Constants():
            terms = trace_terms(model, guide, batch, self.particles, differentiable=False)
        scores = monte_carlo_scores(terms)
        reading = iwae(scores)
        weights = scores.log_weights.detach()
        # About the largest: what all share would only cost digits in the difference.
        top = weights.amax(0)
        weights = weights - torch.where(top.isfinite(), top, 0.0)
        advantage = log_mean_exp(weights) - without_each(weights)
        log_q = sum((site.log_q for site in terms.latents.values()), start=torch.zeros_like(weights))
        # Of value 0: it adds the score function's part to the gradient.
        score = log_q - log_q.detach()
        target = reading.bound + (advantage * score).sum(0)
        weighed = {
            name: (kl + (kl.detach() - means_without_each(kl.detach())) * score).mean(0)
            for name, kl in scores.kl.items()
        }
        return assemble(reading._replace(target=target, weighed=weighed), scores, batch, beta)
