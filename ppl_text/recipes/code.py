"""Code of the user's: what a command names and what Python passes, by the texts that a configuration keeps.

A configuration names a model, a guide and objectives by text: a registered name, ``FILE.py:NAME`` for code in a file,
or ``live:NAME`` for what stands in a script, a notebook or a function and has to be passed again whenever the run is
opened. A registered name may be that of an installed package; it is code like that of a file, and called ``guide:NAME``
(``model:``, ``objective:``) here. ``Code`` maps such texts to what may run. What is not in it does not run: a text that
merely stands in a folder is no consent (:mod:`.trust`).
"""

from __future__ import annotations

import inspect
import linecache
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .. import objectives
from ..core.errors import TrustError, UserError
from ..core.protocols import Objective
from ..core.registry import Package, Registry, Source, beside, is_file_reference, read_source
from ..models import MODELS

LIVE = "live:"
"""Begins the text of what was passed in Python and has no file of its own."""

KEYS = {"model.family": "model", "guide.name": "guide", "objective": "objective"}
"""Dotted keys of a configuration whose values may be code of the user's, and the words of messages for them."""

MODEL_GROUP, GUIDE_GROUP = "ppl_text.models", "ppl_text.guides"
"""Entry-point groups under which installed packages declare model families and guides."""

REFUSED = "nothing here consents to run it; name it in the command, or open the run with --trust (in Python trust=True)"

_HOUSE = beside("guides")

GUIDES: dict[str, dict[str, str]] = {
    family: {name: _HOUSE.__name__ + target.removeprefix("guides") for name, target in table.items()}
    for family, table in _HOUSE.GUIDES.items()
}
"""``guides.GUIDES``, wherever the package ``guides`` was found."""


class Own(NamedTuple):
    """One piece of the user's code.

    ``name`` is that of the class or object; ``source`` the file that it stands in (or the text of its cell), None where
    none can be had; ``live`` the class or object itself, where Python passed it; ``package`` the installed one that
    registers ``name``.
    """

    name: str
    source: Source | None
    live: Any = None
    package: Package | None = None

    def load(self, kind: str) -> Any:
        """Return the class or object, running its file where it was not passed; raises :class:`UserError`."""
        if self.live is not None or self.source is None:
            return self.live
        return self.source.load(self.name, kind, classes=kind != "objective")


Code = Mapping[str, Own]
"""What may run, by the text that a configuration keeps."""


def model_registry() -> Registry:
    """Model families by name: built-in and from installed packages."""
    return Registry(
        "model family", MODELS, group=MODEL_GROUP, hint="A file of yours is accepted too, as FILE.py:CLASS."
    )


def is_own(reference: object) -> bool:
    """Tell code of the user's from a registered name.

    Example::

        >>> [is_own(text) for text in ("tril", "mine.py:Mine", "live:Mine")]
        [False, True, True]
    """
    return isinstance(reference, str) and (is_file_reference(reference) or reference.startswith(LIVE))


def name_of(reference: str) -> str:
    """Return the class or object that ``FILE.py:NAME`` or ``live:NAME`` names."""
    return reference.partition(":")[2]


def absolute(reference: str) -> str:
    """Return ``FILE.py:NAME`` with an absolute path; any other text as it is."""
    if not is_file_reference(reference):
        return reference
    path, colon, attribute = reference.partition(":")
    return f"{os.path.abspath(os.path.expanduser(path))}{colon}{attribute}"


