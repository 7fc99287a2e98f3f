"""Posterior collapse: what state the latents are in, in words, and what to try next.

====================== =====================================================================================
condition              when
====================== =====================================================================================
``point mass``         KL = ∞: the guide has no density, the model is an autoencoder
``unknown``            KL or mutual information undefined, or fewer than two sentences to tell apart
``collapsed``          KL < 0.1 nats a sentence, or no unit active: the decoder ignores the latents
``idle``               mutual information < half of the KL (of its cap, where that is less): the KL is bought and
                       says little, most of it being KL(q(z) ‖ p(z)), the aggregate's distance from the prior
``partly collapsed``   fewer than half of the units active
``in use``             none of these
====================== =====================================================================================

They are looked for in this order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from ..core.batch import device_of
from ..data.batches import EvaluationSet
from .latents import LatentFigures, latent_figures, sentence_latents
from .sentences import CommonSentences, chosen_rows, common_sentences, subset

COLLAPSED_KL = 0.1
"""Nats per sentence below which the latents say nothing."""

IDLE_SHARE = 0.5
"""Share of the KL that the mutual information must reach."""

USED_SHARE = 0.5
"""Share of the units that must be active."""

SENTENCES = 256
"""How many sentences a monitor looks at: the mutual information is then at most ln 256 = 5.55 nats."""

COSTLY_SENTENCES = 64
"""How many of them it compares where q is a flow, whose density at a given z is costly."""

Condition = Literal["point mass", "unknown", "collapsed", "idle", "partly collapsed", "in use"]

_FAMILIES = ("verses", "ptb", "yahoo", "snli")
"""Corpora with a recipe for every cure, named CORPUS-CURE."""

_OPTIONS = {
    "fbp": "--objective free-bits:8:dimension",
    "bn": "--guide batch-norm",
    "cyclical": "--set training.beta='{name: cyclical, period: 5000}'",
    "aggressive": "--set training.update=aggressive",
    "pretrain-fbp": "free bits on an encoder trained with --objective reconstruction",
}
"""Each cure as the option that brings it into a run of one's own."""

_CURES: dict[Condition, tuple[str, ...]] = {
    "point mass": ("pretrain-fbp",),
    "unknown": (),
    "collapsed": ("fbp", "bn", "cyclical"),
    "idle": ("aggressive", "pretrain-fbp"),
    "partly collapsed": ("fbp", "bn", "pretrain-fbp"),
    "in use": (),
}


def is_collapsed(kl: float, active: int | None) -> bool:
    """Whether latents with this KL (nats per sentence) and so many active units (None: unknown) say nothing."""
    return kl < COLLAPSED_KL or (active == 0 and math.isfinite(kl))


def condition(kl: float, information: float, cap: float, active: int | None, units: int) -> Condition:
    """The state of the latents; arguments as in :class:`~ppl_text.evaluation.latents.LatentFigures`."""
    if math.isinf(kl):
        return "point mass"
    if math.isnan(kl + information) or cap <= 0.0:
        return "unknown"
    if is_collapsed(kl, active):
        return "collapsed"
    if information < IDLE_SHARE * min(kl, cap):
        return "idle"
    if active is not None and active < USED_SHARE * units:
        return "partly collapsed"
    return "in use"


def evidence(found: Condition, kl: float, cap: float, active: int | None, units: int) -> str:
    """Why that is so, by the thresholds passed and not by figures, so that it stays the same while they drift."""
    if found == "collapsed":
        low = [f"KL < {COLLAPSED_KL} nats"] * (kl < COLLAPSED_KL) + [f"none of {units} units active"] * (active == 0)
        return f"{', '.join(low)}: the decoder ignores the latents"
    reasons = {
        "point mass": "KL = ∞, so no bound is finite: an autoencoder",
        "unknown": "KL or mutual information is no number, or there are not two sentences to tell apart",
        "idle": f"the mutual information is below {IDLE_SHARE:.0%} of the KL, which is bought and says little: most of "
        "it is the distance of all posteriors together from the prior",
        "partly collapsed": f"fewer than {USED_SHARE:.0%} of {units} units active",
        "in use": f"{IDLE_SHARE:.0%} or more of {'the KL' if kl <= cap else 'what these sentences can show'} is mutual "
        "information" + ("" if active is None else f", {USED_SHARE:.0%} or more of {units} units active"),
    }
    return reasons[found]


