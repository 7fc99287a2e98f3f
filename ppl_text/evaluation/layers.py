"""What is printed of several latents of a text where their terms are averaged in place of summed: no bounds.

Of L latents of the whole text every bound has Σ_l (ln p(z_l | z_{<l}) - ln q(z_l | z_{<l}, x)). Public code of the
layer-wise Transformer divides that sum by L, in its loss and in its measures (specification 2G.1): its "KL" is an L-th
of what the latents cost, its "ELBO" charges an L-th, and exp(ln p(x | z) + (1/L) Σ_l …) is no importance weight, whose
mean could exceed p(x) by any factor. These figures stand beside the valid ones, so that what is published can be
compared with something.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.latents import of_sentence
from ..objectives.bounds import log_mean_exp
from .likelihood import exp_or_infinite, measuring
from .scores import draw
from .sentences import CommonSentences

PARTICLES = 30
"""Draws of the public code (specification 2D)."""


@dataclass(frozen=True)
class AveragedFigures:
    """Of N sentences by K draws of q each; nats per sentence, none of them of a bound where ``layers`` is above 1.

    ``layers`` L: latents of whole texts, 0 where there are none (then all is exact); ``rec``: -E_q ln p(x | z);
    ``kl``: E_q of the *mean* over the L latents of ln q - ln p (latents with steps in full); ``nats``: -ln of the mean
    of K "weights" of that mean; ``tokens``: mean number of tokens of a sentence, BOS and EOS counted.
    """

    particles: int
    layers: int
    rec: float
    kl: float
    nats: float
    tokens: float

    @property
    def elbo_negative(self) -> float:
        """Rec + KL averaged over layers: what is printed as ELBO."""
        return self.rec + self.kl

    @property
    def perplexity(self) -> float:
        """``paper_ppl``: exp(nats / tokens), BOS counted though nothing predicts it (specification 2G.7)."""
        return exp_or_infinite(self.nats / self.tokens)


def averaged_figures(
    model: nn.Module,
    guide: nn.Module,
    sentences: CommonSentences,
    *,
    particles: int = PARTICLES,
    seed: int = 0,
    chunk: int = 16,
) -> AveragedFigures:
    """Draw K ``particles`` for every sentence, ``chunk`` at a time, from ``seed``; the random state stays as it is.

    Memory is bounded as that of bounds is (:func:`~ppl_text.evaluation.scores.draw`).
    """
    latents = getattr(model, "latents", ())
    names = {spec.name for spec in of_sentence(latents)}
    # Where nothing is drawn one scoring says all.
    particles = particles if latents else 1
    rows: list[Tensor] = []
    with measuring(seed, model, guide):
        for batch in sentences:
            likelihood, divergence = [], []
            for start in range(0, particles, chunk):
                logs = draw(model, guide, batch, min(chunk, particles - start)).scores
                likelihood.append(logs.log_likelihood.to(torch.float64, copy=True))
                shares = {name: 1.0 / len(names) if name in names else 1.0 for name in logs.kl}
                parts = (share * logs.kl[name].double() for name, share in shares.items())
                divergence.append(sum(parts, start=torch.zeros_like(likelihood[-1])))
            given, averaged = torch.cat(likelihood), torch.cat(divergence)
            rows.append(torch.stack([-given.mean(0), averaged.mean(0), -log_mean_exp(given - averaged)]).cpu())
    rec, kl, nats = torch.cat(rows, -1) @ sentences.share
    tokens = sentences.tokens_per_sentence + 1.0
    return AveragedFigures(particles, len(names), float(rec), float(kl), float(nats), tokens)
