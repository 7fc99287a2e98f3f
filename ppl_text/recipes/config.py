"""The typed configuration of a run: recipe file + command line -> one checked :class:`RunConfig`.

All errors are reported at once, unknown keys with the nearest right one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from ..core.errors import UserError
from ..core.limits import MOST_BATCH, MOST_PARTICLES, MOST_TEXTS, MOST_THREADS
from ..core.numbers import is_whole
from ..data.catalogue import CORPORA
from . import own_text
from .code import Code, absolute, class_of, is_own, model_registry
from .errors import RecipeError, lines_of
from .lengths import replace_length
from .procedures import TrainingSection, replace_freeze
from .sections import Count, NamedSection, Real, Section, as_schedule, as_schedules
from .tree import assign, preset_values, read_recipe, sized, source_of, with_absolute_paths

__all__ = ["RunConfig", "TrainingSection", "as_schedule", "as_schedules", "check_config", "load_config", "recipe_tree"]


class ModelSection(NamedSection):
    """``model``: ``family`` and the keyword arguments of its class."""

    family: str = Field(description="name, or FILE.py:CLASS; see list guides for the names")


class GuideSection(NamedSection):
    """``guide``: ``name`` (or ``FILE.py:CLASS``) and the keyword arguments of its class."""

    name: str = Field(description="name, or FILE.py:CLASS; see list guides")


class DataSection(NamedSection):
    """``data``: the corpus, what it is a list of, how it is batched, and the corpus's own options."""

    corpus: str = Field(description="a built-in name, a file, a folder, or hub:NAME")
    unit: Literal["word-list", "sentences"] = Field("word-list", description="what the corpus is a list of")
    word_dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the tokens fed back that become <unk>, in training"
    )
    batch_size: Annotated[Count, Field(le=MOST_BATCH)] = Field(128, description="texts of a batch")
    buckets: Count = Field(1, description="lengths that batches are made of, at most")
    validation_sentences: Count = Field(2000, description="texts of valid that are scored at each validation, at most")


Folder = Annotated[str, AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]
"""A folder by its absolute path: a run must find it again from anywhere."""


class ReportSection(Section):
    """``report``: how the finished run is evaluated."""

    sentences: Count = Field(5000, description="texts of test that are scored, at most")
    particles: Annotated[Count, Field(le=MOST_PARTICLES)] = Field(
        64, description="K draws a text, of the importance-weighted bound"
    )
    samples: Annotated[Count, Field(le=MOST_TEXTS)] = Field(1000, description="texts that are drawn from the model")


class SizeRow(Section):
    """One of ``sizes``: what is otherwise for training texts of that many tokens or more."""

    tokens: Count = Field(description="scored tokens of train, EOS counted, from which on the row holds")
    set: dict[str, Any] = Field(description="dotted keys to values")


