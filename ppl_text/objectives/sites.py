"""Do model and guide fit? A look at their sites side by side, and a search for the first bad number."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace

from ..core.batch import Batch
from ..core.errors import GuideMismatchError
from ..distributions.point import PointMass
from .terms import Program, is_auxiliary, stochastic_sites


class SiteRow(NamedTuple):
    """One site as a program samples it, as text: name, distribution, event shape, support, plates."""

    name: str
    distribution: str
    event: str
    support: str
    plates: str


def check_sites(model: Program, guide: Program, batch: Batch) -> str:
    """Run both programs once with Pyro validation on; return the table of their sites.

    Raises :class:`GuideMismatchError` with the table and what to fix where the guide misses a latent
    site, has one too many, or samples one with another shape, support or plate.
    """
    with torch.no_grad(), pyro.validation_enabled(True), torch.random.fork_rng(devices=_devices(batch)):
        guide_trace = poutine.trace(guide).get_trace(batch)
        model_trace = poutine.trace(model).get_trace(batch)
    wanted, given = _latent_rows(model_trace), _latent_rows(guide_trace)
    table = site_table(wanted, given)
    faults = site_faults(wanted, given)
    if faults:
        raise GuideMismatchError("model and guide do not fit:\n" + table + "\n" + "\n".join(f"- {f}" for f in faults))
    with torch.no_grad(), pyro.validation_enabled(True), torch.random.fork_rng(devices=_devices(batch)):
        poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(batch).compute_log_prob()
    return table


def site_faults(wanted: dict[str, SiteRow], given: dict[str, SiteRow]) -> list[str]:
    """Return everything in which the guide's latent sites differ from the model's, each with its fix."""
    faults = []
    for name, row in wanted.items():
        other = given.get(name)
        if other is None:
            near = ", ".join(f"'{n}'" for n in given if n not in wanted) or "none"
            faults.append(
                f"site '{name}' is missing from the guide (its other sites: {near}); add "
                f'pyro.sample("{name}", ...) with event shape {row.event} inside plate {row.plates}'
            )
            continue
        if " at -1 of size " not in row.plates:
            faults.append(
                f"site '{name}' stands outside the sentence plate, where its density would count once per sentence; "
                'sample it inside pyro.plate("sentences", batch.size, dim=-1)'
            )
        for label in ("event", "support", "plates"):
            ours, theirs = getattr(row, label), getattr(other, label)
            if ours != theirs:
                faults.append(f"site '{name}': the model has {label} {ours}, the guide {theirs}; make them equal")
    for name in given:
        if name not in wanted:
            faults.append(f"site '{name}' is in the guide only; remove it, or rename it to a site of the model")
    return faults


def site_table(wanted: dict[str, SiteRow], given: dict[str, SiteRow]) -> str:
    """Return both programs' latent sites side by side, as plain text."""
    if not wanted and not given:
        return "no latent site: every bound is ln p(tokens) itself"
    header = ("site", "model", "guide")
    rows = [(n, _cell(wanted.get(n)), _cell(given.get(n))) for n in dict.fromkeys([*wanted, *given])]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(3)]
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]
    return "\n".join(lines)


def locate_non_finite(model: Program, guide: Program, batch: Batch) -> str:
    """Re-run both programs and name the first site whose value or log-density is not finite."""
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(guide).get_trace(batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(batch)
        for role, trace in (("guide", guide_trace), ("model", model_trace)):
            for name, site in stochastic_sites(trace):
                density = site["fn"].log_prob(site["value"])
                if isinstance(site["fn"], PointMass):  # infinite by its nature
                    density = torch.zeros_like(density)
                for what, tensor in (("value", site["value"]), ("log-density", density)):
                    bad = int((~torch.isfinite(tensor.double())).sum())
                    if bad:
                        return f"{role} site '{name}': {what} has {bad} non-finite entries of {tensor.numel()}"
    return "no site: all values and log-densities are finite on a second run, so the gradient or the noise of that step"


def _latent_rows(trace: Trace) -> dict[str, SiteRow]:
    return {
        name: SiteRow(
            name,
            type(site["fn"]).__name__,
            str(tuple(site["fn"].event_shape)),
            _support(site["fn"].support),
            ", ".join(f"'{f.name}' at {f.dim} of size {f.size}" for f in site["cond_indep_stack"]) or "none",
        )
        for name, site in stochastic_sites(trace)
        if not site["is_observed"] and not is_auxiliary(site)
    }


def _support(support: object) -> str:
    """Return a constraint's name; event axes are compared apart."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return str(support).removesuffix("()").lower().replace("realvector", "real")


def _cell(row: SiteRow | None) -> str:
    return "-" if row is None else f"{row.distribution} event {row.event} {row.support} in plate {row.plates}"


def _devices(batch: Batch) -> list[torch.device]:
    return [batch.tokens.device] if batch.tokens.is_cuda else []
