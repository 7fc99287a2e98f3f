"""``training`` of a configuration: how long, how fast, by which rule, and in which stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from ..core.errors import ConfigError
from ..core.limits import MOST
from ..training.beta import averaged
from ..training.options import Decay, Keep, KlSites, TrainingOptions
from ..training.programs import EVERYTHING
from .lengths import NO_EPOCHS, Epoch, updates_of
from .sections import (
    EPOCH,
    NOMINAL_EPOCH,
    Count,
    Interval,
    Real,
    Schedule,
    Section,
    SiteSchedules,
    as_schedule,
    as_schedules,
)

MovingDecay = Annotated[Real, Field(ge=0, lt=1)]

FREEZE = {"none": EVERYTHING, "model": ("guide",)}
"""What is trained, by the word that ``swap`` has for it."""


class DecaySection(Section):
    """Read ``decay``: the rule of :class:`ppl_text.training.options.Decay`, in epochs."""

    factor: Annotated[Real, Field(gt=0, lt=1)] = Field(0.5, description="what the rate is multiplied by")
    patience: Count = Field(5, description="validations without a better bound until it is")
    from_epoch: Annotated[int, Field(strict=True, ge=0, le=MOST)] = Field(
        15, description="not before the end of this epoch"
    )
    limit: Count = Field(5, description="how often at most; then training stops")

    def in_steps(self, epoch: Epoch | None) -> Decay:
        """Return the rule in updates; raises :class:`ConfigError` where it counts epochs and there are none."""
        if epoch is None and self.from_epoch:
            raise ConfigError(f"decay.from_epoch: {NO_EPOCHS}; write from_epoch: 0")
        first = 0 if epoch is None else epoch.updates(self.from_epoch)
        return Decay(self.factor, self.patience, first, self.limit)


def _submodules(value: Any) -> Any:
    """Return names as a tuple: of one name alone, and everything where both programs are among them."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"expected names of submodules, e.g. [guide] or [model.prior]; got {value!r}")
    return EVERYTHING if set(EVERYTHING) <= set(names) else tuple(dict.fromkeys(names))


Submodules = Annotated[
    tuple[str, ...], BeforeValidator(_submodules), WithJsonSchema({"type": "list of names of submodules"})
]
"""Dotted paths of submodules of both programs; see :func:`ppl_text.training.programs.find_submodules`."""


