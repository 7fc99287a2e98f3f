"""All figures of a comparison, from (subject, objective) pairs and sentences to rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from ..core.errors import UserError
from ..core.protocols import Objective
from ..plots.inference_data import FEWEST_DRAWS, GuideDraws, khat_shares, pareto_k
from .comparison import Row
from .measurement import (
    Cost,
    DrawFigures,
    ObjectiveFigures,
    Subject,
    family_of,
    measure_bounds,
    measure_costs,
    measure_guide,
    signal_to_noise,
)
from .sentences import CommonSentences, stream_seed

BATCH = 64
"""Sentences in the batch on which gradients, time and memory are taken."""

Watch = Callable[[str, int, int], object]
"""Told of progress: what is going on, steps done, steps in all."""


@dataclass(frozen=True)
class Settings:
    """How a comparison is made.

    ``draws`` per sentence behind every bound; ``sentences`` drawn from ``split``; ``repeats`` of each gradient;
    ``seed`` of the sentences, from which the seed of every row is derived.
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
        if self.seed < 0:
            raise UserError(f"the seed must be 0 or more; got {self.seed}")


class Measured:
    """All figures of a comparison, measured when it is made; ``rows`` puts them together."""

    def __init__(
        self,
        pairs: Sequence[tuple[Subject, Objective]],
        sentences: CommonSentences,
        settings: Settings,
        watch: Watch,
    ) -> None:
        self.pairs, self.sentences, self.settings = pairs, sentences, settings
        self.equal_k = max(objective.particles for _, objective in pairs)
        self.khat_draws = max(settings.draws, self.equal_k, FEWEST_DRAWS)
        self.threads = torch.get_num_threads()
        self.batch = sentences.minibatch(BATCH, stream_seed(settings.seed, "batch"))
        subjects = list({id(subject): subject for subject, _ in pairs}.values())
        self.guides = {id(s): self._guide(s, i, len(subjects), watch) for i, s in enumerate(subjects)}
        self.bounds = [self._bounds(i, watch) for i in range(len(pairs))]
        self.costs = self._costs(watch)
        self.tables = [self._table(subject) for subject in subjects]
        khats = {id(subject): table.khat for subject, table in zip(subjects, self.tables, strict=True)}
        self.rows = [self._row(i, khats[id(subject)]) for i, (subject, _) in enumerate(pairs)]

    def _guide(self, subject: Subject, number: int, total: int, watch: Watch) -> DrawFigures:
        watch(f"draws of guide '{subject.guide_name}'", number, total)
        return measure_guide(subject, self.sentences, draws=self.khat_draws, seed=self.settings.seed)

    def _bounds(self, number: int, watch: Watch) -> ObjectiveFigures:
        subject, objective = self.pairs[number]
        watch(f"bounds: {objective.name}, guide '{subject.guide_name}'", number, len(self.pairs))
        draws, seed = self.settings.draws, self.settings.seed
        return measure_bounds(subject, objective, self.sentences, draws=draws, equal_k=self.equal_k, seed=seed)

    def _costs(self, watch: Watch) -> list[Cost]:
        total, done = len(self.pairs) * (self.settings.repeats + 1), 0

        def report() -> None:
            nonlocal done
            done += 1
            if done % len(self.pairs) == 0:
                watch("gradients, all rows in turns", done, total)

        return measure_costs(
            self.pairs, self.batch, repeats=self.settings.repeats, seed=self.settings.seed, report=report
        )

    def _table(self, subject: Subject) -> GuideDraws:
        terms = self.guides[id(subject)].terms
        weights = terms.log_weights.numpy()
        several = len({s.run for s, _ in self.pairs}) > 1
        return GuideDraws(
            label=f"{subject.guide_name} ({subject.run})" if several else subject.guide_name,
            log_likelihood=terms.log_likelihood.numpy(),
            log_p={site: value.numpy() for site, value in terms.log_p.items()},
            log_q={site: value.numpy() for site, value in terms.log_q.items()},
            log_weights=weights,
            khat=pareto_k(weights),
            texts=self.sentences.texts,
            weights=self.sentences.weights.numpy(),
        )

    def _row(self, number: int, khat: NDArray[Any]) -> Row:
        subject, objective = self.pairs[number]
        guide, bounds, cost = self.guides[id(subject)], self.bounds[number], self.costs[number]
        share, own, equal = self.sentences.share, bounds.own, bounds.equal
        length = self.sentences.tokens_per_sentence
        bound, error = own.mean(share), own.standard_error(share)
        return Row(
            run=subject.run,
            folder=subject.folder,
            guide=subject.guide_name,
            objective=objective.name,
            family=family_of(objective),
            particles=objective.particles,
            draws=own.draws,
            seed=bounds.seed,
            bound=bound,
            bound_se=error,
            bound_per_token=bound / length,
            bound_per_token_se=error / length,
            equal_k=None if equal is None else self.equal_k,
            bound_equal_k=None if equal is None else equal.mean(share),
            bound_equal_k_se=None if equal is None else equal.standard_error(share),
            **_gradient_columns(cost, self.settings.draws / objective.particles),
            ess=self._ess(guide, bounds),
            **_khat_columns(khat if guide.terms.log_q else None, self.sentences),
            seconds_per_step=cost.seconds,
            peak_bytes=cost.peak_bytes,
            kl=guide.kl,
            active_units=guide.active,
            units=guide.units,
            mutual_information=guide.information.value,
            mutual_information_cap=guide.information.cap,
            by_sentence=(own if equal is None else equal).by_sentence.numpy(),
            weights=self.sentences.weights.numpy(),
            exact=not guide.terms.log_q,
        )

    def _ess(self, guide: DrawFigures, bounds: ObjectiveFigures) -> float | None:
        """ESS/K of the estimator's own weights; of the guide's at the common K where it has none."""
        if bounds.own.ess is not None:
            return float(self.sentences.share @ bounds.own.ess)
        return float(self.sentences.share @ guide.ess_by_sentence(self.equal_k)) if self.equal_k > 1 else None

    def record(self) -> dict[str, Any]:
        """How all was measured: whatever is needed to repeat it."""
        settings = self.settings
        return {
            "split": settings.split,
            "sentences": settings.sentences,
            "distinct_sentences": len(self.sentences.texts),
            "tokens_per_sentence": self.sentences.tokens_per_sentence,
            "draws": settings.draws,
            "khat_draws": self.khat_draws,
            "equal_k": self.equal_k,
            "repeats": settings.repeats,
            "batch": self.batch.size,
            "seed": settings.seed,
            "device": str(self.batch.tokens.device),
            "threads": self.threads,
            "torch": torch.__version__,
        }


def _gradient_columns(cost: Cost, estimates: float) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for whose, seen in (("model", cost.model), ("guide", cost.guide)):
        columns[f"gradient_variance_{whose}"] = None if seen is None else seen.variance
        columns[f"snr_{whose}"] = signal_to_noise(seen)
        columns[f"snr_{whose}_equal_draws"] = signal_to_noise(seen, estimates)
    return columns


def _khat_columns(khat: NDArray[Any] | None, sentences: CommonSentences) -> dict[str, float | None]:
    """Shares and median of k̂; None where nothing is latent and no weight varies."""
    if khat is None:
        return dict.fromkeys(("khat_good", "khat_ok", "khat_bad", "khat_median"))
    good, fair, bad = khat_shares(khat, sentences.weights.numpy())
    order = khat.argsort()
    cumulated = sentences.share.numpy()[order].cumsum()
    median = float(khat[order][cumulated.searchsorted(0.5 - 1e-9)])
    return {"khat_good": good, "khat_ok": fair, "khat_bad": bad, "khat_median": median}
