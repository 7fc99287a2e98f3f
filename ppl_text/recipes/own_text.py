"""What a recipe's ``data`` becomes where it is trained on other data than it was made for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.catalogue import CORPORA
from ..data.options import OPTIONS, WORD_LIST, Options


def options_of(section: Mapping[str, Any]) -> type[Options] | None:
    """Return the options of the kind of data that a recipe's ``data`` names; None where it names none that there is."""
    unit = section.get("unit", WORD_LIST)
    return OPTIONS.get(unit) if isinstance(unit, str) else None


def for_other_data(section: Mapping[str, Any], changes: Mapping[str, Any], told: list[str]) -> dict[str, Any]:
    """Return a recipe's ``data`` for another corpus: its options stay, but for those that only its own corpus has.

    These are options of another kind of data, and a built-in corpus's own defaults, which the configuration of a run
    has among the others.

    Args:
        section: ``data`` before the changes.
        changes: of ``data``, by name.
        told: hears which options were dropped, and why.
    """
    old, new = section.get("corpus"), changes.get("corpus")
    if new is None or new == old:
        return dict(section)
    own = CORPORA[old].defaults if isinstance(old, str) and old in CORPORA else {}
    known = options_of({**section, **changes})
    every = {name for model in OPTIONS.values() for name in model.model_fields}
    foreign = every.difference(known.model_fields) if known else set()
    reasons = dict.fromkeys(foreign, f"for data of another kind than {new}")
    reasons |= {name: f"made for corpus '{old}'" for name, value in own.items() if section.get(name) == value}
    gone = {name: reason for name, reason in reasons.items() if name in section}
    told += [f"not kept of the recipe's data: {name}={section[name]} ({reason})" for name, reason in gone.items()]
    return {name: value for name, value in section.items() if name not in gone}


def with_own_defaults(section: Mapping[str, Any], told: list[str]) -> dict[str, Any]:
    """Return a recipe's ``data`` with the defaults that a user's own text has; ``told`` hears of them."""
    corpus, known = section.get("corpus"), options_of(section)
    if known is None or not isinstance(corpus, str) or corpus in CORPORA:
        return dict(section)
    added = {name: value for name, value in known.for_own_text(section).items() if name not in section}
    told += [f"data.{name}={value}, as for all text of your own" for name, value in added.items()]
    return {**section, **added}


def as_stored(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``data`` of a run's configuration with options that were not known yet when it was made."""
    known = options_of(section)
    before = known.before(section) if known else {}
    return {**section, **{name: value for name, value in before.items() if name not in section}}


def is_of_a_run(recipe: str) -> bool:
    """Tell the ``config.yaml`` of a run, which is complete, from a recipe."""
    path = Path(os.path.expanduser(recipe))
    return path.name == "config.yaml" and path.with_name("data.json").is_file()
