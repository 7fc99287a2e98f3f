"""Run guide and replayed model once; return their log-terms, unreduced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Distribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import GuideMismatchError, UserError
from ..distributions.side import SIDE_LOSS

Program = Callable[[Batch], Any]


@dataclass(frozen=True)
class LatentTerms:
    """One latent site: both distributions, the value drawn, and its log-densities on demand.

    ``log_p`` and ``log_q`` are (K, B), in nats. They are computed when first asked for, since a KL in
    closed form needs neither.
    """

    shape: tuple[int, int]
    p_site: dict[str, Any]
    q_site: dict[str, Any]

    @property
    def p(self) -> Distribution:
        """The model's distribution of the site, given the values drawn before it."""
        return self.p_site["fn"]

    @property
    def q(self) -> Distribution:
        """The guide's distribution of the site."""
        return self.q_site["fn"]

    @property
    def value(self) -> Tensor:
        """What the guide drew."""
        value: Tensor = self.q_site["value"]
        return value

    @cached_property
    def log_p(self) -> Tensor:
        """ln p(value), (K, B)."""
        return log_density(self.p_site).expand(self.shape)

    @cached_property
    def log_q(self) -> Tensor:
        """ln q(value), (K, B)."""
        return log_density(self.q_site).expand(self.shape)


class Terms(NamedTuple):
    """Log-terms of one batch under K particles, in nats, per particle and sentence; nothing is reduced.

    ``log_likelihood`` (K, B): ln p(observed | latents); ``latents``: by site name, in the guide's order;
    ``side``: named auxiliary losses, (K, B) or scalar, which enter a training loss and never a bound.
    """

    log_likelihood: Tensor
    latents: dict[str, LatentTerms]
    side: dict[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        """ln w = ln p(x | z) + Σ_sites (ln p(z) - ln q(z)), (K, B). Never scaled."""
        total = self.log_likelihood
        for site in self.latents.values():
            total = total + (site.log_p - site.log_q)
        return total


def trace_terms(
    model: Program, guide: Program, batch: Batch, particles: int = 1, *, differentiable: bool = True
) -> Terms:
    """Trace ``guide(batch)``, replay ``model(batch)`` against it, and collect the terms.

    For K > 1 both programs run inside ``pyro.plate("particles", K, dim=-2)``. ``differentiable``: gradients will go
    through what is drawn, see :func:`collect_terms`.
    """
    with particle_plate(particles):
        guide_trace = poutine.trace(guide).get_trace(batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(batch)
    return collect_terms(guide_trace, model_trace, particles, batch, differentiable=differentiable)


@torch.no_grad()
def weighed_names(model: Program, guide: Program, batch: Batch) -> list[str]:
    """Return what a β may name: latent sites, and side losses of either program."""
    terms = trace_terms(model, guide, batch, differentiable=False)
    return [*terms.latents, *terms.side]


def trace_latents(model: Program, guide: Program, batch: Batch, particles: int = 1) -> Terms:
    """Collect the terms of the latent sites alone: the model is left after the last of them.

    So what would be run to score the tokens is not run, and ``log_likelihood`` is unknown (NaN).
    """
    with particle_plate(particles):
        guide_trace = poutine.trace(guide).get_trace(batch)
        replayed = poutine.trace(poutine.replay(model, trace=guide_trace))
        names = [name for name, site in stochastic_sites(guide_trace) if not is_auxiliary(site)]
        with suppress(_Enough), _LeaveAfter(names):
            replayed(batch)
    terms = collect_terms(guide_trace, replayed.trace, particles, batch)
    return terms._replace(log_likelihood=torch.full_like(terms.log_likelihood, torch.nan))


class _Enough(Exception):  # noqa: N818 - nothing went wrong
    """Leaves a program."""


class _LeaveAfter(Messenger):
    """Leave a program once it has sampled all sites of these names."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._left = set(names)

    def _pyro_sample(self, msg: Any) -> None:
        self._left.discard(msg["name"])
        if not self._left:
            msg["continuation"] = _leave


def _leave(msg: Any) -> None:
    raise _Enough


def collect_terms(
    guide_trace: poutine.Trace,
    model_trace: poutine.Trace,
    particles: int,
    batch: Batch,
    *,
    differentiable: bool = True,
) -> Terms:
    """Return the terms of two traces.

    Raises:
        GuideMismatchError: their latent sites differ.
        UserError: gradients are to go through what is drawn (``differentiable``), and through a site's they cannot.
    """
    shape = (particles, batch.size)
    latents, log_likelihood = {}, torch.zeros((), device=batch.tokens.device)
    for name, site in stochastic_sites(guide_trace):
        if is_auxiliary(site):
            continue
        if name not in model_trace.nodes:
            raise GuideMismatchError(f"the guide samples site '{name}', which the model does not have")
        if differentiable and torch.is_grad_enabled() and not site["fn"].has_rsample:
            raise UserError(
                f"guide site '{name}': {type(site['fn']).__name__} has no reparametrised sampler, which this "
                "objective differentiates through; use --objective vimco:K or pyro:Trace_ELBO (score function) for it"
            )
        latents[name] = LatentTerms(shape, model_trace.nodes[name], site)
    for name, site in stochastic_sites(model_trace):
        if site["is_observed"]:
            log_likelihood = log_likelihood + log_density(site)
        elif name not in latents:
            raise GuideMismatchError(f"the model's site '{name}' is not sampled by the guide")
    side = {**side_losses(guide_trace), **side_losses(model_trace)}
    return Terms(log_likelihood.expand(shape), latents, side)


def particle_plate(particles: int) -> AbstractContextManager[Any]:
    """Return the plate that objectives open around both programs; nothing for a single particle."""
    return pyro.plate("particles", particles, dim=-2) if particles > 1 else nullcontext()


def stochastic_sites(trace: poutine.Trace) -> list[tuple[str, dict[str, Any]]]:
    """Return the sites with a density, in the order of the program: no plates, no deterministic values."""
    return [
        (name, site)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    ]


def is_auxiliary(site: dict[str, Any]) -> bool:
    """Return whether a guide's site is noise that only randomises the guide, marked ``infer={"is_auxiliary": True}``.

    Given that noise u the guide is q(z | u, x), and E_u[bound of q(· | u, x)] is a mean of bounds: so no density of
    u enters any term. Such a site is masked (``.mask(False)``) for stock Pyro, which counts every site.
    """
    return bool(site["infer"].get("is_auxiliary"))


def log_density(site: dict[str, Any]) -> Tensor:
    """Return the unscaled log-density of a site; masked where the program masks it."""
    value: Tensor = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    mask = site["mask"]
    if mask is None or mask is True:
        return value
    return torch.where(torch.as_tensor(mask, device=value.device), value, 0.0)


def side_losses(trace: poutine.Trace) -> dict[str, Tensor]:
    """Return the auxiliary losses that a program has recorded, by name."""
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and site["infer"].get(SIDE_LOSS)
    }
