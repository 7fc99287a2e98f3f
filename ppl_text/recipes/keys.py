"""Every key that a configuration takes: type, default and meaning, from the models that validate it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.fields import FieldInfo

from ..core.errors import UserError
from ..core.limits import MOST
from ..data.options import OPTIONS
from . import build
from .code import Code, model_registry
from .config import RunConfig, SizeRow
from .errors import hints_of, keyword_options
from .procedures import DecaySection, StageSection

NO_DEFAULT = "–"
"""Shown where a key has to be given."""


class Key(NamedTuple):
    """A dotted key of a configuration: type, default and meaning in words, and its value in a recipe."""

    name: str
    kind: str
    default: str
    meaning: str
    value: str = ""


class Group(NamedTuple):
    """Keys that stand together, under a heading."""

    title: str
    keys: list[Key]


def all_keys_of(config: RunConfig | None = None, code: Code | None = None) -> list[Group]:
    """Return every key, by section; with a configuration those that apply to it, and their values in it.

    ``code``: what may run of the user's; the options of a part that is not there are left out.
    """
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items() if _is_section(field)}
    groups = [Group("of the run", _of_model(RunConfig, "", config, leave=sections))]
    groups.append(Group("sizes, a list whose entries have these", _of_model(SizeRow, "sizes.")))
    for name, section in sections.items():
        values = None if config is None else getattr(config, name)
        leave = {"decay", "stages"} if name == "training" else ()
        groups.append(Group(name, _of_model(section, f"{name}.", values, leave=leave)))
        if name == "training":
            groups += _of_training()
        if name == "data":
            groups += _of_data(config)
    return [*groups, *(_of_parts(config, code or {}) if config is not None else _of_families())]


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _of_training() -> list[Group]:
    return [
        Group("training.decay, a section or null (the default)", _of_model(DecaySection, "training.decay.")),
        Group(
            "training.stages, a list whose entries have the keys of training and these",
            _of_model(StageSection, "", leave=set(StageSection.model_fields) - {"name", "objective", "reset"}),
        ),
    ]


def _of_data(config: RunConfig | None) -> list[Group]:
    shown = OPTIONS if config is None else {config.data.unit: OPTIONS[config.data.unit]}
    values = None if config is None else build.data_options(config)
    return [Group(f"data, unit {unit}", _of_model(model, "data.", values)) for unit, model in shown.items()]


def _of_families() -> list[Group]:
    groups = []
    for family in model_registry().names():
        groups.append(Group(f"model, family {family}", _of_class(model_registry().load(family), "model")))
        registry = build.guide_registry(family)
        for name in build.families_guides(family):
            if keys := _of_class(registry.load(name), "guide"):
                groups.append(Group(f"guide {name}, for {family}", keys))
    return groups


def _of_parts(config: RunConfig, code: Code) -> list[Group]:
    try:
        parts = build.check_programs(config, code)
    except UserError:
        return []
    names = {"model": f"model, family {config.model.family}", "guide": f"guide {config.guide.name}"}
    return [
        Group(title, _of_class(part.kind, section, getattr(config, section).options))
        for (section, title), part in zip(names.items(), parts, strict=True)
    ]


def _of_model(model: Any, prefix: str, values: BaseModel | None = None, leave: Iterable[str] = ()) -> list[Key]:
    """Return the keys of a pydantic model; ``leave``: fields that stand elsewhere."""
    schema = model.model_json_schema()
    keys = []
    for name, field in model.model_fields.items():
        if name not in leave:
            default = NO_DEFAULT if field.is_required() else _plain(field.get_default(call_default_factory=True))
            value = "" if values is None else _plain(getattr(values, name))
            kind = in_words(schema["properties"][name], schema.get("$defs", {}))
            keys.append(Key(f"{prefix}{name}", kind, default, field.description or "", value))
    return keys


def _of_class(kind: type, section: str, values: Mapping[str, Any] | None = None) -> list[Key]:
    """Return what the constructor of a model or guide takes, as its signature and docstring have it."""
    hints, meanings, keys = hints_of(kind), described_arguments(kind), []
    for name, parameter in keyword_options(kind)[0].items():
        required = parameter.default is parameter.empty
        default = NO_DEFAULT if required else _plain(parameter.default)
        value = "" if values is None else _plain(values.get(name, parameter.default))
        keys.append(Key(f"{section}.{name}", _kind(hints.get(name)), default, meanings.get(name, ""), value))
    return keys


def described_arguments(kind: Callable[..., Any]) -> dict[str, str]:
    """Return the meaning of each argument that the docstrings of a class, or of its bases, describe in ``Args:``.

    Example::

        >>> def f(rate, first, last):
        ...     '''Do it.
        ...
        ...     Args:
        ...         rate: of learning,
        ...             in nats.
        ...         first, last: the ends.
        ...     '''
        >>> described_arguments(f)
        {'rate': 'of learning, in nats.', 'first': 'the ends.', 'last': 'the ends.'}
    """
    found: dict[str, str] = {}
    for owner in reversed(getattr(kind, "__mro__", (kind,))):
        for documented in (owner, vars(owner).get("__init__")):
            section = re.search(r"^(?:Args|Arguments):\n((?:[ ].*\n?|\n)+)", inspect.cleandoc(_doc(documented)), re.M)
            entries = (
                re.findall(r"^ {4}(\w[\w, ]*):((?:.*\n?)(?:^(?: {5,}.*)?\n?)*)", section[1], re.M) if section else []
            )
            found |= {name.strip(): _unmarked(text) for names, text in entries for name in names.split(",")}
    return found


def _unmarked(text: str) -> str:
    """Return a docstring's text in one line, without the marks of reStructuredText."""
    named = re.sub(r":\w+:`(?:~[\w.]*?)?([\w.]+)`", r"\1", " ".join(text.split()))
    return re.sub(r"``(.*?)``", r"\1", named)


def _doc(documented: Any) -> str:
    return (getattr(documented, "__doc__", None) or "") + "\n"


def _kind(annotation: Any) -> str:
    if annotation is None:
        return "any"
    try:
        schema = TypeAdapter(annotation).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return str(annotation)
    return in_words(schema, schema.get("$defs", {}))


LIMITS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤", "minLength": "of length ≥"}

LARGE = MOST
"""What a limit is not shown from: that of every whole number is no news."""


def in_words(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Say which values a JSON schema takes.

    Example::

        >>> in_words({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]}, {})
        'integer > 0, or null'
    """
    if "$ref" in schema:
        return in_words(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return ", or ".join(dict.fromkeys(in_words(one, definitions) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = {"array": "list", "object": "section"}.get(schema.get("type", "any"), schema.get("type", "any"))
    if isinstance(schema.get("items"), Mapping) and schema["items"]:
        kind += f" of {in_words(schema['items'], definitions)}"
    elif "prefixItems" in schema:
        kind += f" of {' and '.join(in_words(one, definitions) for one in schema['prefixItems'])}"
    shown = {sign: schema[name] for name, sign in LIMITS.items() if schema.get(name, LARGE) < LARGE}
    limits = (f"{sign} {limit:{',' if isinstance(limit, int) else 'g'}}" for sign, limit in shown.items())
    return " ".join([kind, *limits])


def _plain(value: Any) -> str:
    """Return a value as YAML and ``--set`` have it, in one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(one)}" for key, one in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)
