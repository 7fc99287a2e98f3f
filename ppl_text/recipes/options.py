"""Options of models, guides and corpora, checked against the signature that will receive them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ..core.errors import nearest
from .faults import RecipeError, in_words


def checked_options(target: Callable[..., Any], options: Mapping[str, Any], section: str) -> dict[str, Any]:
    """``options`` for ``target`` as its annotations want them; raises :class:`RecipeError` with all faults.

    ``target`` (a class or function) takes one positional argument, the model or the size of the vocabulary;
    what else it can be given by keyword are its options, so that a user's own guide is checked like the
    built-in ones. ``section`` is the place in the recipe.
    """
    known, open_ended = keyword_options(target)
    hints, values, faults = _hints(target), {}, []
    for name, value in options.items():
        place = f"{section}.{name}"
        if name not in known and not open_ended:
            faults.append(f"unknown key '{place}'{nearest(name, known)}; known here: {', '.join(known) or 'none'}")
            continue
        try:
            values[name] = _converted(value, hints.get(name, Any))
        except ValidationError as error:
            found = error.errors()
            indices = [".".join(str(part) for part in fault["loc"] if isinstance(part, int)) for fault in found]
            faults += [f"'{place}{i and '.' + i}': {in_words(f)}" for i, f in zip(indices, found, strict=True)]
    required = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    faults += [f"'{section}.{name}' is missing" for name in required if name not in options]
    if faults:
        raise RecipeError(faults)
    return values


def keyword_options(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """What ``target`` takes by keyword after its first argument, by name, and whether it takes any other name."""
    parameters = list(inspect.signature(target).parameters.values())
    if parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY:
        parameters = parameters[1:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {p.name: p for p in parameters if p.kind in kinds}, open_ended


def _converted(value: Any, kind: Any) -> Any:
    """A plain value as an annotation wants it; as it is where pydantic does not know the annotation."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
    except PydanticUserError:
        return value
    # ``true`` is a number to Python and a slip of the pen to users.
    return adapter.validate_python(value, strict=isinstance(value, bool))


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the parameters; none where a user's file has some that cannot be resolved."""
    try:
        return get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        return {}