def own_references(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of a configuration's tree, sound or not, that stand for code of the user's, and their kinds.

    ``KIND:NAME`` stands for a name that an installed package registers today.
    """
    model = tree.get("model")
    family = model.get("family") if isinstance(model, Mapping) else None
    found = {}
    for text, kind in references(tree):
        if is_own(text):
            found[text] = kind
        elif package_of(text, kind, family) is not None:
            found[packaged(text, kind)] = kind
    return found


def packaged(name: str, kind: str) -> str:
    """Return the text that stands for a name of an installed package.

    Example::

        >>> packaged("theirs", "guide")
        'guide:theirs'
    """
    return f"{kind}:{name.partition(':')[0]}"


def package_of(name: str, kind: str, family: object = None) -> Package | None:
    """Return the installed package that a model, guide or objective is from, None for one of ours.

    Of it nothing is imported. ``family``: of the model that a guide is for, where it is known.
    """
    if kind == "objective":
        return objectives.package_of(name)
    ours = MODELS if kind == "model" else GUIDES.get(family, {}) if isinstance(family, str) else {}
    return Registry(kind, ours, group=MODEL_GROUP if kind == "model" else GUIDE_GROUP).package(name)


def class_of(text: str, kind: str, registry: Registry, code: Code) -> Any:
    """Return the model or guide that a configuration names; raises :class:`TrustError` where it may not run."""
    if is_own(text):
        return find(code, text, kind)
    refuse_package(text, kind, registry.package(text), code)
    return registry.load(text)


def refuse_package(name: str, kind: str, package: Package | None, code: Code) -> None:
    """Raise :class:`TrustError` where a name is that of an installed package which may not run."""
    if package is not None and packaged(name, kind) not in code:
        raise TrustError(
            f"{kind} '{name}' is code of the installed package {package.name} {package.version}, and {REFUSED}"
        )


def references(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts by which a configuration's tree, sound or not, names model, guide and objectives, and kinds."""
    for dotted, kind in KEYS.items():
        section, _, key = dotted.rpartition(".")
        part = tree.get(section) if section else tree
        if isinstance(part, Mapping) and isinstance(part.get(key), str):
            yield absolute(part[key]), kind
    training = tree.get("training")
    stages = training.get("stages") if isinstance(training, Mapping) else None
    for stage in stages if isinstance(stages, list | tuple) else ():
        if isinstance(stage, Mapping) and isinstance(stage.get("objective"), str):
            yield absolute(stage["objective"]), "objective"


def named(tree: Mapping[str, Any]) -> dict[str, Own]:
    """Return what a command, or a recipe of the user's, names of files and installed packages: naming is consent.

    A file that is not there is left out: :func:`find` says so, where it is needed.
    """
    found: dict[str, Own] = {}
    for text, kind in own_references(tree).items():
        if is_file_reference(text):
            with suppress(UserError):
                found[text] = Own(name_of(text), read_source(text, kind))
        elif not is_own(text):
            found[text] = Own(name_of(text), None, package=package_of(name_of(text), kind))
    return found


def refer(thing: Any, kind: str) -> tuple[str, dict[str, Own]]:
    """Return the text that a configuration keeps of what a user gives for a part, and the code behind it.

    Args:
        thing: a name, ``FILE.py:NAME``, a class, or an objective of any kind.
        kind: ``"model"``, ``"guide"`` or ``"objective"``.

    Raises:
        UserError: it is no objective, or no class.
    """
    if isinstance(thing, str):
        text = absolute(thing)
        if kind == "objective" and not is_file_reference(text):
            objectives.build(text)  # raises where there is none
        return text, named(_tree_of(text, kind))
    made = thing
    if kind == "objective":
        made = objectives.build(thing)
        if type(made).__module__.partition(".")[0] == __name__.partition(".")[0]:
            return made.name, {made.name: Own(made.name, None, made)}
    elif not isinstance(thing, type):
        raise UserError(f"a {kind} is a name, FILE.py:CLASS or a class; got {thing!r}")
    definition = thing if hasattr(thing, "__qualname__") else type(thing)
    registered = _registered(definition)
    if registered is not None:
        return registered, {}
    if definition is thing and (path := _file_of(thing)) is not None:
        text = absolute(f"{path}:{thing.__name__}")
        return text, {text: Own(thing.__name__, read_source(text, kind), made)}
    text = LIVE + definition.__name__
    return text, {text: Own(definition.__name__, _cell(definition), made)}


def _tree_of(text: str, kind: str) -> dict[str, Any]:
    """Return the tree of a configuration that names this one thing."""
    section, _, key = next(dotted for dotted, named_kind in KEYS.items() if named_kind == kind).rpartition(".")
    return {section: {key: text}} if section else {key: text}


def _registered(definition: Any) -> str | None:
    """Return the name under which a class of ours is registered."""
    target = f"{definition.__module__}:{definition.__qualname__}"
    tables = (MODELS, *GUIDES.values())
    return next((name for table in tables for name, registered in table.items() if registered == target), None)


def _file_of(definition: Any) -> str | None:
    """Return the file at whose top level a class or function stands, None for one of a script, notebook or function."""
    top: Any = vars(sys.modules.get(definition.__module__, object)).get(definition.__name__)
    if definition.__module__ == "__main__" or top is not definition:
        return None
    path = inspect.getsourcefile(top)
    return path if path is not None and path.endswith(".py") else None


def _cell(kind: Any) -> Source | None:
    """Return the text of a class or function, else of the notebook cell that it stands in; None where there is none."""
    with suppress(OSError, TypeError):
        return Source(Path(inspect.getsourcefile(kind) or f"{kind.__name__}.py"), inspect.getsource(kind).encode())
    for member in vars(kind).values():
        if lines := linecache.getlines(getattr(getattr(member, "__code__", None), "co_filename", "")):
            return Source(Path(member.__code__.co_filename), "".join(lines).encode())
    return None


def find(code: Code, text: str, kind: str) -> Any:
    """Return what ``text`` stands for; raises :class:`TrustError` where that may not run."""
    if text not in code:
        if is_file_reference(text):
            read_source(text, kind)  # the better message, where it is gone
        raise TrustError(f"{kind} '{text}' is code of a user's, and {REFUSED}")
    return code[text].load(kind)


def objective_of(text: str, code: Code) -> Objective:
    """Make an objective by the text of a configuration: what Python passed, a file's, else one by name."""
    if text in code or is_own(text):
        made: Objective = objectives.build(find(code, text, "objective"))
    else:
        refuse_package(text, "objective", objectives.package_of(text), code)
        made = objectives.build(text)
    return made


def named_objective(given: Any) -> Objective:
    """Make an objective that a command names or Python passes; of ``FILE.py:NAME`` the file is run."""
    text, code = refer(given, "objective")
    return objective_of(text, code)
