"""Measure a comparison: from (candidate, objective) pairs and common sentences to rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ..core.batch import Batch
from ..core.latents import of_sentence
from ..core.protocols import Objective
from ..evaluation.likelihood import BoundEstimate, estimate_bounds
from ..evaluation.sentences import CommonSentences, stream_seed
from ..plots.inference_data import FEWEST_DRAWS, KHAT, khat_columns
from ..training.programs import count_parameters
from .candidates import Candidate, Pair, Settings, family_of, has_particles, with_particles
from .costs import Cost, measure_costs, noise_floor, signal_to_noise
from .draws import DrawFigures, measure_guide
from .rows import Measurement

BATCH = 64
"""Sentences in the batch on which gradients, time and memory are taken."""

Watch = Callable[[str, int, int], object]
"""Told of progress: what is going on, steps done, steps in all."""


class Measurements(NamedTuple):
    """All that a comparison measures.

    Attributes:
        rows: one for each pair.
        guides: by label: the guide's name, with its run where there are several.
        candidates: model and guide by the same label.
        settings: how all was measured, whatever is needed to repeat it.
    """

    rows: list[Measurement]
    guides: dict[str, DrawFigures]
    candidates: dict[str, Candidate]
    settings: dict[str, Any]


class ObjectiveBounds(NamedTuple):
    """Bounds of one objective under one guide: at its own K and, where it has one, at the common K.

    ``seed``: of the random numbers behind ``own``.
    """

    own: BoundEstimate
    equal: BoundEstimate | None
    seed: int


class _Plan(NamedTuple):
    """What all rows have in common: ``equal_k`` is the largest K of all objectives."""

    sentences: CommonSentences
    settings: Settings
    batch: Batch
    equal_k: int
    khat_draws: int


def measure(pairs: Sequence[Pair], sentences: CommonSentences, settings: Settings, watch: Watch) -> Measurements:
    """Measure every pair on the same sentences.

    Every row has random numbers of its own, derived from the seed and its names, so that it does not depend on what it
    is compared with.
    """
    equal_k = max(objective.particles for _, objective in pairs)
    batch = sentences.minibatch(BATCH, stream_seed(settings.seed, "batch"))
    plan = _Plan(sentences, settings, batch, equal_k, max(settings.draws, equal_k, FEWEST_DRAWS))
    candidates = list({id(candidate): candidate for candidate, _ in pairs}.values())
    figures = _guides(candidates, plan, watch)
    bounds = _bounds(pairs, plan, watch)
    costs = _costs(pairs, plan, watch)
    of_guide = dict(zip(map(id, candidates), figures, strict=True))
    rows = [
        _row(pair, of_guide[id(pair[0])], own, cost, plan) for pair, own, cost in zip(pairs, bounds, costs, strict=True)
    ]
    labels = _labels(candidates)
    of_label = dict(zip(labels, figures, strict=True)), dict(zip(labels, candidates, strict=True))
    return Measurements(rows, *of_label, _record(plan))


def _guides(candidates: Sequence[Candidate], plan: _Plan, watch: Watch) -> list[DrawFigures]:
    found = []
    for number, candidate in enumerate(candidates):
        watch(f"draws of guide '{candidate.guide_name}'", number, len(candidates))
        found.append(measure_guide(candidate, plan.sentences, draws=plan.khat_draws, seed=plan.settings.seed))
    return found


def _bounds(pairs: Sequence[Pair], plan: _Plan, watch: Watch) -> list[ObjectiveBounds]:
    found = []
    for number, (candidate, objective) in enumerate(pairs):
        watch(f"bounds: {objective.name}, guide '{candidate.guide_name}'", number, len(pairs))
        found.append(_bounds_of(candidate, objective, plan))
    return found


def _bounds_of(candidate: Candidate, objective: Objective, plan: _Plan) -> ObjectiveBounds:
    """Estimate both bounds, each from about ``settings.draws`` draws per sentence."""
    labels = candidate.guide_name, objective.name
    own_seed = stream_seed(plan.settings.seed, *labels)

    def estimate(objective: Objective, seed: int) -> BoundEstimate:
        programs, draws = (candidate.model, candidate.guide), plan.settings.draws
        return estimate_bounds(objective, *programs, plan.sentences, draws=draws, seed=seed)

    own = estimate(objective, own_seed)
    if objective.particles == plan.equal_k:
        return ObjectiveBounds(own, own if has_particles(objective) else None, own_seed)
    other = with_particles(objective, plan.equal_k)
    equal = None if other is None else estimate(other, stream_seed(plan.settings.seed, *labels, plan.equal_k))
    return ObjectiveBounds(own, equal, own_seed)


def _costs(pairs: Sequence[Pair], plan: _Plan, watch: Watch) -> list[Cost]:
    total, done = len(pairs) * (plan.settings.repeats + 1), 0

    def report() -> None:
        nonlocal done
        done += 1
        if done % len(pairs) == 0:
            watch("gradients, all rows in turns", done, total)

    return measure_costs(pairs, plan.batch, repeats=plan.settings.repeats, seed=plan.settings.seed, report=report)


def _labels(candidates: Sequence[Candidate]) -> list[str]:
    several = len({candidate.run for candidate in candidates}) > 1
    return [f"{c.guide_name} ({c.run})" if several else c.guide_name for c in candidates]


def _row(pair: Pair, guide: DrawFigures, bounds: ObjectiveBounds, cost: Cost, plan: _Plan) -> Measurement:
    candidate, objective = pair
    share, own, equal = plan.sentences.share, bounds.own, bounds.equal
    length = plan.sentences.tokens_per_sentence
    bound, error = own.mean(share), own.standard_error(share)
    exact, used = not guide.terms.log_q, guide.together
    return Measurement(
        run=candidate.run,
        folder=candidate.folder,
        guide=candidate.guide_name,
        objective=objective.name,
        family=family_of(objective),
        particles=objective.particles,
        draws=own.draws,
        seed=bounds.seed,
        bound=bound,
        bound_se=error,
        bound_per_token=bound / length,
        bound_per_token_se=error / length,
        equal_k=None if equal is None else plan.equal_k,
        bound_equal_k=None if equal is None else equal.mean(share),
        bound_equal_k_se=None if equal is None else equal.standard_error(share),
        **_gradient_columns(cost, plan.settings, objective.particles),
        ess=_ess(guide, bounds, plan),
        **(dict.fromkeys(KHAT) if exact else khat_columns(guide.khat, plan.sentences.weights.numpy())),
        seconds_per_step=cost.seconds,
        peak_bytes=cost.peak_bytes,
        kl=used.kl,
        active_units=used.active_units,
        units=used.units,
        mutual_information=guide.information.value,
        mutual_information_cap=guide.information.cap,
        by_sentence=(own if equal is None else equal).by_sentence.numpy(),
        weights=plan.sentences.weights.numpy(),
        sizes=count_parameters(candidate.model, candidate.guide),
        sites=guide.sites,
        informed=tuple(spec.name for spec in of_sentence(candidate.latents) or candidate.latents),
        exact=exact,
    )


def _ess(guide: DrawFigures, bounds: ObjectiveBounds, plan: _Plan) -> float | None:
    """Return ESS/K of the estimator's own weights; of the guide's at the common K where it has none."""
    ess = bounds.own.ess
    if ess is None and plan.equal_k > 1:
        ess = guide.ess_by_sentence(plan.equal_k)
    return None if ess is None else float(plan.sentences.share @ ess)


def _gradient_columns(cost: Cost, settings: Settings, particles: int) -> dict[str, Any]:
    estimates = settings.draws / particles
    floor = noise_floor(settings.repeats)
    columns: dict[str, Any] = {"snr_floor": floor, "snr_floor_equal_draws": floor * estimates**0.5}
    for whose, noise in (("model", cost.model), ("guide", cost.guide)):
        columns[f"gradient_variance_{whose}"] = None if noise is None else noise.variance
        columns[f"snr_{whose}"] = signal_to_noise(noise)
        columns[f"snr_{whose}_equal_draws"] = signal_to_noise(noise, estimates)
    return columns


def _record(plan: _Plan) -> dict[str, Any]:
    settings = plan.settings
    return {
        "split": settings.split,
        "sentences": settings.sentences,
        "distinct_sentences": len(plan.sentences.texts),
        "tokens_per_sentence": plan.sentences.tokens_per_sentence,
        "draws": settings.draws,
        "khat_draws": plan.khat_draws,
        "equal_k": plan.equal_k,
        "repeats": settings.repeats,
        "batch": plan.batch.size,
        "seed": settings.seed,
        "device": str(plan.batch.tokens.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
