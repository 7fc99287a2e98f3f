"""What is compared: models with their guides, the objectives that run on them, and how they are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..core.batch import Batch
from ..core.errors import PplTextError, UserError
from ..core.latents import LatentSpec
from ..core.limits import MOST, MOST_PARTICLES, check_most
from ..core.protocols import Objective

OBJECTIVES = ("elbo", "elbo-analytic", "stl", "iwae:16", "dreg:16", "stepwise:5", "fivo:16")
"""Objectives compared by default; those that a model has no methods for are left out."""


@dataclass(frozen=True)
class Settings:
    """How a comparison is made.

    Attributes:
        draws: per sentence, behind every bound.
        sentences: drawn from ``split``.
        repeats: gradients of each objective.
        split: ``train``, ``valid`` or ``test``.
        seed: of the sentences; the seed of every row is derived from it.
    """

    draws: int = 128
    sentences: int = 256
    repeats: int = 24
    split: str = "valid"
    seed: int = 0

    def check(self) -> None:
        """Raise :class:`UserError` for numbers that nothing can be estimated from."""
        for name, least in (("draws", 2), ("sentences", 2), ("repeats", 2)):
            if getattr(self, name) < least:
                raise UserError(
                    f"{name} must be {least} or more, since a spread is estimated from them; got {getattr(self, name)}"
                )
        for name, most in (("draws", MOST_PARTICLES), ("sentences", MOST), ("repeats", MOST_PARTICLES)):
            check_most(getattr(self, name), most, name)
        if self.seed < 0:
            raise UserError(f"the seed must be 0 or more; got {self.seed}")


@dataclass(frozen=True)
class Candidate:
    """A model and a guide to be measured.

    Attributes:
        run: folder of the run as the user gave it.
        folder: folder of the run whose weights these are: ``run`` itself, or its child with that guide.
        guide_name: the guide as tables name it.
        model: p(latents, tokens).
        guide: q(latents | tokens).
    """

    run: str
    folder: str
    guide_name: str
    model: nn.Module
    guide: nn.Module

    @property
    def latents(self) -> tuple[LatentSpec, ...]:
        """The model's latent sites."""
        latents: tuple[LatentSpec, ...] = getattr(self.model, "latents", ())
        return latents


Pair = tuple[Candidate, Objective]
"""One row of a comparison before it is measured."""


def runnable_pairs(
    candidates: Iterable[Candidate], objectives: Sequence[Objective], batch: Batch, *, strict: bool
) -> tuple[list[Pair], list[str]]:
    """Pair every candidate with the objectives that run on it.

    Args:
        candidates: the models and guides.
        objectives: the objectives.
        batch: what each objective is tried on; the global random state stays as it is.
        strict: raise what an objective has against a candidate instead of leaving the pair out.

    Returns:
        The pairs, candidate by candidate, and one note for each pair that is left out.

    Raises:
        UserError: no pair is left.
        PplTextError: with ``strict``, the objection of the first pair that does not run.
    """
    pairs, notes = [], []
    for candidate in candidates:
        for objective in objectives:
            objection = _objection(candidate, objective, batch)
            if objection is None:
                pairs.append((candidate, objective))
            elif strict:
                raise objection
            else:
                notes.append(f"left out for guide '{candidate.guide_name}': {objection}")
    if not pairs:
        raise UserError("no objective runs on these programs: " + "; ".join(notes))
    return pairs, notes


def _objection(candidate: Candidate, objective: Objective, batch: Batch) -> PplTextError | None:
    """Return what an objective has against model and guide, or None."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        try:
            objective(candidate.model.train(False), candidate.guide.train(False), batch)
        except PplTextError as error:
            return error
    return None


def has_particles(objective: Objective) -> bool:
    """Tell whether the objective's bound is one of K particles; that of a stock Pyro objective is of one draw."""
    return dataclasses.is_dataclass(objective) and any(f.name == "particles" for f in dataclasses.fields(objective))


def with_particles(objective: Objective, particles: int) -> Objective | None:
    """Return the same objective at another K, or None for a stock Pyro objective."""
    if not has_particles(objective):
        return None
    changed: Objective = dataclasses.replace(objective, particles=particles)  # type: ignore[type-var]
    return changed


def family_of(objective: Objective) -> str:
    """Return the objective's name without K: ``iwae:16`` is ``iwae``, ``renyi:0.5:16`` is ``renyi:0.5``."""
    name, *arguments = objective.name.split(":")
    first = 1 if name in ("renyi", "free-bits") else 0
    for place in reversed(range(first, len(arguments))):
        if arguments[place].partition("/")[0] == str(objective.particles):
            del arguments[place]
            break
    return ":".join([name, *arguments])
