"""The typed configuration of a run: recipe file + command line -> one checked :class:`RunConfig`.

All faults are reported at once, unknown keys with the nearest right one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from .. import schedules
from ..core.errors import ConfigError, PplTextError, UnknownNameError, nearest
from . import recipe_names, recipe_text


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
    """``data``: ``corpus`` (a name or a path), how it is batched, and the corpus's own options."""

    corpus: str
    batch_size: PositiveInt = 128
    buckets: PositiveInt = 1
    validation_sentences: PositiveInt = 2000


Schedule = float | dict[str, Any]


def as_schedule(spec: Schedule, steps: int) -> schedules.Schedule:
    """The schedule of a configuration; a ``warmup`` that names no ``steps`` lasts for the whole training."""
    if isinstance(spec, dict) and spec.get("name") == "warmup":
        spec = {"steps": steps, **spec}
    return schedules.build(spec)


class TrainingSection(Section):
    """``training``: see :class:`ppl_text.training.options.TrainingOptions`; ``lr`` and ``beta`` are schedules."""

    steps: PositiveInt
    lr: Schedule = 1e-3
    beta: Schedule = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(default=5.0, gt=0)
    log_every: PositiveInt = 100
    validate_every: PositiveInt = 500
    checkpoint_every: PositiveInt = 500
    patience: PositiveInt | None = None

    @field_validator("lr", "beta")
    @classmethod
    def _is_schedule(cls, value: Schedule) -> Schedule:
        try:
            as_schedule(value, steps=10**9)
        except PplTextError as error:
            raise ValueError(str(error)) from error
        return value


class ReportSection(Section):
    """``report``: how the finished run is evaluated."""

    sentences: PositiveInt = 5000
    particles: PositiveInt = 64
    samples: PositiveInt = 1000


class RunConfig(Section):
    """Everything that makes a run; ``config.yaml`` of a run folder holds one, complete and re-runnable."""

    recipe: str
    description: str = ""
    model: ModelSection
    guide: GuideSection
    objective: str
    data: DataSection
    training: TrainingSection
    report: ReportSection = ReportSection()
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32", "bf16"] = "32"

    def to_yaml(self) -> str:
        """The configuration as YAML that :func:`load_config` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(recipe: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe by name, or from a ``.yaml`` file, and apply ``changes`` (dotted key -> value).

    A change of ``guide.name`` or ``model.family`` drops the options that belonged to the old one.
    Raises :class:`UnknownNameError` for an unknown recipe and :class:`ConfigError` with all other faults.
    """
    tree = read_recipe(recipe)
    changes = dict(changes or {})
    for owner, key in (("guide", "name"), ("model", "family"), ("data", "corpus")):
        new, section = changes.get(f"{owner}.{key}"), tree.get(owner)
        if new is not None and isinstance(section, dict) and section.get(key) != new:
            fixed = _fields(RunConfig.model_fields[owner].annotation)
            tree[owner] = {k: v for k, v in section.items() if k in fixed}
    for dotted, value in changes.items():
        _assign(tree, dotted, value)
    return check_config(tree, source=f"recipe '{recipe}'")


def read_recipe(recipe: str) -> dict[str, Any]:
    """The tree of a recipe, unchecked, with its name under ``recipe``."""
    path = Path(recipe).expanduser()
    if recipe.endswith((".yaml", ".yml")):
        if not path.is_file():
            raise ConfigError(f"recipe file '{path}' does not exist; give a file or one of {', '.join(recipe_names())}")
        text, name = path.read_text(encoding="utf-8"), path.stem
    else:
        if recipe not in recipe_names():
            raise UnknownNameError("recipe", recipe, recipe_names(), "A recipe file (.yaml) is accepted too.")
        text, name = recipe_text(recipe), recipe
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe '{recipe}' is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe '{recipe}' must be a mapping with model, guide, objective, data and training")
    return {"recipe": name, **tree}


def check_config(tree: Mapping[str, Any], source: str) -> RunConfig:
    """Validate a tree; raises :class:`ConfigError` that lists every fault."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source} has faults:\n" + "\n".join(f"- {f}" for f in faults_of(error))) from None


def faults_of(error: ValidationError, known: Iterable[str] = (), prefix: str = "") -> list[str]:
    """Pydantic's errors in our words: dotted key, what was wrong, the nearest right key."""
    faults = []
    for fault in error.errors():
        path = [str(part) for part in fault["loc"] if not str(part).startswith(("float", "dict", "function"))]
        key = prefix + ".".join(path)
        if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            names = list(known) or _known_keys(path[:-1])
            faults.append(f"unknown key '{key}'{nearest(path[-1], names)}; known here: {', '.join(names)}")
        elif fault["type"] == "missing":
            faults.append(f"'{key}' is missing")
        else:
            faults.append(f"'{key}': {fault['msg'].removeprefix('Value error, ')}; got {fault.get('input')!r}")
    return list(dict.fromkeys(faults))


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs of ``--set``: dotted keys, YAML values."""
    changes: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text!r}: expected KEY=VALUE, for example --set training.steps=500")
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text!r}: the value is not valid YAML: {error}") from error
    return changes


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for depth, part in enumerate(path):
        child = tree.get(part)
        if child is None and depth == 0 and part not in RunConfig.model_fields:
            raise ConfigError(f"unknown key '{dotted}'{nearest(dotted, all_keys(tree))}")
        if child is None:
            child = {}
        elif not isinstance(child, dict):
            raise ConfigError(f"--set {dotted}: '{part}' is a value ({child!r}), it has no keys of its own")
        tree[part] = child = dict(child)
        tree = child
    tree[last] = value


def all_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every dotted key that a configuration knows: typed ones and those of this tree."""
    keys = [f"{name}.{inner}" for name, f in RunConfig.model_fields.items() for inner in _fields(f.annotation)]
    for key, value in tree.items():
        keys += [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]
    return sorted({prefix + key for key in keys})


def _known_keys(path: list[str]) -> list[str]:
    fields = RunConfig.model_fields
    for part in path:
        fields = _fields(fields[part].annotation)
    return list(fields)


def _fields(annotation: Any) -> dict[str, Any]:
    return dict(getattr(annotation, "model_fields", {}))
