"""Errors of a configuration: in our words, and all of them at once; options checked against a signature."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ..core.errors import UserError, nearest
from ..core.limits import MOST, MOST_UNITS
from ..core.validation import OptionsError, in_words

T = TypeVar("T")

OURS = ("ppl_text", "guides")
"""Packages in whose classes a whole number is a size."""


class RecipeError(OptionsError):
    """A configuration with errors; ``lines`` has one line for each."""

    def __init__(self, lines: Sequence[str], source: str = "the configuration") -> None:
        super().__init__(lines, source if len(lines) == 1 else f"{source} has errors")


class Errors:
    """Collect users' mistakes from several checks, to report all of them at once."""

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    def attempt(self, check: Callable[..., T], *arguments: Any) -> T | None:
        """Return what ``check`` returns, or None where it raises a :class:`UserError`, which is kept."""
        try:
            return check(*arguments)
        except UserError as error:
            self._errors.append(error)
            return None

    def raise_any(self, source: str) -> None:
        """Raise what was collected: a lone error as it is, several as one :class:`RecipeError`.

        What several checks have found is reported once.
        """
        lines = list(dict.fromkeys(line for error in self._errors for line in _lines(error)))
        if len(lines) == 1 and not isinstance(self._errors[0], RecipeError):
            raise self._errors[0]
        if lines:
            raise RecipeError(lines, source)


def _lines(error: UserError) -> list[str]:
    return error.lines if isinstance(error, OptionsError) else [str(error).replace("\n", "\n  ")]


def lines_of(error: ValidationError, known: Callable[[list[str]], Iterable[str]], keys: Iterable[str]) -> list[str]:
    """Return pydantic's errors in our words: dotted key, what was expected, what came, the nearest right key.

    Args:
        error: what pydantic raised.
        known: ``known(path)`` are the keys that exist at a place.
        keys: all dotted keys, for a key that was given without its section.
    """
    return list(dict.fromkeys(_line(found, known, list(keys)) for found in error.errors()))


def _line(found: Mapping[str, Any], known: Callable[[list[str]], Iterable[str]], keys: list[str]) -> str:
    path = [str(part) for part in found["loc"]]
    key = ".".join(path)
    if found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        names = list(known(path[:-1]))
        meant = next((f" (did you mean '{k}'?)" for k in keys if k.endswith(f".{key}")), nearest(path[-1], names))
        return f"unknown key '{key}'{meant}; known here: {', '.join(names) or 'none'}"
    if found["type"] == "missing":
        return f"'{key}' is missing"
    return f"'{key}': {in_words(found)}"


def checked_options(target: Callable[..., Any], options: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Convert ``options`` to what the annotations of ``target`` want.

    Args:
        target: a class or function that takes one positional argument, the model or the vocabulary; what else it can
            be given by keyword are its options, so that a user's own class is checked like the built-in ones.
        options: values by name.
        section: the place in the recipe, for messages.

    Raises:
        RecipeError: all that is wrong with them at once.
    """
    known, open_ended = keyword_options(target)
    hints, values, lines = hints_of(target), {}, []
    most = MOST_UNITS if target.__module__.partition(".")[0] in OURS else MOST
    for name, value in options.items():
        place = f"{section}.{name}"
        if name not in known and not open_ended:
            lines.append(f"unknown key '{place}'{nearest(name, known)}; known here: {', '.join(known) or 'none'}")
            continue
        try:
            values[name] = _converted(value, hints.get(name, Any))
            lines += [f"'{place}': expected at most {most:,}; got {number}" for number in _above(most, values[name])]
        except ValidationError as error:
            found = error.errors()
            indices = [".".join(str(part) for part in one["loc"] if isinstance(part, int)) for one in found]
            lines += [f"'{place}{i and '.' + i}': {in_words(one)}" for i, one in zip(indices, found, strict=True)]
    required = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    lines += [f"'{section}.{name}' is missing" for name in required if name not in options]
    if lines:
        raise RecipeError(lines)
    return values


def default_options(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of ``target`` with their defaults, as YAML writes them.

    A default that would be another value when it is read back is left out.
    """
    hints, found = hints_of(target), {}
    for name, parameter in keyword_options(target)[0].items():
        value = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        try:
            back = _converted(yaml.safe_load(yaml.safe_dump(value)), hints.get(name, Any))
        except (yaml.YAMLError, ValidationError):
            continue
        # What says that it takes a sequence takes a list for its tuple.
        if back == parameter.default or (name in hints and back == value):
            found[name] = value
    return found


def keyword_options(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return what ``target`` takes by keyword after its first argument, and whether it takes any other name."""
    parameters = list(inspect.signature(target).parameters.values())
    if parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY:
        parameters = parameters[1:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {p.name: p for p in parameters if p.kind in kinds}, open_ended


def _converted(value: Any, kind: Any) -> Any:
    """Convert a plain value to an annotation; leave it as it is where pydantic does not know the annotation."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
    except PydanticUserError:
        return value
    # ``true`` is a number to Python and a slip of the pen to users.
    return adapter.validate_python(value, strict=isinstance(value, bool))


def _above(most: int, value: Any) -> list[int]:
    """Return the whole numbers in an option's value, which may be a list, that are too far from 0."""
    if isinstance(value, list | tuple):
        return [number for one in value for number in _above(most, one)]
    return [value] if isinstance(value, int) and abs(value) > most else []


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return annotations of the parameters; none where a user's file has some that cannot be resolved."""
    try:
        return get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        return {}


def place_of(error: BaseException, kind: type) -> str:
    """Return ``FILE, line N: `` of the last line of ``kind``'s own file in an error's traceback.

    Nothing for classes of ours, and for those without a file.
    """
    if kind.__module__.partition(".")[0] in ("ppl_text", "guides", "torch"):
        return ""
    try:
        file = inspect.getsourcefile(kind)
    except TypeError:  # a class of an interactive session
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}, line {lines[-1]}: " if lines else ""