class Procedure(Section):
    """Read what each stage can say for itself; see :class:`ppl_text.training.options.TrainingOptions`.

    Schedules count from the beginning of the stage. Intervals are steps, or the word ``epoch``.
    """

    steps: Count | None = Field(None, description="updates; one length, in steps or in epochs")
    epochs: Count | None = Field(None, description="passes through the training texts")
    lr: Schedule = Field(1e-3, description="rate of the optimiser")
    beta: SiteSchedules = Field(
        1.0,
        description="weight of the KL in the loss, or of sites and side losses by name, z_*; reported bounds have 1",
    )
    kl_sites: KlSites = Field("sum", description="KL of several latent sites in the loss; bounds have the sum")
    clip_norm: Annotated[Real, Field(gt=0)] | None = Field(5.0, description="largest norm of the gradient; null: any")
    clip_value: Annotated[Real, Field(gt=0)] | None = Field(
        None, description="largest absolute value of each entry of the gradient, with clip_norm: null; null: any"
    )
    accumulate: Count = Field(1, description="batches whose gradients are gathered for one update")
    log_every: Interval = Field(100, description="steps between two lines on training")
    validate_every: Interval = Field(500, description="steps between two validations")
    checkpoint_every: Interval = Field(500, description="steps between two checkpoints")
    patience: Count | None = Field(None, description="stop after so many validations without a better bound")
    decay: DecaySection | None = Field(None, description="rule that lowers the rate where validation stagnates")
    keep: Keep = Field("best", description="weights of which validation stay; best: highest bound at β = 1")
    update: Literal["joint", "aggressive"] = Field(
        "joint", description="aggressive: the guide is trained alone before each update of the model (He et al. 2019)"
    )
    train: Submodules = Field(EVERYTHING, description="what is trained: model, guide, model.prior, …")
    optimizer: Literal["adam", "adamw", "soap", "sgd"] = Field("adam", description="rule of the updates")
    betas: tuple[MovingDecay, MovingDecay] | None = Field(None, description="its decay rates; null: its own")
    weight_decay: Annotated[Real, Field(ge=0)] = Field(
        0.0,
        description="of adamw: share of a weight, times the rate, that an update takes off; not of biases and norms",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Procedure:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps ({self.steps}) and epochs ({self.epochs}) are one length in two units; give one")
        return self

    @model_validator(mode="after")
    def _no_value_below_zero(self) -> Procedure:
        """Refuse rates and β below 0: optimizers do, and a negative β is no weight."""
        steps = self.steps or NOMINAL_EPOCH * (self.epochs or 1)
        found = as_schedules(self.beta, steps)
        beta = {f"beta.{site}": s for site, s in found.items()} if isinstance(found, dict) else {"beta": found}
        for key, schedule in {"lr": as_schedule(self.lr, steps), **beta}.items():
            lowest = min(schedule(step) for step in (0, steps // 2, steps))
            if lowest < 0:
                raise ValueError(f"{key} must be 0 or more at every step; it reaches {lowest:g}")
        return self

    def trains(self, program: str) -> bool:
        """Return whether some part of ``model`` or ``guide`` may be among what is trained."""
        other = {"model": "guide", "guide": "model"}[program]
        return any(name.partition(".")[0] != other for name in self.train)

    @property
    def length(self) -> dict[str, int]:
        """Return how long it says it takes: ``{"steps": N}``, ``{"epochs": N}``, or nothing."""
        given = {"steps": self.steps, "epochs": self.epochs}
        return {unit: number for unit, number in given.items() if number is not None}

    def first_beta(self, sites: Sequence[str] = ()) -> float | dict[str, float]:
        """Return β of the first update of a model with these latent sites, for all of them or by name."""
        beta: Any = as_schedules(self.beta, self.steps or NOMINAL_EPOCH)
        beta = averaged(beta, sites) if self.kl_sites == "mean" else beta
        return {site: schedule(0) for site, schedule in beta.items()} if isinstance(beta, dict) else beta(0)

    def in_steps(self, batches: int | None) -> TrainingOptions:
        """Return the trainer's options, for epochs of so many batches; None: of a word list.

        Raises :class:`ConfigError` where something counts epochs and there are none.
        """
        epoch = None if batches is None else Epoch(batches, self.accumulate)
        length = None if epoch is None else epoch.length
        steps = self.steps if self.steps is not None else updates_of("epochs", self.epochs or 0, epoch)
        intervals = {name: getattr(self, name) for name in ("log_every", "validate_every", "checkpoint_every")}
        return TrainingOptions(
            steps=steps,
            clip_norm=self.clip_norm,
            clip_value=self.clip_value,
            patience=self.patience,
            keep=self.keep,
            kl_sites=self.kl_sites,
            accumulate=self.accumulate,
            beta=as_schedules(self.beta, steps, length),
            learning_rate=as_schedule(self.lr, steps, length),
            decay=None if self.decay is None else self.decay.in_steps(epoch),
            **{name: updates_of(name, 1, epoch) if value == EPOCH else value for name, value in intervals.items()},
        )


def _in_words(value: Any) -> str:
    """Return a schedule as recipes write it, without braces: ``linear, start 0.1, end 1, epochs 10``."""
    if not isinstance(value, Mapping):
        return f"{value:g}" if isinstance(value, float) else str(value)
    named = [str(value["name"])] if "name" in value else []
    return ", ".join([*named, *(f"{key} {_in_words(part)}" for key, part in value.items() if key != "name")])


class StageSection(Procedure):
    """Read one of ``stages``: its length, and what is otherwise than in ``training`` and in the run's ``objective``."""

    name: Annotated[str, Field(min_length=1)] = Field(description="for notes and messages")
    objective: str | None = Field(None, description="bound to train on; null: that of the run")
    reset: tuple[Literal["model", "guide"], ...] = Field(
        (), description="programs that begin anew, with other parameters than they began the run with"
    )

    @model_validator(mode="after")
    def _some_length(self) -> StageSection:
        if not self.length:
            raise ValueError(f"stage '{self.name}' has no length; give it steps: N or epochs: N")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write what was given: the rest is inherited, and has to be so when it is read back."""
        given = {key: value for key, value in handler(self).items() if key in self.model_fields_set}
        return {"name": self.name, **given}

    def described(self, objective: str) -> str:
        """Say it in a line: ``12 epochs of iwae:5, β 0.5, model anew``; ``objective``: where the stage names none."""
        length = " ".join(f"{number:,} {unit}" for unit, number in self.length.items())
        beta = [f"β {_in_words(self.beta)}"] if self.beta != 1.0 else []
        mean = ["mean KL of the sites"] if self.kl_sites == "mean" else []
        rule = [f"{self.update} updates"] if self.update != "joint" else []
        batches = [f"{self.accumulate} batches an update"] if self.accumulate > 1 else []
        part = [f"{' and '.join(self.train)} alone"] if self.train != EVERYTHING else []
        anew = [f"{program} anew" for program in self.reset]
        return ", ".join([f"{length} of {self.objective or objective}", *beta, *mean, *rule, *batches, *part, *anew])


class TrainingSection(Procedure):
    """Read ``training``: a :class:`Procedure`, or several as ``stages``, and what all of them share.

    A training in stages needs no length of its own. Configurations of older versions say ``freeze: model`` for
    ``train: [guide]``.
    """

    stages: tuple[StageSection, ...] = Field((), description="a training in parts, one after the other")
    log: Literal["tensorboard"] | None = Field(
        None, description="tensorboard: curves beside metrics.jsonl, by the extra of that name; null: none"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_freeze(cls, values: Any) -> Any:
        """Read the word of older configurations."""
        if not (isinstance(values, Mapping) and "freeze" in values):
            return values
        rest = {key: value for key, value in values.items() if key != "freeze"}
        if "train" in rest:
            raise ValueError("freeze is an older word for train; give train alone")
        return {**rest, "train": thawed(values["freeze"])}

    @model_validator(mode="after")
    def _stages_fit(self) -> TrainingSection:
        if not self.stages and not self.length:
            raise ValueError("it has no length; give steps: N, or epochs: N for a corpus of sentences")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need different names; got {', '.join(names)}")
        if self.stages and self.stages[0].reset:
            raise ValueError(f"stage '{names[0]}' is the first, so that there is nothing to reset; leave it out")
        self._length_is_the_stages_sum()
        self._trained_fits()
        self._optimizers_know_their_settings()
        return self

    def _optimizers_know_their_settings(self) -> None:
        for stage in self.in_stages():
            # Plain gradient descent keeps no moving averages.
            if stage.optimizer == "sgd" and stage.betas is not None:
                raise ValueError("betas are the decay rates of adam, adamw and soap; leave them out for optimizer: sgd")
            if stage.optimizer != "adamw" and stage.weight_decay:
                raise ValueError(
                    f"weight_decay ({stage.weight_decay:g}) is a setting of adamw, and optimizer: {stage.optimizer} "
                    "has none; leave it out, or use optimizer: adamw"
                )

    def _length_is_the_stages_sum(self) -> None:
        for unit, whole in self.length.items() if self.stages else ():
            parts = [stage.length.get(unit) for stage in self.stages]
            if None in parts or sum(part or 0 for part in parts) != whole:
                said = ", ".join(" ".join(f"{n} {u}" for u, n in stage.length.items()) for stage in self.stages)
                raise ValueError(f"{unit}: {whole} is not the sum of its stages ({said}); leave {unit} out, or mend it")

    def _trained_fits(self) -> None:
        for stage in self.in_stages():
            said = f"train: [{', '.join(stage.train)}]"
            if stage.update == "aggressive" and stage.accumulate > 1:
                raise ValueError(
                    "update: aggressive makes each update of one batch; use accumulate: 1, or update: joint"
                )
            if stage.update == "aggressive" and not all(map(stage.trains, EVERYTHING)):
                raise ValueError(f"update: aggressive trains guide and model in turn, and {said} leaves only one")
            for program in stage.reset:
                if not stage.trains(program):
                    raise ValueError(f"stage '{stage.name}' resets the {program}, which {said} then leaves as it is")

    def described(self, objective: str) -> list[str]:
        """Return a line for each stage, with its name where there are several."""
        stages = self.in_stages()
        several = not self.one_optimizer
        lines = [(own.name, own.described(objective) + f", by {own.optimizer}" * several) for own in stages]
        return [f"{name}: {line}" for name, line in lines] if self.stages else [line for _, line in lines]

    @property
    def one_optimizer(self) -> list[str]:
        """Return the optimiser that all stages share; none where each names its own."""
        names = {stage.optimizer for stage in self.in_stages()}
        return list(names) if len(names) == 1 else []

    def in_stages(self) -> list[StageSection]:
        """Return each stage with all that it inherits; of a training without stages, the one that it is."""
        inherited = {name: getattr(self, name) for name in Procedure.model_fields}
        if not self.stages:
            return [StageSection.model_construct(name="joint", objective=None, reset=(), **inherited)]
        inherited |= {"steps": None, "epochs": None, "objective": None, "reset": ()}
        given = [{key: getattr(stage, key) for key in stage.model_fields_set} for stage in self.stages]
        # Decay rates and weight decay are those of an optimizer, and not another one's.
        none = {"betas": None, "weight_decay": 0.0}
        others = [none if own.get("optimizer", self.optimizer) != self.optimizer else {} for own in given]
        return [
            StageSection.model_construct(**inherited | other | own) for other, own in zip(others, given, strict=True)
        ]

    def is_reached(self, trained: Mapping[str, Any]) -> bool:
        """Return whether a training that came so far (``trained`` of ``results.json``) is at the end set here."""
        if not self.stages and self.steps is not None:
            return int(trained.get("step", 0)) >= self.steps
        return bool(trained.get("lengths") == self.mark()["lengths"])

    def mark(self) -> dict[str, Any]:
        """Return what ``results.json`` keeps for :meth:`is_reached` where a number of steps does not say it."""
        if not self.stages and self.steps is not None:
            return {}
        return {"lengths": [stage.length for stage in self.in_stages()]}


def thawed(freeze: Any) -> tuple[str, ...]:
    """Return what is trained where ``freeze`` is: everything but the model, or everything.

    Raises ``ValueError`` for another word.
    """
    if freeze not in FREEZE:
        raise ValueError(f"freeze: expected {' or '.join(map(repr, FREEZE))}; got {freeze!r}")
    return FREEZE[freeze]


def replace_freeze(training: dict[str, Any], changed: Mapping[str, Any]) -> None:
    """Let a new ``train`` take the place of the ``freeze`` of an older configuration, or a new ``freeze`` of it."""
    for new, old in (("freeze", "train"), ("train", "freeze")):
        if new in changed:
            training.pop(old, None)
