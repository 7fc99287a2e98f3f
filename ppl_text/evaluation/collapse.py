"""Posterior collapse: what state the latents of whole sentences are in, in words, and what to try next.

====================== =====================================================================================
condition              when
====================== =====================================================================================
``point mass``         KL = ∞: the guide has no density, the model is an autoencoder
``unknown``            KL undefined, or fewer than two sentences to tell apart
``collapsed``          KL < 0.1 nats a sentence, or no unit active: the decoder ignores the latents
``unknown``            mutual information undefined, or not to be known for this guide
``idle``               mutual information < half of the KL (of its cap, where that is less): the KL is bought and
                       says little, most of it being KL(q(z) ‖ p(z)), the aggregate's distance from the prior
``partly collapsed``   fewer than half of the units active
``in use``             none of these
====================== =====================================================================================

They are looked for in this order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from torch import nn

from ..core.batch import device_of
from ..core.latents import of_sentence
from ..core.printing import percent
from ..data.batches import EvaluationSet
from .latents import LatentFigures, SiteFigures, latent_figures
from .sentences import CommonSentences, watched

COLLAPSED_KL = 0.1
"""Nats per sentence below which the latents say nothing."""

IDLE_SHARE = 0.5
"""Share of the KL that the mutual information must reach."""

USED_SHARE = 0.5
"""Share of the units that must be active."""

SENTENCES = 256
"""How many sentences a monitor looks at: the mutual information is then at most their entropy, ln 256 = 5.55 nats."""

COSTLY_SENTENCES = 64
"""How many of them it compares where q is a flow, whose density at a given z is costly."""

Condition = Literal["point mass", "unknown", "collapsed", "idle", "partly collapsed", "in use"]

_CURES: dict[Condition, tuple[str, ...]] = {
    "point mass": ("pretrain-fbp",),
    "unknown": (),
    "collapsed": ("fbp", "bn", "cyclical"),
    "idle": ("aggressive", "pretrain-fbp"),
    "partly collapsed": ("fbp", "bn", "pretrain-fbp"),
    "in use": (),
}


def is_collapsed(kl: float, active: int | None) -> bool:
    """Return whether latents with this KL (nats per sentence) and so many active units (None: unknown) say nothing."""
    return kl < COLLAPSED_KL or (active == 0 and math.isfinite(kl))


def condition(kl: float, information: float, cap: float, active: int | None, units: int) -> Condition:
    """Return the state of the latents; arguments as in :class:`~ppl_text.evaluation.latents.SiteFigures`."""
    if math.isinf(kl):
        return "point mass"
    if math.isnan(kl) or cap <= 0.0:
        return "unknown"
    if is_collapsed(kl, active):
        return "collapsed"
    if math.isnan(information):
        return "unknown"
    if information < IDLE_SHARE * min(kl, cap):
        return "idle"
    if active is not None and active < USED_SHARE * units:
        return "partly collapsed"
    return "in use"


def evidence(found: Condition, kl: float, cap: float, active: int | None, units: int, noun: str) -> str:
    """Say why that is so, by the thresholds passed and not by figures, so that it stays the same while they drift."""
    if found == "collapsed":
        low = [f"KL < {COLLAPSED_KL} nats"] * (kl < COLLAPSED_KL) + [f"none of {units} units active"] * (active == 0)
        return f"{', '.join(low)}: the decoder ignores the latents"
    reasons = {
        "point mass": "KL = ∞, so no bound is finite: an autoencoder",
        "unknown": f"KL or mutual information is no number or cannot be known, or there are not two {noun}s to tell "
        "apart",
        "idle": f"the mutual information is below {percent(IDLE_SHARE)} of the KL, which is bought and says little: "
        "most of it is the distance of all posteriors together from the prior",
        "partly collapsed": f"fewer than {percent(USED_SHARE)} of {units} units active",
        "in use": f"{percent(IDLE_SHARE)} or more of {'the KL' if kl <= cap else f'what these {noun}s can show'} is "
        "mutual information" + ("" if active is None else f", {percent(USED_SHARE)} or more of {units} units active"),
    }
    return reasons[found]


class Cures(NamedTuple):
    """What can be tried where latents have collapsed: the way to each cure by its name; ``what`` stands before them."""

    ways: Mapping[str, str]
    what: str = ""


NO_CURES = Cures({})
"""Nothing is advised."""


def siblings(recipe: str, recipes: Collection[str]) -> Cures:
    """Return the ``recipes`` that cure a collapse on the corpus of ``recipe``; named CORPUS-CURE.

    The corpus is as much of the name, up to a dash, as there are such recipes of.

    Example::

        >>> siblings("mine-small-vae", ["mine-small-vae", "mine-small-bn", "mine-bn", "other-bn"])
        Cures(ways={'bn': 'mine-small-bn'}, what='recipe ')
    """
    corpus, dash, _ = recipe.rpartition("-")
    if not dash:
        return Cures({}, "recipe ")
    named = {cure: f"{corpus}-{cure}" for cures in _CURES.values() for cure in cures}
    found = {cure: name for cure, name in named.items() if name in recipes and name != recipe}
    return Cures(found, "recipe ") if found else siblings(corpus, recipes)


def options(guides: Collection[str], cycle: str) -> Cures:
    """Return the options that bring the cures into a run of one's own.

    Args:
        guides: those of the model's family.
        cycle: the length of a cycle of β as an argument of its schedule, e.g. ``period: 500``.
    """
    ways = {
        "fbp": "--objective free-bits:8:dimension",
        "bn": "--guide batch-norm",
        "cyclical": f"--set training.beta='{{name: cyclical, {cycle}}}'",
        "aggressive": "--set training.update=aggressive",
        "pretrain-fbp": "free bits on an encoder trained with --objective reconstruction",
    }
    return Cures({cure: way for cure, way in ways.items() if cure != "bn" or "batch-norm" in guides})


def advice(found: Condition, cures: Cures) -> str:
    """Say what to try next, of what there is."""
    named = [cures.ways[cure] for cure in _CURES[found] if cure in cures.ways]
    if not named:
        return ""
    several = f"{', '.join(named[:-1])} or {named[-1]}" if len(named) > 1 else named[0]
    return f"Try next: {cures.what}{several}."


def verdict(
    kl: float,
    information: float,
    cap: float,
    active: int | None,
    units: int,
    cures: Cures = NO_CURES,
    noun: str = "sentence",
) -> str:
    """Condition, evidence and advice in a sentence or two; ``noun``: what a text is called."""
    found = condition(kl, information, cap, active, units)
    line = f"latents {found} ({evidence(found, kl, cap, active, units, noun)})."
    return " ".join([line, *filter(None, [advice(found, cures)])])


def verdict_of(figures: SiteFigures, cures: Cures = NO_CURES, noun: str = "sentence") -> str:
    """Return the verdict on what was read: of a latent behind others, by what it adds to them."""
    added = math.nan if figures.added is None else figures.added
    return verdict(
        figures.kl,
        added if math.isnan(figures.mutual_information) else figures.mutual_information,
        figures.mutual_information_cap,
        figures.active_units,
        figures.latent_units,
        cures,
        noun,
    )


class CollapseMonitor:
    """What a trainer records of the latents of whole sentences at each validation, and says of them.

    Args:
        data: what is looked at, so many ``sentences`` of it (None: all), the same at every call.
        draws: of z for each.
        cures: what to advise, see :func:`siblings` and :func:`options`.
        sentences: how many sentences are looked at.
        noun: what a text is called.

    Calling it with a model and a guide in evaluation mode returns numbers by name, ``kl_by_dimension`` a list; nothing
    where no latent belongs to a whole sentence. Of several sites the figures are of all together, and those of each
    stand under ``SITE.NAME``. It draws from torch's global random state: the trainer seeds it, so that all validations
    share their random numbers.

    Example::

        monitor = CollapseMonitor(validation)
        values = monitor(model, guide)      # {"mutual_information": …, "kl_by_dimension": […], …}
        monitor.remark(values)              # "latents collapsed (…). Try next: …"
    """

    def __init__(
        self,
        data: CommonSentences | EvaluationSet,
        *,
        draws: int = 4,
        cures: Cures = NO_CURES,
        sentences: int | None = SENTENCES,
        noun: str = "sentence",
    ) -> None:
        self._data = watched(data, sentences)
        self._draws, self._cures, self._noun = draws, cures, noun

    def __call__(self, model: nn.Module, guide: nn.Module) -> dict[str, Any]:
        """Numbers by name, for the line of a validation."""
        if not of_sentence(getattr(model, "latents", ())):
            return {}
        here = self._data.to(device_of(model))
        figures = latent_figures(model, guide, here, draws=self._draws, costly=COSTLY_SENTENCES)
        if figures is None or figures.together is None:
            return {}
        return {**_recorded(figures.together), **_by_site(figures)}

    def remark(self, values: Mapping[str, Any]) -> str:
        """Return the verdict on such numbers, in words that change only where the condition does; "" for no numbers."""
        if "mutual_information" not in values:
            return ""
        information = values["mutual_information"]
        return verdict(
            values.get("kl", information + values["marginal_kl"]),
            information,
            values["mutual_information_cap"],
            values.get("active_units"),
            int(values["latent_units"]),
            self._cures,
            self._noun,
        )


def _recorded(figures: SiteFigures) -> dict[str, Any]:
    """Return what is recorded of one site, or of several together: whatever is known."""
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


def _by_site(figures: LatentFigures) -> dict[str, Any]:
    """Return what is recorded of each site where there are several."""
    if len(figures.sites) == 1 or figures.together is None:
        return {}
    found: dict[str, Any] = {"kl": figures.together.kl}
    for name, site in figures.sites.items():
        values = _recorded(site) if isinstance(site, SiteFigures) else {"kl_per_step": site.kl_per_step}
        found |= {f"{name}.{key}": value for key, value in {"kl": site.kl, **values}.items()}
    return found
