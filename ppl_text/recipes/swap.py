"""Another guide on a trained model: what a child run is made of, and what the exchange is worth.

::

    child = run.swap_guide("tril")       # the model frozen, the guide refitted; a run folder like any other
    pair = before_after(child)           # the same test sentences under both guides
    pair.after.iw - pair.before.iw
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..comparing.exchange import BeforeAfter, GuideFigures, label
from ..core.errors import RunFolderError, UserError
from ..data.corpus import Corpus
from ..evaluation.likelihood import Likelihood
from ..evaluation.report import Section
from ..objectives.estimate import unmatched
from ..objectives.terms import weighed_names
from ..schedules import IN_EPOCHS
from ..training.programs import count_parameters
from ..training.weights import weights_digest
from . import REFIT_STEPS, build, folders
from .code import Code, named, refer
from .config import ReportSection, RunConfig, recipe_tree
from .errors import Errors
from .procedures import thawed
from .start import first_batch, passing
from .trust import as_tree

__all__ = ["BeforeAfter", "GuideFigures", "before_after", "child_parts", "label", "measure", "report_sections"]

VALIDATIONS = 5
"""About how often a refit is validated."""

CARRIED_ON = (
    "clip_norm",
    "clip_value",
    "patience",
    "keep",
    "optimizer",
    "betas",
    "weight_decay",
    "kl_sites",
    "accumulate",
)
"""What a refit has of the training before it, as it stands."""

_STEP_ARGUMENTS = {*IN_EPOCHS, *IN_EPOCHS.values()}
_KEPT = ("model", "data", "parent", "parent_weights", "recipe")


class Trained(Protocol):
    """What is asked of a run here (:class:`ppl_text.run.Run`)."""

    folder: Path
    config: RunConfig

    @property
    def code(self) -> Code:
        """What may run of the user's."""
        ...

    @property
    def corpus(self) -> Corpus:
        """What it was trained on."""
        ...


class Measurable(Trained, Protocol):
    """What is asked of a run whose guide is measured."""

    @property
    def parent(self) -> Measurable | None:
        """The run that it started from."""
        ...

    @property
    def programs(self) -> build.Programs:
        """Model and guide with the best weights."""
        ...

    def evaluate(self, split: str = "test", particles: int = 64, limit: int | None = None, seed: int = 0) -> Likelihood:
        """Bounds of a split."""
        ...


class ChildParts(NamedTuple):
    """A child that has no folder yet: its configuration, the code of the user's in it, its place, what to tell."""

    config: RunConfig
    code: Code
    folder: Path
    notes: tuple[str, ...] = ()


def child_parts(
    parent: Trained,
    guide: str | type,
    *,
    steps: int | None = None,
    objective: Any = None,
    freeze: str = "model",
    set: Mapping[str, Any] | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
) -> ChildParts:
    """Check all that a swap asks for; raises with all errors at once, before anything is written.

    Objective, seed, batches and report are the parent's unless they are given; a guide whose draws are
    discrete names its own objective as a class attribute ``objective``; β of what only the parent's guide has (a side
    loss of it) is left out, with a note. The parent's schedules are stretched to
    ``steps``, and the child is validated :data:`VALIDATIONS` times; ``set`` (dotted keys: ``guide.``, ``training.``,
    ``report.``, …) comes after that.
    """
    changes, errors = dict(set or {}), Errors()
    errors.attempt(_refuse_kept, changes)
    bound, own_objective = (objective and errors.attempt(refer, objective, "objective")) or (None, {})
    name, own_guide = errors.attempt(refer, guide, "guide") or (None, {})
    trained = errors.attempt(_trained_in, freeze)
    errors.attempt(
        *((folders.check_folder, parent.folder / "swaps") if out is None else (folders.check_free, Path(out)))
    )
    steps = changes.get("training.steps", REFIT_STEPS) if steps is None else steps
    tree = recipe_tree(
        str(parent.folder / "config.yaml"),
        {
            **_stretched_training(parent, steps),
            **({} if trained is None else {"training.train": trained}),
            "strategy": "ddp",
            **changes,
            "training.steps": steps,
            "seed": parent.config.seed if seed is None else seed,
            "device": parent.config.device,
            "parent": str(parent.folder),
            "parent_weights": weights_digest(parent.folder / folders.WEIGHTS),
            **({} if name is None else {"guide.name": name}),
            **({} if bound is None else {"objective": bound}),
        },
    )
    code = {**parent.code, **named(as_tree(changes)), **own_objective, **own_guide}
    parts = build.check_parts(tree, f"swap on {parent.folder}", errors, lambda _: parent.corpus, code)
    config = parts.config if bound or "objective" in changes else _trainable(parts.config, code)
    given = {key.removeprefix("training.beta.") for key in changes}
    gone = [] if "training.beta" in given else [name for name in _foreign(parent, config, code) if name not in given]
    if gone:
        config = _without_betas(config, gone)
    notes = [f"guide {config.guide.name} has no {', '.join(gone)}: left out of training.beta"] if gone else []
    folder = folders.next_swap(parent.folder, config.guide.name) if out is None else Path(out)
    return ChildParts(config, code, folder, tuple(notes))


def _trainable(config: RunConfig, code: Code) -> RunConfig:
    """Return a child's configuration with the objective that its guide names, if that is of another kind."""
    own = getattr(build.check_programs(config, code)[1].kind, "objective", None)
    if own is None or own.partition(":")[0] == config.objective.partition(":")[0]:
        return config
    return config.model_copy(update={"objective": own})