def advice(found: Condition, recipe: str = "") -> str:
    """What to try next: recipes of the same corpus where ``recipe`` is one of its family, options otherwise."""
    family = re.match(rf"({'|'.join(_FAMILIES)})-", recipe)
    cures = [cure for cure in _CURES[found] if not family or f"{family[1]}-{cure}" != recipe]
    if not cures:
        return ""
    named = [f"{family[1]}-{cure}" if family else _OPTIONS[cure] for cure in cures]
    several = f"{', '.join(named[:-1])} or {named[-1]}" if len(named) > 1 else named[0]
    return f"Try next: {'recipe ' if family else ''}{several}."


def verdict(kl: float, information: float, cap: float, active: int | None, units: int, recipe: str = "") -> str:
    """Condition, evidence and advice in a sentence or two."""
    found = condition(kl, information, cap, active, units)
    line = f"latents {found} ({evidence(found, kl, cap, active, units)})."
    return " ".join([line, *filter(None, [advice(found, recipe)])])


def verdict_of(figures: LatentFigures, recipe: str = "") -> str:
    """The verdict on what was read."""
    return verdict(
        figures.kl,
        figures.mutual_information,
        figures.mutual_information_cap,
        figures.active_units,
        figures.latent_units,
        recipe,
    )


class CollapseMonitor:
    """What a trainer records of a sentence model's latents at each validation, and says of them.

    ::

        monitor = CollapseMonitor(validation, recipe=config.recipe)
        values = monitor(model, guide)      # {"mutual_information": …, "kl_by_dimension": […], …}
        monitor.remark(values)              # "latents collapsed (…). Try next: recipe verses-fbp, …"

    ``data``: so many ``sentences`` of them are looked at (None: all), the same at every call; ``draws`` of z for each;
    ``recipe``: the run's, so that advice names recipes of the same corpus. Nothing is recorded of models whose
    latents are not those of whole sentences. Expects programs in evaluation mode, and draws from torch's global
    random state: the trainer seeds it, so that all validations share their random numbers.
    """

    def __init__(
        self,
        data: CommonSentences | EvaluationSet,
        *,
        draws: int = 4,
        recipe: str = "",
        sentences: int | None = SENTENCES,
    ) -> None:
        common = data if isinstance(data, CommonSentences) else common_sentences(data)
        number = len(common.texts)
        self._data = common if sentences is None else subset(common, chosen_rows(number, sentences))
        self._draws, self._recipe = draws, recipe

    def __call__(self, model: nn.Module, guide: nn.Module) -> dict[str, Any]:
        """Numbers by name, ``kl_by_dimension`` a list; nothing where no latent belongs to a whole sentence."""
        if not sentence_latents(model):
            return {}
        device = device_of(model)
        here = CommonSentences(tuple(batch.to(device) for batch in self._data.batches), self._data.texts)
        figures = latent_figures(model, guide, here, draws=self._draws, costly=COSTLY_SENTENCES)
        if figures is None:
            return {}
        values = {
            "mutual_information": figures.mutual_information,
            "mutual_information_cap": figures.mutual_information_cap,
            "active_units": figures.active_units,
            "active_units_02": figures.active_units_02,
            "latent_units": figures.latent_units,
            "marginal_kl": figures.marginal_kl,
            "kl_by_dimension": list(figures.kl_by_dimension),
        }
        return {name: value for name, value in values.items() if value is not None}

    def remark(self, values: Mapping[str, Any]) -> str:
        """The verdict on such numbers, in words that change only where the condition does; "" for no numbers."""
        if "mutual_information" not in values:
            return ""
        information = values["mutual_information"]
        return verdict(
            information + values["marginal_kl"],
            information,
            values["mutual_information_cap"],
            values.get("active_units"),
            int(values["latent_units"]),
            self._recipe,
        )
