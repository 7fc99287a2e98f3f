"""The typed configuration of a run: recipe file + command line -> one checked :class:`RunConfig`.

All faults are reported at once, unknown keys with the nearest right one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from .. import schedules
from ..core.errors import ConfigError, PplTextError, UnknownNameError
from . import part_names, recipe_names, recipe_text
from .faults import RecipeError, faults_of
from .inheritance import extended
from .presets import preset_values
from .reading import parse_yaml
from .references import with_absolute_paths

Count = Annotated[int, Field(strict=True, gt=0)]
"""A whole number above 0; neither ``true`` nor ``"5"`` nor ``5.0`` is one."""

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are faults, values are fixed once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NamedSection(BaseModel):
    """A part with a name and free options; the options are checked against what the name stands for."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    @property
    def options(self) -> dict[str, Any]:
        """The options, without the section's own keys."""
        return dict(self.model_extra or {})


class ModelSection(NamedSection):
    """``model``: ``family`` and the keyword arguments of its class."""

    family: str


class GuideSection(NamedSection):
    """``guide``: ``name`` (or ``FILE.py:CLASS``) and the keyword arguments of its class."""

    name: str


class DataSection(NamedSection):
    """``data``: ``corpus`` (a name or a path), what it is a list of, how it is batched, and the corpus's own options.

    ``word_dropout`` replaces each token that is fed back by ``<unk>`` with that probability, in training.
    """

    corpus: str
    unit: Literal["word-list", "sentences"] = "word-list"
    word_dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    batch_size: Count = 128
    buckets: Count = 1
    validation_sentences: Count = 2000


def as_schedule(spec: Any, steps: int) -> schedules.Schedule:
    """The schedule of a configuration; a ``warmup`` that names no ``steps`` lasts for the whole training.

    A training that is shorter than its warm-up ends while the value still rises.
    """
    if isinstance(spec, dict) and spec.get("name") == "warmup" and "steps" not in spec:
        warmup_steps = spec.get("warmup_steps")
        spec = {**spec, "steps": max(steps, warmup_steps) if isinstance(warmup_steps, int | float) else steps}
    return schedules.build(spec)


def as_schedules(spec: Any, steps: int) -> schedules.Schedule | dict[str, schedules.Schedule]:
    """One schedule for all sites, or one for each site of a mapping without a ``name`` of its own."""
    if isinstance(spec, dict) and spec and "name" not in spec:
        return {site: as_schedule(own, steps) for site, own in spec.items()}
    return as_schedule(spec, steps)


def _checked(spec: Any, build: Callable[[Any, int], Any]) -> Any:
    try:
        build(spec, 1)
    except (PplTextError, TypeError) as error:
        raise ValueError(str(error)) from error
    return spec


Schedule = Annotated[Any, AfterValidator(partial(_checked, build=as_schedule))]
"""A number, or ``{name: NAME, ARGUMENT: VALUE, …}``; see :mod:`ppl_text.schedules`."""

SiteSchedules = Annotated[Any, AfterValidator(partial(_checked, build=as_schedules))]
"""A schedule, or ``{SITE: schedule, …}``."""

Folder = Annotated[str, AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]
"""A folder by its absolute path: a run must find it again from anywhere."""

Decay = Annotated[Real, Field(ge=0, lt=1)]