def _foreign(parent: Trained, config: RunConfig, code: Code) -> list[str]:
    """Return what the parent's β names, and neither the model nor the child's guide has."""
    beta = parent.config.training.in_stages()[-1].beta
    if not isinstance(beta, Mapping) or "name" in beta:
        return []
    programs = build.build_programs(config, parent.corpus.vocabulary, code=code)
    batch = first_batch(parent.corpus, config.data.batch_size)
    with passing(batch, programs.guide):
        there = weighed_names(*programs, batch)
    return unmatched(beta, there)


def _without_betas(config: RunConfig, names: Sequence[str]) -> RunConfig:
    beta = {name: spec for name, spec in config.training.beta.items() if name not in names}
    training = config.training.model_copy(update={"beta": beta or 1.0})
    return config.model_copy(update={"training": training})


def _refuse_kept(changes: Mapping[str, Any]) -> None:
    blocked = sorted(key for key in changes if key.partition(".")[0] in _KEPT)
    if blocked:
        raise UserError(
            f"a swap keeps the parent's model and data: {', '.join(blocked)} cannot change. Change guide.*, training.* "
            "or report.*, or train a new run with fit"
        )


def _trained_in(freeze: str) -> list[str]:
    """The submodules that a refit trains; raises :class:`UserError` for another word than ``none`` or ``model``."""
    try:
        return list(thawed(freeze))
    except ValueError as error:
        raise UserError(str(error)) from error


def _stretched_training(parent: Trained, steps: Any) -> dict[str, Any]:
    """Schedules and intervals for a training of ``steps``; what is no number of steps is left to the checks.

    They are those of the parent's last stage, whose objective is the child's, too; every update is a joint one.
    """
    if not isinstance(steps, int) or steps < 1:
        return {}
    last, validate_every = parent.config.training.in_stages()[-1], math.ceil(steps / VALIDATIONS)
    share = steps / build.last_steps(parent.config, parent.corpus)
    return {
        **({} if last.objective is None else {"objective": last.objective}),
        **{f"training.{name}": getattr(last, name) for name in CARRIED_ON},
        "training.stages": [],
        "training.decay": None,
        "training.update": "joint",
        "training.lr": stretched(last.lr, share),
        "training.beta": stretched(last.beta, share),
        "training.log_every": max(1, validate_every // 4),
        "training.validate_every": validate_every,
        "training.checkpoint_every": validate_every,
    }


def stretched(spec: Any, share: float) -> Any:
    """The same schedule (or schedules by site) in ``share`` of its time.

    Example::

        >>> stretched({"name": "warmup", "value": 0.01, "warmup_steps": 100}, 0.2)
        {'name': 'warmup', 'value': 0.01, 'warmup_steps': 20.0}
    """
    if not isinstance(spec, Mapping):
        return spec
    if "name" not in spec:
        return {site: stretched(inner, share) for site, inner in spec.items()}
    return {k: v * share if k in _STEP_ARGUMENTS and v is not None else v for k, v in spec.items()}


def before_after(child: Trained) -> BeforeAfter:
    """The figures that were stored when a child was finished; raises :class:`RunFolderError` where there are none."""
    path = child.folder / "results.json"
    stored = folders.read_record(path).get("swap") if path.is_file() else None
    if stored is None:
        raise RunFolderError(
            f"{child.folder} holds no figures of a swap (no child run, or it is not finished, or its parent was gone "
            "when it was)"
        )
    return BeforeAfter.from_json(stored)


def report_sections(child: Measurable, likelihood: Likelihood) -> list[Section]:
    """What a run with a parent adds to its report; nothing for a run without one.

    A parent that is gone or has changed since leaves the report without figures, and says so in it.
    """
    if child.config.parent is None:
        return []
    record, title = folders.read_record(child.folder / folders.PARENT), "Before and after the swap"
    try:
        folders.check_parent(child.config.model_copy(update={"parent_weights": record["sha256"]}))
        pair = measure_pair(child, likelihood)
    except RunFolderError as error:
        return [Section(title, lines=(f"Not measured: {error}",), values={"swap": None})]
    rows = tuple(tuple(row) for row in pair.rows())
    return [Section(title, tuple(pair.header()), rows, (pair.how(),), (), {"swap": pair.as_json()})]


def measure_pair(child: Measurable, likelihood: Likelihood) -> BeforeAfter:
    """Both guides on the test sentences of the child's report, of which ``likelihood`` is the child's."""
    if child.parent is None:
        raise RunFolderError(f"{child.folder} has no parent: there is no guide before to measure")
    options, seed = child.config.report, child.config.seed
    return BeforeAfter(
        before=measure(child.parent, options, seed),
        after=measure(child, options, seed, likelihood),
        particles=options.particles,
        sentences=options.sentences,
        seed=seed,
        noun=child.corpus.noun,
    )


_MEASURED: dict[tuple[Any, ...], GuideFigures] = {}
"""By weights, data and draws: all children of a session have the same parent."""


def measure(run: Measurable, options: ReportSection, seed: int, likelihood: Likelihood | None = None) -> GuideFigures:
    """Figures of a run's guide on the sentences that ``options`` and ``seed`` draw from the test split."""
    weights, data = weights_digest(run.folder / folders.WEIGHTS), run.corpus.fingerprint
    key = (weights, run.config.guide.name, data, run.config.device, options.particles, options.sentences, seed)
    if key not in _MEASURED:
        found = likelihood or run.evaluate("test", options.particles, options.sentences, seed)
        _MEASURED[key] = _figures(run.config.guide.name, found, count_parameters(*run.programs).guide)
    return _MEASURED[key]


def _figures(guide: str, found: Likelihood, parameters: int) -> GuideFigures:
    bounds = (found.elbo, found.elbo_se, found.iw, found.iw_se, found.gap, found.gap_se, found.kl)
    return GuideFigures(guide, *bounds, found.khat_good, found.khat_ok, found.khat_bad, parameters)
