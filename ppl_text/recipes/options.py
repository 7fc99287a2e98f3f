"""Options of models, guides and corpora, checked against the signature that will receive them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from .config import faults_of


def option_faults(target: Callable[..., Any], options: Mapping[str, Any], prefix: str) -> list[str]:
    """Everything that is wrong with keyword arguments for ``target``, in words; empty where all fit.

    Types come from the annotations of the keyword-only parameters of ``target`` (a class or function), so
    that a user's own guide is checked like the built-in ones. ``prefix`` is the dotted place in the recipe.
    """
    known = keyword_options(target)
    hints = get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    fields: Any = {name: (hints.get(name, Any), parameter.default) for name, parameter in known.items()}
    fields = {
        name: (kind, ... if default is inspect.Parameter.empty else default) for name, (kind, default) in fields.items()
    }
    schema = create_model(
        "Options",
        __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=()),
        **fields,
    )
    try:
        schema.model_validate(dict(options))
    except ValidationError as error:
        return faults_of(error, known=list(known), prefix=prefix)
    return []


def keyword_options(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Keyword-only parameters of a class or function, by name."""
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
