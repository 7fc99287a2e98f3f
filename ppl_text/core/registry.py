"""Names to objects, lazily: a registry holds dotted paths and imports what is asked for.

Two sources feed a registry: the built-in table, and the entry points that installed packages declare
(``[project.entry-points."ppl_text.guides"]``). A user's own file, ``FILE.py:NAME``, is no name of a registry: it is
read as a :class:`Source`, and whoever holds the source may run it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from .errors import UnknownNameError, UserError, nearest
from .reading import read_regular


class Package(NamedTuple):
    """An installed package that declares a name: its own name and version, and the ``module:attribute`` behind it."""

    name: str
    version: str
    target: str


USER_MODULES = "ppl_text_user_"
"""Begins the names of the modules that files of users' become."""


class Registry:
    """Lazy table from a name to an object.

    ``kind`` is the word that messages use ("guide"), ``table`` maps names to ``"module:attribute"``, and ``group``
    names the entry-point group that may add to it.

    Example::

        >>> Registry("schedule", {"linear": "ppl_text.schedules:linear"}).names()
        ['linear']
    """

    def __init__(self, kind: str, table: dict[str, str], *, group: str | None = None, hint: str = "") -> None:
        self.kind, self.group, self.hint = kind, group, hint
        self._table = dict(table)

    def names(self) -> list[str]:
        """All names, built-in first, then those of installed packages."""
        return [*self._table, *sorted(set(self._entry_points()) - set(self._table))]

    def target(self, name: str) -> str:
        """``"module:attribute"`` behind a name; raises :class:`UnknownNameError`."""
        if name in self._table:
            return self._table[name]
        plugins = self._entry_points()
        if name in plugins:
            return plugins[name].target
        raise UnknownNameError(self.kind, name, self.names(), self.hint)

    def package(self, name: str) -> Package | None:
        """Return the installed package that a name is from; None for built-in names, and for unknown ones."""
        return None if name in self._table else self._entry_points().get(name)

    def load(self, name: str) -> Any:
        """Import and return the object behind ``name``."""
        target = self.target(name)
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            if name in self._table:
                raise
            raise UserError(
                f"{self.kind} '{name}' of an installed package cannot be loaded from {target}: {error}; "
                "mend or uninstall that package"
            ) from error

    def _entry_points(self) -> dict[str, Package]:
        found = entry_points(group=self.group) if self.group is not None else ()
        return {
            point.name: Package(
                point.dist.name if point.dist else "", point.dist.version if point.dist else "", point.value
            )
            for point in found
        }


def is_file_reference(name: str) -> bool:
    """Whether a name is meant as ``FILE.py:NAME`` rather than as a registered name."""
    path, _, _ = name.partition(":")
    return path.endswith(".py")


class Source(NamedTuple):
    """A user's file as it was read: what is run is what is hashed and kept, whatever becomes of the file."""

    path: Path
    text: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text).hexdigest()

    def load(self, name: str, kind: str, *, classes: bool = True) -> Any:
        """Run the file, once for each version of it, and return what it calls ``name``.

        Args:
            name: of a class, or of any object where ``classes`` is False.
            kind: the word that messages use ("guide").
            classes: only a class will do.

        Raises:
            UserError: the file cannot be run, or has nothing of that name.
        """
        module = _module(self, kind)
        found = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        listed = f"its classes: {', '.join(found) or 'none'}"
        if not name:
            raise UserError(f"'{self.path}' names a file but no class; write {self.path}:CLASS ({listed})")
        if not hasattr(module, name) or (classes and not isinstance(getattr(module, name), type)):
            what = "class" if classes else "object"
            raise UserError(f"{self.path} has no {what} '{name}'{nearest(name, found)}; {listed}")
        return getattr(module, name)


def read_source(reference: str, kind: str) -> Source:
    """Read the file of a ``FILE.py:NAME``; nothing of it is run."""
    path = Path(reference.partition(":")[0]).expanduser()
    try:
        return Source(path, read_regular(path))
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UserError(f"{kind} file '{path}' {reason}; give an existing file as FILE.py:CLASS") from error


class _Loader(SourceFileLoader):
    """Compiles the text that was read: neither a file that has changed since, nor byte code that lies beside it."""

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(name, str(source.path.absolute()))
        self._text = source.text

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._text, self.path)


def _module(source: Source, kind: str) -> ModuleType:
    """Run a source once: checking, building and loading a run share one module."""
    path = source.path
    name = f"{USER_MODULES}{path.stem}_{hashlib.sha256(f'{path.resolve()}:{source.digest}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.absolute(), loader=_Loader(name, source))
    if spec is None or spec.loader is None:
        raise UserError(f"{kind} file '{path}' cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == spec.origin]
        if isinstance(error, SyntaxError) and error.filename == spec.origin:
            lines.append(error.lineno)
        line = lines[-1] if lines else None
        where = f"{path}, line {line}" if line else str(path)
        raise UserError(f"{kind} file raised {type(error).__name__} at {where}: {error}") from error
    return module


def place_beside(name: str) -> Path:
    """Return the ``__init__.py`` of a top-level package that is installed beside this one."""
    return Path(__file__).resolve().parents[2] / name / "__init__.py"


def beside(name: str) -> ModuleType:
    """Import a top-level package that is installed beside this one, whatever else a user's folder calls so.

    Where another package or module of that name comes first on ``sys.path``, ours is ``ppl_text.NAME``, and that
    other keeps its own.
    """
    other = sys.modules.get(name)
    found = getattr(other, "__file__", None) if other else getattr(importlib.util.find_spec(name), "origin", None)
    ours = found is not None and Path(found).resolve() == place_beside(name)
    return importlib.import_module(name if ours else f"{__name__.partition('.')[0]}.{name}")


def claim(name: str) -> None:
    """Let ``name`` be our package in this process, whose every module is ours or named in the command.

    Modules of a user's package of that name stay importable, but for those that are called like ours.
    """
    if name in sys.modules:
        return
    found = importlib.util.find_spec(name)
    module = load_package(name, place_beside(name))
    others = getattr(found, "submodule_search_locations", None) or []
    module.__path__ += [place for place in others if place not in module.__path__]


def load_package(name: str, place: Path) -> ModuleType:
    """Import the package whose ``__init__.py`` is ``place`` under a name of our choice."""
    spec = importlib.util.spec_from_file_location(name, place, submodule_search_locations=[str(place.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is no Python package")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
