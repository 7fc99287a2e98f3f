"""Everything that a comparison measures of guides and of objectives, short of k̂ (``plots/inference_data.py``)."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.latents import LatentSpec
from ..core.protocols import Objective
from ..objectives.bounds import effective_share
from .estimates import BoundEstimate, DrawnTerms, Report, draw_terms, estimate_bounds
from .gradients import GradientMoments, GradientStatistics, loss_gradients, training_copies
from .likelihood import measuring
from .memory import peak_bytes
from .representation import MutualInformation, active_units, mutual_information, unit_variances
from .sentences import CommonSentences, stream_seed


@dataclass(frozen=True)
class Subject:
    """Model and guide to be measured: ``run`` as the user gave it, ``folder`` the run whose weights they have."""

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


class DrawFigures(NamedTuple):
    """What is a property of model and guide, whatever the objective.

    ``terms`` of S draws; ``kl`` (nats per sentence); ``active`` of ``units`` latent dimensions (None where no site
    is real); ``information`` I_q(x; z).
    """

    terms: DrawnTerms
    kl: float
    active: int | None
    units: int | None
    information: MutualInformation

    def ess_by_sentence(self, particles: int) -> Tensor:
        """ESS/K of each sentence, (N,)."""
        weights = self.terms.log_weights
        groups = weights.shape[1] // particles
        columns = weights[:, : groups * particles].reshape(len(weights), groups, particles)
        return effective_share(columns.movedim(-1, 0)).mean(-1)


def measure_guide(
    subject: Subject, sentences: CommonSentences, *, draws: int, seed: int, report: Report = lambda: None
) -> DrawFigures:
    """Draw S = ``draws`` latents per sentence and see what they say; ``report()`` is called after each batch."""
    where = stream_seed(seed, subject.guide_name, "draws")
    terms = draw_terms(subject.model, subject.guide, sentences, subject.latents, draws=draws, seed=where, report=report)
    lengths = sentences.tokens
    variances = [
        unit_variances(terms.moments[s.name], sentences.weights, lengths if s.step_axis else None)
        for s in subject.latents
        if s.name in terms.moments
    ]
    with measuring(stream_seed(seed, subject.guide_name, "information"), subject.model, subject.guide):
        information = mutual_information(subject.guide, sentences, subject.latents)
    return DrawFigures(
        terms,
        float(sentences.share @ terms.kl),
        sum(map(active_units, variances)) if variances else None,
        sum(map(len, variances)) if variances else None,
        information,
    )


class ObjectiveFigures(NamedTuple):
    """Bounds of one objective under one guide: at its own K and, where it has one, at the common K."""

    own: BoundEstimate
    equal: BoundEstimate | None
    seed: int


def measure_bounds(
    subject: Subject,
    objective: Objective,
    sentences: CommonSentences,
    *,
    draws: int,
    equal_k: int,
    seed: int,
    report: Report = lambda: None,
) -> ObjectiveFigures:
    """Both bounds, each from about ``draws`` draws per sentence; ``report()`` is called after each batch."""
    where = stream_seed(seed, subject.guide_name, objective.name)

    def estimate(objective: Objective, seed: int) -> BoundEstimate:
        return estimate_bounds(
            objective, subject.model, subject.guide, sentences, draws=draws, seed=seed, report=report
        )

    own = estimate(objective, where)
    if objective.particles == equal_k:
        return ObjectiveFigures(own, own if has_particles(objective) else None, where)
    other = with_particles(objective, equal_k)
    equal = None if other is None else estimate(other, stream_seed(seed, subject.guide_name, objective.name, equal_k))
    return ObjectiveFigures(own, equal, where)


def has_particles(objective: Objective) -> bool:
    """Whether the objective's bound is one of K particles; that of a stock Pyro objective is of one draw."""
    return dataclasses.is_dataclass(objective)


def with_particles(objective: Objective, particles: int) -> Objective | None:
    """The same objective at another K, or None for a stock Pyro objective."""
    if not has_particles(objective):
        return None
    changed: Objective = dataclasses.replace(objective, particles=particles)  # type: ignore[type-var]
    return changed


def family_of(objective: Objective) -> str:
    """The objective's name without K: ``iwae:16`` is ``iwae``, ``renyi:0.5:16`` is ``renyi:0.5``."""
    name, *arguments = objective.name.split(":")
    first = 1 if name in ("renyi", "free-bits") else 0
    for place in reversed(range(first, len(arguments))):
        if arguments[place].partition("/")[0] == str(objective.particles):
            del arguments[place]
            break
    return ":".join([name, *arguments])


class Cost(NamedTuple):
    """What a training step costs and how noisy it is; gradients None where there are no parameters."""

    seconds: float
    peak_bytes: int
    model: GradientStatistics | None
    guide: GradientStatistics | None


class Station:
    """One objective under one guide while training steps are taken in turns."""

    def __init__(self, programs: tuple[nn.Module, nn.Module], objective: Objective, batch: Batch, seed: int) -> None:
        self._programs, self._objective, self._batch, self._seed = programs, objective, batch, seed
        self._moments = GradientMoments(), GradientMoments()
        self._seconds: list[float] = []
        self._peak = 0

    def warm_up(self) -> None:
        """A first step, whose peak memory is taken and whose time is not."""
        torch.manual_seed(stream_seed(self._seed, "memory"))
        self._peak = peak_bytes(self._gradients, self._device)

    def step(self, repeat: int) -> None:
        """One more gradient, timed."""
        torch.manual_seed(stream_seed(self._seed, "gradient", repeat))
        self._wait()
        start = time.perf_counter()
        gradients = self._gradients()
        self._wait()
        self._seconds.append(time.perf_counter() - start)
        for moments, gradient in zip(self._moments, gradients, strict=True):
            moments.add(gradient)

    def cost(self) -> Cost:
        """What the steps have shown."""
        model, guide = (moments.statistics() for moments in self._moments)
        return Cost(statistics.median(self._seconds), self._peak, model, guide)

    def _gradients(self) -> Any:
        return loss_gradients(self._objective, *self._programs, self._batch)

    @property
    def _device(self) -> torch.device:
        return self._batch.tokens.device

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def measure_costs(
    pairs: Sequence[tuple[Subject, Objective]], batch: Batch, *, repeats: int, seed: int, report: Report = lambda: None
) -> list[Cost]:
    """Gradients, time and memory of a training step on ``batch``, for each (subject, objective).

    The rows take turns, one step each in every round, so that a machine that is busy for a while slows all of them.
    ``report()`` is called after each step.
    """
    copies = {id(subject): training_copies(subject.model, subject.guide) for subject, _ in pairs}
    stations = [
        Station(copies[id(subject)], objective, batch, stream_seed(seed, subject.guide_name, objective.name))
        for subject, objective in pairs
    ]
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False), torch.enable_grad():
        for station in stations:
            station.warm_up()
            report()
        for repeat in range(repeats):
            for station in stations:
                station.step(repeat)
                report()
    return [station.cost() for station in stations]


def signal_to_noise(statistics: GradientStatistics | None, estimates: float = 1.0) -> float | None:
    """SNR of the mean of so many gradient estimates; None where there is no gradient, or none that is noisy."""
    snr = None if statistics is None else statistics.snr
    return None if snr is None or math.isinf(snr) else snr * math.sqrt(estimates)
