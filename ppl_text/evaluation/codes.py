"""Which codes a guide chooses, site by site: usage of the code book, and what a code costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import constraints

from ..core.atomic import finite_or_none
from ..core.batch import Batch, device_of
from ..core.latents import LatentSpec
from ..data.batches import EvaluationSet
from ..metrics.codes import CodeUsage, code_counts, code_usage
from ..nn.codebook import nearest
from ..objectives.terms import LatentTerms
from .latents import divergence, latent_terms
from .scores import steps_of
from .sentences import CommonSentences, watched

SENTENCES = 256
"""How many sentences a monitor looks at."""

_RECORDED = ("codes_used", "dead_codes", "code_perplexity", "kl_per_code")
"""What it records: the rest stays as it is."""


@dataclass(frozen=True)
class CodeFigures:
    """One site of codes over N texts: ``usage`` of the codes drawn, ``kl`` nats a text, ``steps`` codes a text."""

    usage: CodeUsage
    kl: float
    steps: float

    @property
    def kl_per_step(self) -> float:
        """The rate: nats that a code costs, KL / number of codes."""
        return self.kl / self.steps

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is no finite number is None."""
        found: dict[str, Any] = finite_or_none(
            {
                "codes": self.usage.size,
                "codes_used": self.usage.used,
                "dead_codes": self.usage.dead,
                "code_perplexity": self.usage.perplexity,
                "kl_per_code": self.kl_per_step,
                "codes_per_text": self.steps,
            }
        )
        return found


class DrawnCodes(NamedTuple):
    """What a site drew of a code book: ``indices`` (B, *event without D), of ``size`` codes."""

    indices: Tensor
    size: int


def drawn_codes(site: LatentTerms) -> DrawnCodes | None:
    """Return the codes that a site drew for B texts; None where it is none of codes.

    A site of code vectors has a distribution in the model that publishes ``codes`` (M, D), and its values are read as
    the codes that they are nearest to; one of integers says by its support how many there are.
    """
    law: Any = site.p
    while not hasattr(law, "codes") and hasattr(law, "base_dist"):
        law = law.base_dist
    if isinstance(codes := getattr(law, "codes", None), Tensor):
        return DrawnCodes(nearest(site.value, codes), len(codes))
    support: Any = site.p.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if not isinstance(support, constraints.integer_interval):
        return None
    first, last = int(support.lower_bound), int(support.upper_bound)
    return DrawnCodes(site.value.long() - first, last - first + 1)


def code_figures(model: nn.Module, guide: nn.Module, sentences: CommonSentences) -> dict[str, CodeFigures]:
    """Return the figures of each site of codes, by name: of one draw of the guide for every text, with its weight.

    Draws are from torch's global random state. Without a site of codes one batch is read, and nothing returned.
    """
    latents: tuple[LatentSpec, ...] = getattr(model, "latents", ())
    sums: dict[str, _Sums] = {}
    with torch.no_grad(), pyro.validation_enabled(False):
        for batch in sentences if latents else ():
            sites, _ = latent_terms(model, guide, batch, latents)
            for spec in latents:
                drawn = drawn_codes(sites[spec.name])
                if drawn is not None:
                    sums.setdefault(spec.name, _Sums(drawn.size)).add(drawn, sites[spec.name], spec, batch)
            if not sums:
                break
    return {name: of_site.figures() for name, of_site in sums.items()}


class _Sums:
    """Running sums of one site over the batches."""

    def __init__(self, size: int) -> None:
        self._counts: NDArray[np.float64] = np.zeros(size)
        self._kl = self._codes = self._texts = 0.0

    def add(self, drawn: DrawnCodes, site: LatentTerms, spec: LatentSpec, batch: Batch) -> None:
        """Add the texts of a batch."""
        weights = batch.weights.double()
        counted = weights.view(-1, *[1] * (drawn.indices.dim() - 1)).expand_as(drawn.indices)
        if spec.step_place is not None and (steps := steps_of(site.q, spec, batch)) is not None:
            place = 1 + spec.step_place
            there = torch.arange(drawn.indices.shape[place], device=steps.device) < steps.unsqueeze(-1)
            others = [1] * (drawn.indices.dim() - 1 - place)
            counted = counted * there.view(batch.size, *[1] * spec.step_place, -1, *others)
        self._counts += code_counts(drawn.indices.cpu().numpy(), counted.cpu().numpy(), len(self._counts))
        self._kl += float(weights @ divergence(site).double())
        self._codes += float(counted.sum())
        self._texts += float(weights.sum())

    def figures(self) -> CodeFigures:
        """Return the figures of all texts so far."""
        return CodeFigures(code_usage(self._counts), self._kl / self._texts, self._codes / self._texts)


class CodeMonitor:
    """What a trainer records of the codes at each validation: used, dead, their perplexity, nats a code.

    Args:
        data: what is looked at, so many ``sentences`` of it (None: all), the same at every call.
        sentences: how many.

    Calling it with a model and a guide in evaluation mode returns numbers by name, of several sites under
    ``SITE.NAME``; nothing where no site is one of codes.
    """

    def __init__(self, data: CommonSentences | EvaluationSet, sentences: int | None = SENTENCES) -> None:
        self._data = watched(data, sentences)
        self._silent = False

    def __call__(self, model: nn.Module, guide: nn.Module) -> Mapping[str, Any]:
        """Numbers by name, for the line of a validation."""
        if self._silent:
            return {}
        found = code_figures(model, guide, self._data.to(device_of(model)))
        self._silent = not found
        by_site = {name: figures.as_dict() for name, figures in found.items()}
        if len(by_site) == 1:
            (by_site,) = ({"": values} for values in by_site.values())
        return {
            f"{site}.{name}".lstrip("."): value
            for site, values in by_site.items()
            for name, value in values.items()
            if name in _RECORDED and value is not None
        }
