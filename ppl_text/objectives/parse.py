"""Objectives by name: ``NAME[:…]``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..core.errors import UnknownNameError, UserError
from ..core.limits import MOST_PARTICLES, check_most, pass_on_memory_errors
from ..core.numbers import real, whole
from ..core.protocols import Objective
from ..core.registry import Package, Registry
from .bounds import Bound, elbo, iwae, renyi
from .estimate import BoundObjective, Scorer, score_by_monte_carlo, score_in_closed_form
from .path_gradients import DoublyReparametrized, path_scores
from .regularizers import UNITS, FreeBits, PerToken, Rate, Reconstruction
from .score_function import Vimco
from .sequential import SCHEMES, STEPWISE, Resampling, SequentialObjective
from .stock import StockObjective, parse_stock

GROUP = "ppl_text.objectives"
"""Entry-point group under which installed packages declare objectives."""

HINT = "An object of yours is accepted too, as FILE.py:NAME."

ALIASES = {"trace_elbo": "elbo", "renyi_elbo": "renyi", "vr-max": "renyi:-inf"}
"""Other spellings that are accepted."""

USAGE = {
    "elbo": "elbo, elbo:K or elbo:K/CHUNK",
    "elbo-analytic": "elbo-analytic, elbo-analytic:K or elbo-analytic:K/CHUNK",
    "stl": "stl, stl:K or stl:K/CHUNK",
    "iwae": "iwae:K or iwae:K/CHUNK, e.g. iwae:16",
    "renyi": "renyi:ALPHA:K or renyi:ALPHA:K/CHUNK, e.g. renyi:0.5:16, ALPHA ≠ 1 (-inf: VR-max),",
    "dreg": "dreg:K or dreg:K/CHUNK, e.g. dreg:16",
    "vimco": "vimco:K, K ≥ 2, e.g. vimco:8,",
    "stepwise": "stepwise:K or stepwise:K:score, e.g. stepwise:5",
    "fivo": "fivo:N[:systematic|multinomial][:THRESHOLD][:score], 0 < THRESHOLD ≤ 1, score with multinomial,",
    "free-bits": "free-bits:LAMBDA[:sentence|dimension|batch][:K], e.g. free-bits:4, LAMBDA ≥ 0 in nats,",
    "reconstruction": "reconstruction or reconstruction:K",
    "rate": "rate or rate:K",
    "per-token": "per-token or per-token:K",
}
"""How each objective is written."""


def build_objective(spec: Any) -> Objective:
    """See :func:`ppl_text.objectives.build`."""
    if not isinstance(spec, str):
        return _wrap_instance(spec)
    name, fixed, arguments = _parts(spec)
    if name == "pyro":
        return parse_stock(spec)
    plugins = _plugins()
    if plugins.package(name) is not None:
        if arguments:
            raise UserError(f"objective '{spec}': '{name}' of an installed package takes no arguments; write {name}")
        return as_objective(plugins.load(name), name)
    if name not in _MAKERS:
        raise UnknownNameError("objective", name, plugins.names(), HINT)
    try:
        return _MAKERS[name](spec, [*fixed, *arguments])
    except UserError:
        raise
    except ValueError:
        raise UserError(f"objective '{spec}' is malformed: write {USAGE[name]} with K a whole number above 0") from None


def package_of(spec: str) -> Package | None:
    """See :func:`ppl_text.objectives.package_of`."""
    return _plugins().package(_parts(spec)[0])


def _plugins() -> Registry:
    """Names of installed packages beside ours, which are made here."""
    return Registry("objective", dict.fromkeys((*_MAKERS, "pyro"), ""), group=GROUP)


def _parts(spec: str) -> tuple[str, list[str], list[str]]:
    """Return the name of an objective, the arguments that an alias stands for, and those that are written."""
    name, *arguments = spec.split(":")
    name, *fixed = ALIASES.get(name.lower(), name).split(":")
    return name, fixed, arguments


def _plain(bound: Bound, score: Scorer, *, default: str | None) -> Callable[[str, list[str]], Objective]:
    """Return a maker of an objective that takes K only, ``default`` where none is given."""

    def make(spec: str, arguments: list[str]) -> Objective:
        (text,) = arguments or ([] if default is None else [default])
        particles, chunk = _particles(text)
        return BoundObjective(spec, particles, bound, score, chunk)

    return make


def _renyi(spec: str, arguments: list[str]) -> Objective:
    order, text = arguments
    alpha = real(order)
    if math.isnan(alpha):
        raise ValueError
    particles, chunk = _particles(text)
    return BoundObjective(spec, particles, renyi(alpha), score_by_monte_carlo, chunk)


def _dreg(spec: str, arguments: list[str]) -> Objective:
    (text,) = arguments
    return DoublyReparametrized(spec, *_particles(text))


def _vimco(spec: str, arguments: list[str]) -> Objective:
    (text,) = arguments
    if _whole(text) < 2:
        raise ValueError
    return Vimco(spec, _whole(text))


def _stepwise(spec: str, arguments: list[str]) -> Objective:
    text, *options = arguments
    if options not in ([], ["score"]):
        raise ValueError
    return SequentialObjective(spec, _whole(text), replace(STEPWISE, score=bool(options)))


def _fivo(spec: str, arguments: list[str]) -> Objective:
    text, *options = arguments
    score = options[-1:] == ["score"]
    options = options[:-1] if score else options
    scheme = options.pop(0) if options and options[0] in SCHEMES else "multinomial" if score else "systematic"
    threshold = real(options.pop(0)) if options else 1.0 if score else 0.5
    if options or not 0 < threshold <= 1 or (score and scheme != "multinomial"):
        raise ValueError
    return SequentialObjective(spec, _whole(text), Resampling(SCHEMES[scheme], threshold, score))


def _free_bits(spec: str, arguments: list[str]) -> Objective:
    text, *options = arguments
    free = real(text)
    unit = options.pop(0) if options and options[0] in UNITS else "sentence"
    particles = _whole(options.pop(0)) if options else 1
    if options or not (math.isfinite(free) and free >= 0):
        raise ValueError
    return FreeBits(spec, particles, free, unit)


def _alone(make: Callable[[str, int], Objective]) -> Callable[[str, list[str]], Objective]:
    def read(spec: str, arguments: list[str]) -> Objective:
        (text,) = arguments or ["1"]
        return make(spec, _whole(text))

    return read


_MAKERS: dict[str, Callable[[str, list[str]], Objective]] = {
    "elbo": _plain(elbo, score_by_monte_carlo, default="1"),
    "elbo-analytic": _plain(elbo, score_in_closed_form, default="1"),
    "stl": _plain(elbo, path_scores, default="1"),
    "iwae": _plain(iwae, score_by_monte_carlo, default=None),
    "renyi": _renyi,
    "dreg": _dreg,
    "vimco": _vimco,
    "stepwise": _stepwise,
    "fivo": _fivo,
    "free-bits": _free_bits,
    "reconstruction": _alone(Reconstruction),
    "rate": _alone(Rate),
    "per-token": _alone(PerToken),
}


def _particles(text: str) -> tuple[int, int | None]:
    """``K`` or ``K/CHUNK``."""
    number, slash, chunk = text.partition("/")
    return _whole(number), _whole(chunk) if slash else None


def _whole(text: str) -> int:
    number = whole(text)
    if number < 1:
        raise ValueError
    check_most(number, MOST_PARTICLES, "an objective's K")
    return number


def _wrap_instance(spec: Any) -> Objective:
    from pyro.infer import ELBO

    if not isinstance(spec, ELBO):
        return as_objective(spec, getattr(spec, "__name__", type(spec).__name__))
    order = f":{spec.alpha}" if type(spec).__name__ == "RenyiELBO" else ""
    return StockObjective(spec, f"pyro:{type(spec).__name__}{order}:{spec.num_particles}")


def as_objective(thing: Any, called: str) -> Objective:
    """Return a user's objective, built without arguments where ``thing`` is a class; ``called``: its name in messages.

    Raises :class:`UserError` where it is no :class:`~ppl_text.core.protocols.Objective`.
    """
    if isinstance(thing, type):
        try:
            thing = thing()
        except Exception as error:
            pass_on_memory_errors(error)
            raise UserError(
                f"objective class {called} cannot be built without arguments: {error}; give its parameters defaults"
            ) from error
    name, particles = getattr(thing, "name", None), getattr(thing, "particles", None)
    whole = isinstance(particles, int) and not isinstance(particles, bool) and particles > 0
    if not (callable(thing) and isinstance(name, str) and name and whole):
        raise UserError(
            f"{called} is no objective: expected a name such as 'iwae:16', a pyro.infer.ELBO instance, or an object "
            f"with 'name' (a text), 'particles' (a whole number above 0) and __call__(model, guide, batch, beta); "
            f"got {thing!r}"
        )
    own: Objective = thing
    return own