class TrainingSection(Section):
    """``training``: see :class:`ppl_text.training.options.TrainingOptions`; ``lr`` and ``beta`` are schedules,
    ``beta`` one for all latent sites or one by site.

    ``optimizer``: see :mod:`ppl_text.training.optimizers`; ``betas``: its decay rates (None: its own).
    ``freeze: model`` trains the guide's parameters only.
    """

    steps: Count
    lr: Schedule = 1e-3
    beta: SiteSchedules = 1.0
    optimizer: Literal["adam", "soap", "sgd"] = "adam"
    betas: tuple[Decay, Decay] | None = None
    clip_norm: Annotated[Real, Field(gt=0)] | None = 5.0
    log_every: Count = 100
    validate_every: Count = 500
    checkpoint_every: Count = 500
    patience: Count | None = None
    freeze: Literal["none", "model"] = "none"

    @model_validator(mode="after")
    def _betas_of_the_optimizer(self) -> TrainingSection:
        """Plain gradient descent keeps no moving averages."""
        if self.optimizer == "sgd" and self.betas is not None:
            raise ValueError("betas are the decay rates of adam and soap; leave them out for optimizer: sgd")
        return self

    @model_validator(mode="after")
    def _no_value_below_zero(self) -> TrainingSection:
        """Optimizers refuse a negative rate, and a negative β is no weight."""
        found = as_schedules(self.beta, self.steps)
        beta = {f"beta.{site}": s for site, s in found.items()} if isinstance(found, dict) else {"beta": found}
        for key, schedule in {"lr": as_schedule(self.lr, self.steps), **beta}.items():
            lowest = min(schedule(step) for step in (0, self.steps // 2, self.steps))
            if lowest < 0:
                raise ValueError(f"{key} must be 0 or more at every step; it reaches {lowest:g}")
        return self


class ReportSection(Section):
    """``report``: how the finished run is evaluated."""

    sentences: Count = 5000
    particles: Count = 64
    samples: Count = 1000


class RunConfig(Section):
    """Everything that makes a run; ``config.yaml`` of a run folder holds one, complete and re-runnable.

    ``threads`` is how many torch uses while it trains on a CPU (None: its own default). ``parent`` is the folder of
    the run whose trained model a new training starts from; ``parent_weights``, where it is given, the SHA-256 that
    the parent's ``model.safetensors`` must have. ``preset`` says which preset's values have gone in: a record.
    """

    recipe: Annotated[str, Field(pattern=r"^[^\s./\\][^/\\]*$")]
    description: str = ""
    preset: Literal["corrected", "paper"] = "corrected"
    parent: Folder | None = None
    parent_weights: str | None = None
    model: ModelSection
    guide: GuideSection
    objective: str
    data: DataSection
    training: TrainingSection
    report: ReportSection = ReportSection()
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    threads: Count | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(str)] = "32"

    def to_yaml(self) -> str:
        """The configuration as YAML that :func:`load_config` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def load_config(recipe: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe by name, or from a ``.yaml`` file, and apply ``changes`` (dotted key -> value).

    Raises :class:`UnknownNameError` for an unknown recipe and :class:`RecipeError` with all other faults.
    """
    return check_config(recipe_tree(recipe, changes), source_of(recipe))


def source_of(recipe: str) -> str:
    """What messages call a recipe."""
    return f"recipe '{recipe}'"


def recipe_tree(recipe: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The tree of a recipe after ``changes``, with its name under ``recipe``; nothing is checked yet.

    A change of ``guide.name``, ``model.family`` or ``data.corpus`` drops the options of the old one; a change of
    ``preset`` comes before all others. Files that it names stand in it by their absolute paths.
    """
    tree = read_recipe(recipe)
    changes = _with_preset(tree, dict(changes or {}))
    for owner, key in (("guide", "name"), ("model", "family"), ("data", "corpus")):
        new, section = changes.get(f"{owner}.{key}"), tree.get(owner)
        if new is not None and isinstance(section, dict) and section.get(key) != new:
            fixed = _fields(RunConfig.model_fields[owner].annotation)
            tree[owner] = {k: v for k, v in section.items() if k in fixed}
    for dotted, value in changes.items():
        _assign(tree, dotted, value)
    return with_absolute_paths(tree)


def _with_preset(tree: Mapping[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The changes with what a change of ``preset`` stands for in front of them."""
    if "preset" not in changes:
        return changes
    model = tree.get("model")
    family = changes.get("model.family", model.get("family") if isinstance(model, dict) else None)
    return {**preset_values(str(family), changes["preset"], tree), **changes}


def read_recipe(recipe: str) -> dict[str, Any]:
    """The tree of a recipe with what it extends, and with its name under ``recipe``."""
    if not recipe.endswith((".yaml", ".yml")):
        if recipe not in recipe_names():
            raise UnknownNameError("recipe", recipe, recipe_names(), "A recipe file (.yaml) is accepted too.")
        return extended({"recipe": recipe, **_named(recipe)}, source_of(recipe), _named)
    path = Path(os.path.expanduser(recipe))  # pathlib raises for an unknown user
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe file '{path}' is not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        names = ", ".join(recipe_names())
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise ConfigError(f"recipe file '{path}' {reason}; give a file or one of {names}") from error
    tree = parse_yaml(text, source_of(recipe))
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{source_of(recipe)} must be a mapping with model, guide, objective, data and training; "
            "the config.yaml of a run is an example"
        )
    return extended({"recipe": path.stem, **tree}, source_of(recipe), _named)


def _named(name: str) -> Mapping[str, Any]:
    """The tree of a recipe that comes with the package, or of a part of one, as it is written."""
    if name not in (known := [*recipe_names(), *part_names()]):
        raise UnknownNameError("recipe", name, known)
    tree: Mapping[str, Any] = parse_yaml(recipe_text(name), source_of(name))
    return tree


def check_config(tree: Mapping[str, Any], source: str) -> RunConfig:
    """Validate a tree; raises :class:`RecipeError` that lists every fault."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(faults_of(error, _known_keys, all_keys()), source) from None


def sound_parts(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The top-level values of a tree that are right by themselves, though others may not be."""
    parts = {}
    for name, field in RunConfig.model_fields.items():
        try:
            # The field's type comes without what ``Annotated`` adds to it.
            kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            adapter: TypeAdapter[Any] = TypeAdapter(kind)
            parts[name] = adapter.validate_python(tree[name]) if name in tree else field.get_default()
        except ValidationError:
            continue
    return parts


def all_keys() -> list[str]:
    """Every dotted key of the typed sections."""
    return sorted(f"{name}.{inner}" for name, f in RunConfig.model_fields.items() for inner in _fields(f.annotation))


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        child = tree.get(part)
        if not isinstance(child, dict | NoneType):
            raise ConfigError(f"--set {dotted}: '{part}' is a value ({child!r}), it has no keys of its own")
        tree[part] = child = dict(child or {})
        tree = child
    tree[last] = value


def _known_keys(path: list[str]) -> list[str]:
    fields = RunConfig.model_fields
    for part in path:
        fields = _fields(fields[part].annotation)
    return list(fields)


def _fields(annotation: Any) -> dict[str, Any]:
    return dict(getattr(annotation, "model_fields", {}))
