"""The typed configuration of a run: recipe file + command line -> one checked :class:`RunConfig`.

All errors are reported at once, unknown keys with the nearest right one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from ..data.catalogue import CORPORA
from . import own_text
from .code import Code, absolute, find, is_own, model_registry
from .errors import RecipeError, lines_of
from .procedures import TrainingSection, replace_freeze, replace_length
from .sections import Count, NamedSection, Real, Section, as_schedule, as_schedules
from .tree import assign, preset_values, read_recipe, source_of, with_absolute_paths

__all__ = ["RunConfig", "TrainingSection", "as_schedule", "as_schedules", "check_config", "load_config", "recipe_tree"]


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


Folder = Annotated[str, AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]
"""A folder by its absolute path: a run must find it again from anywhere."""


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

    @property
    def cures(self) -> str:
        """Name of the recipe whose siblings are advised; "" where one for a built-in corpus trains on other data."""
        made_for = self.recipe.partition("-")[0]
        return "" if made_for in CORPORA and made_for != self.data.corpus else self.recipe

    def to_yaml(self) -> str:
        """The configuration as YAML that :func:`load_config` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def load_config(recipe: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe by name, or from a ``.yaml`` file, and apply ``changes`` (dotted key -> value).

    Raises :class:`UnknownNameError` for an unknown recipe and :class:`RecipeError` with all other errors.
    """
    return check_config(recipe_tree(recipe, changes), source_of(recipe))


def recipe_tree(
    recipe: str,
    changes: Mapping[str, Any] | None = None,
    code: Code | None = None,
    told: list[str] | None = None,
) -> dict[str, Any]:
    """Read a recipe and apply ``changes``, with its name under ``recipe``; nothing is checked yet.

    A change of ``guide.name`` or ``model.family`` drops the options of the old one; one of ``data.corpus`` keeps the
    recipe's options of data (:mod:`.own_text`); one of ``preset`` comes before all others. Files that the recipe names
    stand in it by their absolute paths.

    Args:
        recipe: a name or a ``.yaml`` file.
        changes: dotted keys to values.
        code: what may run to learn the presets of a model of the user's.
        told: hears what was dropped or assumed.
    """
    tree, told = read_recipe(recipe), [] if told is None else told
    changes = _with_preset(tree, dict(changes or {}), code or {})
    for owner, key in (("guide", "name"), ("model", "family")):
        new, section = changes.get(f"{owner}.{key}"), tree.get(owner)
        if new is not None and isinstance(section, dict) and section.get(key) != new:
            tree[owner] = {}
    stored = own_text.is_of_a_run(recipe) and "data.corpus" not in changes
    if isinstance(tree.get("data"), dict):
        tree["data"] = own_text.for_other_data(tree["data"], _of("data", changes), told)
    for dotted, value in changes.items():
        assign(tree, dotted, value)
    if isinstance(tree.get("data"), dict):
        data = tree["data"]
        tree["data"] = own_text.as_stored(data) if stored else own_text.with_own_defaults(data, told)
    if isinstance(tree.get("training"), dict):
        own = _of("training", changes)
        replace_length(tree["training"], own)
        replace_freeze(tree["training"], own)
    return with_absolute_paths(tree)


def _of(section: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of one section, by the names in it."""
    return {key.removeprefix(f"{section}."): v for key, v in changes.items() if key.startswith(f"{section}.")}


def _with_preset(tree: Mapping[str, Any], changes: dict[str, Any], code: Code) -> dict[str, Any]:
    """Put what a change of ``preset`` stands for in front of the changes."""
    if "preset" not in changes:
        return changes
    model = tree.get("model")
    family = changes.get("model.family", model.get("family") if isinstance(model, dict) else None)
    found: object = None
    if isinstance(family, str) and is_own(family):
        found = find(code, absolute(family), "model")
    elif family in (registry := model_registry()).names():
        found = registry.load(family)
    return {**preset_values(getattr(found, "presets", ()), changes["preset"], tree), **changes}


def check_config(tree: Mapping[str, Any], source: str) -> RunConfig:
    """Validate a tree; raises :class:`RecipeError` that lists every error."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(lines_of(error, _known_keys, all_keys()), source) from None


def sound_parts(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top-level values of a tree that are valid by themselves, though others may not be."""
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
    """Return every dotted key of the typed sections."""
    return sorted(f"{name}.{inner}" for name, f in RunConfig.model_fields.items() for inner in _fields(f.annotation))


def _known_keys(path: list[str]) -> list[str]:
    fields = RunConfig.model_fields
    for part in path:
        # A number is a place in a list, whose entries have the keys that come next.
        fields = fields if part.isdecimal() else _fields(fields[part].annotation)
    return list(fields)


def _fields(annotation: Any) -> dict[str, Any]:
    """Return the keys of a section, of one that may be missing, or of each in a list."""
    found = dict(getattr(annotation, "model_fields", {}))
    return found or {key: field for inner in get_args(annotation) for key, field in _fields(inner).items()}