class RunConfig(Section):
    """Everything that makes a run; ``config.yaml`` of a run folder holds one, complete and re-runnable."""

    recipe: Annotated[str, Field(pattern=r"^[^\s./\\\p{C}][^/\\\p{C}]{0,99}$")] = Field(
        description="name, of which folders are called"
    )
    description: str = Field("", description="one line on what it trains")
    preset: Literal["corrected", "paper"] = Field(
        "corrected", description="whose values the model has: right ones, or the paper's, errors included"
    )
    parent: Folder | None = Field(None, description="folder of a run whose trained model is the start")
    parent_weights: str | None = Field(None, description="SHA-256 that the parent's model.safetensors must have")
    model: ModelSection
    guide: GuideSection
    objective: str = Field(description="bound to train on; see list objectives")
    data: DataSection
    training: TrainingSection
    report: ReportSection = ReportSection.model_validate({})
    sizes: tuple[SizeRow, ...] = Field(
        (), description="values by the number of training tokens: the last row that they reach is put in, once"
    )
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = Field(
        0, description="of parameters, batches and noise; that of a division is data.seed"
    )
    threads: Annotated[Count, Field(le=MOST_THREADS)] | None = Field(
        None, description="of torch, while it trains on a CPU; null: its own default"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(str)] = Field(
        "32", description="of the networks; densities stay in float32"
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="of several processes: all hold all parameters, or each a part (on GPUs)"
    )
    capture: bool | None = Field(
        None, description="record training steps: as graphs of a GPU, compiled on a CPU; null: on a GPU"
    )

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
    tokens: int | None = None,
) -> dict[str, Any]:
    """Read a recipe and apply ``changes``, with its name under ``recipe``; nothing is checked yet.

    A change of ``guide.name`` or ``model.family`` drops the options of the old one, and one of an option that decides
    others (``model.backbone``) drops these; one of ``data.corpus`` keeps the recipe's options of data
    (:mod:`.own_text`); one of ``preset`` comes before all others. Files that the recipe names stand in it by their
    absolute paths.

    Args:
        recipe: a name or a ``.yaml`` file.
        changes: dotted keys to values.
        code: what may run to learn what the class of a model of the user's says of its options.
        told: hears what was dropped or assumed.
        tokens: of the training texts; None: not known, ``sizes`` stay as they are.
    """
    tree, told = read_recipe(recipe), [] if told is None else told
    if tokens is not None:
        tree = sized(tree, tokens)
    changes = _with_preset(tree, dict(changes or {}), code or {})
    for owner, key in (("guide", "name"), ("model", "family")):
        new, section = changes.get(f"{owner}.{key}"), tree.get(owner)
        if new is not None and isinstance(section, dict) and section.get(key) != new:
            tree[owner] = {}
    if isinstance(tree.get("model"), dict):
        tree["model"] = _undecided(tree, changes, code or {}, told)
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
    presets = getattr(_model_class(tree, changes, code), "presets", ())
    return {**preset_values(presets, changes["preset"], tree), **changes}


def _undecided(tree: Mapping[str, Any], changes: Mapping[str, Any], code: Code, told: list[str]) -> dict[str, Any]:
    """Return a recipe's ``model`` without what a change of another option decides, by the class's ``decides``.

    A class that cannot be had, which is refused elsewhere, decides nothing.
    """
    section, own = dict(tree["model"]), _of("model", changes)
    if not own:
        return section
    try:
        decides = getattr(_model_class(tree, changes, code), "decides", {})
    except UserError:
        decides = {}
    for name, others in decides.items():
        if own.get(name) not in (None, section.get(name)):
            gone = {other: section.pop(other) for other in others if section.get(other) is not None}
            left = {other: value for other, value in gone.items() if other not in own}
            shown = ", ".join(o if isinstance(v, Mapping | list) else f"{o}={v}" for o, v in left.items())
            told += [f"not kept of the recipe's model: {shown} (model.{name} decides that)"] if shown else []
    return section


def with_own(recipe: str, changes: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``changes`` of a recipe with a user's ``own`` over them, and without what an option of these decides.

    What decides others is ``decides`` of the model's class, as for :func:`recipe_tree`.
    """
    tree = recipe_tree(recipe, changes)
    gone = {f"model.{key}" for key in tree["model"].keys() - _undecided(tree, own, {}, []).keys()}
    return {**{key: value for key, value in changes.items() if key not in gone}, **own}


def _model_class(tree: Mapping[str, Any], changes: Mapping[str, Any], code: Code) -> object:
    """Return the class of the model that a tree and its changes name; None where they name none that there is."""
    model, registry = tree.get("model"), model_registry()
    family = changes.get("model.family", model.get("family") if isinstance(model, dict) else None)
    if isinstance(family, str) and (is_own(family) or family in registry.names()):
        return class_of(absolute(family), "model", registry, code)
    return None


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
        if name not in tree and field.is_required():
            continue
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
        fields = fields if is_whole(part) else _fields(fields[part].annotation)
    return list(fields)


def _fields(annotation: Any) -> dict[str, Any]:
    """Return the keys of a section, of one that may be missing, or of each in a list."""
    found = dict(getattr(annotation, "model_fields", {}))
    return found or {key: field for inner in get_args(annotation) for key, field in _fields(inner).items()}
