"""Names to objects, lazily: a registry holds dotted paths and imports what is asked for.

Three sources feed a registry: the built-in table, the entry points that installed packages declare
(``[project.entry-points."ppl_text.guides"]``), and a user's own file given as ``FILE.py:CLASS``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UnknownNameError, UserError, nearest


class Registry:
    """Lazy table from a name to an object.

    ``kind`` is the word that messages use ("guide"), ``table`` maps names to ``"module:attribute"``,
    ``group`` names the entry-point group that may add to it, and ``files`` allows ``FILE.py:CLASS``,
    which runs the code of that file.

    Example::

        >>> Registry("schedule", {"linear": "ppl_text.schedules:linear"}).names()
        ['linear']
    """

    def __init__(
        self, kind: str, table: dict[str, str], *, group: str | None = None, files: bool = False, hint: str = ""
    ) -> None:
        self.kind, self.group, self.files, self.hint = kind, group, files, hint
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
            return plugins[name]
        raise UnknownNameError(self.kind, name, self.names(), self.hint)

    def load(self, name: str) -> Any:
        """Import and return the object behind ``name``, or the class of a ``FILE.py:CLASS``."""
        if self.files and is_file_reference(name):
            return load_from_file(name, self.kind)
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

    def _entry_points(self) -> dict[str, str]:
        if self.group is None:
            return {}
        return {point.name: point.value for point in entry_points(group=self.group)}


def is_file_reference(name: str) -> bool:
    """Whether a name is meant as ``FILE.py:CLASS`` rather than as a registered name."""
    path, _, _ = name.partition(":")
    return path.endswith(".py")


def load_from_file(reference: str, kind: str) -> Any:
    """Run a user's file and return the class that ``FILE.py:CLASS`` names."""
    path_text, _, attribute = reference.partition(":")
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise UserError(f"{kind} file '{path}' does not exist; give an existing file as FILE.py:CLASS")
    module = _run_file(path, kind)
    classes = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
    if not attribute:
        raise UserError(
            f"'{reference}' names a file but no class; write {path}:CLASS (its classes: {', '.join(classes) or 'none'})"
        )
    if not isinstance(getattr(module, attribute, None), type):
        near = nearest(attribute, classes)
        raise UserError(f"{path} has no class '{attribute}'{near}; its classes: {', '.join(classes) or 'none'}")
    return getattr(module, attribute)


def _run_file(path: Path, kind: str) -> ModuleType:
    """Run a file once for each version of it: checking, building and loading a run share one module."""
    stamp = path.stat()
    name = f"ppl_text_user_{path.stem}_{abs(hash((path.resolve(), stamp.st_mtime_ns, stamp.st_size)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
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
