"""Objectives by name: ``NAME[:…]``."""

from __future__ import annotations

import math
from typing import Any

from ..core.errors import UnknownNameError, UserError
from . import OBJECTIVES
from .bounds import BoundObjective, elbo, elbo_analytic, iwae, renyi
from .stock import StockObjective, parse_stock

ALIASES = {"trace_elbo": "elbo", "renyi_elbo": "renyi"}
"""Other spellings that are accepted."""

_USAGE = {
    "elbo": "elbo or elbo:K",
    "elbo-analytic": "elbo-analytic or elbo-analytic:K",
    "iwae": "iwae:K, e.g. iwae:16",
    "renyi": "renyi:ALPHA:K, e.g. renyi:0.5:16",
}


def build_objective(spec: Any) -> BoundObjective | StockObjective:
    """See :func:`ppl_text.objectives.build`."""
    if not isinstance(spec, str):
        return _wrap_instance(spec)
    name, *arguments = spec.split(":")
    name = ALIASES.get(name.lower(), name)
    if name == "pyro":
        return parse_stock(spec)
    if name not in OBJECTIVES:
        raise UnknownNameError("objective", name, OBJECTIVES)
    if name == "renyi":
        order, particles = _numbers(spec, name, arguments, (float, int), ())
        return BoundObjective(spec, particles, renyi(order))
    (particles,) = _numbers(spec, name, arguments, (int,), () if name == "iwae" else (1,))
    return BoundObjective(spec, particles, {"elbo": elbo, "elbo-analytic": elbo_analytic, "iwae": iwae}[name])


def _numbers(spec: str, name: str, arguments: list[str], kinds: tuple[type, ...], default: tuple[Any, ...]) -> Any:
    """Arguments of a spec as numbers, the last of them K ≥ 1; ``default`` where none is given."""
    if not arguments and default:
        return default
    try:
        if len(arguments) != len(kinds):
            raise ValueError
        values = tuple(kind(text) for kind, text in zip(kinds, arguments, strict=True))
        if values[-1] < 1 or not all(map(math.isfinite, values)):
            raise ValueError
    except ValueError:
        raise UserError(
            f"objective '{spec}' is malformed: write {_USAGE[name]} with K a whole number above 0"
        ) from None
    return values


def _wrap_instance(stock: Any) -> StockObjective:
    from pyro.infer import ELBO

    if not isinstance(stock, ELBO):
        raise UserError(f"an objective is a name such as 'iwae:16' or a pyro.infer.ELBO instance; got {stock!r}")
    order = f":{stock.alpha}" if type(stock).__name__ == "RenyiELBO" else ""
    return StockObjective(stock, f"pyro:{type(stock).__name__}{order}:{stock.num_particles}")
